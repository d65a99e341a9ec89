"""The journal's SQLite database, driven by :mod:`meshbridge.journal.journal`."""

import contextlib
import itertools
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from meshbridge.journal import history_table
from meshbridge.journal.errors import DamageError, EmptyError
from meshbridge.journal.history_table import Lanes
from meshbridge.journal.options import Sync
from meshbridge.journal.tables import COLUMNS, PLACES, envelope_of, event_bytes, prepare, row_of
from meshbridge.model.events import Envelope
from meshbridge.model.history import AppChange
from meshbridge.system.disk import rename_durably, sync_directory, sync_file

__all__ = [
    "DATABASE",
    "SUFFIXES",
    "Change",
    "Deletion",
    "Extent",
    "Group",
    "Letter",
    "MemoryKey",
    "StateKey",
    "Store",
    "remove",
]

DATABASE = "journal.db"
SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Of the database's name: SQLite creates at most four files (the last only while it creates a database)."""
_UNFINISHED = f"{DATABASE}.creating"
_MODE = 0o600  # output of apps is in it, whatever else may read the directory
# The sqlite3 module gives up the interpreter's lock for each step of a statement, and getting it back can take 5 ms
# when other threads are busy. An INSERT of many rows is one step.
_CHUNKS = (256, 16, 1)
_INSERTS = {
    size: f"INSERT INTO events ({COLUMNS}) VALUES {','.join([PLACES] * size)}"  # noqa: S608 constants
    for size in _CHUNKS
}
# Pages of the WAL after which SQLite copies it into the database (16 MiB): rarer than its default, since each copy
# makes a commit wait.
_CHECKPOINT_PAGES = 4000
_BUSY_SECONDS = 5.0

StateKey = tuple[str, str]
"""(daemon, app)"""
MemoryKey = tuple[str, str, str]
"""(sink, kind, key)"""
Letter = tuple[str, float, str, str, Envelope]
"""(sink, when, reason, error, what was refused)"""


class Change:
    """A statement that somebody waits for; ``done`` is set once it is on disk."""

    def __init__(self, sql: str, parameters: Sequence[object]) -> None:
        self.sql = sql
        self.parameters = parameters
        self.rows = 0
        self.done = threading.Event()


@dataclass(frozen=True, slots=True)
class Group:
    """What goes to the disk together: events and all that is kept beside them."""

    rows: Sequence[Envelope] = ()
    cursors: Mapping[str, int] = field(default_factory=dict)
    runs: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)
    states: Mapping[StateKey, str | None] = field(default_factory=dict)
    dead_letters: Iterable[Letter] = ()
    changes: Iterable[Change] = ()  # made last
    memory: Mapping[MemoryKey, str | None] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Many groups as one."""
        parts = list(parts)
        return cls(
            rows=[row for part in parts for row in part.rows],
            cursors={name: offset for part in parts for name, offset in part.cursors.items()},
            runs={daemon: run for part in parts for daemon, run in part.runs.items()},
            states={key: state for part in parts for key, state in part.states.items()},
            dead_letters=[letter for part in parts for letter in part.dead_letters],
            changes=[change for part in parts for change in part.changes],
            memory={key: text for part in parts for key, text in part.memory.items()},
        )

    def divided(self) -> list["Group"]:
        """The same in smaller parts, in order; none where it is one thing alone."""
        parts = [
            *(Group(rows=half) for half in _halves(self.rows)),
            *(Group(cursors={name: offset}) for name, offset in self.cursors.items()),
            *(Group(runs={daemon: run}) for daemon, run in self.runs.items()),
            *(Group(states={key: state}) for key, state in self.states.items()),
            *(Group(dead_letters=[letter]) for letter in self.dead_letters),
            *(Group(changes=[change]) for change in self.changes),
            *(Group(memory={key: text}) for key, text in self.memory.items()),
        ]
        return parts if len(parts) > 1 else []

    def describe(self) -> str:
        """For the log: what one thing alone is."""
        if self.rows:
            return f"event {self.rows[0].event.id[:200]!r}"
        kinds = ("cursors", "runs", "states", "dead_letters", "changes", "memory")
        return next((f"one of {kind}" for kind in kinds if getattr(self, kind)), "nothing")


def _halves(rows: Sequence[Envelope]) -> list[Sequence[Envelope]]:
    middle = len(rows) // 2
    return [half for half in (rows[:middle], rows[middle:]) if half]


@dataclass(frozen=True, slots=True)
class Extent:
    """What there is."""

    first: int  # offset kept; one more than ``last`` when none is
    newest: int  # offset kept; 0 when none is
    last: int  # offset ever given
    count: int  # events kept


class Deletion:
    """Events to delete: those that match ``outer`` among the oldest that match ``inner``.

    So a search for what is too old ends with the first that is not, and never reads the whole journal.
    """

    def __init__(
        self, reason: str, *, inner: str = "1", outer: str = "1", parameters: tuple[object, ...] = (), kind: int = 0
    ) -> None:
        self.reason = reason
        self.inner = inner
        self.outer = outer
        self.parameters = parameters
        self.kind = kind  # the only type that goes; 0: all
        self.after = 0  # where the next search begins


class _RehearsedError(Exception):
    """Takes a transaction back."""


class Store:
    """The database; the directory's lock is its owner's.

    ``read`` and what stands below it may be called by any thread; the rest belongs to the journal's.
    """

    def __init__(self, directory: Path, sync: Sync | float, name: str = DATABASE) -> None:
        """Opens or creates the database, and brings an older schema up to date.

        ``sync``: :class:`Sync`, or seconds: then the owner calls :meth:`sync` so often.

        Raises:
            JournalError: it was written by a newer meshbridge.
            sqlite3.Error: it can't be opened; ``is_damage`` tells whether the file is at fault.

        """
        self.path = directory / name
        self._read_lock = threading.Lock()  # guards _reader
        self._wal = self.path.with_name(f"{name}-wal")
        self._name_is_durable = False
        if name == DATABASE:
            _create_missing(directory, sync)
            if not self.path.stat().st_size:
                raise EmptyError("the file is empty")
        self._keep_private()
        self._writer = self._connect(sync)
        try:
            prepare(self._writer, self.path)
            self._reader = self._connect(sync)
            self._reader.execute("PRAGMA query_only = ON")
            self._inode = self.path.stat().st_ino
        except OSError as error:
            self._writer.close()
            raise sqlite3.OperationalError(str(error)) from error
        except BaseException:
            self._writer.close()
            raise

    def _keep_private(self) -> None:
        """Makes the file where it is missing. SQLite gives its WAL the same mode."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE))
            for suffix in SUFFIXES:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    self.path.with_name(self.path.name + suffix).chmod(_MODE)
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from error

    def _connect(self, sync: Sync | float) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL: no fsync at a commit, but all that keep the database whole.
            mode = {Sync.GROUP: "FULL", Sync.NONE: "OFF"}[sync] if isinstance(sync, Sync) else "NORMAL"
            connection.execute(f"PRAGMA synchronous = {mode}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        except BaseException:
            connection.close()
            raise
        return connection

    # --- the journal's thread ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        try:
            yield writer
            writer.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                writer.execute("ROLLBACK")
            raise

    def append(self, group: Group) -> None:
        """One transaction, durable on return.

        Raises:
            sqlite3.Error: nothing of it was written.

        """
        with self._transaction() as writer:
            self._insert(writer, group)

    def rehearse(self, group: Group) -> None:
        """Raises what :meth:`append` would; nothing is written."""
        with contextlib.suppress(_RehearsedError), self._transaction() as writer:
            self._insert(writer, group)
            raise _RehearsedError

    def _insert(self, writer: sqlite3.Connection, group: Group) -> None:
        self._insert_events(writer, group.rows)
        for name, offset in group.cursors.items():
            writer.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (name, offset))
        for daemon, (run, sequence) in group.runs.items():
            writer.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (daemon, run, sequence))
        for (daemon, app), state in group.states.items():
            if state is None:
                writer.execute("DELETE FROM app_states WHERE daemon = ? AND app = ?", (daemon, app))
            else:
                writer.execute("INSERT OR REPLACE INTO app_states VALUES (?, ?, ?)", (daemon, app, state))
        self._remember(group.memory)
        for sink, refused_at, reason, error, envelope in group.dead_letters:
            writer.execute(
                f"INSERT INTO dead_letters (sink, refused_at, reason, error, {COLUMNS}) "  # noqa: S608 constants
                f"VALUES (?, ?, ?, ?, {PLACES[1:]}",
                (sink, refused_at, reason, error, *row_of(envelope.offset, envelope.event)),
            )
        for change in group.changes:
            change.rows = writer.execute(change.sql, change.parameters).rowcount

    def _insert_events(self, writer: sqlite3.Connection, rows: Sequence[Envelope]) -> None:
        start = 0
        for size in _CHUNKS:
            while len(rows) - start >= size:
                chunk = rows[start : start + size]
                writer.execute(
                    _INSERTS[size],
                    tuple(itertools.chain.from_iterable(row_of(row.offset, row.event) for row in chunk)),
                )
                start += size
        if rows:
            history_table.add_events(writer, rows)
            self._count(len(rows))

    def _remember(self, memory: Mapping[MemoryKey, str | None]) -> None:
        removed = [key for key, text in memory.items() if text is None]
        kept = [(*key, text) for key, text in memory.items() if text is not None]
        if removed:
            self._writer.executemany("DELETE FROM sink_memory WHERE sink = ? AND kind = ? AND key = ?", removed)
        if kept:
            self._writer.executemany("INSERT OR REPLACE INTO sink_memory VALUES (?, ?, ?, ?)", kept)

    def delete(self, deletion: Deletion, limit: int, cursors: Mapping[str, int]) -> tuple[int, int, dict[str, int]]:
        """Deletes the oldest ``limit`` that are to go: (how many, up to where, how many of them each cursor misses)."""
        names = list(cursors)
        missed = "".join(f", coalesce(sum(offset > {int(cursors[name])}), 0)" for name in names)
        count, last, *misses = self._writer.execute(
            "WITH oldest AS MATERIALIZED (SELECT offset, received_at FROM events "  # noqa: S608 constants and integers
            f"WHERE offset > ? AND {deletion.inner} ORDER BY offset LIMIT ?) "
            f"SELECT count(*), max(offset){missed} FROM oldest WHERE {deletion.outer}",
            (deletion.after, limit, *deletion.parameters),
        ).fetchone()
        if not count:
            return 0, deletion.after, {}
        with self._transaction() as writer:
            writer.execute(
                f"DELETE FROM events WHERE offset > ? AND offset <= ? AND {deletion.inner} "  # noqa: S608 constants
                f"AND {deletion.outer}",
                (deletion.after, last, *deletion.parameters),
            )
            self._count(-count)
        deletion.after = last
        return count, last, dict(zip(names, misses, strict=True))

    def fill_history(self) -> bool:
        """Adds some of the history that is missing; False when nothing is."""
        with self._transaction() as writer:
            return history_table.fill(writer)

    def forget_history(self, cutoff: float, max_bytes: int) -> bool:
        """Deletes some of the history that is too old or too much; False when nothing is."""
        with self._transaction() as writer:
            return history_table.forget(writer, cutoff, max_bytes)

    def restore_history(self, changes: Sequence[AppChange], lanes: Lanes) -> None:
        """Puts back rows of another database."""
        with self._transaction() as writer:
            history_table.add_changes(writer, changes, lanes)

    def sync(self) -> None:
        """Puts on the disk what was appended. Only where that does not (``sync`` in seconds).

        Raises:
            OSError: the disk fails.

        """
        sync_file(self._wal)
        if not self._name_is_durable:
            sync_directory(self.path.parent)
            self._name_is_durable = True

    def checkpoint(self) -> None:
        """Empties the WAL into the database."""
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def shrink(self, pages: int) -> bool:
        """Gives at most ``pages`` free pages back to the file system; False when there is nothing worth it."""
        total = self._writer.execute("PRAGMA page_count").fetchone()[0]
        free = self._writer.execute("PRAGMA freelist_count").fetchone()[0]
        if free * 4 < total or free < pages:
            return False
        self._writer.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        return True

    def remember_last_offset(self, offset: int) -> None:
        """Keeps offsets from being given twice once the newest events are deleted."""
        self._writer.execute("UPDATE counters SET value = ? WHERE name = 'last_offset'", (offset,))

    def check_in_place(self) -> None:
        """Raises ``DamageError`` when the file was deleted or replaced: what is written then is lost at the end."""
        try:
            there = self.path.stat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise DamageError("the file was deleted or replaced while in use")

    def _count(self, change: int) -> None:
        # Counting the rows of a large journal would read all of it.
        self._writer.execute("UPDATE counters SET value = value + ? WHERE name = 'events'", (change,))

    # --- any thread ----------------------------------------------------------------------------------------------

    def read(self, after: int, limit: int, max_bytes: int) -> list[Envelope]:
        """The events after an offset, in order: at most ``limit``, and not many more than ``max_bytes``."""
        with self._read_lock:
            rows = self._reader.execute(
                f"SELECT {COLUMNS} FROM events WHERE offset > ? ORDER BY offset LIMIT ?",  # noqa: S608 constants
                (after, limit),
            )
            try:
                envelopes: list[Envelope] = []
                size = 0
                for row in rows:
                    envelope = envelope_of(row)
                    envelopes.append(envelope)
                    size += event_bytes(envelope.event)
                    if size >= max_bytes:
                        break
            finally:
                rows.close()
        return envelopes

    def ask(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a small answer."""
        with self._read_lock:
            return self._reader.execute(sql, parameters).fetchall()

    def extent(self) -> Extent:
        with self._read_lock:
            first, newest, known, furthest, count = self._reader.execute(
                "SELECT (SELECT min(offset) FROM events), (SELECT max(offset) FROM events),"
                " (SELECT value FROM counters WHERE name = 'last_offset'), (SELECT max(offset) FROM cursors),"
                " (SELECT value FROM counters WHERE name = 'events')"
            ).fetchone()
        if known is None or count is None:
            raise DamageError("its counters are missing")
        last = max(newest or 0, known, furthest or 0)
        return Extent(first or last + 1, newest or 0, last, count)

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

    def app_state(self, daemon: str, app: str) -> str | None:
        with self._read_lock:
            row = self._reader.execute(
                "SELECT state FROM app_states WHERE daemon = ? AND app = ?", (daemon, app)
            ).fetchone()
        return None if row is None else row[0]

    def memory(self, sink: str, kind: str) -> dict[str, str]:
        """What a sink remembers of a kind; a row that damage has made anything but text is left out."""
        rows = self.ask("SELECT key, text FROM sink_memory WHERE sink = ? AND kind = ?", (sink, kind))
        return {key: text for key, text in rows if isinstance(key, str) and isinstance(text, str)}

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
        try:
            wal_bytes = self._wal.stat().st_size
        except OSError:
            wal_bytes = 0
        return int(page * (pages - free) + wal_bytes)

    def close(self) -> None:
        with self._read_lock:
            self._reader.close()
        self._writer.close()


def remove(path: Path) -> None:
    """Deletes a database, and all files that SQLite makes beside it."""
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _create_missing(directory: Path, sync: Sync | float) -> None:
    """Creates a database under another name, and renames it when it is complete and on the disk.

    So a power cut at any moment leaves either none or a whole one, and an empty file is always damage.

    Raises:
        sqlite3.Error: it can't be created.

    """
    path, unfinished = directory / DATABASE, directory / _UNFINISHED
    try:
        if path.exists():
            return
        remove(unfinished)
        Store(directory, sync, _UNFINISHED).close()
        remove(path)  # a WAL without its database: SQLite would take it for the new one's
        rename_durably(unfinished, path)
    except OSError as error:
        raise sqlite3.OperationalError(str(error)) from error
