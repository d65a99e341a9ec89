"""What is known of a journal without asking its disk: what has come in, what is held, who is how far. No I/O."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from meshbridge.journal.retention import Deleted
from meshbridge.journal.store import Extent, MemoryKey, StateKey
from meshbridge.journal.tables import event_bytes
from meshbridge.model.events import Envelope, Event, EventType

__all__ = ["Ledger", "Pending", "Tail", "runs_of"]

_GROUP_EVENTS = 1000  # at most in one transaction (docs/design.md, 'Guarantee')
# Held in memory for a disk that is slow or full, in bytes. Above the first bound a link leaves out what it can fetch
# later, above the second STDOUT is dropped, above the third everything.
_CROWDED_BYTES = 48 * 2**20
_HELD_STDOUT_BYTES = 64 * 2**20
_HELD_BYTES = 96 * 2**20

# In memory, for couriers that keep up.
_TAIL_EVENTS = 8192
_TAIL_BYTES = 16 * 2**20

Key = TypeVar("Key")
Value = TypeVar("Value")


def _offset(envelope: Envelope) -> int:
    return envelope.offset


class Tail:
    """Every kept event behind :attr:`covers_after`, in order. Guarded by the journal's lock."""

    def __init__(self, covers_after: int = 0) -> None:
        self.covers_after = covers_after
        self._envelopes: list[Envelope] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._envelopes)

    def extend(self, envelopes: Sequence[Envelope], size_bytes: int, pinned_after: int) -> None:
        """Adds the newest; forgets the oldest down to half of the bounds, but none behind ``pinned_after``."""
        self._envelopes += envelopes
        self._bytes += size_bytes
        if len(self._envelopes) <= _TAIL_EVENTS and self._bytes <= _TAIL_BYTES:
            return
        forget, left_bytes = 0, self._bytes
        most = bisect_right(self._envelopes, pinned_after, key=_offset)
        while forget < most and (len(self._envelopes) - forget > _TAIL_EVENTS // 2 or left_bytes > _TAIL_BYTES // 2):
            left_bytes -= event_bytes(self._envelopes[forget].event)
            forget += 1
        if forget:
            self.covers_after = self._envelopes[forget - 1].offset
            del self._envelopes[:forget]
            self._bytes = left_bytes

    def read(self, after: int, limit: int) -> list[Envelope] | None:
        """At most ``limit`` events behind an offset; None where the database must be asked."""
        if after < self.covers_after:
            return None
        start = self._start(after)
        return self._envelopes[start : start + limit]

    def first_behind(self, after: int) -> Envelope | None:
        """The first event behind an offset that the tail covers."""
        start = self._start(after)
        return self._envelopes[start] if start < len(self._envelopes) else None

    def between(self, after: int, up_to: int) -> list[Envelope]:
        """All that it has of a range."""
        return self._envelopes[self._start(after) : self._start(up_to)]

    def forget(self, up_to: int) -> None:
        """Frees memory; what is on disk is read from there."""
        start = self._start(up_to)
        self._bytes -= sum(event_bytes(envelope.event) for envelope in self._envelopes[:start])
        del self._envelopes[:start]
        self.covers_after = max(self.covers_after, up_to)

    def delete(self, after: int, up_to: int, *, kinds: frozenset[int] | None) -> None:
        """Forgets the events of a range, or those of some types in it, since they were deleted."""
        start, end = self._start(after), self._start(up_to)
        kept = [] if kinds is None else [one for one in self._envelopes[start:end] if one.event.type not in kinds]
        self._envelopes[start:end] = kept
        self._bytes = sum(event_bytes(envelope.event) for envelope in self._envelopes)

    def _start(self, after: int) -> int:
        """The place of the first event behind an offset."""
        envelopes = self._envelopes
        if envelopes:
            place = after - envelopes[0].offset  # right where no offset is missing, as nearly always
            if 0 <= place < len(envelopes) and envelopes[place].offset == after:
                return place + 1
        return bisect_right(envelopes, after, key=_offset)


@dataclass(frozen=True, slots=True)
class Pending:
    """What is to be written next. ``held``: its events can be read already."""

    rows: list[Envelope]
    held: bool
    cursors: dict[str, int]
    states: dict[StateKey, str | None]
    memory: dict[MemoryKey, str | None]


@dataclass(slots=True)
class Ledger:
    """Guarded by the journal's lock."""

    inbox: list[Event] = field(default_factory=list)
    held: list[Envelope] = field(default_factory=list)  # numbered, readable, not on disk: only while there is a fault
    held_bytes: int = 0  # of both
    cursors: dict[str, int] = field(default_factory=dict)
    dirty_cursors: dict[str, int] = field(default_factory=dict)  # not on disk yet, and
    dirty_states: dict[StateKey, str | None] = field(default_factory=dict)
    dirty_memory: dict[MemoryKey, str | None] = field(default_factory=dict)
    runs: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    tail: Tail = field(default_factory=Tail)
    first: int = 1  # offset that is kept; one more than ``last`` when none is
    last: int = 0  # offset ever given
    newest: int = 0  # offset that is kept; 0 when none is
    count: int = 0
    submitted: int = 0  # events ever handed over, and
    settled: int = 0  # how many of them are on disk or dropped: what append and flush wait for
    written_bytes: int = 0  # since somebody set it to 0

    # --- what comes in -------------------------------------------------------------------------------------------

    def take_in(self, events: Sequence[Event], states: Mapping[StateKey, str | None]) -> int:
        """Takes what memory has room for; gives how many events it has not."""
        self.dirty_states.update(states)
        self.submitted += len(events)
        dropped = 0
        for event in events:
            if self.held_bytes > (_HELD_STDOUT_BYTES if event.type is EventType.STDOUT else _HELD_BYTES):
                dropped += 1
                continue
            self.held_bytes += event_bytes(event)
            self.inbox.append(event)
        self.settled += dropped
        return dropped

    def set_cursor(self, name: str, offset: int) -> None:
        self.cursors[name] = self.dirty_cursors[name] = offset

    def waiting(self, name: str) -> tuple[int, int]:
        """(how many events a sink has not had yet, behind which offset)."""
        offset = self.cursors.get(name, self.last)
        return max(0, self.newest - max(offset, self.first - 1)), offset

    # --- what goes to the disk -----------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        return self.held_bytes > _CROWDED_BYTES

    @property
    def has_work(self) -> bool:
        return bool(self.inbox or self.held or self.dirty_cursors or self.dirty_states or self.dirty_memory)

    def next_batch(self) -> Pending:
        if self.held:
            rows = self.held[:_GROUP_EVENTS]
            whole = len(rows) == len(self.held) and not self.inbox
        else:
            rows = self._numbered(self.inbox[:_GROUP_EVENTS])
            whole = len(rows) == len(self.inbox)
        # A state belongs to the last of the events that were handed over with it, never before it.
        states = dict(self.dirty_states) if whole else {}
        return Pending(rows, bool(self.held), dict(self.dirty_cursors), states, dict(self.dirty_memory))

    def written(self, batch: Pending, refused: frozenset[int] = frozenset()) -> None:
        """It is on disk, all but the ``refused`` offsets: new events can be read."""
        size = sum(event_bytes(row.event) for row in batch.rows)
        if batch.held:
            del self.held[: len(batch.rows)]
            self.count -= len(refused)
        else:
            del self.inbox[: len(batch.rows)]
            self._publish([row for row in batch.rows if row.offset not in refused] if refused else batch.rows)
            if batch.rows:
                self.last = batch.rows[-1].offset
        _forget_written(self.dirty_cursors, batch.cursors)
        _forget_written(self.dirty_states, batch.states)
        _forget_written(self.dirty_memory, batch.memory)
        self.held_bytes -= size
        self.written_bytes += size
        self.settled += len(batch.rows)

    # --- a disk that cannot be written ---------------------------------------------------------------------------

    def hold_inbox(self) -> bool:
        """Lets what has come in be read from memory; tells whether there is something new.

        What every sink has had then needs no disk.
        """
        rows = self._numbered(self.inbox)
        self.inbox.clear()
        self.held += rows
        self._publish(rows)
        if self.held_bytes > _HELD_STDOUT_BYTES:
            self._forget_held()
        return bool(rows)

    def _forget_held(self) -> None:
        """Frees the memory of what every sink has had; the newest stays, so that something stands at the end."""
        everywhere = min(min(self.cursors.values(), default=0), self.last - 1)
        forgotten = bisect_right(self.held, everywhere, key=lambda row: row.offset)
        if not forgotten:
            return
        self.settled += forgotten
        self.count -= forgotten
        self.held_bytes -= sum(event_bytes(row.event) for row in self.held[:forgotten])
        del self.held[:forgotten]
        self.tail.forget(everywhere)

    def missed(self) -> dict[str, int]:
        """How many of the held events each sink has not had."""
        found = {name: sum(row.offset > offset for row in self.held) for name, offset in self.cursors.items()}
        return {name: count for name, count in found.items() if count}

    @property
    def last_on_disk(self) -> int:
        """Of all offsets that were given, the last that is not held."""
        return self.held[0].offset - 1 if self.held else self.last

    # --- what the disk has ---------------------------------------------------------------------------------------

    def opened(self, extent: Extent, cursors: dict[str, int], runs: dict[str, tuple[str, int | None]]) -> None:
        """Takes what a database says that was opened, unless this process knows better."""
        fresh = not self.last
        self.first, self.count = extent.first, extent.count + len(self.held)
        self.last = max(extent.last, self.last)
        self.newest = self.held[-1].offset if self.held else extent.newest
        if fresh:
            self.cursors, self.runs, self.tail = cursors, runs, Tail(extent.last)

    def deleted(self, extent: Extent, step: Deleted) -> None:
        """Events were deleted; ``extent`` is what there is since."""
        deletion, count, last, _ = step
        self.count -= count
        self.first, self.newest = extent.first, extent.newest
        self.tail.delete(0, last, kinds=frozenset({deletion.kind}) if deletion.kind else None)

    def _numbered(self, events: Sequence[Event]) -> list[Envelope]:
        return [Envelope(offset, event) for offset, event in enumerate(events, self.last + 1)]

    def _publish(self, rows: list[Envelope]) -> None:
        """Makes numbered events readable."""
        if not rows:
            return
        self.last = self.newest = rows[-1].offset
        self.count += len(rows)
        self.runs.update(runs_of(rows))
        self.tail.extend(rows, sum(event_bytes(row.event) for row in rows), self.last_on_disk)


def runs_of(rows: Sequence[Envelope]) -> dict[str, tuple[str, int | None]]:
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
