"""What a part says of itself, as plain values: for metrics, readiness, the admin API and ``check``.

Times are unix seconds of the wall clock; None where there is nothing to say.
"""

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "BreakerState",
    "Grade",
    "JournalStatus",
    "LinkState",
    "LinkStatus",
    "Loss",
    "PassState",
    "RecentError",
    "ReplayStatus",
    "SinkState",
    "SinkStatus",
    "Verdict",
]


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
    PAUSED = "paused"  # by an operator
    GONE = "gone"  # the destination ended delivery


class BreakerState(StrEnum):
    """Whether a sink's destination is trusted to answer."""

    CLOSED = "closed"
    OPEN = "open"  # it has failed again and again: nothing is offered until the wait is over
    HALF_OPEN = "half-open"  # one trial is under way


class PassState(StrEnum):
    """Where a replay stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One App Mesh daemon, as its link sees it."""

    daemon: str
    state: LinkState = LinkState.STOPPED
    url: str = ""
    run: str | None = None
    connected_since: float | None = None
    down_since: float | None = None  # the first failure since it was up
    connects: int = 0
    last_event_at: float | None = None
    last_error: str | None = None
    last_error_at: float | None = None
    token_expires_at: float | None = None
    token_renewed: bool = True  # by this bridge, before it expires
    token_error: str | None = None  # why there is no other token; None while none is due, or all is well
    token_error_at: float | None = None
    missing_permissions: tuple[str, ...] = field(default=())
    events_received: int = 0  # these count from the start of the bridge
    events_missed: int = 0  # numbers that never came
    last_missed_at: float | None = None
    events_reconciled: int = 0  # synthesized from what the daemon lists, output that was fetched among them

    @property
    def up(self) -> bool:
        """Whether events flow."""
        return self.state is LinkState.UP


@dataclass(frozen=True, slots=True)
class RecentError:
    """An error of a sink, and how often it came in a row."""

    error: str
    first_at: float
    last_at: float
    count: int = 1


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
    breaker: BreakerState = BreakerState.CLOSED
    failing_since: float | None = None  # the first failed attempt since one succeeded
    paused_since: float | None = None
    held: bool = False  # events wait by the sink's own settings, such as quiet hours
    errors: tuple[RecentError, ...] = ()  # the last ones, oldest first

    @property
    def up(self) -> bool:
        """Whether the destination accepted the last batch."""
        return self.state is SinkState.UP


@dataclass(frozen=True, slots=True)
class ReplayStatus:
    """One replay: a pass over kept events beside a sink's cursor."""

    id: str
    sink: str
    state: PassState = PassState.WAITING
    total: int = 0  # offsets to go over
    looked_at: int = 0  # of them
    sent: int = 0
    refused: int = 0


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
    held_events: int = 0  # in memory, since the disk cannot be written
    last_error: str | None = None
    failing_since: float | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """Events that a sink will never get, for one reason."""

    sink: str  # "journal" where they were dropped for all sinks
    reason: str
    events: int
    last_at: float


class Grade(StrEnum):
    """How well a part stands when it is looked at."""

    OK = "ok"
    WARNING = "warning"  # it works, and something should be seen to
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``check`` found of one aspect of a part; ``remedy`` says what to do where not all is well."""

    subject: str  # "daemon node-a"
    aspect: str  # one word of a small set: "certificate"
    grade: Grade
    text: str
    remedy: str | None = None

    @property
    def fine(self) -> bool:
        """Whether it works."""
        return self.grade is not Grade.FAILED


@dataclass(frozen=True, slots=True)
class FinishedCommand:
    """A command that was answered, refused or ignored."""

    at: float
    """Unix seconds."""
    sink: str
    daemon: str
    app: str
    command: str
    result: str
    """``ok``, or in one word why not."""
    id: str | None = None
    error: str | None = None
    duration_seconds: float | None = None
