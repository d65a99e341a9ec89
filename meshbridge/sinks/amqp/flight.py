"""The messages of one write, and how far each has come. Pure: no I/O, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

__all__ = ["AmqpFlight", "AmqpMessage", "AmqpOutcome"]


class AmqpOutcome(Enum):
    """What the broker says of a message."""

    CONFIRMED = auto()
    NACKED = auto()
    RETURNED = auto()  # no queue is bound for it


@dataclass(slots=True)
class AmqpMessage:
    """One message: an event of the batch, or a part of one."""

    place: int  # of the event in the batch
    is_last: bool  # with it the event is complete
    id: str
    routing_key: str
    headers: dict[str, str]
    properties: dict[str, str | int]
    body: bytes
    outcome: AmqpOutcome | None = field(default=None, compare=False)


class AmqpFlight:
    """Publishes in order; a message counts as delivered when the broker has confirmed it and has not returned it."""

    def __init__(self, messages: Sequence[AmqpMessage], end: int) -> None:
        """``end``: how many events of the batch have messages here."""
        self._messages = messages
        self._end = end
        self._next = 0
        self._under_way = 0
        self._stopped = False
        self._returned: set[str] = set()
        self.dropped = 0
        """Messages that were returned, and count as delivered all the same."""

    @property
    def under_way(self) -> int:
        """How many the broker has not answered yet."""
        return self._under_way

    @property
    def answers(self) -> bool:
        """Whether the broker has answered any."""
        return any(message.outcome for message in self._messages)

    @property
    def acknowledged(self) -> int:
        """How many events from the front of the batch are safe."""
        first = self.first_open
        return self._end if first is None else first.place

    @property
    def first_open(self) -> AmqpMessage | None:
        """The first message that is not delivered."""
        return next((one for one in self._messages if one.outcome is not AmqpOutcome.CONFIRMED), None)

    @property
    def confirmed(self) -> list[AmqpMessage]:
        return [one for one in self._messages if one.outcome is AmqpOutcome.CONFIRMED]

    @property
    def returned(self) -> list[AmqpMessage]:
        return [one for one in self._messages if one.outcome is AmqpOutcome.RETURNED]

    def take(self, window: int) -> AmqpMessage | None:
        """The next message to publish; None where ``window`` are under way, or there is none."""
        if self._stopped or self._under_way >= window or self._next >= len(self._messages):
            return None
        self._next += 1
        self._under_way += 1
        return self._messages[self._next - 1]

    def note_return(self, message_id: str) -> None:
        """The broker has sent a message back. Its confirmation follows."""
        self._returned.add(message_id)

    def settle(self, message: AmqpMessage, *, nacked: bool, drop_returned: bool) -> None:
        """The broker's answer. Nothing more is published after one that is not delivered."""
        self._under_way -= 1
        if nacked:
            message.outcome = AmqpOutcome.NACKED
        elif message.id in self._returned and not drop_returned:
            message.outcome = AmqpOutcome.RETURNED
        else:
            message.outcome = AmqpOutcome.CONFIRMED
            self.dropped += message.id in self._returned and message.is_last
            return
        self._stopped = True

    def rewind(self) -> None:
        """Publishes again from the first that is not delivered, and all behind it, so that the order holds."""
        undelivered = (at for at, one in enumerate(self._messages) if one.outcome is not AmqpOutcome.CONFIRMED)
        self._next = next(undelivered, len(self._messages))
        for message in self._messages[self._next :]:
            message.outcome = None
        self._under_way = 0
        self._stopped = False
