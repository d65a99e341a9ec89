"""Pushed messages become events of a run, and holes in the daemon's numbering become gaps. No clock, no I/O."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshbridge.model.events import Event, EventType, PushError, decode_push

__all__ = ["Numbering", "Read"]

_KINDS = max(EventType) + 1


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
    tells. ``complete`` says that the subscription takes everything, so a hole is a loss (docs/protocol.md, 'Events').
    ``subscription`` is the connection's: events of any other are invalid. None: not known, so any is taken.
    """

    def __init__(self, daemon: str, run: str, last: int | None, *, complete: bool) -> None:
        self.daemon = daemon
        self.run = run
        self.last = last
        self.subscription: str | None = None
        self._complete = complete
        self._processes: dict[str, str] = {}

    def read(self, bodies: Sequence[bytes], received_at: float) -> Read:
        """The events in the bodies of pushed messages, in the order in which they came."""
        result, counts = Read(), [0] * _KINDS  # by type: an enum's hash is a function in Python
        subscription = self.subscription
        for body in bodies:
            try:
                event = decode_push(
                    self.daemon, self.run, body, received_at, self._processes, subscription=subscription
                )
            except PushError as error:
                result.invalid.append(str(error))
                continue
            sequence, last = event.sequence, self.last
            assert sequence is not None
            if last is None or sequence > last:
                if self._complete and last is not None and sequence > last + 1:
                    result.gaps.append((last + 1, sequence - 1))
                self.last = sequence
            result.events.append(event)
            counts[event.type] += 1
        result.counts.update({EventType(kind).label: count for kind, count in enumerate(counts) if count})
        return result
