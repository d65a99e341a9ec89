"""Whether a connection that ended may have been cut off because we did not read. No clock, no I/O.

A daemon closes the connection of a client that falls behind (docs/protocol.md, 'Events'). Over WSS it gives the
reason; over TCP there is only an end of the stream, so it is concluded from how we had read before: an event that took
long to hand on, or a long pause followed by a flood (the process had been stopped, or the host asleep).
"""

__all__ = ["Pace"]

_SLOW_SECONDS = 1.0  # to hand on what one read gave: the journal takes milliseconds
_SLOW_REMEMBERED_SECONDS = 60.0
_PAUSE_SECONDS = 2.0
_FLOOD_EVENTS = 200  # what lay in the buffers of the socket, at least
_FLOOD_SECONDS = 5.0  # and how soon after it the end came


class Pace:
    """How one connection has been read. Times are monotonic seconds. Only the reading thread calls :meth:`read`."""

    def __init__(self, now: float) -> None:
        self._read_until = now
        self._slow_at: float | None = None
        self._flood_from: float | None = None  # of the first read after a pause
        self._flood_events = 0

    def read(self, begun: float, ended: float, events: int) -> None:
        """One read gave so many events, and handing them on took from ``begun`` to ``ended``."""
        if begun - self._read_until > _PAUSE_SECONDS:
            self._flood_from, self._flood_events = begun, 0
        self._flood_events += events
        if ended - begun > _SLOW_SECONDS:
            self._slow_at = ended
        self._read_until = ended

    def was_behind(self, now: float) -> bool:
        """Whether an end of the connection at ``now`` looks like having been cut off."""
        if self._slow_at is not None and now - self._slow_at < _SLOW_REMEMBERED_SECONDS:
            return True
        flooded = self._flood_from is not None and now - self._flood_from < _FLOOD_SECONDS
        return flooded and self._flood_events >= _FLOOD_EVENTS
