"""The newest events in memory: what couriers that keep up read, and what a full disk has yet to take."""

from bisect import bisect_right
from collections.abc import Sequence

from meshbridge.journal.rows import event_bytes
from meshbridge.model.events import Envelope

__all__ = ["Tail"]

_TAIL_EVENTS = 8192
_TAIL_BYTES = 16 * 2**20


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
