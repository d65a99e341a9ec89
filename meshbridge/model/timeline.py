"""What an app did over a time: its runs, and its lane of states, from rows of history and its present state.

Pure: no clock, no I/O. Rows come in the order of the journal, times are the daemon's. The two may differ: a reconciled
event comes in late, with the time at which it happened.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import inf
from operator import itemgetter
from typing import Any

import orjson

from meshbridge.appmesh.dialect import DISABLED
from meshbridge.model.events import EventType
from meshbridge.model.history import AppChange

__all__ = [
    "CRASH_LOOP_RESTARTS",
    "HOUR_SECONDS",
    "Lane",
    "LaneState",
    "PresentState",
    "Run",
    "Segment",
    "Window",
    "lane_of",
]

HOUR_SECONDS = 3600.0
CRASH_LOOP_RESTARTS = 3
"""So many restarts after a failure within an hour make a crash loop."""

_START, _EXIT, _HEALTH, _STATUS, _REMOVED = (
    int(kind) for kind in (EventType.START, EventType.EXIT, EventType.HEALTH, EventType.STATUS, EventType.REMOVED)
)
_OTHERS = frozenset({_HEALTH, _STATUS, _REMOVED})
_SAME_START_SECONDS = 1.0  # an event and the daemon's list may round a time differently


class LaneState(StrEnum):
    """What a lane shows of an app at a moment."""

    RUNNING = "running"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"
    DISABLED = "disabled"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Run:
    """One process of an app. None: not known, or not yet."""

    start: float | None
    end: float | None = None
    exit_code: int | None = None
    process: str | None = None
    pid: int | None = None
    first: int = 0  # offset of its START; 0: not known
    last: int = 0  # offset of its EXIT; 0: none
    reconciled: int = 0  # 1: its start or its end is known from a comparison, not from a live event
    restarts: int = 0  # restarts of the app after a failure, in the hour up to its start
    replaced: bool = False  # its EXIT was not seen before the next START

    def duration(self, now: float) -> float | None:
        """For how many seconds it ran, or has run; None where its start is not known."""
        return None if self.start is None else max(0.0, (now if self.end is None else self.end) - self.start)

    @property
    def failed(self) -> bool:
        """Whether it ended, and not with exit code 0."""
        return self.end is not None and self.exit_code != 0


@dataclass(frozen=True, slots=True)
class Window:
    """A time, which ends in the present at the latest. Parts that are shorter than ``resolution`` are merged."""

    since: float
    until: float
    resolution: float = 0.0


@dataclass(slots=True)
class Segment:
    """A part of a lane with one state; ``run``: the process, of a part that runs. ``runs`` > 1: several merged."""

    state: LaneState
    start: float
    end: float
    run: Run | None = None
    runs: int = 0


@dataclass(frozen=True, slots=True)
class PresentState:
    """The row of the journal's table of app states, as far as lanes need it."""

    enabled: bool | None = None
    running: bool = False
    healthy: bool = True
    started_at: float | None = None
    exited_at: float | None = None
    exit_code: int | None = None
    process: str | None = None
    one_off: bool = False

    @classmethod
    def from_text(cls, text: str) -> "PresentState":
        """Of the JSON that a link keeps; a value that is not as expected counts as not known."""
        try:
            fields = orjson.loads(text)
        except orjson.JSONDecodeError:
            fields = {}
        if not isinstance(fields, dict):
            fields = {}
        status = fields.get("status")
        code = fields.get("exit_code")
        process = fields.get("process_uuid")
        return cls(
            enabled=None if not isinstance(status, str) else status != DISABLED,
            running=fields.get("running") is True,
            healthy=fields.get("health") in {0, None},
            started_at=_time(fields, "started_at"),
            exited_at=_time(fields, "exited_at"),
            exit_code=code if type(code) is int else None,
            process=process if isinstance(process, str) else None,
            one_off=fields.get("one_off") is True,
        )


def _time(fields: Mapping[str, Any], key: str) -> float | None:
    value = fields.get(key)
    return float(value) if type(value) in {int, float} and value else None


@dataclass(slots=True)
class Lane:
    """One app over a time. ``runs`` are all that the rows tell of, ``segments`` lie within the time."""

    daemon: str
    app: str
    runs: list[Run]
    segments: list[Segment]
    removed: bool
    restarted_at: list[float]
    """When it was started again after a failure, in order."""

    def restarts_since(self, moment: float) -> int:
        """How often it was started again after a failure, since then."""
        return len(self.restarted_at) - bisect_left(self.restarted_at, moment)


def lane_of(place: tuple[str, str], rows: Sequence[AppChange], present: PresentState | None, window: Window) -> Lane:
    """The lane of an app from its rows up to the present, in the order of their offsets.

    ``place``: daemon and app. ``present``: its present state, None for an app that is gone. Rows before the window say
    how the lane begins.
    """
    runs = _runs_of(rows)
    if present is not None:
        _agree(runs, present)
    others = [row for row in rows if row[3] in _OTHERS]
    ended_at = [row[2] for row in others if row[3] == _REMOVED or (row[3] == _STATUS and not row[4])]
    restarted_at = _count_restarts(runs, ended_at)
    segments = _merged(_parts(runs, others, present, window), window.resolution)
    return Lane(*place, runs, segments, present is None, restarted_at)


# --- runs ---------------------------------------------------------------------------------------------------------


def _runs_of(rows: Iterable[AppChange]) -> list[Run]:
    runs: list[Run] = []
    for offset, _, at, kind, value, pid, reconciled, process, _ in rows:
        last = runs[-1] if runs else None
        if kind == _START:
            if last is not None:
                _close(last, at)
            runs.append(Run(at, None, None, process, pid, offset, 0, reconciled))
        elif kind == _EXIT:
            ended = _ended_by(runs, at, pid, process)
            if ended is None:
                continue
            end = at if ended is last or last is None or last.start is None else min(at, last.start)
            ended.end = end if ended.start is None else max(end, ended.start)
            ended.exit_code, ended.last, ended.replaced = value, offset, False
            ended.process = ended.process or process
            ended.reconciled |= reconciled
        elif kind == _REMOVED and last is not None and last.end is None:
            _close(last, at)
    return runs


def _close(run: Run, at: float) -> None:
    """Ends a process at a moment at which it is there no more; its EXIT was not seen, or has a guessed time."""
    if run.end is None:
        run.end, run.replaced = at if run.start is None else max(at, run.start), True
    elif run.end > at and run.reconciled:
        run.end = at if run.start is None else max(at, run.start)


def _ended_by(runs: list[Run], at: float, pid: int | None, process: str | None) -> Run | None:
    """Which process an EXIT is of: the last one, the one before it, or one whose START was not seen."""
    if not runs:
        runs.append(Run(None, pid=pid))
        return runs[-1]
    last = runs[-1]
    if (pid is not None and last.pid is not None and pid != last.pid) or (last.start is not None and at < last.start):
        return runs[-2] if len(runs) > 1 and runs[-2].replaced else None
    if last.end is None or last.replaced:
        return last
    if last.process is None or last.process == process or at <= last.end:
        return None  # the same end once more
    runs.append(Run(None, pid=pid))
    return runs[-1]


def _agree(runs: list[Run], present: PresentState) -> None:
    """Where rows and the present state differ, the present state is right. A comparison may have changed it."""
    last = runs[-1] if runs else None
    if present.running:
        same = (
            last is not None
            and last.start is not None
            and present.started_at is not None
            and abs(last.start - present.started_at) <= _SAME_START_SECONDS
        )
        if last is not None and same:
            last.end = last.exit_code = None
        elif last is None or last.end is not None:
            runs.append(Run(present.started_at, process=present.process, reconciled=1))
    elif last is not None and last.end is None:
        end = present.exited_at if present.exited_at is not None else last.start
        last.end = end if last.start is None or end is None else max(end, last.start)
        last.exit_code, last.reconciled = present.exit_code, 1
    elif last is None and present.exited_at is not None:
        start = present.started_at if (present.started_at or 0) <= present.exited_at else None
        runs.append(Run(start, present.exited_at, present.exit_code, present.process, reconciled=1))


def _count_restarts(runs: Sequence[Run], ended_at: Iterable[float]) -> list[float]:
    """Counts starts after a failure, and gives their times.

    ``ended_at``: when an operator disabled or removed the app. A start after that is none.
    """
    asked = deque(sorted(ended_at))
    times: list[float] = []
    recent: deque[float] = deque()
    for before, run in pairwise(runs):
        if run.start is None:
            continue
        between = False
        while asked and asked[0] <= run.start:
            between = asked.popleft() >= (before.start or 0.0)
        if before.failed and not between:
            times.append(run.start)
            recent.append(run.start)
        while recent and recent[0] < run.start - HOUR_SECONDS:
            recent.popleft()
        run.restarts = len(recent)
    times.sort()  # a daemon's clock may have been set back
    return times


# --- segments -----------------------------------------------------------------------------------------------------

_Part = tuple[LaneState, float, float, Run | None]
"""(state, start, end, the process of a part that runs)"""


def _parts(
    runs: Sequence[Run], others: Sequence[AppChange], present: PresentState | None, window: Window
) -> Iterator[_Part]:
    """The lane, cut where its state or its process changes."""
    if not others:
        return _plain_parts(runs, present, window)
    return _Sweep(runs, others).parts(window)


def _plain_parts(runs: Sequence[Run], present: PresentState | None, window: Window) -> Iterator[_Part]:
    """Of an app that was started and has ended, and nothing else, as most."""
    since, until = window.since, window.until
    enabled = present is None or present.enabled is not False
    idle = LaneState.UNKNOWN if runs or present is None else LaneState.STOPPED if enabled else LaneState.DISABLED
    begin = since
    for number, run in enumerate(runs, 1):
        start = begin if run.start is None or run.start < begin else run.start
        end = until if run.end is None else run.end
        if start > until:
            break
        if start > begin:
            yield idle, begin, start, None
            begin = start
        if end >= since:
            begin = min(max(end, start), until)
            yield LaneState.RUNNING, start, begin, run
        idle = LaneState.STOPPED if enabled or number < len(runs) else LaneState.DISABLED
    if begin < until:
        yield idle, begin, until, None


class _Sweep:
    """Goes through what happened to an app in the order of time."""

    def __init__(self, runs: Sequence[Run], others: Sequence[AppChange]) -> None:
        self._points: list[tuple[float, int, Run | AppChange]] = [(row[2], row[0], row) for row in others]
        for run in runs:
            self._points.append((-inf if run.start is None else run.start, run.first, run))
            if run.end is not None:
                self._points.append((run.end, run.last or run.first, run))
        self._points.sort(key=itemgetter(0, 1))
        first_status = next((row for row in others if row[3] == _STATUS), None)
        self._run: Run | None = None
        self._ended: Run | None = None
        self._healthy = True
        self._enabled = first_status is None or not first_status[4]  # an event tells of a change
        self._known = False

    def parts(self, window: Window) -> Iterator[_Part]:
        state, run, begin = self._state(), self._run, window.since
        for point, _, what in self._points:
            if point > window.until:
                break
            self._pass(what)
            now = self._state()
            if now == state and self._run is run:
                continue
            at = max(point, begin)  # a daemon's clock may have been set back
            if at > begin or (run is not None and run is not self._run and at > window.since):
                yield state, begin, at, run
            state, run, begin = now, self._run, at
        if window.until > begin:
            yield state, begin, window.until, run

    def _pass(self, what: Run | AppChange) -> None:
        self._known = True
        if isinstance(what, Run):
            self._pass_run(what)
        elif what[3] == _HEALTH:
            self._healthy = what[4] == 0
        elif what[3] == _STATUS:
            self._enabled = bool(what[4])
        else:
            self._run, self._known = None, False

    def _pass_run(self, run: Run) -> None:
        """Its start, or its end: a process begins once, and may have been taken for ended by then."""
        if self._run is run:
            self._run, self._ended = None, run
        elif self._ended is not run:
            self._run, self._ended = run, self._run
        self._healthy = True

    def _state(self) -> LaneState:
        if self._run is not None:
            return LaneState.RUNNING if self._healthy else LaneState.UNHEALTHY
        if not self._known:
            return LaneState.UNKNOWN
        return LaneState.STOPPED if self._enabled else LaneState.DISABLED


def _merged(parts: Iterable[_Part], resolution: float) -> list[Segment]:
    """At most two segments in each ``resolution`` seconds, each in the state of its longest part."""
    found: list[Segment] = []
    last: Segment | None = None
    longest = 0.0
    for state, start, end, run in parts:
        length = end - start
        if last is None or length >= resolution or last.end - last.start >= resolution:
            longest = length
            last = Segment(state, start, end, run, 0 if run is None else 1)
            found.append(last)
            continue
        last.end = end
        if run is not None and run is not last.run:
            last.runs += 1
            last.run = run
        if length > longest:
            longest, last.state = length, state
    return found
