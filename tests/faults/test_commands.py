"""Kills of the bridge and cuts of its connections while commands are under way: each runs at most once.

Each that ran is answered, or said to be unknown after the restart. ``make faults`` does 200 rounds, ``make test-slow``
a few; the seed is printed, and taken from SEED.
"""

import os
import queue
import random
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from meshbridge.emulator import Emulator, EmulatorOptions
from tests.faults.proxy import Proxy
from tests.integration.command_stage import Sender, Stage, add_worker
from tests.support import Mosquitto, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs("mosquitto")]

ROUNDS = {"short": 4, "long": 200}
COMMANDS = {"allow": ["task"], "timeout": "1m", "max_concurrent": 50}


class Publisher:
    """Sends tasks, and knows their answers by the name that each was sent under."""

    def __init__(self, broker: Mosquitto) -> None:
        self._sender = Sender(broker.port)
        self.answers: dict[bytes, list[bytes]] = {}

    def send(self, payload: bytes) -> None:
        self._sender.send("meshbridge/node-a/worker/task", payload, correlation=payload)

    def is_answered(self, payload: bytes) -> bool:
        while True:
            try:
                message = self._sender.answers.get_nowait()
            except queue.Empty:
                return payload in self.answers
            name: bytes = vars(message.properties)["CorrelationData"]
            self.answers.setdefault(name, []).append(bytes(message.payload))

    def insist(self, payload: bytes) -> None:
        """Sends a task again under the same name, under which it runs once, until it is answered."""

        def is_answered() -> bool:
            if not self.is_answered(payload):
                self.send(payload)
            return self.is_answered(payload)

        wait_for(is_answered, "the bridge to be back")

    def close(self) -> None:
        self._sender.close()


def test_each_command_runs_at_most_once_and_each_that_ran_is_answered_or_unknown(
    tmp_path: Path, mosquitto: Mosquitto, request: pytest.FixtureRequest
) -> None:
    rounds = ROUNDS[request.config.getoption("--faults")]
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"seed {seed}, {rounds} rounds")  # noqa: T201 pytest shows it where the test fails
    chance = random.Random(seed)
    publisher = Publisher(mosquitto)
    with (
        Emulator(EmulatorOptions(wss_port=None, https_port=None)) as emulator,
        Proxy(("127.0.0.1", mosquitto.port)) as to_broker,
    ):
        notes = add_worker(emulator, tmp_path)
        stage = Stage(tmp_path, f"mqtt://127.0.0.1:{to_broker.address[1]}", emulator, "5", COMMANDS)
        try:
            for number in range(rounds):
                one_round(stage, publisher, to_broker, chance, number)
                for payload in {*notes.read_bytes().splitlines()}:
                    wait_for(partial(publisher.is_answered, payload), f"an answer to {payload!r}")
        finally:
            stage.close()
            publisher.close()
    check(Counter(notes.read_bytes().splitlines()), publisher.answers)


def one_round(stage: Stage, publisher: Publisher, to_broker: Proxy, chance: random.Random, number: int) -> None:
    count = chance.randrange(5, 30)
    fault_at = chance.randrange(count)
    for place in range(count):
        publisher.send(b"%d-%d" % (number, place))
        if place != fault_at:
            continue
        if chance.random() < 0.5:
            to_broker.cut()
        else:
            stage.bridge.end(signal.SIGKILL)
            stage.bridge = stage.run()
    publisher.insist(b"%d-last" % number)  # what was published while the bridge was away is gone


def check(runs: Counter[bytes], answers: dict[bytes, list[bytes]]) -> None:
    assert {payload: count for payload, count in runs.items() if count > 1} == {}
    wrong = {
        payload: reply
        for payload, replies in answers.items()
        for reply in replies
        if not (
            reply == b"\xff" + payload
            or b"outcome is unknown" in reply
            or (b"it did not run" in reply and replies[-1] != reply)  # it came again under the same name
            or (b'"ok":false' in reply and payload not in runs)
        )
    }
    assert wrong == {}
