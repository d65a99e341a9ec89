"""Decides what is reported, together with what, and when. Pure: no clock, no I/O; the time is an argument.

* A **trouble** is what one message is about: the failures of one app, one problem of the bridge, any other event. It is
  reported once, and again after ``repeat_interval`` if it goes on. What happens in between is counted.
* Everything that is to be reported waits for ``group_wait``, for the end of the quiet hours, and for the bound on
  messages in an hour, and goes out in one message.
* A trouble that was reported and is over is reported as **resolved**: an app after ``resolve_after`` without a failure.

Events are given again and again until they are acknowledged; each counts once.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from meshbridge.model.events import Envelope, Event, EventType
from meshbridge.model.problems import BridgeProblem

__all__ = ["Entry", "Groups", "Hold", "Nothing", "NoticeKind", "NoticeLimits", "Send", "Sign"]

_HOUR = 3600.0
_END_SECONDS = 10.0  # between an app's end and the word that it is unhealthy
_MOST_TROUBLES = 10_000
_MOST_FAILURES = 1_000  # of one app that are counted

Key = tuple[str, ...]


class NoticeKind(StrEnum):
    """What an entry of a message is about."""

    FAILED = "failed"  # a process that ended with an error
    UNHEALTHY = "unhealthy"
    EVENT = "event"  # any other that the sink gets
    PROBLEM = "problem"  # of the bridge
    RESOLVED = "resolved"


class Sign(StrEnum):
    """What an event says of its app; :func:`meshbridge.sinks.notify.message.sign_of` knows."""

    FAILED = "failed"
    UNHEALTHY = "unhealthy"
    WELL = "well"
    ENDED = "ended"  # a process that was to end
    GONE = "gone"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class NoticeLimits:
    """When messages go out; seconds."""

    group_wait: float = 30.0
    repeat_interval: float = 4 * _HOUR
    resolve_after: float = 300.0
    resolved: bool = True  # whether that something is over is reported
    per_hour: int = 20
    most_events: int = 500  # of a batch: no more come until some are reported


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a message tells."""

    key: Key
    kind: NoticeKind
    envelope: Envelope | None = None
    problem: BridgeProblem | None = None
    count: int = 1  # how often it happened within the last hour
    of: NoticeKind | None = None  # what is resolved


@dataclass(frozen=True, slots=True)
class Nothing:
    """All of the batch is dealt with, and nothing is to be reported."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Not yet: ask again at a time. The first ``done`` events of the batch are dealt with."""

    until: float
    done: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send these, then call :meth:`Groups.sent`. All of the batch is in them or dealt with."""

    entries: tuple[Entry, ...]


@dataclass(slots=True)
class _Trouble:
    kind: NoticeKind
    failures: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_FAILURES))
    told_at: float | None = None
    well_since: float | None = None
    last: Envelope | None = None
    problem: BridgeProblem | None = None


class Groups:
    """For one thread. ``now`` is monotonic, events bring their own wall clock."""

    def __init__(self, limits: NoticeLimits) -> None:
        self._limits = limits
        self._troubles: dict[Key, _Trouble] = {}
        self._noted: dict[tuple[int, bool], Key | None] = {}  # of the batch: what an event is to be reported as
        self._notices: dict[Key, Entry] = {}  # to be reported without an event
        self._waiting_since: float | None = None  # the oldest thing that is to be reported
        self._sent: deque[float] = deque()  # when messages went out, within the last hour
        self._ended: dict[Key, float] = {}  # when an app's last process ended, by the daemon's clock

    # --- what happens --------------------------------------------------------------------------------------------

    def events(
        self, batch: Sequence[tuple[Envelope, Sign]], now: float, quiet_until: float | None
    ) -> Nothing | Hold | Send:
        """What is to be done with a batch: the one before without what was dealt with, and with what came since."""
        for envelope, sign in batch:
            if (place := _place(envelope)) not in self._noted:
                self._noted[place] = self._note(envelope, sign, now)
        if not any(self._noted[_place(envelope)] for envelope, _ in batch) and not self._notices:
            self.dealt_with([envelope for envelope, _ in batch])
            return Nothing()
        return self._decide(batch, now, quiet_until)

    def problems(self, present: Iterable[BridgeProblem], now: float) -> None:
        """The problems of the bridge as they are now."""
        found: dict[Key, BridgeProblem] = {("problem", one.kind, one.where): one for one in present}
        for key, problem in found.items():
            trouble = self._troubles.setdefault(key, _Trouble(NoticeKind.PROBLEM))
            trouble.problem = problem
            if trouble.told_at is None or now - trouble.told_at >= self._limits.repeat_interval:
                self._notice(Entry(key, NoticeKind.PROBLEM, problem=problem), now)
            elif key in self._notices:
                self._withdraw(key)  # it had ended, and has begun again before that was reported
        for key in [key for key, one in self._troubles.items() if one.kind is NoticeKind.PROBLEM and key not in found]:
            trouble = self._troubles[key]
            if trouble.told_at is None or not self._limits.resolved:  # over before it was reported
                del self._troubles[key]
                self._withdraw(key)
            else:
                self._notice(Entry(key, NoticeKind.RESOLVED, problem=trouble.problem, of=NoticeKind.PROBLEM), now)

    def time_passes(self, now: float, quiet_until: float | None) -> Nothing | Hold | Send:
        """What is to be done while there is no batch."""
        self._noted.clear()
        for key, trouble in list(self._troubles.items()):
            if trouble.well_since is None or now - trouble.well_since < self._limits.resolve_after:
                continue
            if trouble.told_at is not None and self._limits.resolved:
                self._notice(Entry(key, NoticeKind.RESOLVED, envelope=trouble.last, of=trouble.kind), now)
            else:
                del self._troubles[key]
        return self._decide((), now, quiet_until) if self._notices else Nothing()

    # --- what was done -------------------------------------------------------------------------------------------

    def sent(self, send: Send, now: float) -> None:
        """The service has taken the message."""
        self._sent.append(now)
        self._told(send, now)

    def refused(self, send: Send, batch: Sequence[Envelope], now: float) -> None:
        """The service will never take the message, which was about these events alone."""
        self._told(send, now)
        self.dealt_with(batch)

    def _told(self, send: Send, now: float) -> None:
        for entry in send.entries:
            self._notices.pop(entry.key, None)
            if entry.kind is NoticeKind.RESOLVED:
                self._troubles.pop(entry.key, None)
            elif (trouble := self._troubles.get(entry.key)) is not None:
                trouble.told_at = now
        self._waiting_since = now if self._notices else None

    def dealt_with(self, envelopes: Iterable[Envelope]) -> None:
        """Events that will not come again: told, left out, or refused."""
        for envelope in envelopes:
            self._noted.pop(_place(envelope), None)
        self._forget_wait()

    # --- how -----------------------------------------------------------------------------------------------------

    def _note(self, envelope: Envelope, sign: Sign, now: float) -> Key | None:
        """Takes an event in; as what it is to be reported, None: not at all."""
        event = envelope.event
        key: Key = ("app", event.daemon, event.app)
        trouble = self._troubles.get(key)
        if sign is Sign.OTHER:
            return ("event", event.id)
        if event.type is EventType.EXIT:
            self._note_end(key, event)
        if sign in {Sign.WELL, Sign.ENDED, Sign.GONE}:
            if trouble is not None:
                self._note_well(key, trouble, sign, now)
            return None
        if sign is Sign.UNHEALTHY and self._is_of_an_end(key, event):
            return None
        if trouble is None:
            trouble = self._new_trouble(key)
        is_news = sign is Sign.FAILED and trouble.kind is NoticeKind.UNHEALTHY
        if sign is Sign.FAILED or trouble.last is None:
            trouble.kind = NoticeKind.FAILED if sign is Sign.FAILED else NoticeKind.UNHEALTHY
            trouble.last = envelope
        trouble.well_since = None
        trouble.failures.append(event.received_at)
        self._withdraw(key)  # it is not resolved
        is_told = trouble.told_at is not None and now - trouble.told_at < self._limits.repeat_interval
        return None if is_told and not is_news else key

    def _note_end(self, key: Key, event: Event) -> None:
        if len(self._ended) >= _MOST_TROUBLES:
            del self._ended[next(iter(self._ended))]
        self._ended[key] = event.timestamp

    def _note_well(self, key: Key, trouble: _Trouble, sign: Sign, now: float) -> None:
        if trouble.told_at is None and trouble.kind is NoticeKind.UNHEALTHY:  # over before it was reported
            del self._troubles[key]
            self._noted = {place: None if of == key else of for place, of in self._noted.items()}
        elif sign is Sign.WELL:
            trouble.well_since = now if trouble.well_since is None else trouble.well_since
        elif sign is Sign.GONE:
            trouble.well_since = now - self._limits.resolve_after

    def _is_of_an_end(self, key: Key, event: Event) -> bool:
        """An app whose process has just ended is unhealthy by nature."""
        ended = self._ended.get(key)
        return ended is not None and abs(event.timestamp - ended) <= _END_SECONDS

    def _new_trouble(self, key: Key) -> _Trouble:
        if len(self._troubles) >= _MOST_TROUBLES:
            del self._troubles[next(iter(self._troubles))]
        trouble = self._troubles[key] = _Trouble(NoticeKind.UNHEALTHY)
        return trouble

    def _notice(self, entry: Entry, now: float) -> None:
        self._notices[entry.key] = entry
        if self._waiting_since is None:
            self._waiting_since = now

    def _withdraw(self, key: Key) -> None:
        self._notices.pop(key, None)
        self._forget_wait()

    def _forget_wait(self) -> None:
        if not self._notices and not any(self._noted.values()):
            self._waiting_since = None

    def _decide(self, batch: Sequence[tuple[Envelope, Sign]], now: float, quiet_until: float | None) -> Hold | Send:
        if self._waiting_since is None:
            self._waiting_since = now
        is_full = len(batch) >= self._limits.most_events
        due = now if is_full else self._waiting_since + self._limits.group_wait
        while self._sent and now - self._sent[0] >= _HOUR:
            self._sent.popleft()
        if len(self._sent) >= self._limits.per_hour:
            due = max(due, self._sent[-self._limits.per_hour] + _HOUR)
        due = max(due, quiet_until or now)
        if due > now:
            first = next((at for at, (one, _) in enumerate(batch) if self._noted[_place(one)]), len(batch))
            self.dealt_with([one for one, _ in batch[:first]])
            return Hold(due, first)
        return Send(tuple(self._entries([one for one, _ in batch])))

    def _entries(self, batch: Sequence[Envelope]) -> Iterable[Entry]:
        """One for each trouble of the batch, in order; then what is reported without an event."""
        told: dict[Key, Envelope] = {}
        for envelope in batch:
            if key := self._noted[_place(envelope)]:
                told[key] = envelope
        latest = max((one.event.received_at for one in batch), default=0.0)
        for key, envelope in told.items():
            trouble = self._troubles.get(key)
            if trouble is None:
                yield Entry(key, NoticeKind.EVENT, envelope)
            else:
                count = sum(1 for at in trouble.failures if latest - at < _HOUR)
                yield Entry(key, trouble.kind, trouble.last or envelope, count=max(1, count))
        yield from self._notices.values()


def _place(envelope: Envelope) -> tuple[int, bool]:
    return envelope.offset, envelope.event.replayed
