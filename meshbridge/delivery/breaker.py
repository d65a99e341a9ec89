"""Whether a destination is trusted to answer: a circuit breaker, as a table. No clock: the courier waits.

After some failures in a row it opens: the courier closes the connection and waits. After each wait one trial is
made, with a new connection and the batch at hand; nothing else goes out until that has come through.
"""

from meshbridge.model.status import BreakerState

__all__ = ["Breaker"]

_FAILURES = 5  # in a row: with the default waits, some 15 s

_CLOSED, _OPEN, _HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
_MOVES: dict[tuple[BreakerState, str], BreakerState] = {
    (_CLOSED, "success"): _CLOSED,
    (_CLOSED, "failure"): _CLOSED,
    (_CLOSED, "too many failures"): _OPEN,
    (_OPEN, "trial"): _HALF_OPEN,
    (_HALF_OPEN, "success"): _CLOSED,
    (_HALF_OPEN, "failure"): _OPEN,
    (_HALF_OPEN, "too many failures"): _OPEN,
}


class Breaker:
    """For one thread, the courier's; its state may be read by any."""

    def __init__(self) -> None:
        self.state = _CLOSED
        self.failures = 0  # in a row

    def failed(self) -> bool:
        """An attempt has failed; True when that opens the breaker which was closed."""
        self.failures += 1
        before = self.state
        self._move("too many failures" if self.failures >= _FAILURES else "failure")
        return before is _CLOSED and self.state is _OPEN

    def try_again(self) -> None:
        """The wait is over."""
        if self.state is _OPEN:
            self._move("trial")

    def succeeded(self) -> bool:
        """An attempt came through; True when that closes the breaker."""
        self.failures = 0
        before = self.state
        self._move("success")
        return before is not _CLOSED

    def _move(self, what: str) -> None:
        self.state = _MOVES[self.state, what]
