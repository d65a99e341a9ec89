"""The tables of a journal, how an older one becomes a present one, and an event as a row with a checksum."""

import sqlite3
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from meshbridge.journal.errors import DamageError, JournalError
from meshbridge.model.events import Envelope, Event, EventType

__all__ = ["COLUMNS", "HISTORY_COLUMNS", "PLACES", "Row", "envelope_of", "event_bytes", "prepare", "row_of"]

Row = tuple[object, ...]

COLUMNS = (
    "offset, received_at, type, daemon, run, sequence, app, timestamp, process_uuid, key, reconciled, body, checksum"
)
PLACES = "(" + ",".join("?" * 13) + ")"
HISTORY_COLUMNS = "offset, lane, at, type, value, pid, reconciled, process, began"
_ROW_OVERHEAD_BYTES = 120  # of a row beside its body, for accounting in memory
_U32 = 0xFFFFFFFF


def event_bytes(event: Event) -> int:
    """About what an event takes, in memory or on disk."""
    return len(event.body) + _ROW_OVERHEAD_BYTES


@lru_cache(maxsize=4096)
def _seed(daemon: str, run: str, app: str) -> int:
    return zlib.crc32(f"{daemon}\0{run}\0{app}".encode())


def _checksum(offset: int, event: Event) -> int:
    """Of everything that makes an event what it is. SQLite finds damage in its own structure, not in what it holds."""
    seed = _seed(event.daemon, event.run, event.app)
    if event.process_uuid or event.key:
        seed = zlib.crc32(f"{event.process_uuid}\0{event.key}".encode(), seed)
    # Odd factors: a changed bit in any of the three changes the seed, and a changed seed the checksum.
    seed += offset * 2654435761 + (event.sequence or 0) * 40503 + event.type
    return zlib.crc32(event.body, seed & _U32)


def row_of(offset: int, event: Event) -> Row:
    return (
        offset,
        event.received_at,
        int(event.type),
        event.daemon,
        event.run,
        event.sequence,
        event.app,
        event.timestamp,
        event.process_uuid,
        event.key or None,
        event.reconciled,
        event.body,
        _checksum(offset, event),
    )


def envelope_of(row: Sequence[Any]) -> Envelope:
    """The event of a row; one from before there were checksums is taken as it is.

    Raises:
        DamageError: it is not what was written.

    """
    offset, received_at, kind, daemon, run, sequence, app, timestamp, process_uuid, key, reconciled, body, checksum = (
        row
    )
    try:
        event = Event(
            daemon,
            run,
            sequence,
            _TYPES[kind],
            app,
            timestamp,
            body,
            process_uuid,
            bool(reconciled),
            received_at,
            key or "",
        )
        if checksum is None or checksum == _checksum(offset, event):
            return Envelope(offset, event)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamageError(f"the event at offset {offset} can't be read: {error!r}") from error
    raise DamageError(f"the event at offset {offset} is not the one that was written: its checksum differs")


_TYPES = {int(kind): kind for kind in EventType}


# --- tables -------------------------------------------------------------------------------------------------------

SCHEMA_VERSION = 4
_APPLICATION_ID = 0x6D62726A  # "mbrj": so that `file` and this module know a journal from any other database

_EVENT_COLUMNS = """
    received_at REAL NOT NULL, type INTEGER NOT NULL, daemon TEXT NOT NULL, run TEXT NOT NULL, sequence INTEGER,
    app TEXT NOT NULL, timestamp REAL NOT NULL, process_uuid TEXT, key TEXT, reconciled INTEGER NOT NULL,
    body BLOB NOT NULL, checksum INTEGER
"""
_STATE_COLUMNS = (
    "(daemon TEXT NOT NULL, app TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (daemon, app)) WITHOUT ROWID"
)
_MEMORY_COLUMNS = (
    "(sink TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (sink, kind, key))"
    " WITHOUT ROWID"
)
_LETTER_COLUMNS = """
    id INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL, refused_at REAL NOT NULL, reason TEXT NOT NULL,
    error TEXT NOT NULL, retry INTEGER NOT NULL DEFAULT 0
"""
_HISTORY_TABLE = """
    CREATE TABLE app_history (offset INTEGER PRIMARY KEY, lane INTEGER NOT NULL, at REAL NOT NULL,
    type INTEGER NOT NULL, value INTEGER, pid INTEGER, reconciled INTEGER NOT NULL, process TEXT, began REAL)
"""
_LANES_TABLE = (
    "CREATE TABLE app_lanes (lane INTEGER PRIMARY KEY, daemon TEXT NOT NULL, app TEXT NOT NULL, last INTEGER NOT NULL)"
)
_TABLES = (
    f"CREATE TABLE events (offset INTEGER PRIMARY KEY, {_EVENT_COLUMNS})",
    "CREATE TABLE cursors (name TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE runs (daemon TEXT PRIMARY KEY, run TEXT NOT NULL, sequence INTEGER) WITHOUT ROWID",
    f"CREATE TABLE app_states {_STATE_COLUMNS}",
    f"CREATE TABLE dead_letters ({_LETTER_COLUMNS}, offset INTEGER NOT NULL, {_EVENT_COLUMNS})",
    f"CREATE TABLE sink_memory {_MEMORY_COLUMNS}",
    _HISTORY_TABLE,
    _LANES_TABLE,
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('events', 0), ('last_offset', 0), ('history_from', 0)",
)
# By the version they start from. Each ran on journals in the field: never change one, add the next.
_UPGRADES = {
    1: (
        f"CREATE TABLE IF NOT EXISTS app_states {_STATE_COLUMNS}",
        "ALTER TABLE events ADD COLUMN checksum INTEGER",
        "ALTER TABLE dead_letters ADD COLUMN checksum INTEGER",
        "ALTER TABLE dead_letters ADD COLUMN retry INTEGER NOT NULL DEFAULT 0",
    ),
    2: (f"CREATE TABLE sink_memory {_MEMORY_COLUMNS}",),
    3: (
        _HISTORY_TABLE,
        _LANES_TABLE,
        # Events before this offset are not in it yet: the journal's thread adds them when it has nothing else to do.
        "INSERT OR REPLACE INTO counters SELECT 'history_from', coalesce(max(offset), 0) + 1 FROM events",
    ),
}


def prepare(writer: sqlite3.Connection, path: Path) -> None:
    """Creates the tables in a new database, or upgrades an older one, in one transaction.

    Raises:
        JournalError: it was written by a newer meshbridge.
        DamageError: it is another program's database.
        sqlite3.Error: it can't be read or written.

    """
    version = int(writer.execute("PRAGMA user_version").fetchone()[0])
    ours = writer.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID
    if version == SCHEMA_VERSION and ours:
        return
    if version > SCHEMA_VERSION and ours:
        raise JournalError(
            f"{path} was written by a newer meshbridge (schema {version}; this one knows {SCHEMA_VERSION}): "
            "upgrade meshbridge, or point journal.path at another directory"
        )
    tables = {name for (name,) in writer.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()}
    if version == 0 and not tables:
        # To be chosen before the first table: with it, deleted events can give their pages back.
        writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        statements: tuple[str, ...] = _TABLES
    elif version >= 1 and (ours or version == 1) and {"events", "cursors", "runs"} <= tables:  # 1 had no application id
        statements = tuple(step for number in range(version, SCHEMA_VERSION) for step in _UPGRADES[number])
    else:
        raise DamageError("it is another program's database")
    writer.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            writer.execute(statement)
        writer.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        writer.execute("COMMIT")
    except BaseException:
        if writer.in_transaction:
            writer.execute("ROLLBACK")
        raise
