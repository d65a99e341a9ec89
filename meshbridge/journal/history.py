"""Reads what happened to apps: a table of rows, and the table of their present states.

Each question has a connection of its own, so that neither the journal's thread nor a courier waits for it.
"""

import contextlib
import re
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshbridge.appmesh.dialect import is_generated
from meshbridge.fields import matches
from meshbridge.journal.errors import JournalError, is_damage
from meshbridge.journal.inspection import connected
from meshbridge.journal.tables import HISTORY_COLUMNS
from meshbridge.model.events import DAEMON_PLACE, EventType
from meshbridge.model.history import AppChange, lane_id
from meshbridge.model.timeline import HOUR_SECONDS, Lane, PresentState, Window, lane_of

__all__ = ["Gap", "History", "Timeline", "TimelineQuery"]

Place = tuple[str, str]
"""(daemon, app)"""

_GAP = int(EventType.GAP)
_MOST_GAPS = 1000  # the newest of a time
_MOST_ROWS = 500_000  # the newest, of one question: 100 MiB while it is answered
_REMEMBERED = 16  # answers
_REMEMBERED_SECONDS = 10.0
_COUNTED = re.compile(r"(.+)_[0-9]+")


@dataclass(frozen=True, slots=True)
class TimelineQuery:
    """Which lanes, over which time. ``daemons`` and ``apps`` are shell patterns; none: all."""

    window: Window
    daemons: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    after: Place | None = None
    limit: int = 100

    def wants(self, daemon: str, app: str) -> bool:
        """Whether an app is asked for."""
        if app == DAEMON_PLACE or (self.daemons and not matches(daemon, self.daemons)):
            return False
        return not self.apps or matches(app, self.apps)


@dataclass(frozen=True, slots=True)
class Gap:
    """A time of which events of a daemon are missing. ``missed``: how many; None where that is not known."""

    daemon: str
    start: float
    end: float
    missed: int | None
    offset: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """Lanes in the order of their daemons and apps, those of removed apps last.

    ``offset``: of the last event that they hold. ``complete``: False while events of an older meshbridge are read.
    ``cut``: more happened in the time than one question looks at; the lanes hold only its end.
    """

    lanes: list[Lane]
    gaps: list[Gap]
    offset: int
    total: int
    next: Place | None
    complete: bool
    cut: bool


class History:
    """For any thread."""

    def __init__(self, path: Path, report_damage: Callable[[sqlite3.Error], None]) -> None:
        self._path = path
        self._report_damage = report_damage
        self._lock = threading.Lock()  # guards _remembered
        self._remembered: OrderedDict[TimelineQuery, tuple[float, Timeline]] = OrderedDict()

    def timeline(self, query: TimelineQuery) -> Timeline:
        """The lanes of apps. An answer is used again until the next event, and for ten seconds at most.

        Raises:
            JournalError: the database can't be read.

        """
        with self._reading() as database:
            (offset,) = database.execute("SELECT coalesce(max(offset), 0) FROM app_history").fetchone()
            now = time.monotonic()
            with self._lock:
                made_at, known = self._remembered.get(query, (0.0, None))
            if known is not None and known.offset == offset and now - made_at < _REMEMBERED_SECONDS:
                return known
            found = _timeline(database, query, offset)
        with self._lock:
            self._remembered[query] = now, found
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return found

    def restarts(self, since: float) -> dict[Place, int]:
        """How often each app was started again after a failure since then; only those that were.

        Raises:
            JournalError: the database can't be read.

        """
        window = Window(since, since)
        with self._reading() as database:
            first = _first_offset(database, since)
            names = database.execute("SELECT lane, daemon, app FROM app_lanes WHERE last >= ?", (first,)).fetchall()
            rows, _ = _rows_by_lane(database, since, [lane for lane, _, _ in names])
        found = {}
        for lane, daemon, app in names:
            count = lane_of((daemon, app), rows.get(lane, ()), None, window).restarts_since(since)
            if count and app != DAEMON_PLACE:
                found[daemon, app] = count
        return found

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the database."""
        try:
            with connected(self._path) as database:
                database.execute("BEGIN")
                yield database
        except sqlite3.Error as error:
            if is_damage(error):
                self._report_damage(error)
            raise JournalError(f"{self._path} cannot be read: {error}") from error


def _timeline(database: sqlite3.Connection, query: TimelineQuery, offset: int) -> Timeline:
    window = query.window
    texts = database.execute("SELECT daemon, app, state FROM app_states").fetchall()
    present = {(daemon, app): PresentState.from_text(text) for daemon, app, text in texts if query.wants(daemon, app)}
    places = _places(database, query, present)
    begin = 0 if query.after is None else _behind(places, query.after)
    chosen = places[begin : begin + query.limit]
    everything = len(chosen) == len(present) == len(texts)
    chosen_lanes = None if everything else [lane_id(*place) for place in chosen]
    rows, cut = _rows_by_lane(database, window.since, chosen_lanes)
    lanes = [lane_of(place, rows.get(lane_id(*place), ()), present.get(place), window) for place in chosen]
    filled_from, first = database.execute(
        "SELECT (SELECT value FROM counters WHERE name = 'history_from'), (SELECT min(offset) FROM events)"
    ).fetchone()
    return Timeline(
        lanes,
        _gaps(database, window, sorted({daemon for daemon, _ in chosen})),
        offset,
        len(places),
        chosen[-1] if chosen and begin + len(chosen) < len(places) else None,
        first is None or (filled_from or 0) <= first,
        cut,
    )


def _places(database: sqlite3.Connection, query: TimelineQuery, present: dict[Place, PresentState]) -> list[Place]:
    """The lanes, all pages of them: apps that are there, and those that are gone and have rows in the time."""
    there = sorted(place for place, state in present.items() if not state.one_off)
    first = _first_offset(database, query.window.since)
    rows = database.execute("SELECT daemon, app FROM app_lanes WHERE last >= ?", (first,))
    gone = sorted(
        place for place in rows if place not in present and query.wants(*place) and not _is_run(place, present)
    )
    return there + gone


def _behind(places: Sequence[Place], after: Place) -> int:
    return places.index(after) + 1 if after in places else len(places)


def _is_run(place: Place, present: Container[Place]) -> bool:
    """Whether a name that is gone was one that a daemon makes for a one-off run."""
    daemon, app = place
    match = _COUNTED.fullmatch(app)
    return is_generated(app) or (match is not None and (daemon, match[1]) in present)


def _first_offset(database: sqlite3.Connection, since: float) -> int:
    """Of the first row of a time; rows behind it may be of a time before."""
    (first,) = database.execute("SELECT min(offset) FROM app_history WHERE at >= ?", (since,)).fetchone()
    return 2**62 if first is None else int(first)


def _rows_by_lane(
    database: sqlite3.Connection, since: float, lanes: Sequence[int] | None
) -> tuple[dict[int, list[AppChange]], bool]:
    """All rows from an hour before a time on, and of what was before that the last of each type.

    Also whether there are more of them than one question looks at: then the newest.
    """
    only = "" if lanes is None else f"AND lane IN ({','.join(map(str, lanes))})"
    first = _first_offset(database, since - HOUR_SECONDS)
    most = database.execute("SELECT offset FROM app_history ORDER BY offset DESC LIMIT 1 OFFSET ?", (_MOST_ROWS,))
    newest = most.fetchone()
    cut = newest is not None and newest[0] > first
    first = newest[0] if cut else first
    before = (
        f"SELECT {HISTORY_COLUMNS} FROM app_history WHERE offset IN "  # noqa: S608 constants and integers
        f"(SELECT max(offset) FROM app_history WHERE offset < ? {only} GROUP BY lane, type) ORDER BY offset"
    )
    behind = f"SELECT {HISTORY_COLUMNS} FROM app_history WHERE offset >= ? {only} ORDER BY offset"  # noqa: S608 as above
    found: dict[int, list[AppChange]] = {}
    for sql in (before, behind):
        for row in database.execute(sql, (first,)):
            lane = row[1]
            if lane in found:
                found[lane].append(row)
            else:
                found[lane] = [row]
    return found, cut


def _gaps(database: sqlite3.Connection, window: Window, daemons: Sequence[str]) -> list[Gap]:
    by_lane = {lane_id(daemon, DAEMON_PLACE): daemon for daemon in daemons}
    rows = database.execute(
        "SELECT lane, coalesce(began, at), at, value, offset FROM app_history WHERE type = ? "  # noqa: S608 integers
        f"AND lane IN ({','.join(map(str, by_lane))}) AND at >= ? AND coalesce(began, at) <= ? "
        "ORDER BY offset DESC LIMIT ?",
        (_GAP, window.since, window.until, _MOST_GAPS),
    ).fetchall()
    return [Gap(by_lane[lane], *row) for lane, *row in reversed(rows)]
