"""What the contract kit asks of a destination under its control."""

import enum
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from meshbridge.model.events import Event
from meshbridge.sinks.base import Sink

SECRETS = ("hunter2-bearer", "hunter2-password", "hunter2-header", "hunter2-path")
"""Given to every sink that can have one; none may ever show in an error."""


class Say(enum.Enum):
    """How a destination answers an event."""

    OK = enum.auto()
    BUSY = enum.auto()  # not now
    REFUSE = enum.auto()  # never this one
    DENY = enum.auto()  # the place's fault: a wrong password, a missing right, a path that is gone
    INTERIM = enum.auto()  # something that is no answer yet, then the answer: taken
    GONE = enum.auto()  # never again any
    SILENT = enum.auto()  # the answer does not come
    CUT = enum.auto()  # the connection ends instead of an answer


class Script:
    """Which event gets which answer. Read by the destination's threads, changed by the test's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plan: dict[str, list[Say]] = {}
        self.asked: list[str] = []

    def plan(self, event: Event, *says: Say) -> None:
        """The next times this event comes; the last one holds for ever."""
        with self._lock:
            self._plan[event.id] = list(says)

    def answer(self, ids: Sequence[str]) -> Say:
        """How a request with these events is met: the first one that is not fine decides."""
        with self._lock:
            self.asked += ids
            for one in ids:
                says = self._plan.get(one, [Say.OK])
                say = says.pop(0) if len(says) > 1 else says[0]
                if say is not Say.OK:
                    return say
            return Say.OK


class FarEnd(Protocol):
    """One for each sink. ``start`` and ``stop`` may be called again and again; what arrived stays known."""

    says: frozenset[Say]
    script: Script
    keeps_first_order: bool
    """Whether the first arrivals of an app's events are in order, and not only the last ones: a sink that pipelines
    sends what stands behind a failed event before it knows of the failure, and then all of it again."""

    def __init__(self, directory: Path) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None:
        """The test is over."""

    def sink(self) -> Sink:
        """A new sink that sends here."""

    def arrived(self) -> list[str]:
        """The ids that were taken, in the order in which they came."""
