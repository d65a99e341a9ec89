"""Writes ``app_history``: a row for each event that is not output (docs/adr/0022-history-in-a-table.md).

A row is made of its event alone and written in the same transaction, so a crash leaves nothing to repair. Rows outlive
their events: retention by size deletes events and leaves the rows until ``max_age``. For the journal's thread; what
writes does so within the caller's transaction.
"""

import itertools
import sqlite3
from collections.abc import Sequence

import orjson

from meshbridge.journal.tables import COLUMNS, HISTORY_COLUMNS, envelope_of
from meshbridge.model.events import Envelope, EventType
from meshbridge.model.history import AppChange, change_of

__all__ = ["Lanes", "add_changes", "add_events", "fill", "forget"]

Lanes = dict[int, tuple[str, str, int]]
"""By lane: daemon, app, and the offset of the last row."""

_STDOUT, _GAP = EventType.STDOUT, EventType.GAP
_CHUNKS = (256, 16, 1)  # rows of one statement, as for events
_INSERTS = {
    size: f"INSERT OR REPLACE INTO app_history ({HISTORY_COLUMNS}) VALUES "  # noqa: S608 constants
    + ",".join(["(?,?,?,?,?,?,?,?,?)"] * size)
    for size in _CHUNKS
}
_FILL_OFFSETS = 4000  # looked through in one transaction: a few milliseconds
_GAP_SEARCH_EVENTS = 20_000  # before a gap, for the last event that came in before it
_FORGET_ROWS = 5000  # deleted in one transaction
_ROW_BYTES = 100  # about what a row takes
_SHARE = 8  # rows may fill one part in so many of max_bytes


def add_events(writer: sqlite3.Connection, envelopes: Sequence[Envelope]) -> None:
    """The rows of these events."""
    changes: list[AppChange] = []
    lanes: Lanes = {}
    for envelope in envelopes:
        event = envelope.event
        if event.type is _STDOUT or (change := change_of(envelope)) is None:
            continue
        changes.append(_with_beginning(writer, envelope, change) if event.type is _GAP else change)
        lanes[change[1]] = event.daemon, event.app, change[0]
    if changes:
        add_changes(writer, changes, lanes)


def add_changes(writer: sqlite3.Connection, changes: Sequence[AppChange], lanes: Lanes) -> None:
    """These rows, and their lanes."""
    start = 0
    for size in _CHUNKS:
        while len(changes) - start >= size:
            chunk = changes[start : start + size]
            writer.execute(_INSERTS[size], tuple(itertools.chain.from_iterable(chunk)))
            start += size
    writer.executemany(
        "INSERT INTO app_lanes VALUES (?, ?, ?, ?) ON CONFLICT (lane) DO UPDATE SET last = max(last, excluded.last)",
        [(lane, *place) for lane, place in lanes.items()],
    )


def _with_beginning(writer: sqlite3.Connection, envelope: Envelope, change: AppChange) -> AppChange:
    """A gap begins when the last event before the missing ones came in."""
    event, offset = envelope.event, envelope.offset
    first = orjson.loads(event.data).get("first")
    before, parameters = ("sequence < ?", (first,)) if isinstance(first, int) else ("1", ())
    found = writer.execute(
        "SELECT received_at FROM events WHERE offset < ? AND offset > ? AND daemon = ? AND run = ? "  # noqa: S608 constants
        f"AND NOT reconciled AND {before} ORDER BY offset DESC LIMIT 1",
        (offset, offset - _GAP_SEARCH_EVENTS, event.daemon, event.run, *parameters),
    ).fetchone()
    return change if found is None else (*change[:8], found[0])


def fill(writer: sqlite3.Connection) -> bool:
    """Adds rows of some events that an older meshbridge wrote, newest first; False when there are none left."""
    found = writer.execute("SELECT value FROM counters WHERE name = 'history_from'").fetchone()
    up_to = 0 if found is None else int(found[0])
    (first,) = writer.execute("SELECT min(offset) FROM events").fetchone()
    if first is None or up_to <= first:
        return False
    begin = max(first, up_to - _FILL_OFFSETS)
    rows = writer.execute(
        f"SELECT {COLUMNS} FROM events WHERE offset >= ? AND offset < ? AND type <> ?",  # noqa: S608 constants
        (begin, up_to, int(_STDOUT)),
    ).fetchall()
    add_events(writer, [envelope_of(row) for row in rows])
    writer.execute("UPDATE counters SET value = ? WHERE name = 'history_from'", (begin,))
    return True


def forget(writer: sqlite3.Connection, cutoff: float, max_bytes: int) -> bool:
    """Deletes some rows that are too old or too many, oldest first; False when there are none left."""
    (count,) = writer.execute("SELECT count(*) FROM app_history").fetchone()
    surplus = min(_FORGET_ROWS, max(0, count - max_bytes // _SHARE // _ROW_BYTES))
    oldest = "SELECT offset FROM app_history ORDER BY offset LIMIT ?"
    deleted = writer.execute(
        f"DELETE FROM app_history WHERE offset IN ({oldest}) AND at < ?",  # noqa: S608 constants
        (_FORGET_ROWS, cutoff),
    ).rowcount
    if surplus > deleted:
        deleted += writer.execute(
            f"DELETE FROM app_history WHERE offset IN ({oldest})",  # noqa: S608 constants
            (surplus - deleted,),
        ).rowcount
    if deleted:
        writer.execute("DELETE FROM app_lanes WHERE last < (SELECT coalesce(min(offset), 0) FROM app_history)")
    return deleted > 0
