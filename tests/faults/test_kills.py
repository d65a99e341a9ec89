"""``kill -9`` under load, again and again: nothing that was journaled is lost, order is kept, ids are the same.

``make faults`` does it 200 times, ``make test-slow`` a few; the seed is printed, and taken from SEED.
"""

import os
import random
import signal

import orjson
import pytest

from meshbridge.emulator import Emulator
from tests.e2e.conftest import Bridge
from tests.e2e.test_main_job import APPS, first_of_each, ids, journaled, sequences_by_app
from tests.support import Mosquitto, Subscriber, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs("mosquitto")]

# What is sent again after a kill: the batch under way, and the one before it, whose cursor may not be on disk yet.
_WINDOW = 2 * 500
_ROUNDS = {"short": 5, "long": 200}


def test_nothing_journaled_is_lost_by_kills_under_load(
    bridge: Bridge, emulator: Emulator, mosquitto: Mosquitto, request: pytest.FixtureRequest
) -> None:
    rounds = _ROUNDS[request.config.getoption("--faults")]
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"seed {seed}, {rounds} kills")  # noqa: T201 pytest shows it where the test fails
    chance = random.Random(seed)
    with Subscriber(mosquitto.port, "meshbridge/#") as subscriber:
        for _ in range(rounds):
            bridge.start()
            bridge.wait_up()
            before = len(subscriber.messages)
            emulator.emit_many(
                (APPS[number % len(APPS)], "STDOUT", {"finished": False, "output": f"{number}\n", "position": number})
                for number in range(chance.randrange(500, 3000))
            )
            wanted = before + chance.randrange(1, 400)
            wait_for(lambda wanted=wanted: len(subscriber.messages) >= wanted, "some delivery")  # type: ignore[misc]
            bridge.process.end(signal.SIGKILL)
            bridge.process.log.unlink()
        kept = journaled(bridge.directory / "journal")
        bridge.start()
        bridge.wait_up()
        # Each kill left more behind than it let through, so at the end most of it is still to be delivered.
        missing, seen = set(kept), 0

        def all_there() -> bool:
            nonlocal seen
            new = subscriber.messages[seen:]
            seen += len(new)
            missing.difference_update(orjson.loads(message.payload)["id"] for message in new)
            return not missing

        wait_for(all_there, "everything journaled", 30 + rounds * 3)
        assert bridge.process.end() == 0
    received = ids(subscriber.events())
    assert len(received) - len(set(received)) <= rounds * _WINDOW
    for app, sequences in sequences_by_app(first_of_each(subscriber.events())).items():
        assert sequences == sorted(sequences), app
