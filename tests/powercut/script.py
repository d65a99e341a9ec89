"""What is recorded: a journal with real couriers to a file that rotates and to a destination that only looks.

``python -m tests.powercut.script ROOT SYNC SEED``. Marks say what was promised: ``durable N`` (events 1 to N),
``seen N`` (by the destination), ``client-id X`` and ``topic X`` (in use at a broker).
"""

import os
import random
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from meshbridge.delivery import Courier
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.events import Envelope
from meshbridge.sinks.file import FileOptions
from meshbridge.sinks.mqtt.memory import KnownTopics, client_id_of
from meshbridge.sinks.options import SinkOptions
from tests.powercut.replay import MARKS
from tests.support import make_event

FILE: dict[str, object] = {
    "type": "file",
    "from": "start",
    "batch": {"max_events": 20},
    "rotate": {"max_bytes": 12_000, "keep": 10_000, "gzip": True},
}
ROUNDS = 6


class Look:
    """A destination whose acknowledgement is a mark."""

    def __init__(self, marks: int) -> None:
        self._marks = marks

    def connect(self, timeout_seconds: float) -> None: ...
    def idle(self) -> None: ...
    def close(self, timeout_seconds: float) -> None: ...

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        os.write(self._marks, f"seen {batch[-1].event.sequence}\n".encode())


class Script:
    def __init__(self, root: Path, sync: str, seed: int) -> None:
        self._root = root
        self._options = JournalOptions.model_validate({"path": root / "journal", "max_bytes": "1MiB", "sync": sync})
        self._chance = random.Random(seed)
        self._marks = os.open(root / MARKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._sequence = 0

    def _mark(self, word: str, value: object) -> None:
        os.write(self._marks, f"{word} {value}\n".encode())

    def run(self) -> None:
        for number in range(ROUNDS):
            self._one_start(number)

    def _one_start(self, number: int) -> None:
        journal = Journal(self._options)
        journal.open()
        options = FileOptions.model_validate(FILE | {"path": str(self._root / "out" / "events.jsonl")})
        file = options.build("file", self._options.path)
        file.use_memory(journal.memory("file"))
        look = SinkOptions.model_validate({"from": "start", "batch": {"max_events": 50}})
        couriers = [
            Courier("file", file, journal, options),
            Courier("look", Look(self._marks), journal, look),
        ]
        memory = journal.memory("broker")
        self._mark("client-id", client_id_of("broker", memory))
        topics = KnownTopics(memory)
        topics.load()
        for courier in couriers:
            courier.start()
        for _ in range(8):
            self._append(journal)
            if self._chance.random() < 0.5:
                topic = f"meshbridge/node-a/app-{self._sequence}/state"
                topics.add([topic])
                self._mark("topic", topic)
        _wait_for(lambda: all(not journal.lag(courier.name)[0] for courier in couriers))
        match number % 3:
            case 0:
                journal.report_damage(sqlite3.DatabaseError("database disk image is malformed"))
                self._append(journal)
            case 1:
                journal.prune()
                self._append(journal)
        for courier in couriers:
            courier.request_stop()
        for courier in couriers:
            while not courier.stop(10.0):
                pass
        journal.close()

    def _append(self, journal: Journal) -> None:
        count = self._chance.choice((1, 3, 30, 120))
        first = self._sequence + 1
        self._sequence += count
        data = {"output": "x" * self._chance.choice((10, 200, 900)), "position": 0, "finished": False}
        journal.append([make_event(first + place, data=data) for place in range(count)])
        self._mark("durable", self._sequence)


def _wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


if __name__ == "__main__":
    (Path(sys.argv[1]) / "out").mkdir()
    Script(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])).run()
