"""What a courier has to deliver, a batch at a time: new events, a replay, dead letters that are to be offered again.

A batch stays the same over its retries, since a destination may know it by its first event and its size; only a refusal
makes a smaller one of it, until the culprit is alone.
"""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from meshbridge import telemetry
from meshbridge.delivery.routing import Route
from meshbridge.fields import Batch, When
from meshbridge.journal import DeadLetter, Journal, steady_now
from meshbridge.model.events import Envelope
from meshbridge.model.status import PassState, ReplayStatus
from meshbridge.outside import said
from meshbridge.sinks.base import Refused

__all__ = ["LettersWork", "LiveWork", "ReplayWork", "Work"]

_MAX_BUG_CHARACTERS = 500
_REPLAY_EVENTS = 500  # looked at in one turn
_TOP_UPS = 20  # reads in one turn, while a sink holds a batch


class Work(ABC):
    """For the courier's thread."""

    def __init__(self) -> None:
        self.batch: list[Envelope] = []  # offered and not yet all acknowledged
        self._offer = 0  # how many of it go into one write: fewer once something was refused

    @property
    def offered(self) -> list[Envelope]:
        return self.batch[: self._offer]

    @abstractmethod
    def refill(self) -> bool:
        """Reads the next batch; False when there is nothing. It may stay empty when all was left out."""

    def top_up(self) -> None:  # noqa: B027 only one kind of work has something to do then
        """Adds what has come in behind a batch that the sink holds."""

    @property
    def ended(self) -> bool:
        """Whether nothing will ever come any more."""
        return False

    def settle(self, acknowledged: int) -> None:
        """The first ``acknowledged`` of the batch are acknowledged."""
        if acknowledged > 0:
            self._delivered(self.batch[:acknowledged])
            self._drop_front(acknowledged)

    def refuse(self, refused: Refused) -> bool:
        """One alone is refused for good, and True; of several, half are offered again."""
        if self.divide():
            return False
        self.dead_letter(refused.reason, str(refused))
        return True

    def divide(self) -> bool:
        """Offers half as many from now on; False where one is offered alone."""
        if self._offer <= 1 or len(self.batch) <= 1:
            return False
        self._offer = max(1, self._offer // 2)
        return True

    def dead_letter(self, reason: str, error: str) -> None:
        """The first of the batch will never be taken."""
        self._buried(self.batch[0], reason, error)
        self._drop_front(1)

    def _begin(self, batch: list[Envelope]) -> None:
        self.batch, self._offer = batch, len(batch)

    def _drop_front(self, count: int) -> None:
        last = self.batch[count - 1].offset
        del self.batch[:count]
        self._offer = self._offer - count if self._offer > count else len(self.batch)
        self._advanced(last)

    @abstractmethod
    def _delivered(self, envelopes: list[Envelope]) -> None: ...

    @abstractmethod
    def _buried(self, envelope: Envelope, reason: str, error: str) -> None: ...

    def _advanced(self, last: int) -> None:  # noqa: B027 only one kind of work has something to do then
        """All of the batch up to this offset is delivered or a dead letter."""


class LiveWork(Work):
    """The events behind the sink's cursor, which moves over what is acknowledged, left out or dead-lettered."""

    def __init__(
        self, sink: str, journal: Journal, route: Route, limits: Batch, *, cursor: int, flush: Callable[[], bool]
    ) -> None:
        """``flush``: whether a batch that waits to be filled is to go out at once."""
        super().__init__()
        self._sink = sink
        self._journal = journal
        self._route = route
        self._limits = limits
        self._flush = flush
        self._batch_end = cursor  # where the cursor goes once the batch is through
        self._due: float | None = None  # monotonic seconds: when a batch goes out that is not full yet
        self._seen = cursor  # up to where it has been looked at
        self.cursor = cursor

    def refill(self) -> bool:
        cut_short = self._due is not None and self._journal.wait(self._seen, 0)  # more than one read gives
        envelopes = self._journal.read(self.cursor, self._limits.max_events)
        if not envelopes:
            self._seen = self.cursor
            return False
        cut_short = cut_short and envelopes[-1].offset == self._seen
        self._seen = envelopes[-1].offset
        if not cut_short and len(envelopes) < self._limits.max_events and self._may_fill():
            return False
        self._due = None
        wanted = self._wanted_of(envelopes)
        self._begin(wanted)
        if not wanted:
            self._move(self._batch_end)
        return True

    def top_up(self) -> None:
        for _ in range(_TOP_UPS):
            room = self._limits.max_events - len(self.batch)
            if room <= 0 or not self.batch or len(self.offered) < len(self.batch):
                return
            envelopes = self._journal.read(self._batch_end, room)
            if not envelopes:
                return
            self._begin([*self.batch, *self._wanted_of(envelopes)])

    def _wanted_of(self, envelopes: list[Envelope]) -> list[Envelope]:
        """Those that the sink gets, of what stands behind the batch; with them the batch ends further on."""
        wanted, failed = routed(envelopes, self._route)
        if len(wanted) + len(failed) < len(envelopes):
            telemetry.events_filtered(self._sink, len(envelopes) - len(wanted) - len(failed))
        for envelope, error in failed:
            self._buried(envelope, "bug", error)
            telemetry.dead_letter(self._sink, envelope.event.id, error, 1)
        self._batch_end = envelopes[-1].offset
        return wanted

    def _may_fill(self) -> bool:
        """Whether a batch that is not full has time left, from when its first event was seen."""
        if not self._limits.max_wait or self._flush():
            return False
        now = time.monotonic()
        if self._due is None:
            self._due = now + self._limits.max_wait
        return now < self._due

    def wait(self, seconds: float, *, unless: Callable[[], bool]) -> None:
        """Until there may be more than :meth:`refill` has seen, or a batch is due that is not full."""
        if self._due is not None:
            seconds = max(0.0, min(seconds, self._due - time.monotonic()))
        self._journal.wait(self._seen, seconds, unless=unless)

    def _delivered(self, envelopes: list[Envelope]) -> None:
        pass

    def _buried(self, envelope: Envelope, reason: str, error: str) -> None:
        self._journal.add_dead_letter(self._sink, envelope, reason, said(error))

    def _advanced(self, last: int) -> None:
        self._move(last if self.batch else self._batch_end)

    def _move(self, offset: int) -> None:
        self.cursor = offset
        self._journal.commit(self._sink, offset)


class ReplayWork(Work):
    """Kept events again, beside the cursor, marked as replayed. What is refused is counted; the journal has it still.

    :meth:`status` and :meth:`cancel` may be called by any thread.
    """

    def __init__(
        self,
        number: str,
        sink: str,
        journal: Journal,
        route: Route,
        *,
        when: When,
        since: float | None,
        until: float | None,
        max_events: int,
    ) -> None:
        """``since`` and ``until``: unix seconds between which an event came in."""
        super().__init__()
        self.id = number
        self._sink = sink
        self._journal = journal
        self._route = route
        self._when = when
        self._since = since
        self._until = until
        self._max_events = min(max_events, _REPLAY_EVENTS)
        first, last = journal.extent
        self._start, self._position, self._end = first - 1, first - 1, last
        self._state = PassState.WAITING
        self._sent = self._refused = 0
        self._cancelled = False

    def status(self) -> ReplayStatus:
        return ReplayStatus(
            id=self.id,
            sink=self._sink,
            state=self._state,
            total=max(0, self._end - self._start),
            looked_at=self._position - self._start,
            sent=self._sent,
            refused=self._refused,
        )

    def cancel(self) -> None:
        """Ends after the batch at hand."""
        self._cancelled = True

    @property
    def ended(self) -> bool:
        return self._state in {PassState.DONE, PassState.CANCELLED}

    def refill(self) -> bool:
        if self._state is PassState.WAITING:
            self._state = PassState.RUNNING
            telemetry.replay_started(self._sink, self.id, self._end - self._start)
        if self._cancelled or self._position >= self._end:
            self._state = PassState.CANCELLED if self._cancelled else PassState.DONE
            telemetry.replay_ended(self._sink, self.id, self._state, self._sent, self._refused)
            return False
        envelopes = self._journal.read(self._position, self._max_events)
        if not envelopes:
            if not self._journal.wait(self._position, 0):  # what was left has been deleted meanwhile
                self._position = self._end
            return False  # or the database is being mended
        within = [one for one in envelopes if one.offset <= self._end and self._wants(one)]
        wanted, failed = routed(within, self._route)
        self._refused += len(failed)
        self._begin([Envelope(one.offset, dataclasses.replace(one.event, replayed=True)) for one in wanted])
        self._position = min(envelopes[-1].offset, self._end)
        return True

    def _wants(self, envelope: Envelope) -> bool:
        event = envelope.event
        if self._since is not None and event.received_at < self._since:
            return False
        if self._until is not None and event.received_at >= self._until:
            return False
        return self._when.wants(event.type.label, event.app)

    def _delivered(self, envelopes: list[Envelope]) -> None:
        self._sent += len(envelopes)

    def _buried(self, envelope: Envelope, reason: str, error: str) -> None:  # noqa: ARG002 the count is enough
        self._refused += 1


class LettersWork(Work):
    """Dead letters that an operator wants offered again: a letter that is taken is no more, one that is not stays."""

    def __init__(self, sink: str, journal: Journal, max_events: int) -> None:
        super().__init__()
        self._sink = sink
        self._journal = journal
        self._max_events = max_events
        self._letters: list[DeadLetter] = []  # of the batch, in its order
        self._after = 0
        self._wanted = True  # at the start: an earlier life may have been asked

    def look_again(self) -> None:
        """Some may have been marked. For any thread."""
        self._wanted = True

    def refill(self) -> bool:
        if self._wanted:
            self._wanted, self._after = False, 0
        elif not self._after:
            return False
        letters = self._journal.letters.find(self._sink, after=self._after, limit=self._max_events, retry_only=True)
        self._after = letters[-1].id if letters else 0
        self._letters = letters
        self._begin([letter.envelope for letter in letters])
        return bool(letters)

    def _delivered(self, envelopes: list[Envelope]) -> None:
        self._journal.letters.delivered(self._letters[: len(envelopes)])
        del self._letters[: len(envelopes)]

    def _buried(self, envelope: Envelope, reason: str, error: str) -> None:  # noqa: ARG002 it is the letter's
        self._journal.letters.refused_again(self._letters.pop(0), steady_now(), reason, said(error))


def routed(envelopes: list[Envelope], route: Route) -> tuple[list[Envelope], list[tuple[Envelope, str]]]:
    """Those that the sink gets, in its shape, and those on which its rules fail, with the error."""
    wanted: list[Envelope] = []
    failed: list[tuple[Envelope, str]] = []
    for envelope in envelopes:
        try:
            event = route.take(envelope.event)
        except Exception as bug:  # noqa: BLE001 whatever one event holds costs that event
            failed.append((envelope, f"unexpected {bug!r} in the sink's rules"[:_MAX_BUG_CHARACTERS]))
            continue
        if event is envelope.event:
            wanted.append(envelope)
        elif event is not None:
            wanted.append(Envelope(envelope.offset, event))
    return wanted, failed
