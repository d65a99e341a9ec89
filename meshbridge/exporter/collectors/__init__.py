"""What one scrape gathers: one collector, one source of families.

A collector lives for one scrape. ``collect(deadline)`` returns new families, or raises whatever happened:
that costs its own series and nothing else (the caller reports it in ``meshbridge_collector_success``). It MUST give up
by the deadline; one that doesn't is left behind, and is not started again for that daemon before it has come back.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from meshbridge.exporter.exposition import Family

__all__ = ["Collector", "Deadline", "InvalidAnswerError"]


class InvalidAnswerError(Exception):
    """A daemon's answer is not what it should be."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock by which something has to be done."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    @property
    def remaining_seconds(self) -> float:
        """Never negative."""
        return max(0.0, self.at - time.monotonic())


class Collector(Protocol):
    """One source of families, for one scrape."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """After ``collect``: how much of the source couldn't be served, by reason."""
        ...

    def collect(self, deadline: Deadline) -> Iterable[Family]: ...
