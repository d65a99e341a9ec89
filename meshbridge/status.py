"""What a part says of itself, as plain values: for metrics, readiness, the admin API and ``check``.

Times are unix seconds of the wall clock; None where there is nothing to say.
"""

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["JournalStatus", "LinkState", "LinkStatus", "SinkState", "SinkStatus"]


class LinkState(StrEnum):
    """Where the event connection to a daemon stands."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    LOGGING_IN = "logging in"
    SUBSCRIBING = "subscribing"
    UP = "up"
    WAITING = "waiting"  # between attempts


class SinkState(StrEnum):
    """Where a courier stands."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    UP = "up"
    WAITING = "waiting"  # between attempts
    GONE = "gone"  # the far end wants no more


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One App Mesh daemon, as its link sees it."""

    daemon: str
    state: LinkState = LinkState.STOPPED
    url: str = ""
    run: str | None = None
    connected_since: float | None = None
    connects: int = 0
    last_event_at: float | None = None
    last_error: str | None = None
    last_error_at: float | None = None
    token_expires_at: float | None = None
    missing_permissions: tuple[str, ...] = field(default=())

    @property
    def up(self) -> bool:
        """Whether events flow."""
        return self.state is LinkState.UP


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink, as its courier sees it."""

    sink: str
    state: SinkState = SinkState.STOPPED
    delivered: int = 0
    failed: int = 0
    lag_events: int = 0
    lag_seconds: float = 0.0
    dead_letters: int = 0
    last_error: str | None = None
    last_error_at: float | None = None

    @property
    def up(self) -> bool:
        """Whether the far end took what was last offered."""
        return self.state is SinkState.UP


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """The durable log."""

    path: str
    open: bool = False
    bytes: int = 0
    max_bytes: int = 0
    events: int = 0
    first_offset: int = 0
    last_offset: int = 0
    held_events: int = 0  # in memory, since the disk takes nothing
    last_error: str | None = None
