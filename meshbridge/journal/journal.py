"""The journal as its users see it: hand events over, read them back, keep a cursor."""

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from meshbridge import telemetry
from meshbridge.journal import inspection
from meshbridge.journal.errors import DamageError, JournalError
from meshbridge.journal.history import History
from meshbridge.journal.inspection import Verification
from meshbridge.journal.ledger import Ledger
from meshbridge.journal.lock import DirectoryLock
from meshbridge.journal.options import JournalOptions
from meshbridge.journal.retention import steady_now
from meshbridge.journal.search import FoundEvents, KeptOutput, Wanted, output_of_run, search
from meshbridge.journal.store import DATABASE, StateKey, Store
from meshbridge.journal.writer import Writer
from meshbridge.model.events import Envelope, Event
from meshbridge.model.status import JournalStatus

__all__ = ["Journal"]

_READ_BYTES = 4 * 2**20  # of one read: a batch of large STDOUT events must not fill the memory
_WITHOUT_SINK = "journal"  # the label where a drop is not of one sink

NO_STATES: Mapping[StateKey, str | None] = MappingProxyType({})


class Journal:
    """See the package's text for how it works.

    Threads: one, ``journal``, owns all writing. ``submit``, ``append``, ``commit``, ``read`` and the rest may be
    called from any thread.
    """

    def __init__(self, options: JournalOptions) -> None:
        self._options = options
        self._lock = threading.RLock()  # guards the ledger
        self._progress = threading.Condition(self._lock)  # who waits for events, or for the disk
        self._work = threading.Condition(self._lock)  # the journal's thread waits for it
        self._ledger = Ledger()
        self._writer = Writer(options, self._ledger, self._work, self._progress)
        self._directory_lock: DirectoryLock | None = None
        self.letters = self._writer.letters
        self.history = History(options.path / DATABASE, self.report_damage)
        self.state_listeners: list[Callable[[Mapping[StateKey, str | None]], None]] = []  # told what submit is given
        # Told, under the lock, that there is something to read: they must not wait.
        self.append_listeners = self._writer.append_listeners

    @property
    def path(self) -> Path:
        """The journal's directory."""
        return self._options.path

    @property
    def running(self) -> bool:
        """Whether the journal's thread writes what it is given."""
        return self._writer.running

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
            self._writer.open()
        except (sqlite3.Error, OSError) as error:
            self._directory_lock.release()
            raise JournalError(f"journal.path: cannot open {path}: {error}") from error
        except BaseException:
            self._directory_lock.release()
            raise
        telemetry.journal_opened(str(path), self._ledger.count)

    def close(self) -> None:
        """Writes what was handed over, as far as the disk takes it, and closes the database."""
        self._writer.close()
        if self._directory_lock is not None:
            self._directory_lock.release()

    # --- events in -----------------------------------------------------------------------------------------------

    def submit(self, events: Sequence[Event], states: Mapping[StateKey, str | None] = NO_STATES) -> None:
        """Hands events over, in order, without waiting for the disk. They can be read once they are on it.

        ``states`` are the states of apps after these events, None for one that is gone; they are written in the
        transaction that appends the last of the events.
        """
        with self._lock:
            if states:
                for listener in self.state_listeners:
                    listener(states)
            dropped = self._ledger.take_in(events, states)
            self._work.notify()
        if dropped:
            telemetry.events_dropped(_WITHOUT_SINK, "overload", dropped)

    @property
    def crowded(self) -> bool:
        """Whether events come faster than they are kept: what can be had later had better come later."""
        return self._ledger.crowded

    def append(self, events: Sequence[Event]) -> int:
        """Hands events over and waits until they are durable; gives the journal's last offset then."""
        with self._lock:
            self.submit(events)
            self._wait_settled(self._ledger.submitted, None)
            return self._ledger.last

    def flush(self, timeout_seconds: float) -> bool:
        """Waits until all that was handed over before is on disk; False when that takes too long."""
        with self._lock:
            return self._wait_settled(self._ledger.submitted, timeout_seconds)

    def _wait_settled(self, target: int, timeout_seconds: float | None) -> bool:
        ledger = self._ledger

        def is_settled() -> bool:
            written = ledger.settled >= target and not ledger.dirty_cursors and not ledger.dirty_memory
            return (written and not self.letters.waiting) or not self._writer.running

        return self._wait_for_disk(is_settled, timeout_seconds)

    def _wait_for_disk(self, is_done: Callable[[], bool], timeout_seconds: float | None) -> bool:
        self._writer.awaited += 1
        self._work.notify()
        try:
            return self._progress.wait_for(is_done, timeout_seconds)
        finally:
            self._writer.awaited -= 1

    # --- events out ----------------------------------------------------------------------------------------------

    def wait(self, after: int, timeout_seconds: float, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """Waits for an event behind an offset; False when none came in time, or after :meth:`wake`.

        Does not begin to wait where ``unless`` is true, which is asked so that no later :meth:`wake` is missed.
        """
        with self._lock:
            if self._ledger.newest <= after and not unless():
                self._progress.wait(timeout_seconds)
            return self._ledger.newest > after

    def wake(self) -> None:
        """Lets everyone who waits look again, so that a courier sees that it is to stop."""
        with self._lock:
            self._progress.notify_all()

    def read(self, after: int, limit: int) -> list[Envelope]:
        """Some events behind an offset, at most ``limit``, in order; those deleted are left out.

        Empty also while a damaged database is being replaced: ask again.
        """
        with self._lock:
            tail, covered = self._ledger.tail.read(after, limit), self._ledger.tail.covers_after
        if tail is not None:
            return tail
        unknown: list[Envelope] | None = None
        found = self._writer.ask(lambda store: store.read(after, limit, _READ_BYTES), unknown)
        if found is None:
            return []
        if not found:  # all of them deleted, up to where the tail begins
            with self._lock:
                return self._ledger.tail.read(max(after, covered), limit) or []
        return found

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
            covered = offset >= self._ledger.tail.covers_after
            first = self._ledger.tail.first_behind(offset) if covered else None
        if covered:
            return first.event.received_at if first else None
        return self._writer.ask(lambda store: store.received_at(offset), None)

    @property
    def extent(self) -> tuple[int, int]:
        """(offset of the first event kept, offset of the last ever given)."""
        with self._lock:
            return self._ledger.first, self._ledger.last

    def find(self, event_id: str) -> Envelope | None:
        """The event of an id, as far as the journal has it. Goes over all of it: for a person, now and then."""
        return inspection.find(self._options.path / DATABASE, event_id)

    def search(self, wanted: Wanted, *, after: int, before: int, limit: int) -> FoundEvents:
        """Some of the newest events between two offsets; see :func:`meshbridge.journal.search.search`."""
        return search(self._options.path / DATABASE, wanted, after=after, before=before, limit=limit)

    def output_of_run(self, daemon: str, app: str, offset: int, lines: int) -> KeptOutput:
        """The last lines of a process; see :func:`meshbridge.journal.search.output_of_run`."""
        return output_of_run(self._options.path / DATABASE, daemon, app, offset, lines)

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
            if name in self._ledger.cursors:
                return self._ledger.cursors[name]
        nothing: dict[str, int] = {}
        on_disk = self._writer.ask(lambda store: store.cursors(), nothing)  # of one that had left and comes back
        with self._lock:
            if name not in self._ledger.cursors:
                known = self._ledger.dirty_cursors.get(name, on_disk.get(name))
                begin = self._ledger.first - 1 if from_start else self._ledger.last
                self._set_cursor(name, begin if known is None else known)
            return self._ledger.cursors[name]

    def commit(self, name: str, offset: int) -> None:
        """``name`` has everything up to ``offset``. Written with the next events, or 20 ms later."""
        with self._lock:
            self._set_cursor(name, offset)

    def _set_cursor(self, name: str, offset: int) -> None:
        self._ledger.set_cursor(name, offset)
        self._work.notify()

    def retain_cursors(self, names: Sequence[str]) -> None:
        """Only these sinks are still configured: a sink that has left pins nothing. Its cursor stays on disk."""
        with self._lock:
            self._ledger.cursors = {name: offset for name, offset in self._ledger.cursors.items() if name in names}

    def lag(self, name: str) -> tuple[int, float]:
        """How many events ``name`` has not had yet, and the age in seconds of the oldest of them."""
        with self._lock:
            events, offset = self._ledger.waiting(name)
            if not events or self._writer.store is None:
                return 0, 0.0
        received_at = self._received_after(offset)
        return events, 0.0 if received_at is None else max(0.0, time.time() - received_at)

    # --- daemons and their apps ----------------------------------------------------------------------------------

    def last_sequence(self, daemon: str) -> tuple[str, int | None] | None:
        """The run of a daemon that was journaled last and its last sequence; None for a daemon never seen."""
        with self._lock:
            return self._ledger.runs.get(daemon)

    def app_states(self, daemon: str) -> dict[str, str]:
        """The states of a daemon's apps, by name, as they were given to :meth:`submit` last."""
        nothing: dict[str, str] = {}
        with self._lock:
            not_written = {app: state for (of, app), state in self._ledger.dirty_states.items() if of == daemon}
        states = self._writer.ask(lambda store: store.app_states(daemon), nothing) | not_written
        return {app: state for app, state in states.items() if state is not None}

    def app_state(self, daemon: str, app: str) -> str | None:
        """The state of one app; None where it has none."""
        with self._lock:
            if (daemon, app) in self._ledger.dirty_states:
                return self._ledger.dirty_states[daemon, app]
        return self._writer.ask(lambda store: store.app_state(daemon, app), None)

    # --- sinks' memory --------------------------------------------------------------------------------------------

    def memory(self, sink: str) -> "SinkMemory":
        """What a sink remembers beside its cursor, as :class:`meshbridge.sinks.memory.Memory` wants it."""
        return SinkMemory(self, sink)

    def remembered(self, sink: str, kind: str) -> dict[str, str] | None:
        """What a sink remembers of a kind, by key; None while the database can't be read."""
        with self._lock:
            dirty = {
                key: text for (of, what, key), text in self._ledger.dirty_memory.items() if (of, what) == (sink, kind)
            }
        unknown: dict[str, str] | None = None
        kept = self._writer.ask(lambda store: store.memory(sink, kind), unknown)
        if kept is None:
            return None
        return {key: text for key, text in (kept | dirty).items() if text is not None}

    def remember(self, sink: str, kind: str, changes: Mapping[str, str | None], timeout_seconds: float) -> bool:
        """Sets texts and removes those that are None, in the next transaction; waits for it at most for so long.

        Returns:
            Whether they are on disk; False at once while the disk can't be written.

        Raises:
            UnicodeEncodeError: they can't be kept, since they are no text.

        """
        for key, text in changes.items():
            f"{key}{text}".encode()  # what SQLite would refuse must not reach the journal's thread
        keyed = {(sink, kind, key): text for key, text in changes.items()}
        ledger, writer = self._ledger, self._writer

        def is_done() -> bool:
            return writer.fault is not None or not writer.running or not (keyed.keys() & ledger.dirty_memory.keys())

        with self._lock:
            ledger.dirty_memory.update(keyed)
            self._work.notify()
            if timeout_seconds > 0:
                self._wait_for_disk(is_done, timeout_seconds)
            return not (keyed.keys() & ledger.dirty_memory.keys())

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
        self._writer.prune()

    def report_damage(self, error: sqlite3.Error) -> None:
        """Has the database replaced: someone has found it damaged."""
        self._writer.report_damage(error)

    def status(self) -> JournalStatus:
        with self._lock:
            ledger, store, fault = self._ledger, self._writer.store, self._writer.fault
            fault_since = self._writer.fault_since
            first, last, count = ledger.first, ledger.last, ledger.count
            held = len(ledger.held) if fault is not None else 0
        return JournalStatus(
            path=str(self._options.path),
            open=store is not None,
            bytes=self._writer.ask(Store.size_bytes, 0) if store is not None else 0,
            max_bytes=self._options.max_bytes,
            events=count,
            first_offset=first,
            last_offset=last,
            held_events=held,
            last_error=fault,
            failing_since=fault_since,
        )

    def stats(self) -> dict[str, Any]:
        """What it holds and where each sink stands, for a person."""
        status = self.status()
        with self._lock:
            cursors, after = dict(self._ledger.cursors), self._ledger.first - 1
        oldest = self._writer.ask(lambda store: store.received_at(after), None) if status.events else None
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


class SinkMemory:
    """What one sink remembers. For any thread."""

    def __init__(self, journal: Journal, sink: str) -> None:
        self._journal = journal
        self._sink = sink

    def load(self, kind: str) -> dict[str, str] | None:
        """Everything of a kind, by key; None while the database can't be read."""
        return self._journal.remembered(self._sink, kind)

    def save(self, kind: str, changes: Mapping[str, str | None], timeout_seconds: float = 0.0) -> bool:
        """See :meth:`Journal.remember`."""
        return self._journal.remember(self._sink, kind, changes, timeout_seconds)
