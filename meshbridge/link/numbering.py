"""Pushed messages become events of a run, and holes in the daemon's numbering become gaps. No clock, no I/O."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshbridge.events import Event, PushError, decode_push

__all__ = ["Numbering", "Read"]


@dataclass(slots=True)
class Read:
    """What one read of the socket held: ``events`` in order, and the gaps that they show, as (first, last) missed."""

    events: list[Event] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)


class Numbering:
    """The events of one connection to a daemon, whose run is known.

    ``last`` is the sequence that was journaled last in this run; None where nothing is known, and then the first event
    tells. ``complete`` says that the subscription takes everything, so that a hole is a loss (PROTOCOL.md, 'Events').
    """

    def __init__(self, daemon: str, run: str, last: int | None, *, complete: bool) -> None:
        self.daemon = daemon
        self.run = run
        self.last = last
        self._complete = complete
        self._processes: dict[str, str] = {}

    def read(self, bodies: Sequence[bytes], received_at: float) -> Read:
        """The events in the bodies of pushed messages, in the order in which they came."""
        result = Read()
        for body in bodies:
            try:
                event = decode_push(self.daemon, self.run, body, received_at, self._processes)
            except PushError as error:
                result.invalid.append(str(error))
                continue
            sequence = event.sequence
            assert sequence is not None
            if self._complete and self.last is not None and sequence > self.last + 1:
                result.gaps.append((self.last + 1, sequence - 1))
            self.last = sequence if self.last is None else max(self.last, sequence)
            result.events.append(event)
            result.counts[event.type.label] += 1
        return result
