"""The journal as its users see it: hand events over, read them back, keep a cursor."""

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from meshbridge import telemetry
from meshbridge.events import Envelope, Event, EventType
from meshbridge.journal.options import JournalOptions
from meshbridge.journal.store import JournalError, StateKey, Store, event_bytes, set_aside
from meshbridge.status import JournalStatus

__all__ = ["Journal"]

_GROUP_EVENTS = 1000  # at most in one transaction (DESIGN.md, 'Guarantee')
_RETRY_SECONDS = 1.0  # between attempts while the disk takes nothing
# Between the socket and the disk, in bytes. Above the first bound STDOUT is dropped (a daemon still has it), above the
# second everything: what is left is for a disk that stays full.
_HELD_STDOUT_BYTES = 64 * 2**20
_HELD_BYTES = 96 * 2**20
# The newest events stay in memory, so that a courier that keeps up never reads them back from the database.
_TAIL_EVENTS = 8192
_TAIL_BYTES = 16 * 2**20
_READ_BYTES = 4 * 2**20  # of one read: a batch of large STDOUT events must not fill the memory
_PRUNE_EVENTS = 1000  # deleted in one transaction, so that appends wait little
_WITHOUT_SINK = "journal"  # the label where a drop is not of one sink

NO_STATES: Mapping[StateKey, str | None] = MappingProxyType({})

Key = TypeVar("Key")
Value = TypeVar("Value")
DeadLetter = tuple[str, float, str, str, Envelope]


class Journal:
    """See the package's text for how it works.

    Threads: one, ``journal``, owns all writing. ``submit``, ``append``, ``commit``, ``read`` and the rest may be
    called from any thread.
    """

    def __init__(self, options: JournalOptions) -> None:
        self._options = options
        self._lock = threading.RLock()  # guards everything below
        self._work = threading.Condition(self._lock)  # the journal's thread waits for it
        self._progress = threading.Condition(self._lock)  # everyone else does
        self._inbox: list[Event] = []
        self._held_bytes = 0  # of _inbox and of the group being written
        self._cursors: dict[str, int] = {}
        self._dirty_cursors: dict[str, int] = {}
        self._dirty_states: dict[StateKey, str | None] = {}
        self._dead_letters: list[DeadLetter] = []
        self._dead_letter_counts: dict[str, int] = {}
        self._runs: dict[str, tuple[str, int | None]] = {}
        self._tail: list[Envelope] = []
        self._tail_bytes = 0
        self._first = 1
        self._last = 0
        self._count = 0
        self._submitted = 0  # events ever handed over, and
        self._settled = 0  # how many of them are on disk or dropped: what append and flush wait for
        self._prune_wanted = False
        self._stopping = False
        self._fault: str | None = None
        self._store: Store | None = None
        self._thread: threading.Thread | None = None

    @property
    def path(self) -> Path:
        """The journal's directory."""
        return self._options.path

    # --- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens the database, setting a damaged one aside, and starts the thread.

        Raises:
            JournalInUseError: another process has it open.
            JournalError: the directory can't be used, or the database is of a newer meshbridge.

        """
        path = self._options.path / "journal.db"
        try:
            self._store = Store(self._options.path, self._options.sync)
        except sqlite3.OperationalError as error:
            raise JournalError(f"journal.path: cannot open {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            kept = set_aside(path)
            telemetry.journal_fault("damaged", str(path), f"{error}; set aside as {kept.name}, a fresh one begun")
            self._store = Store(self._options.path, self._options.sync)
        self._first, self._last, self._count = self._store.extent()
        self._cursors = self._store.cursors()
        self._runs = self._store.runs()
        self._dead_letter_counts = self._store.dead_letters()
        telemetry.journal_opened(str(path), self._count)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what was handed over, as far as the disk takes it, and closes the database."""
        with self._lock:
            self._stopping = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._store is not None:
            self._store.close()
            self._store = None

    # --- events in -----------------------------------------------------------------------------------------------

    def submit(self, events: Sequence[Event], states: Mapping[StateKey, str | None] = NO_STATES) -> None:
        """Hands events over, in order, without waiting for the disk. They can be read once they are on it.

        ``states`` are the states of apps after these events, None for one that is gone; they are written in the
        transaction that appends the last of the events.
        """
        dropped = 0
        with self._lock:
            self._dirty_states.update(states)
            for event in events:
                self._submitted += 1
                bound = _HELD_STDOUT_BYTES if event.type is EventType.STDOUT else _HELD_BYTES
                if self._held_bytes > bound:
                    self._settled += 1
                    dropped += 1
                    continue
                self._held_bytes += event_bytes(event)
                self._inbox.append(event)
            self._work.notify()
        if dropped:
            telemetry.events_dropped(_WITHOUT_SINK, "overload", dropped)

    def append(self, events: Sequence[Event]) -> int:
        """Hands events over and waits until they are durable; gives the journal's last offset then."""
        with self._lock:
            self.submit(events)
            self._wait_settled(self._submitted, None)
            return self._last

    def flush(self, timeout_seconds: float) -> bool:
        """Waits until all that was handed over before is on disk; False when that takes too long."""
        with self._lock:
            return self._wait_settled(self._submitted, timeout_seconds)

    def _wait_settled(self, target: int, timeout_seconds: float | None) -> bool:
        return self._progress.wait_for(
            lambda: (
                (self._settled >= target and not self._dirty_cursors and not self._dead_letters) or self._thread is None
            ),
            timeout_seconds,
        )

    # --- events out ----------------------------------------------------------------------------------------------

    def wait(self, after: int, timeout_seconds: float) -> bool:
        """Waits for an event behind an offset; False when none came in time, or after :meth:`wake`."""
        with self._lock:
            if self._last <= after:
                self._progress.wait(timeout_seconds)
            return self._last > after

    def wake(self) -> None:
        """Lets everyone who waits look again, so that a courier sees that it is to stop."""
        with self._lock:
            self._progress.notify_all()

    def read(self, after: int, limit: int) -> list[Envelope]:
        """At most ``limit`` events behind an offset, in order; those deleted are left out."""
        with self._lock:
            if after >= self._last:
                return []
            tail = self._tail
            if tail and tail[0].offset <= after + 1:
                start = after + 1 - tail[0].offset
                return tail[start : start + limit]
            store = self._store
        if store is None:
            return []
        return store.read(after, limit, _READ_BYTES)

    # --- cursors -------------------------------------------------------------------------------------------------

    def cursor(self, name: str, *, from_start: bool = False) -> int:
        """Up to which offset ``name`` has everything. A new one starts at the tail, or at the oldest kept event."""
        with self._lock:
            if name not in self._cursors:
                self._set_cursor(name, self._first - 1 if from_start else self._last)
            return self._cursors[name]

    def commit(self, name: str, offset: int) -> None:
        """``name`` has everything up to ``offset``. Written with the next group, at once when idle."""
        with self._lock:
            self._set_cursor(name, offset)

    def _set_cursor(self, name: str, offset: int) -> None:
        self._cursors[name] = self._dirty_cursors[name] = offset
        self._work.notify()

    def retain_cursors(self, names: Sequence[str]) -> None:
        """Only these sinks are still configured: a sink that has left pins nothing. Its cursor stays on disk."""
        with self._lock:
            self._cursors = {name: offset for name, offset in self._cursors.items() if name in names}

    def lag(self, name: str) -> tuple[int, float]:
        """How many events ``name`` has not had yet, and the age in seconds of the oldest of them."""
        with self._lock:
            offset = self._cursors.get(name, self._last)
            events = self._last - max(offset, self._first - 1)
            if events <= 0 or self._store is None:
                return 0, 0.0
            tail, store = self._tail, self._store
            if tail and tail[0].offset <= offset + 1:
                received_at: float | None = tail[offset + 1 - tail[0].offset].event.received_at
            else:
                received_at = None
        if received_at is None:
            received_at = store.received_at(offset)
        return events, max(0.0, time.time() - received_at) if received_at else 0.0

    # --- daemons and their apps, dead letters
    # ---------------------------------------------------------------------------

    def last_sequence(self, daemon: str) -> tuple[str, int | None] | None:
        """The run of a daemon that was journaled last and its last sequence; None for a daemon never seen."""
        with self._lock:
            return self._runs.get(daemon)

    def app_states(self, daemon: str) -> dict[str, str]:
        """The states of a daemon's apps, by name, as they were given to :meth:`submit` last."""
        with self._lock:
            states = {} if self._store is None else self._store.app_states(daemon)
            for (of, app), state in self._dirty_states.items():
                if of != daemon:
                    continue
                if state is None:
                    states.pop(app, None)
                else:
                    states[app] = state
            return states

    def add_dead_letter(self, sink: str, envelope: Envelope, reason: str, error: str) -> None:
        """Keeps an event that ``sink`` refused, with why."""
        with self._lock:
            self._dead_letters.append((sink, time.time(), reason, error, envelope))
            self._dead_letter_counts[sink] = self._dead_letter_counts.get(sink, 0) + 1
            self._work.notify()

    def dead_letters(self, sink: str) -> int:
        """How many events ``sink`` has refused."""
        with self._lock:
            return self._dead_letter_counts.get(sink, 0)

    # --- keeping -------------------------------------------------------------------------------------------------

    def prune(self) -> None:
        """Has the journal's thread delete what is over ``max_age`` and ``max_bytes``."""
        with self._lock:
            self._prune_wanted = True
            self._work.notify()

    def status(self) -> JournalStatus:
        with self._lock:
            store, fault = self._store, self._fault
            first, last, count = self._first, self._last, self._count
        return JournalStatus(
            path=str(self._options.path),
            open=store is not None,
            bytes=store.size_bytes() if store is not None else 0,
            max_bytes=self._options.max_bytes,
            events=count,
            first_offset=first,
            last_offset=last,
            last_error=fault,
        )

    # --- the journal's thread ------------------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            with self._lock:
                self._work.wait_for(self._has_work)
                if self._prune_wanted and not self._inbox:
                    self._prune_wanted = False
                    prune = True
                elif self._stopping and not self._inbox and not self._has_loose_ends():
                    return
                else:
                    prune = False
                events = self._inbox[:_GROUP_EVENTS]
                cursors, letters = dict(self._dirty_cursors), list(self._dead_letters)
                # A state belongs to the last of the events that were handed over with it, never before it.
                states = dict(self._dirty_states) if len(events) == len(self._inbox) else {}
            if prune:
                self._delete_old()
                continue
            if not self._write_group(events, cursors, states, letters) and self._stopping:
                return  # the disk takes nothing and nobody waits for it any more; the log has said so

    def _has_work(self) -> bool:
        return bool(self._inbox or self._has_loose_ends() or self._prune_wanted or self._stopping)

    def _has_loose_ends(self) -> bool:
        return bool(self._dirty_cursors or self._dirty_states or self._dead_letters)

    def _write_group(
        self,
        events: list[Event],
        cursors: dict[str, int],
        states: dict[StateKey, str | None],
        letters: list[DeadLetter],
    ) -> bool:
        assert self._store is not None
        rows = [Envelope(offset, event) for offset, event in enumerate(events, self._last + 1)]
        runs = {
            event.daemon: (event.run, event.sequence)
            for event in events
            if event.sequence is not None and not event.reconciled
        }
        try:
            self._store.append(rows, cursors, runs, states, letters)
        except sqlite3.Error as error:
            self._wait_for_disk(error)
            return False
        with self._lock:
            if self._fault is not None:
                telemetry.journal_recovered(str(self._store.path), len(self._inbox))
                self._fault = None
            del self._inbox[: len(events)]
            del self._dead_letters[: len(letters)]
            _forget_written(self._dirty_cursors, cursors)
            _forget_written(self._dirty_states, states)
            size = sum(event_bytes(event) for event in events)
            self._held_bytes -= size
            self._settled += len(events)
            self._count += len(events)
            self._last += len(events)
            self._runs.update(runs)
            self._extend_tail(rows, size)
            self._progress.notify_all()
        return True

    def _extend_tail(self, rows: list[Envelope], size: int) -> None:
        self._tail = self._tail + rows  # a new list: readers may hold slices, never the list itself
        self._tail_bytes += size
        if len(self._tail) > _TAIL_EVENTS or self._tail_bytes > _TAIL_BYTES:
            keep, kept_bytes = len(self._tail), 0
            while keep and len(self._tail) - keep < _TAIL_EVENTS // 2 and kept_bytes < _TAIL_BYTES // 2:
                keep -= 1
                kept_bytes += event_bytes(self._tail[keep].event)
            self._tail, self._tail_bytes = self._tail[keep:], kept_bytes

    def _wait_for_disk(self, error: sqlite3.Error) -> None:
        assert self._store is not None
        with self._lock:
            if self._fault is None:
                reason = "full" if "full" in str(error) else "write"
                telemetry.journal_fault(reason, str(self._store.path), f"{error}; events wait in memory")
            self._fault = str(error)
            self._work.wait_for(lambda: self._stopping, _RETRY_SECONDS)

    def _delete_old(self) -> None:
        assert self._store is not None
        try:
            self._store.remember_last_offset(self._last)
            deleted = self._delete("age", "received_at < ?", (time.time() - self._options.max_age,))
            with self._lock:
                everywhere = min(self._cursors.values(), default=self._last)
            for reason, where, parameters in (
                ("delivered", "offset <= ?", (everywhere,)),
                ("size", "type = ?", (int(EventType.STDOUT),)),
                ("size", "1", ()),
            ):
                while self._store.size_bytes() > self._options.max_bytes:
                    count = self._delete_some(reason, where, parameters)
                    if not count:
                        break
                    deleted += count
                    self._store.reclaim()
            if deleted:
                self._store.reclaim()
        except sqlite3.Error as error:
            telemetry.journal_fault("prune", str(self._store.path), str(error))

    def _delete(self, reason: str, where: str, parameters: tuple[object, ...]) -> int:
        total = 0
        while count := self._delete_some(reason, where, parameters):
            total += count
        return total

    def _delete_some(self, reason: str, where: str, parameters: tuple[object, ...]) -> int:
        assert self._store is not None
        rows = self._store.delete(where, parameters, _PRUNE_EVENTS)
        if not rows:
            return 0
        first = self._store.first_offset()
        with self._lock:
            self._count -= len(rows)
            self._first = self._last + 1 if first is None else first
            missed = {name: sum(offset > at for offset, _ in rows) for name, at in self._cursors.items()}
            gone = {offset for offset, _ in rows}
            if self._tail and self._tail[0].offset <= rows[-1][0]:
                # The tail is contiguous: it begins behind the last deleted event that it held.
                last_gone = max(gone)
                self._tail = [envelope for envelope in self._tail if envelope.offset > last_gone]
                self._tail_bytes = sum(event_bytes(envelope.event) for envelope in self._tail)
        for name, count in missed.items():
            if count:
                telemetry.events_dropped(name, reason, count)
        return len(rows)


def _forget_written(dirty: dict[Key, Value], written: Mapping[Key, Value]) -> None:
    """What was written is no longer dirty, unless it has changed meanwhile."""
    for key, value in written.items():
        if key in dirty and dirty[key] == value:
            del dirty[key]
