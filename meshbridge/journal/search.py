"""Looks back through kept events for a person: bounded work in each look, and a place where the next one goes on."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from meshbridge.journal.errors import JournalError
from meshbridge.journal.inspection import connected
from meshbridge.journal.tables import COLUMNS, envelope_of, event_bytes
from meshbridge.model.events import Envelope, EventType
from meshbridge.model.history import lane_id

__all__ = ["FoundEvents", "KeptOutput", "Wanted", "output_of_run", "search"]

_WINDOW_OFFSETS = 2000  # looked through at a time
_MOST_SECONDS = 0.5  # of one look
_MOST_BYTES = 4 * 2**20  # of one answer
_EXTENT = "SELECT (SELECT min(offset) FROM events), (SELECT max(offset) FROM events)"
_START, _STDOUT = int(EventType.START), int(EventType.STDOUT)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events. ``kinds``: none asks for all; ``app`` and ``daemon``: of exactly these; ``accepts``: what else."""

    kinds: Sequence[int] = ()
    daemon: str | None = None
    app: str | None = None
    accepts: Callable[[Envelope], bool] = lambda _envelope: True

    def where(self) -> tuple[str, list[object]]:
        """As a condition on rows."""
        conditions, parameters = ["1"], list[object]()
        if self.kinds:
            conditions.append(f"type IN ({','.join(str(int(kind)) for kind in self.kinds)})")
        for column, value in (("daemon", self.daemon), ("app", self.app)):
            if value is not None:
                conditions.append(f"{column} = ?")
                parameters.append(value)
        return " AND ".join(conditions), parameters


@dataclass(frozen=True, slots=True)
class FoundEvents:
    """Events, the newest first. ``before``: where the next look goes on; None: there are no more."""

    envelopes: list[Envelope]
    before: int | None


@dataclass(frozen=True, slots=True)
class KeptOutput:
    """The end of what a process wrote. ``whole``: whether that is all of it; ``kept``: whether there may be any."""

    text: str
    whole: bool
    kept: bool


def search(path: Path, wanted: Wanted, *, after: int, before: int, limit: int) -> FoundEvents:
    """The newest events between two offsets, at most ``limit``; as many as one look finds.

    Raises:
        JournalError: the database can't be read.

    """
    with _reading(path) as database:
        first, last = database.execute(_EXTENT).fetchone()
        return _search(database, wanted, max(after, (first or 0) - 1), min(before, (last or 0) + 1), limit)


def _search(database: sqlite3.Connection, wanted: Wanted, after: int, before: int, limit: int) -> FoundEvents:
    where, parameters = wanted.where()
    sql = (
        f"SELECT {COLUMNS} FROM events WHERE offset > ? AND offset < ? AND {where} "  # noqa: S608 constants
        "ORDER BY offset DESC"
    )
    found: list[Envelope] = []
    size, deadline = 0, time.monotonic() + _MOST_SECONDS
    while before > after + 1:
        begin = max(after, before - 1 - _WINDOW_OFFSETS)
        for row in database.execute(sql, (begin, before, *parameters)):
            envelope = envelope_of(row)
            if not wanted.accepts(envelope):
                continue
            found.append(envelope)
            size += event_bytes(envelope.event)
            if len(found) >= limit or size >= _MOST_BYTES:
                return FoundEvents(found, envelope.offset if envelope.offset > after + 1 else None)
        before = begin + 1
        if time.monotonic() >= deadline:
            break
    return FoundEvents(found, before if before > after + 1 else None)


def output_of_run(path: Path, daemon: str, app: str, offset: int, lines: int) -> KeptOutput:
    """The last lines of the process whose START, or else EXIT, is at an offset.

    Raises:
        JournalError: the database can't be read.

    """
    lane = lane_id(daemon, app)
    with _reading(path) as database:
        kind = database.execute("SELECT type FROM app_history WHERE offset = ? AND lane = ?", (offset, lane)).fetchone()
        (next_start,) = database.execute(
            "SELECT min(offset) FROM app_history WHERE offset > ? AND lane = ? AND type = ?", (offset, lane, _START)
        ).fetchone()
        first, last = (number or 0 for number in database.execute(_EXTENT).fetchone())
        up_to = next_start or last + 1
        if up_to <= first:
            return KeptOutput("", whole=False, kept=False)
        after = offset if kind is not None and kind[0] == _START else 0
        found = _search(database, Wanted([_STDOUT], daemon, app), max(after, first - 1), up_to, 10 * lines)
    pieces: dict[int, str] = {}
    for envelope in found.envelopes:
        data = orjson.loads(envelope.event.data)
        pieces.setdefault(data["position"], data["output"])
    text = "".join(pieces[position] for position in sorted(pieces))
    shown = text.splitlines(keepends=True)[-lines:]
    whole = found.before is None and after >= first and len(shown) == len(text.splitlines())
    return KeptOutput("".join(shown), whole=whole, kept=True)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with connected(path) as database:
            yield database
    except sqlite3.Error as error:
        raise JournalError(f"{path} cannot be read: {error}") from error
