"""How much a destination may send that it was not asked for."""

import time
from collections.abc import Callable

__all__ = ["Allowance"]


class Allowance:
    """A number of messages, some at once and some each second, and more with all that is sent there. For one thread.

    A destination answers what it is sent. One that sends much more, acknowledgements of what it never got or pings
    without end, would take a core; its connection is ended instead, and waits between attempts do the rest.
    """

    def __init__(
        self, burst: int = 1_000, per_second: float = 100.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._clock = clock
        self._left = self._burst
        self._at = clock()

    def earn(self, count: int) -> None:
        """So many answers to what was sent may come."""
        self._left += count

    def spend(self, count: int) -> bool:
        """So many messages have come; False once there are too many."""
        now = self._clock()
        if self._left < self._burst:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        self._left -= count
        return self._left >= 0
