"""The thread that owns a journal's database: it writes, mends and deletes, one thing at a time."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from meshbridge import telemetry
from meshbridge.journal import damage
from meshbridge.journal.dead_letters import DeadLetters
from meshbridge.journal.errors import EmptyError, is_damage, is_full
from meshbridge.journal.ledger import Ledger, runs_of
from meshbridge.journal.options import JournalOptions, Sync
from meshbridge.journal.retention import Deleted, prune
from meshbridge.journal.store import DATABASE, Group, Store

__all__ = ["Writer"]

_RETRY_SECONDS = 1.0  # between attempts while the disk cannot be written
_PRUNE_SHARE = 20  # one part in so many of max_bytes written: time to prune, without waiting for the timer
_CURSORS_SECONDS = 0.02  # cursors wait so long for events to go to the disk with: an fsync less for each batch
_WITHOUT_SINK = "journal"  # the label where a drop is not of one sink
_MENDING_SECONDS = 0.2  # how long a reader waits at a time while the database is being replaced

Value = TypeVar("Value")

_OF_VALUES = (sqlite3.Error, OverflowError, ValueError, TypeError, AttributeError, KeyError)
"""What a value raises that no database can hold; of sqlite3's only what :func:`_is_of_disk` leaves."""


class Writer:
    """Belongs to a journal, whose lock guards its ledger and what is public here.

    Threads: its own, ``journal``; :meth:`ask`, :meth:`prune` and :meth:`report_damage` are for any.
    """

    def __init__(
        self, options: JournalOptions, ledger: Ledger, work: threading.Condition, progress: threading.Condition
    ) -> None:
        """``work``: what this thread waits for; ``progress``: what everyone else does. Both of the journal's lock."""
        self._options = options
        self._ledger = ledger
        self._lock = self._work = work  # a condition is its lock
        self._progress = progress
        self.letters = DeadLetters(work, self.ask)
        # Told, under the lock, that there is something to read: they must not wait.
        self.append_listeners: list[Callable[[], None]] = []
        self.store: Store | None = None
        self.fault: str | None = None  # why the disk cannot be written
        self.fault_since: float | None = None  # unix seconds
        self._damage: sqlite3.Error | None = None  # found by someone, to be mended
        self._prune_wanted = False
        self._stopping = False
        self.awaited = 0  # how many wait until all is on disk
        self._thread: threading.Thread | None = None
        # The thread's own.
        self._retry_at = 0.0
        self._pruning: Iterator[Deleted | None] | None = None
        self._history_missing = False  # of events that an older meshbridge wrote
        self._sync_at: float | None = None  # monotonic seconds; of what is written and not fsynced yet

    # --- any thread ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens the database, setting a damaged one aside, and starts the thread.

        Raises:
            JournalError: the database is of a newer meshbridge.
            OSError, sqlite3.Error: it can't be opened.

        """
        try:
            damage.finish_replacement(self._options.path)
            self._use(self._opened())
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self._replace(error, starting=True)
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
            store, self.store = self.store, None
            missed = self._ledger.missed()
            self._progress.notify_all()
        for name, events in missed.items():
            telemetry.events_dropped(name, "not_written", events)
        if store is not None:
            store.close()

    @property
    def running(self) -> bool:
        """Whether what is handed over will ever be written."""
        return self._thread is not None and self._thread.is_alive()

    def ask(self, question: Callable[[Store], Value], otherwise: Value) -> Value:
        """Asks the database; damage that shows is mended, and ``otherwise`` is the answer meanwhile."""
        with self._lock:
            store = self.store
            if store is None or self._damage is not None:
                if not self._stopping and self._thread is not None:
                    self._progress.wait(_MENDING_SECONDS)
                return otherwise
        try:
            return question(store)
        except sqlite3.Error as error:
            with self._lock:
                if store is self.store and is_damage(error):
                    self.report_damage(error)
            return otherwise

    def prune(self) -> None:
        with self._lock:
            self._prune_wanted = True
            self._work.notify()

    def report_damage(self, error: sqlite3.Error) -> None:
        with self._lock:
            self._damage = self._damage or error
            self._work.notify()

    # --- turns ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except Exception as bug:  # noqa: BLE001 the end of this thread would be the end of the service
                telemetry.log.exception("unexpected error in journal")
                self._take_fault(sqlite3.OperationalError(f"unexpected {bug!r}"))
                if self._stopping:
                    return

    def _turn(self) -> bool:
        """One thing at a time: mend, write a group, prune a little. False at the end."""
        with self._lock:
            self._work.wait_for(self._has_work, self._wait_seconds())
            if self._has_cursors_alone():
                self._work.wait_for(lambda: not self._has_cursors_alone(), _CURSORS_SECONDS)
            damage_found, faulty = self._damage, self.fault is not None
            if faulty:
                self._hold_inbox()
            if self._stopping and not self._has_loose_ends():
                return False
            due = not faulty or self._stopping or time.monotonic() >= self._retry_at
        if not due:
            return True
        try:
            self._mend(damage_found)
            self._sync_when_due()
            if self._has_loose_ends():
                self._write_group()
                return True
            if faulty:
                self._retry_at = time.monotonic() + _RETRY_SECONDS
            if self._prune_wanted or self._pruning or not self._history_missing:
                self._prune_a_little()
            else:
                self._fill_history()
        except (sqlite3.Error, OSError) as error:
            self._take_fault(error)
            return not self._stopping  # the disk cannot be written and no caller waits any more; the log has it
        return True

    def _wait_seconds(self) -> float | None:
        """How long there is nothing to do by the clock; None: no end."""
        moments = [] if self.fault is None else [self._retry_at]
        if self._sync_at is not None:
            moments.append(self._sync_at)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _sync_when_due(self) -> None:
        if self._sync_at is not None and time.monotonic() >= self._sync_at:
            self._sync_at = None
            if self.store is not None:
                self.store.sync()

    def _has_work(self) -> bool:
        if self.fault is not None:
            return bool(self._ledger.inbox or self._stopping)
        return bool(
            self._has_loose_ends()
            or self._prune_wanted
            or self._pruning
            or self._history_missing
            or self._stopping
            or self._damage is not None
        )

    def _has_cursors_alone(self) -> bool:
        """Whether what is to be done can wait a little."""
        ledger = self._ledger
        if self.awaited or self._stopping or self._damage is not None or self.fault is not None:
            return False
        return bool(ledger.dirty_cursors or ledger.dirty_memory) and not (
            ledger.inbox
            or ledger.dirty_states
            or self.letters.has_work
            or self._prune_wanted
            or self._pruning
            or self._history_missing
        )

    def _has_loose_ends(self) -> bool:
        return self._ledger.has_work or self.letters.has_work

    def _write_group(self) -> None:
        store, ledger = self.store, self._ledger
        assert store is not None
        with self._lock:
            batch = ledger.next_batch()
            letters, changes = self.letters.take()
        runs = runs_of(batch.rows)
        group = Group(batch.rows, batch.cursors, runs, batch.states, letters, changes, batch.memory)
        refused: frozenset[int] = frozenset()
        try:
            try:
                store.append(group)
            except _OF_VALUES as error:
                if _is_of_disk(error):
                    raise
                refused = self._write_without_refused(store, group)
        except BaseException:
            with self._lock:
                self.letters.put_back(letters, changes)
            raise
        if self._sync_at is None and not isinstance(self._options.sync, Sync):
            self._sync_at = time.monotonic() + self._options.sync
        with self._lock:
            ledger.written(batch, refused)
            self.letters.written()
            if ledger.written_bytes > self._options.max_bytes // _PRUNE_SHARE:
                self._prune_wanted = True
            if self.fault is not None and not ledger.held:
                telemetry.journal_recovered(str(store.path), len(ledger.inbox))
                self.fault = self.fault_since = None
            self._tell(appended=bool(batch.rows) and not batch.held)
        if changes:
            self.letters.announce(changes, store.dead_letters())

    def _write_without_refused(self, store: Store, group: Group) -> frozenset[int]:
        """Writes of a group what can be written; what can't is found by trying ever smaller parts, and left out.

        No value that comes from outside should get so far. But what one daemon or sink has sent must not keep the
        events of all others from the disk.

        Returns:
            The offsets of the events left out.

        Raises:
            sqlite3.Error: the disk cannot be written; nothing was.

        """
        refused: set[int] = set()
        good: list[Group] = []
        waiting = [group]
        while waiting:
            part = waiting.pop()
            try:
                store.rehearse(part)
            except _OF_VALUES as error:
                if _is_of_disk(error):
                    raise
                parts = part.divided()
                waiting += reversed(parts)
                if not parts:
                    refused.update(row.offset for row in part.rows)
                    telemetry.journal_refused(part.describe(), repr(error))
            else:
                good.append(part)
        store.append(Group.joined(good))
        if refused:
            telemetry.events_dropped(_WITHOUT_SINK, "unwritable", len(refused))
        return frozenset(refused)

    def _tell(self, *, appended: bool) -> None:
        """Wakes who waits; with the lock held."""
        if appended:
            for listener in self.append_listeners:
                listener()
        self._progress.notify_all()

    # --- a disk that cannot be written ---------------------------------------------------------------------------

    def _take_fault(self, error: sqlite3.Error | OSError) -> None:
        """The write failed: from here on events are delivered from memory, and the write is tried again."""
        self._pruning = None
        path = str(self._options.path / DATABASE)
        with self._lock:
            if isinstance(error, sqlite3.Error) and is_damage(error) and self.store is not None:
                self._damage = error
                self._retry_at = 0.0
                return
            if self.fault is None:
                full = isinstance(error, sqlite3.Error) and is_full(error)
                self.fault_since = time.time()
                telemetry.journal_fault("full" if full else "write", path, f"{error}; events are held in memory")
            self.fault = str(error)
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._hold_inbox()

    def _hold_inbox(self) -> None:
        self._tell(appended=self._ledger.hold_inbox())

    # --- a damaged database --------------------------------------------------------------------------------------

    def _opened(self) -> Store:
        return Store(self._options.path, self._options.sync)

    def _use(self, store: Store) -> None:
        try:
            extent, cursors, runs, letters = store.extent(), store.cursors(), store.runs(), store.dead_letters()
        except BaseException:
            store.close()
            raise
        with self._lock:
            self._ledger.opened(extent, cursors, runs)
            self.letters.use(letters)
            self.store = store
            self._history_missing = True  # until a look has shown that it is not
            self._damage = None
            self._progress.notify_all()

    def _mend(self, found: sqlite3.Error | None) -> None:
        """Replaces a damaged database; opens one that could not be opened before."""
        if found is not None:
            self._replace(found, starting=False)
        elif self.store is None:
            self._use(self._opened())

    def _replace(self, error: sqlite3.Error, *, starting: bool) -> None:
        path, ledger = self._options.path / DATABASE, self._ledger
        self._pruning = None
        with self._lock:
            store, self.store = self.store, None
            cursors = None if starting else dict(ledger.cursors)
            last = ledger.last_on_disk  # what is held is written later
            tail = ledger.tail.between(0, last)
        if store is not None:
            store.close()
        if (store is not None or starting) and not isinstance(error, EmptyError):
            telemetry.journal_fault("damaged", str(path), str(error))
        done = damage.replace(self._options.path, self._options.sync, cursors=cursors, tail=tail, last=last)
        self._use(self._opened())
        if isinstance(error, EmptyError):
            telemetry.journal_was_empty(str(path), done.kept_as)
        else:
            telemetry.journal_replaced(str(path), done.kept_as, done.salvaged, done.lost)

    # --- retention -----------------------------------------------------------------------------------------------

    def _prune_a_little(self) -> None:
        store, ledger = self.store, self._ledger
        assert store is not None
        if self._pruning is None:
            with self._lock:
                if not self._prune_wanted:
                    return
                self._prune_wanted = False
                ledger.written_bytes = 0
            self._pruning = prune(store, self._options, self._present_cursors, ledger.last)
        try:
            step = next(self._pruning)
        except StopIteration:
            self._pruning = None
            counts = store.dead_letters()
            with self._lock:
                self.letters.use(counts)
            return
        if step is not None:
            extent = store.extent()
            with self._lock:
                ledger.deleted(extent, step)
            deletion, _, _, missed = step
            for name, events in missed.items():
                if events:
                    telemetry.events_dropped(name, deletion.reason, events)

    def _fill_history(self) -> None:
        assert self.store is not None
        self._history_missing = self.store.fill_history()

    def _present_cursors(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._ledger.cursors)


def _is_of_disk(error: Exception) -> bool:
    """Whether the disk or the file is at fault, and not a value."""
    return isinstance(error, sqlite3.OperationalError) or (isinstance(error, sqlite3.Error) and is_damage(error))
