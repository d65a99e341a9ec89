"""The tables of a journal, and how an older one becomes a present one."""

import sqlite3
from pathlib import Path

from meshbridge.journal.errors import DamageError, JournalError

__all__ = ["SCHEMA_VERSION", "prepare"]

SCHEMA_VERSION = 3
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
_TABLES = (
    f"CREATE TABLE events (offset INTEGER PRIMARY KEY, {_EVENT_COLUMNS})",
    "CREATE TABLE cursors (name TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE runs (daemon TEXT PRIMARY KEY, run TEXT NOT NULL, sequence INTEGER) WITHOUT ROWID",
    f"CREATE TABLE app_states {_STATE_COLUMNS}",
    f"CREATE TABLE dead_letters ({_LETTER_COLUMNS}, offset INTEGER NOT NULL, {_EVENT_COLUMNS})",
    f"CREATE TABLE sink_memory {_MEMORY_COLUMNS}",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('events', 0), ('last_offset', 0)",
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
