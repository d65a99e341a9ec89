"""Puts a fresh database in the place of a damaged one, with what can still be read of it.

The fresh one is made beside the damaged one and takes its place when it is complete. Where this is cut short, the
damaged one is still there and the next start begins again; or it is set aside already, and the next start ends it.
"""

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeGuard, TypeVar, cast
from urllib.parse import quote

from meshbridge.journal.errors import DamageError
from meshbridge.journal.history_table import Lanes
from meshbridge.journal.options import Sync
from meshbridge.journal.store import DATABASE, SUFFIXES, Group, Letter, MemoryKey, StateKey, Store, remove
from meshbridge.journal.tables import COLUMNS, HISTORY_COLUMNS, envelope_of
from meshbridge.model.events import Envelope
from meshbridge.model.history import AppChange, lane_id
from meshbridge.system.disk import rename_durably, sync_directory, sync_file

__all__ = ["FRESH", "Replacement", "finish_replacement", "replace"]

FRESH = f"{DATABASE}.new"
_KEPT = 3  # damaged ones; each can be as large as the journal, and a bad disk damages one after the other
_SALVAGE_SECONDS = 15.0  # without an event that can be read: then the rest is given up, for new ones wait in memory
_GROUP = 1000
Item = TypeVar("Item")
_FURTHEST = 2**48  # no journal gets so far: an offset beyond is damage


@dataclass(frozen=True, slots=True)
class Replacement:
    """What became of a damaged database."""

    kept_as: str
    salvaged: int
    lost: Mapping[str, int] = field(default_factory=dict)  # by sink: events it had not had yet


def finish_replacement(directory: Path) -> None:
    """Ends a replacement that was cut short: takes the fresh database where the damaged one is set aside already,
    and deletes an incomplete one.

    Raises:
        OSError: the fresh one can't be put in its place.

    """
    path, fresh = directory / DATABASE, directory / FRESH
    if path.exists():
        remove(fresh)
    elif fresh.exists():
        remove(path)  # the damaged one's WAL: it has nothing that is not in the fresh one
        rename_durably(fresh, path)


def replace(
    directory: Path, sync: Sync | float, *, cursors: Mapping[str, int] | None, tail: Sequence[Envelope], last: int
) -> Replacement:
    """Sets the damaged database aside; the one that stands in its place then has all that could be saved.

    ``cursors`` and ``last`` are what the caller knows (None: it has just started, so the old file's are taken);
    ``tail`` is what it has in memory.

    Raises:
        OSError, sqlite3.Error: there is no room, say. The damaged one is still in its place.

    """
    path, new = directory / DATABASE, directory / FRESH
    finish_replacement(directory)
    fresh = Store(directory, sync, FRESH)
    try:
        with _Wreck(path) as wreck:
            known = wreck.cursors() if cursors is None else cursors
            last = max(last, wreck.last_offset(), *known.values(), 0)
            fresh.remember_last_offset(last)
            fresh.append(
                Group(
                    cursors=wreck.cursors() | dict(known),
                    runs=wreck.runs(),
                    states=wreck.app_states(),
                    dead_letters=wreck.dead_letters(),
                    memory=wreck.memory(),
                )
            )
            lanes = wreck.lanes()
            for changes in _grouped(change for change in wreck.history() if change[1] in lanes):
                fresh.restore_history(changes, lanes)
            wanted_after = min(known.values(), default=last)
            salvaged = 0
            # At the start it is unknown how far it went.
            end = tail[0].offset - 1 if tail else _FURTHEST if cursors is None else last
            events = wreck.events(wanted_after, end)
            for group in _grouped(itertools.chain(events, (one for one in tail if one.offset > wanted_after))):
                fresh.append(Group(group))
                salvaged += len(group)
                last = max(last, group[-1].offset)
            first = max(wreck.first_offset() or 0, 1)
        lost = {name: _lost(fresh, max(offset, first - 1), last) for name, offset in known.items()}
    except BaseException:
        fresh.close()
        remove(new)
        raise
    fresh.checkpoint()
    fresh.close()
    # Each step is on the disk before the next: as soon as the damaged one has another name, the fresh one is complete.
    sync_file(new)
    sync_directory(directory)
    kept = _set_aside(path)
    sync_directory(directory)
    rename_durably(new, path)
    return Replacement(kept.name, salvaged, {name: count for name, count in lost.items() if count})


def _lost(fresh: Store, after: int, last: int) -> int:
    ((kept,),) = fresh.ask("SELECT count(*) FROM events WHERE offset > ?", (after,))
    return max(0, last - after - int(kept))


def _grouped(items: Iterator[Item]) -> Iterator[list[Item]]:
    while group := list(itertools.islice(items, _GROUP)):
        yield group


def _set_aside(path: Path) -> Path:
    """Renames a damaged journal, its WAL with it, and gives the new name; of earlier ones, the oldest go."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = next(
        candidate
        for number in itertools.count()
        if not (candidate := path.with_name(f"{path.name}.damaged-{stamp}{f'-{number}' if number else ''}")).exists()
    )
    for suffix in SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    earlier = sorted(
        (one for one in path.parent.glob(f"{path.name}.damaged-*") if not one.name.endswith(SUFFIXES[1:])),
        key=lambda one: one.stat().st_mtime_ns,
    )
    for one in earlier[:-_KEPT]:
        if one != kept:
            remove(one)
    return kept


_HISTORY_TYPES = (int, int, float, int, int | None, int | None, int, str | None, float | None)


def _is_offset(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < _FURTHEST


class _Wreck:
    """A damaged database, read-only, as far as it goes. What can't be read is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        with contextlib.suppress(sqlite3.Error):
            self._connection = sqlite3.connect(
                f"file:{quote(str(self._path))}?mode=ro", uri=True, timeout=1, isolation_level=None
            )
            # Without it SQLite reads nothing of a file that is shorter than its header says.
            self._connection.execute("PRAGMA writable_schema = ON")
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def _rows(self, sql: str, *parameters: object) -> Iterator[Sequence[Any]]:
        if self._connection is None:
            return
        with contextlib.suppress(sqlite3.Error):
            yield from self._connection.execute(sql, parameters)

    def cursors(self) -> dict[str, int]:
        rows = self._rows("SELECT name, offset FROM cursors")
        return {name: offset for name, offset in rows if isinstance(name, str) and _is_offset(offset)}

    def runs(self) -> dict[str, tuple[str, int | None]]:
        rows = self._rows("SELECT daemon, run, sequence FROM runs")
        return {
            daemon: (run, sequence)
            for daemon, run, sequence in rows
            if isinstance(daemon, str) and isinstance(run, str) and isinstance(sequence, int | None)
        }

    def app_states(self) -> dict[StateKey, str]:
        rows = self._rows("SELECT daemon, app, state FROM app_states")
        return {(row[0], row[1]): row[2] for row in rows if all(isinstance(value, str) for value in row)}

    def memory(self) -> dict[MemoryKey, str]:
        rows = self._rows("SELECT sink, kind, key, text FROM sink_memory")
        return {(row[0], row[1], row[2]): row[3] for row in rows if all(isinstance(value, str) for value in row)}

    def dead_letters(self) -> list[Letter]:
        letters: list[Letter] = []
        for row in self._rows(f"SELECT sink, refused_at, reason, error, {COLUMNS} FROM dead_letters"):  # noqa: S608 constants
            with contextlib.suppress(DamageError):
                letters.append((str(row[0]), float(row[1]), str(row[2]), str(row[3]), envelope_of(row[4:])))
        return letters

    def lanes(self) -> Lanes:
        rows = self._rows("SELECT lane, daemon, app, last FROM app_lanes")
        return {
            lane: (daemon, app, last)
            for lane, daemon, app, last in rows
            if isinstance(daemon, str) and isinstance(app, str) and lane == lane_id(daemon, app) and _is_offset(last)
        }

    def history(self) -> Iterator[AppChange]:
        for row in self._rows(f"SELECT {HISTORY_COLUMNS} FROM app_history"):  # noqa: S608 constants
            whole = all(isinstance(value, kinds) for value, kinds in zip(row, _HISTORY_TYPES, strict=True))
            if whole and _is_offset(row[0]):
                yield cast("AppChange", tuple(row))

    def last_offset(self) -> int:
        found = [
            *self._rows("SELECT max(offset) FROM events"),
            *self._rows("SELECT value FROM counters WHERE name = 'last_offset'"),
            *self._rows("SELECT value + (SELECT min(offset) FROM events) - 1 FROM counters WHERE name = 'events'"),
        ]
        return max((value for (value,) in found if _is_offset(value)), default=0)

    def first_offset(self) -> int | None:
        return next((value for (value,) in self._rows("SELECT min(offset) FROM events") if _is_offset(value)), None)

    def events(self, after: int, up_to: int) -> Iterator[Envelope]:
        """All that can be read of a range, in order. Behind damage it goes on with growing steps.

        An offset is believed only together with a whole event: one invented by damage would hide all between, and
        seem to SQLite to be the end of what was asked for.
        """
        if self._connection is None:
            return
        deadline = time.monotonic() + _SALVAGE_SECONDS
        step = 1  # over what can't be read: growing, since a damaged page has many events
        while after < up_to and time.monotonic() < deadline:
            read = 0
            try:
                rows = self._connection.execute(
                    f"SELECT {COLUMNS} FROM events WHERE offset > ? AND offset <= ? ORDER BY offset LIMIT ?",  # noqa: S608 constants
                    (after, up_to, _GROUP),
                ).fetchmany
                while chunk := rows(1):
                    envelope = envelope_of(chunk[0])
                    if not after < envelope.offset <= up_to:
                        raise DamageError("an offset is out of order")
                    after, step = envelope.offset, 1
                    read += 1
                    yield envelope
                    deadline = time.monotonic() + _SALVAGE_SECONDS
            except sqlite3.Error:
                pass  # from its place on below
            if read < _GROUP:
                after, step = after + step, step * 2
