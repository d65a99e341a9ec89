"""The journal as its users see it: hand events over, read them back, keep a cursor."""

import sqlite3
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from meshbridge import telemetry
from meshbridge.events import Envelope, Event, EventType
from meshbridge.journal import damage, inspection
from meshbridge.journal.clock import steady_now
from meshbridge.journal.errors import DamageError, JournalError, is_damage, is_full
from meshbridge.journal.inspection import Verification
from meshbridge.journal.keeping import Deleted, prune
from meshbridge.journal.letters import DeadLetters
from meshbridge.journal.lock import DirectoryLock
from meshbridge.journal.options import JournalOptions
from meshbridge.journal.rows import event_bytes
from meshbridge.journal.store import DATABASE, Extent, Group, StateKey, Store
from meshbridge.journal.tail import Tail
from meshbridge.status import JournalStatus

__all__ = ["Journal"]

_GROUP_EVENTS = 1000  # at most in one transaction (DESIGN.md, 'Guarantee')
_RETRY_SECONDS = 1.0  # between attempts while the disk takes nothing
# Held in memory for a disk that is slow or full, in bytes. Above the first bound STDOUT is dropped (a daemon still has
# it), above the second everything.
_HELD_STDOUT_BYTES = 64 * 2**20
_HELD_BYTES = 96 * 2**20
_READ_BYTES = 4 * 2**20  # of one read: a batch of large STDOUT events must not fill the memory
_PRUNE_SHARE = 20  # one part in so many of max_bytes written: time to prune, without waiting for the timer
_WITHOUT_SINK = "journal"  # the label where a drop is not of one sink
_MENDING_SECONDS = 0.2  # how long a reader waits at a time while the database is being replaced

NO_STATES: Mapping[StateKey, str | None] = MappingProxyType({})

Key = TypeVar("Key")
Value = TypeVar("Value")


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
        self._held: list[Envelope] = []  # numbered and readable, and not on disk: only while there is a fault
        self._held_bytes = 0  # of both
        self._cursors: dict[str, int] = {}
        self._dirty_cursors: dict[str, int] = {}
        self._dirty_states: dict[StateKey, str | None] = {}
        self._runs: dict[str, tuple[str, int | None]] = {}
        self._tail = Tail()
        self._first = 1
        self._last = 0  # ever given, and
        self._newest = 0  # of those that are still kept; 0 when there is none
        self._count = 0
        self._submitted = 0  # events ever handed over, and
        self._settled = 0  # how many of them are on disk or dropped: what append and flush wait for
        self._prune_wanted = False
        self._written_bytes = 0  # since the last prune
        self._stopping = False
        self._fault: str | None = None
        self._damage: sqlite3.Error | None = None  # found by someone, to be mended by the journal's thread
        self.state_listeners: list[Callable[[Mapping[StateKey, str | None]], None]] = []  # told what submit is given
        # Told, under the lock, that there is something to read: they must not wait.
        self.append_listeners: list[Callable[[], None]] = []
        self._store: Store | None = None
        self._thread: threading.Thread | None = None
        self.letters = DeadLetters(self._work, self._ask)
        # The journal's thread's own.
        self._retry_at = 0.0
        self._pruning: Iterator[Deleted | None] | None = None
        self._directory_lock: DirectoryLock | None = None

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
        path = self._options.path / DATABASE
        self._directory_lock = DirectoryLock(self._options.path)
        try:
            try:
                damage.finish_replacement(self._options.path)
                self._use(self._opened())
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._replace(error, starting=True)
        except (sqlite3.Error, OSError) as error:
            self._directory_lock.release()
            raise JournalError(f"journal.path: cannot open {path}: {error}") from error
        except BaseException:
            self._directory_lock.release()
            raise
        telemetry.journal_opened(str(path), self._count)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what was handed over, as far as the disk takes it, and closes the database."""
        with self._lock:
            self._stopping = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            store, self._store = self._store, None
            held, cursors = self._held, self._cursors
            self._progress.notify_all()
        if held:  # the disk still takes nothing
            for name, offset in cursors.items():
                if missed := sum(row.offset > offset for row in held):
                    telemetry.events_dropped(name, "not_written", missed)
        if store is not None:
            store.close()
        if self._directory_lock is not None:
            self._directory_lock.release()

    # --- events in -----------------------------------------------------------------------------------------------

    def submit(self, events: Sequence[Event], states: Mapping[StateKey, str | None] = NO_STATES) -> None:
        """Hands events over, in order, without waiting for the disk. They can be read once they are on it.

        ``states`` are the states of apps after these events, None for one that is gone; they are written in the
        transaction that appends the last of the events.
        """
        dropped = 0
        with self._lock:
            self._dirty_states.update(states)
            if states:
                for listener in self.state_listeners:
                    listener(states)
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
                (self._settled >= target and not self._dirty_cursors and not self.letters.waiting)
                or self._thread is None
            ),
            timeout_seconds,
        )

    # --- events out ----------------------------------------------------------------------------------------------

    def wait(self, after: int, timeout_seconds: float, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """Waits for an event behind an offset; False when none came in time, or after :meth:`wake`.

        Does not begin to wait where ``unless`` says so, which is asked so that no later :meth:`wake` is missed.
        """
        with self._lock:
            if self._newest <= after and not unless():
                self._progress.wait(timeout_seconds)
            return self._newest > after

    def wake(self) -> None:
        """Lets everyone who waits look again, so that a courier sees that it is to stop."""
        with self._lock:
            self._progress.notify_all()

    def read(self, after: int, limit: int) -> list[Envelope]:
        """Some events behind an offset, at most ``limit``, in order; those deleted are left out.

        Empty also while a damaged database is being replaced: ask again.
        """
        with self._lock:
            tail, covered = self._tail.read(after, limit), self._tail.covers_after
        if tail is not None:
            return tail
        unknown: list[Envelope] | None = None
        found = self._ask(lambda store: store.read(after, limit, _READ_BYTES), unknown)
        if found is None:
            return []
        if not found:  # all of them deleted, up to where the tail begins
            with self._lock:
                return self._tail.read(max(after, covered), limit) or []
        return found

    def _ask(self, question: Callable[[Store], Value], otherwise: Value) -> Value:
        """Asks the database; damage that shows is handed to the journal's thread to mend."""
        with self._lock:
            store = self._store
            if store is None or self._damage is not None:
                if not self._stopping and self._thread is not None:
                    self._progress.wait(_MENDING_SECONDS)
                return otherwise
        try:
            return question(store)
        except sqlite3.Error as error:
            with self._lock:
                if store is self._store and is_damage(error):
                    self._damage = error
                    self._work.notify()
            return otherwise

    def offset_before(self, moment: float) -> int:
        """The offset behind which events came in at a moment (unix seconds) or later."""
        first, last = self.extent
        low, high = first - 1, last
        while low < high:
            middle = (low + high) // 2
            received_at = self._received_after(middle)
            if received_at is None or received_at >= moment:
                high = middle
            else:
                low = middle + 1
        return low

    def _received_after(self, offset: int) -> float | None:
        """When the first event behind an offset came in."""
        with self._lock:
            covered = offset >= self._tail.covers_after
            first = self._tail.first_behind(offset) if covered else None
        if covered:
            return first.event.received_at if first else None
        return self._ask(lambda store: store.received_at(offset), None)

    @property
    def extent(self) -> tuple[int, int]:
        """(offset of the first event kept, offset of the last ever given)."""
        with self._lock:
            return self._first, self._last

    def find(self, event_id: str) -> Envelope | None:
        """The event of an id, as far as the journal has it. Goes over all of it: for a person, now and then."""
        return inspection.find(self._options.path / DATABASE, event_id)

    def verify(self) -> Verification:
        """Reads everything and compares; damage that is found is mended as if it had shown by itself.

        Raises:
            JournalError: the database can't be read, and that is not the file's fault.

        """
        found = inspection.verify(self._options.path / DATABASE)
        if found.problems:
            self.report_damage(DamageError(found.problems[0]))
        return found

    # --- cursors -------------------------------------------------------------------------------------------------

    def cursor(self, name: str, *, from_start: bool = False) -> int:
        """Up to which offset ``name`` has everything. A new one starts at the tail, or at the oldest kept event."""
        with self._lock:
            if name in self._cursors:
                return self._cursors[name]
        nothing: dict[str, int] = {}
        on_disk = self._ask(lambda store: store.cursors(), nothing)  # of one that had left and comes back
        with self._lock:
            if name not in self._cursors:
                known = self._dirty_cursors.get(name, on_disk.get(name))
                begin = self._first - 1 if from_start else self._last
                self._set_cursor(name, begin if known is None else known)
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
            events = self._newest - max(offset, self._first - 1)
            if events <= 0 or self._store is None:
                return 0, 0.0
        received_at = self._received_after(offset)
        return events, 0.0 if received_at is None else max(0.0, time.time() - received_at)

    # --- daemons and their apps ----------------------------------------------------------------------------------

    def last_sequence(self, daemon: str) -> tuple[str, int | None] | None:
        """The run of a daemon that was journaled last and its last sequence; None for a daemon never seen."""
        with self._lock:
            return self._runs.get(daemon)

    def app_states(self, daemon: str) -> dict[str, str]:
        """The states of a daemon's apps, by name, as they were given to :meth:`submit` last."""
        nothing: dict[str, str] = {}
        with self._lock:
            not_written = {app: state for (of, app), state in self._dirty_states.items() if of == daemon}
        states = self._ask(lambda store: store.app_states(daemon), nothing) | not_written
        return {app: state for app, state in states.items() if state is not None}

    def app_state(self, daemon: str, app: str) -> str | None:
        """The state of one app; None where it has none."""
        with self._lock:
            if (daemon, app) in self._dirty_states:
                return self._dirty_states[daemon, app]
        return self._ask(lambda store: store.app_state(daemon, app), None)

    # --- dead letters --------------------------------------------------------------------------------------------

    def add_dead_letter(self, sink: str, envelope: Envelope, reason: str, error: str) -> None:
        """Keeps an event that ``sink`` refused, with why."""
        self.letters.add((sink, steady_now(), reason, error, envelope))

    def dead_letters(self, sink: str) -> int:
        """How many events ``sink`` has refused."""
        return self.letters.count(sink)

    # --- keeping -------------------------------------------------------------------------------------------------

    def prune(self) -> None:
        """Has the journal's thread delete what is over ``max_age`` and ``max_bytes``."""
        with self._lock:
            self._prune_wanted = True
            self._work.notify()

    def report_damage(self, error: sqlite3.Error) -> None:
        """Has the database replaced: someone has found it damaged."""
        with self._lock:
            self._damage = self._damage or error
            self._work.notify()

    def status(self) -> JournalStatus:
        with self._lock:
            store, fault = self._store, self._fault
            first, last, count = self._first, self._last, self._count
            held = len(self._held) if fault is not None else 0
        return JournalStatus(
            path=str(self._options.path),
            open=store is not None,
            bytes=self._ask(Store.size_bytes, 0) if store is not None else 0,
            max_bytes=self._options.max_bytes,
            events=count,
            first_offset=first,
            last_offset=last,
            held_events=held,
            last_error=fault,
        )

    def stats(self) -> dict[str, Any]:
        """What it holds and where each sink stands, for a person."""
        status = self.status()
        with self._lock:
            cursors, after = dict(self._cursors), self._first - 1
        oldest = self._ask(lambda store: store.received_at(after), None) if status.events else None
        return {
            **asdict(status),
            "max_bytes": self._options.max_bytes,
            "max_age_seconds": self._options.max_age,
            "oldest_received_at": oldest,
            "sinks": {
                name: {
                    "offset": offset,
                    "lag_events": self.lag(name)[0],
                    "lag_seconds": self.lag(name)[1],
                    "dead_letters": self.letters.count(name),
                }
                for name, offset in sorted(cursors.items())
            },
        }

    # --- the journal's thread: its turns -------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except Exception as bug:  # noqa: BLE001 the end of this thread would be the end of the service
                telemetry.log.exception("journal raised an unexpected error: please report it")
                self._take_fault(sqlite3.OperationalError(f"unexpected {bug!r}"))
                if self._stopping:
                    return

    def _turn(self) -> bool:
        """One thing at a time: mend, write a group, prune a little. False at the end."""
        with self._lock:
            seconds = None if self._fault is None else max(0.0, self._retry_at - time.monotonic())
            self._work.wait_for(self._has_work, seconds)
            damage_found, faulty = self._damage, self._fault is not None
            if faulty:
                self._hold_inbox()
            if self._stopping and not self._has_loose_ends():
                return False
            due = not faulty or self._stopping or time.monotonic() >= self._retry_at
        if not due:
            return True
        try:
            self._mend(damage_found)
            if self._has_loose_ends():
                self._write_group()
            else:
                self._prune_a_little()
        except (sqlite3.Error, OSError) as error:
            self._take_fault(error)
            return not self._stopping  # the disk takes nothing and nobody waits for it any more; the log has said so
        return True

    def _has_work(self) -> bool:
        if self._fault is not None:
            return bool(self._inbox or self._stopping)
        return bool(
            self._has_loose_ends() or self._prune_wanted or self._pruning or self._stopping or self._damage is not None
        )

    def _has_loose_ends(self) -> bool:
        return bool(self._inbox or self._held or self._dirty_cursors or self._dirty_states or self.letters.has_work)

    def _write_group(self) -> None:
        store = self._store
        assert store is not None
        with self._lock:
            held = bool(self._held)
            if held:
                rows = self._held[:_GROUP_EVENTS]
                whole = len(rows) == len(self._held) and not self._inbox
            else:
                events = self._inbox[:_GROUP_EVENTS]
                rows = [Envelope(offset, event) for offset, event in enumerate(events, self._last + 1)]
                whole = len(events) == len(self._inbox)
            cursors, letters, changes = dict(self._dirty_cursors), *self.letters.take()
            # A state belongs to the last of the events that were handed over with it, never before it.
            states = dict(self._dirty_states) if whole else {}
        try:
            store.append(Group(rows, cursors, _runs_of(rows), states, letters, changes))
        except BaseException:
            with self._lock:
                self.letters.put_back(letters, changes)
            raise
        with self._lock:
            size = sum(event_bytes(row.event) for row in rows)
            if held:
                del self._held[: len(rows)]
            else:
                del self._inbox[: len(rows)]
                self._publish(rows, size)
            _forget_written(self._dirty_cursors, cursors)
            _forget_written(self._dirty_states, states)
            self._held_bytes -= size
            self._settled += len(rows)
            self._written_bytes += size
            if self._written_bytes > self._options.max_bytes // _PRUNE_SHARE:
                self._prune_wanted = True
            if self._fault is not None and not self._held:
                telemetry.journal_recovered(str(store.path), len(self._inbox))
                self._fault = None
            self.letters.written()
            self._progress.notify_all()
        if changes:
            self.letters.announce(changes, store.dead_letters())

    def _publish(self, rows: list[Envelope], size: int) -> None:
        """Makes numbered events readable."""
        if not rows:
            return
        self._last = self._newest = rows[-1].offset
        self._count += len(rows)
        self._runs.update(_runs_of(rows))
        self._tail.extend(rows, size, self._held[0].offset - 1 if self._held else self._last)
        for listener in self.append_listeners:
            listener()

    # --- the journal's thread: a disk that takes nothing ---------------------------------------------------------

    def _take_fault(self, error: sqlite3.Error | OSError) -> None:
        """The write failed: from here on events are delivered from memory, and the write is tried again."""
        self._pruning = None
        path = str(self._options.path / DATABASE)
        with self._lock:
            if isinstance(error, sqlite3.Error) and is_damage(error) and self._store is not None:
                self._damage = error
                self._retry_at = 0.0
                return
            if self._fault is None:
                full = isinstance(error, sqlite3.Error) and is_full(error)
                telemetry.journal_fault("full" if full else "write", path, f"{error}; events are held in memory")
            self._fault = str(error)
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._hold_inbox()

    def _hold_inbox(self) -> None:
        """Numbers what has come in, and lets it be read from memory. What every sink has had then needs no disk."""
        rows = [Envelope(offset, event) for offset, event in enumerate(self._inbox, self._last + 1)]
        self._inbox.clear()
        self._held += rows
        self._publish(rows, sum(event_bytes(row.event) for row in rows))
        if self._held_bytes > _HELD_STDOUT_BYTES:
            self._forget_held()
        self._progress.notify_all()

    def _forget_held(self) -> None:
        """Frees the memory of what every sink has had; the newest stays, so that something stands at the end."""
        everywhere = min(min(self._cursors.values(), default=0), self._last - 1)
        forgotten = bisect_right(self._held, everywhere, key=lambda row: row.offset)
        if not forgotten:
            return
        self._settled += forgotten
        self._count -= forgotten
        self._held_bytes -= sum(event_bytes(row.event) for row in self._held[:forgotten])
        del self._held[:forgotten]
        self._tail.forget(everywhere)

    # --- the journal's thread: a damaged database ----------------------------------------------------------------

    def _opened(self) -> Store:
        return Store(self._options.path, self._options.sync)

    def _use(self, store: Store) -> None:
        """Takes what the database says, unless this process knows better."""
        try:
            extent = store.extent()
            cursors, runs, letters = store.cursors(), store.runs(), store.dead_letters()
        except BaseException:
            store.close()
            raise
        with self._lock:
            fresh = not self._last
            self._first, self._count = extent.first, extent.count + len(self._held)
            self._last = max(extent.last, self._last)
            self._newest = self._held[-1].offset if self._held else extent.newest
            if fresh:
                self._cursors, self._runs = cursors, runs
                self._tail = Tail(extent.last)
            self.letters.use(letters)
            self._store = store
            self._damage = None
            self._progress.notify_all()

    def _mend(self, found: sqlite3.Error | None) -> None:
        """Replaces a damaged database; opens one that could not be opened before."""
        if found is not None:
            self._replace(found, starting=False)
        elif self._store is None:
            self._use(self._opened())

    def _replace(self, error: sqlite3.Error, *, starting: bool) -> None:
        path = self._options.path / DATABASE
        self._pruning = None
        with self._lock:
            store, self._store = self._store, None
            cursors = None if starting else dict(self._cursors)
            last = self._held[0].offset - 1 if self._held else self._last  # what is held is written later
            tail = self._tail.between(0, last)
        if store is not None:
            store.close()
        if store is not None or starting:
            telemetry.journal_fault("damaged", str(path), str(error))
        done = damage.replace(self._options.path, self._options.sync, cursors=cursors, tail=tail, last=last)
        self._use(self._opened())
        telemetry.journal_replaced(str(path), done.kept_as, done.salvaged, done.lost)

    # --- the journal's thread: retention -------------------------------------------------------------------------

    def _prune_a_little(self) -> None:
        store = self._store
        assert store is not None
        if self._pruning is None:
            with self._lock:
                if not self._prune_wanted:
                    return
                self._prune_wanted = False
                self._written_bytes = 0
            self._pruning = prune(store, self._options, self._present_cursors, self._last)
        try:
            step = next(self._pruning)
        except StopIteration:
            self._pruning = None
            counts = store.dead_letters()
            with self._lock:
                self.letters.use(counts)
            return
        if step is not None:
            self._forget(store.extent(), step)

    def _present_cursors(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._cursors)

    def _forget(self, extent: Extent, step: Deleted) -> None:
        deletion, count, last, missed = step
        with self._lock:
            self._count -= count
            self._first, self._newest = extent.first, extent.newest
            self._tail.delete(0, last, kinds=frozenset({deletion.kind}) if deletion.kind else None)
        for name, events in missed.items():
            if events:
                telemetry.events_dropped(name, deletion.reason, events)


def _runs_of(rows: Sequence[Envelope]) -> dict[str, tuple[str, int | None]]:
    """The last live event of each daemon."""
    return {
        row.event.daemon: (row.event.run, row.event.sequence)
        for row in rows
        if row.event.sequence is not None and not row.event.reconciled
    }


def _forget_written(dirty: dict[Key, Value], written: Mapping[Key, Value]) -> None:
    """What was written is no longer dirty, unless it has changed meanwhile."""
    for key, value in written.items():
        if key in dirty and dirty[key] == value:
            del dirty[key]
