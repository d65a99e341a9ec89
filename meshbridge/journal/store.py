"""The journal's SQLite database, driven by :mod:`meshbridge.journal.journal`."""

import contextlib
import fcntl
import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from meshbridge.events import Envelope, Event, EventType
from meshbridge.journal.options import Sync

__all__ = ["JournalError", "JournalInUseError", "StateKey", "Store"]

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    offset INTEGER PRIMARY KEY, received_at REAL NOT NULL, type INTEGER NOT NULL, daemon TEXT NOT NULL,
    run TEXT NOT NULL, sequence INTEGER, app TEXT NOT NULL, timestamp REAL NOT NULL, process_uuid TEXT,
    key TEXT, reconciled INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS cursors (name TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (daemon TEXT PRIMARY KEY, run TEXT NOT NULL, sequence INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS app_states (
    daemon TEXT NOT NULL, app TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (daemon, app)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY, sink TEXT NOT NULL, refused_at REAL NOT NULL, reason TEXT NOT NULL, error TEXT NOT NULL,
    offset INTEGER NOT NULL, received_at REAL NOT NULL, type INTEGER NOT NULL, daemon TEXT NOT NULL,
    run TEXT NOT NULL, sequence INTEGER, app TEXT NOT NULL, timestamp REAL NOT NULL, process_uuid TEXT,
    key TEXT, reconciled INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO counters VALUES ('events', 0), ('last_offset', 0);
"""
_COLUMNS = "offset, received_at, type, daemon, run, sequence, app, timestamp, process_uuid, key, reconciled, body"
_ROW = "(" + ",".join("?" * 12) + ")"
# The sqlite3 module gives up the interpreter's lock for each step of a statement, and getting it back can take 5 ms
# when other threads are busy. An INSERT of many rows is one step.
_CHUNKS = (256, 16, 1)
_INSERTS = {
    size: f"INSERT INTO events ({_COLUMNS}) VALUES {','.join([_ROW] * size)}"  # noqa: S608 constants
    for size in _CHUNKS
}
# Pages of the WAL after which SQLite copies it into the database (16 MiB): rarer than its default, since each copy
# makes a commit wait.
_CHECKPOINT_PAGES = 4000
_ROW_OVERHEAD_BYTES = 120  # of a row beside its body, for accounting in memory

Row = tuple[object, ...]
StateKey = tuple[str, str]
"""(daemon, app)"""


class JournalError(Exception):
    """The journal can't be opened or written; the message says why and what to do."""


class JournalInUseError(JournalError):
    """Another process has the journal open."""


def event_bytes(event: Event) -> int:
    """About what an event takes, in memory or on disk."""
    return len(event.body) + _ROW_OVERHEAD_BYTES


def _row(offset: int, event: Event) -> Row:
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
    )


def _envelope(row: Sequence[object]) -> Envelope:
    offset, received_at, kind, daemon, run, sequence, app, timestamp, process_uuid, key, reconciled, body = row
    return Envelope(
        offset,  # type: ignore[arg-type]  # the schema says so
        Event(
            daemon,  # type: ignore[arg-type]
            run,  # type: ignore[arg-type]
            sequence,  # type: ignore[arg-type]
            EventType(kind),  # type: ignore[arg-type]
            app,  # type: ignore[arg-type]
            timestamp,  # type: ignore[arg-type]
            body,  # type: ignore[arg-type]
            process_uuid,  # type: ignore[arg-type]
            bool(reconciled),
            received_at,  # type: ignore[arg-type]
            key or "",  # type: ignore[arg-type]
        ),
    )


class Store:
    """The database and the lock on its directory.

    ``append`` and ``prune`` belong to the journal's thread; ``read`` may be called by any thread.
    """

    def __init__(self, directory: Path, sync: Sync) -> None:
        """Opens or creates the database.

        Raises:
            JournalInUseError: another process has it.
            JournalError: the directory can't be used.
            sqlite3.DatabaseError: the file is no journal, or damaged.

        """
        self.path = directory / "journal.db"
        self._lock_fd = _lock(directory)
        self._read_lock = threading.Lock()  # guards _reader
        try:
            self._writer = self._connect(sync)
            try:
                self._prepare()
                self._reader = self._connect(sync)
                self._reader.execute("PRAGMA query_only = ON")
            except BaseException:
                self._writer.close()
                raise
        except BaseException:
            os.close(self._lock_fd)
            raise

    def _connect(self, sync: Sync) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if sync is Sync.GROUP else 'OFF'}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        return connection

    def _prepare(self) -> None:
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"{self.path} was written by a newer meshbridge (schema {version}; this one knows {SCHEMA_VERSION}): "
                "upgrade meshbridge, or point journal.path at another directory"
            )
        # auto_vacuum must be chosen before the first table: with it, deleted events give their pages back.
        if version == 0:
            self._writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._writer.executescript(_SCHEMA)
        self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    # --- the journal's thread ------------------------------------------------------------------------------------

    def append(
        self,
        rows: Sequence[Envelope],
        cursors: Mapping[str, int],
        runs: Mapping[str, tuple[str, int | None]],
        states: Mapping[StateKey, str | None],
        dead_letters: Iterable[tuple[str, float, str, str, Envelope]] = (),
    ) -> None:
        """One transaction, durable on return: events, cursors, the runs' last sequences, apps' states, dead letters.

        Raises:
            sqlite3.Error: nothing of it was written.

        """
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        try:
            start = 0
            for size in _CHUNKS:
                while len(rows) - start >= size:
                    chunk = rows[start : start + size]
                    writer.execute(
                        _INSERTS[size],
                        tuple(itertools.chain.from_iterable(_row(row.offset, row.event) for row in chunk)),
                    )
                    start += size
            if rows:
                self._count(len(rows))
            for name, offset in cursors.items():
                writer.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (name, offset))
            for daemon, (run, sequence) in runs.items():
                writer.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (daemon, run, sequence))
            for (daemon, app), state in states.items():
                if state is None:
                    writer.execute("DELETE FROM app_states WHERE daemon = ? AND app = ?", (daemon, app))
                else:
                    writer.execute("INSERT OR REPLACE INTO app_states VALUES (?, ?, ?)", (daemon, app, state))
            for sink, refused_at, reason, error, envelope in dead_letters:
                writer.execute(
                    f"INSERT INTO dead_letters (sink, refused_at, reason, error, {_COLUMNS}) "  # noqa: S608 constants
                    f"VALUES (?, ?, ?, ?, {_ROW[1:]}",
                    (sink, refused_at, reason, error, *_row(envelope.offset, envelope.event)),
                )
            writer.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                writer.execute("ROLLBACK")
            raise

    def delete(self, where: str, parameters: Sequence[object], limit: int) -> list[tuple[int, int]]:
        """Deletes the oldest ``limit`` events that match and gives (offset, type) of each."""
        rows: list[tuple[int, int]] = self._writer.execute(
            f"SELECT offset, type FROM events WHERE {where} ORDER BY offset LIMIT ?",  # noqa: S608 constants
            (*parameters, limit),
        ).fetchall()
        if rows:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany("DELETE FROM events WHERE offset = ?", [(offset,) for offset, _ in rows])
                self._count(-len(rows))
                self._writer.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise
        return rows

    def reclaim(self) -> None:
        """Gives the pages of deleted events back to the file system."""
        self._writer.execute("PRAGMA incremental_vacuum").fetchall()
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def remember_last_offset(self, offset: int) -> None:
        """Keeps offsets from being given twice once the newest events are deleted."""
        self._writer.execute("UPDATE counters SET value = ? WHERE name = 'last_offset'", (offset,))

    def _count(self, change: int) -> None:
        # Counting the rows of a large journal would read all of it.
        self._writer.execute("UPDATE counters SET value = value + ? WHERE name = 'events'", (change,))

    # --- any thread ----------------------------------------------------------------------------------------------

    def read(self, after: int, limit: int, max_bytes: int) -> list[Envelope]:
        """The events after an offset, in order: at most ``limit``, and not many more than ``max_bytes``."""
        envelopes: list[Envelope] = []
        size = 0
        with self._read_lock:
            rows = self._reader.execute(
                f"SELECT {_COLUMNS} FROM events WHERE offset > ? ORDER BY offset LIMIT ?",  # noqa: S608 constants
                (after, limit),
            )
            for row in rows:
                envelope = _envelope(row)
                envelopes.append(envelope)
                size += event_bytes(envelope.event)
                if size >= max_bytes:
                    break
            rows.close()
        return envelopes

    def extent(self) -> tuple[int, int, int]:
        """(first offset kept, last offset ever given, number of events kept)."""
        with self._read_lock:
            first, last, known, furthest, count = self._reader.execute(
                "SELECT (SELECT min(offset) FROM events), (SELECT max(offset) FROM events),"
                " (SELECT value FROM counters WHERE name = 'last_offset'), (SELECT max(offset) FROM cursors),"
                " (SELECT value FROM counters WHERE name = 'events')"
            ).fetchone()
        last = max(last or 0, known, furthest or 0)
        return first or last + 1, last, count

    def first_offset(self) -> int | None:
        with self._read_lock:
            row: tuple[int | None] = self._reader.execute("SELECT min(offset) FROM events").fetchone()
            return row[0]

    def cursors(self) -> dict[str, int]:
        with self._read_lock:
            return dict(self._reader.execute("SELECT name, offset FROM cursors").fetchall())

    def runs(self) -> dict[str, tuple[str, int | None]]:
        with self._read_lock:
            rows = self._reader.execute("SELECT daemon, run, sequence FROM runs").fetchall()
        return {daemon: (run, sequence) for daemon, run, sequence in rows}

    def app_states(self, daemon: str) -> dict[str, str]:
        """The last state of each app of a daemon, as it was given to :meth:`append`."""
        with self._read_lock:
            rows = self._reader.execute("SELECT app, state FROM app_states WHERE daemon = ?", (daemon,))
            return dict(rows.fetchall())

    def dead_letters(self) -> dict[str, int]:
        """How many there are, by sink."""
        with self._read_lock:
            return dict(self._reader.execute("SELECT sink, count(*) FROM dead_letters GROUP BY sink").fetchall())

    def received_at(self, after: int) -> float | None:
        """When the first event after an offset came in."""
        with self._read_lock:
            row = self._reader.execute(
                "SELECT received_at FROM events WHERE offset > ? ORDER BY offset LIMIT 1", (after,)
            ).fetchone()
        return None if row is None else row[0]

    def size_bytes(self) -> int:
        """Live pages of the database and the WAL; pages that wait to be used again don't count."""
        with self._read_lock:
            page = self._reader.execute("PRAGMA page_size").fetchone()[0]
            pages = self._reader.execute("PRAGMA page_count").fetchone()[0]
            free = self._reader.execute("PRAGMA freelist_count").fetchone()[0]
        wal = self.path.with_name(self.path.name + "-wal")
        try:
            wal_bytes = wal.stat().st_size
        except OSError:
            wal_bytes = 0
        return int(page * (pages - free) + wal_bytes)

    def close(self) -> None:
        with self._read_lock:
            self._reader.close()
        self._writer.close()
        os.close(self._lock_fd)


def _lock(directory: Path) -> int:
    """Takes the lock of the directory; the kernel gives it back when the process ends, however it ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(
            f"journal.path: cannot use {directory}: {error.strerror}; create it for this user, or choose another"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise JournalInUseError(
            f"journal.path: {directory} is in use by process {owner}: one meshbridge per journal; stop that one, "
            "or give this one another journal.path"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def set_aside(path: Path) -> Path:
    """Renames a damaged journal, its WAL with it, and gives the new name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = next(
        candidate
        for number in itertools.count()
        if not (candidate := path.with_name(f"{path.name}.damaged-{stamp}{f'-{number}' if number else ''}")).exists()
    )
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    return kept
