"""Places at a destination where this bridge may not publish: one topic, one subject.

The right may be given in a moment, so the sink waits for a bounded time. All other events wait behind the denied one.
So it becomes a dead letter afterwards, as does every further one for that place, until one is taken there.
"""

import time
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from meshbridge.fields import Duration, Options
from meshbridge.sinks.base import Refused, Retry

__all__ = ["DeniedOptions", "DeniedPlaces"]

_MAX_PLACES = 10_000


class DeniedOptions(Options):
    """What becomes of an event that this bridge may not publish where it belongs."""

    on_denied: Literal["wait", "dead-letter"] = Field(
        default="wait",
        description="an event for a place where this bridge may not publish: wait for denied_wait and then"
        " dead-letter, or dead-letter at once",
    )
    denied_wait: Duration = Field(
        default=60.0, ge=0, description="how long the right is waited for, and everything else with it"
    )


class DeniedPlaces:
    """For one thread, the courier's."""

    def __init__(self, options: DeniedOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = options.denied_wait if options.on_denied == "wait" else 0.0
        self._clock = clock
        self._since: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def refusal(
        self, place: str, message: str, reason: str = "not_authorized", *, remedy: str = "allow it there"
    ) -> Refused | Retry:
        """How a write ends whose next event is denied at ``place``; ``remedy``: what the operator is to do."""
        now = self._clock()
        if len(self._since) >= _MAX_PLACES and place not in self._since:
            del self._since[next(iter(self._since))]
        if now - self._since.setdefault(place, now) >= self._seconds:
            return Refused(f"{message}; {remedy}, then: meshbridge dead-letters retry", reason=reason)
        return Retry(f"{message}; {remedy}", reason=reason)

    def allowed(self, place: str) -> None:
        """An event has been taken there."""
        self._since.pop(place, None)
