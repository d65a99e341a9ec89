"""Looks into a journal for a person, with a connection of its own, so that the bridge does not wait for it."""

import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from meshbridge.journal.damage import FRESH
from meshbridge.journal.errors import DamageError, JournalError, is_damage
from meshbridge.journal.lock import DirectoryLock
from meshbridge.journal.store import DATABASE, SUFFIXES
from meshbridge.journal.tables import COLUMNS, envelope_of
from meshbridge.model.events import Envelope

__all__ = ["Verification", "connected", "database_in", "find", "verify", "verify_directory"]

_MOST_PROBLEMS = 20
_ROWS = 500  # read at a time, so that a long look keeps no old state of the database alive


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found. ``problems`` says what is wrong, of the first few."""

    path: str
    bytes: int
    events: int
    damaged: int
    seconds: float
    problems: tuple[str, ...] = ()


@contextlib.contextmanager
def connected(path: Path, mode: str = "ro") -> Iterator[sqlite3.Connection]:
    """A connection for one look."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _connected_or_copied(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a database that is not in use; to a copy of it where SQLite would have to write to read it.

    That is so after a power cut in the first moments (a rollback journal), or where a directory can't be written.
    """
    try:
        with connected(path) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        if is_damage(error):
            raise
    else:
        with connected(path) as connection:
            yield connection
        return
    with tempfile.TemporaryDirectory(prefix="meshbridge-verify-") as directory:
        copy = Path(directory) / path.name
        for suffix in SUFFIXES:
            if suffix != "-shm":
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
        with connected(copy, "rw") as connection:
            yield connection


def find(path: Path, event_id: str) -> Envelope | None:
    """The event of an id; None where it is not kept, or is no id.

    Raises:
        JournalError: the database can't be read.

    """
    daemon, _, rest = event_id.partition("/")
    run, _, number = rest.rpartition("/")
    wheres: list[tuple[str, tuple[object, ...]]] = [("key = ?", (rest,))]
    if number.isdecimal() and run:
        wheres.insert(0, ("run = ? AND sequence = ? AND key IS NULL", (run, int(number))))
    try:
        with connected(path) as connection:
            for where, parameters in wheres:
                row = connection.execute(
                    f"SELECT {COLUMNS} FROM events WHERE daemon = ? AND {where} LIMIT 1",  # noqa: S608 constants
                    (daemon, *parameters),
                ).fetchone()
                if row is not None:
                    return envelope_of(row)
    except sqlite3.Error as error:
        raise JournalError(f"{path} cannot be read: {error}") from error
    return None


def verify_directory(directory: Path) -> Verification:
    """:func:`verify` of a journal that no process has open; it is not changed.

    Raises:
        JournalInUseError: somebody has.
        JournalError: there is none, or it can't be read.

    """
    path = database_in(directory)
    if path is None:
        raise JournalError(f"journal.path: there is no journal in {directory}")
    lock = DirectoryLock(directory)
    try:
        return verify(path, in_use=False)
    except OSError as error:
        raise JournalError(f"{path} cannot be copied to be read: {error}") from error
    finally:
        lock.release()


def database_in(directory: Path) -> Path | None:
    """The database of a journal that is not in use: the fresh one where a repair was cut short at its last step."""
    return next((path for path in (directory / DATABASE, directory / FRESH) if path.exists()), None)


def verify(path: Path, *, in_use: bool = True) -> Verification:
    """Compares the structure as SQLite does it, and then each event with its checksum.

    Raises:
        JournalError: it can't be read, and that is not the file's fault.

    """
    began = time.monotonic()
    problems: list[str] = []
    events = damaged = 0
    try:
        with (connected if in_use else _connected_or_copied)(path) as connection:
            found = [str(text) for (text,) in connection.execute(f"PRAGMA quick_check({_MOST_PROBLEMS})")]
            problems += [text for text in found if text != "ok"]
            after = 0
            while rows := connection.execute(
                f"SELECT {COLUMNS} FROM events WHERE offset > ? ORDER BY offset LIMIT {_ROWS}",  # noqa: S608 constants
                (after,),
            ).fetchall():
                for row in rows:
                    events += 1
                    try:
                        envelope_of(row)
                    except DamageError as error:
                        damaged += 1
                        problems.append(str(error))
                after = rows[-1][0]
    except (sqlite3.Error, TypeError) as error:
        if isinstance(error, sqlite3.Error) and not is_damage(error):
            raise JournalError(f"{path} cannot be read: {error}") from error
        problems.append(f"reading ended: {error}")
    size = path.stat().st_size if path.exists() else 0
    return Verification(str(path), size, events, damaged, time.monotonic() - began, tuple(problems[:_MOST_PROBLEMS]))
