"""Pushed events, and who gets them. Nothing here does I/O or knows of threads."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from meshbridge.appmesh.paths import EVENT as EVENT_URI

__all__ = [
    "EVENT_TYPE_DISCONNECTED",
    "EVENT_TYPE_MISSED",
    "EVENT_URI",
    "AppEvent",
    "EventCallback",
    "Listener",
    "SubscriptionResult",
    "Subscriptions",
    "decode_event",
]

EVENT_TYPE_DISCONNECTED = "__disconnected__"
"""Type of the last event that a callback gets: its connection has ended, and the subscription with it."""

EVENT_TYPE_MISSED = "__missed__"
"""Type of an event that stands for others, ``data["missed"]`` of them, dropped since the callback was too slow."""

# S5 of docs/protocol.md: what comes for a subscription before anybody has registered for it.
MAX_EARLY_SUBSCRIPTIONS = 64
MAX_EARLY_EVENTS = 1000
MAX_EARLY_BYTES = 64 * 1024 * 1024  # one STDOUT event can have more than 1 MiB, so a count alone bounds nothing


@dataclass(slots=True)
class AppEvent:
    """Something that happened to an application (docs/protocol.md, 'Events')."""

    subscription_id: str = ""
    event_type: str = ""
    app_name: str = ""
    timestamp: int = 0
    """Unix seconds."""
    sequence: int = 0
    """The daemon's one counter of events; it starts again when the daemon does."""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class SubscriptionResult:
    """The daemon's answer to ``subscribe``."""

    subscription_id: str = ""
    app_name: str = ""
    events: list[str] = field(default_factory=list)


EventCallback = Callable[[AppEvent], None]


@dataclass(slots=True, eq=False)
class Listener:
    """A callback and how it is called: at once by the thread that reads, or by the dispatcher in its turn."""

    callback: EventCallback
    at_once: bool = False
    active: bool = True
    failing: bool = False


def decode_event(body: bytes | bytearray) -> AppEvent:
    """The event in the JSON body of a pushed message.

    Raises:
        ValueError: it holds none.

    """
    fields = orjson.loads(body)
    if not isinstance(fields, dict):
        raise ValueError(f"an event is a JSON object, not {type(fields).__name__}")  # noqa: TRY004 of the daemon's
    get = fields.get
    subscription, kind, app = get("subscription_id"), get("event_type"), get("app_name")
    timestamp, sequence, data = get("timestamp"), get("sequence"), get("data")
    if (
        type(subscription) is type(kind) is type(app) is str
        and type(timestamp) is type(sequence) is int
        and type(data) is dict
    ):
        return AppEvent(subscription, kind, app, timestamp, sequence, data)
    # Rare: the data of REMOVED is null, and what a broken daemon sends could be anything.
    return AppEvent(
        subscription if isinstance(subscription, str) else "",
        kind if isinstance(kind, str) else "",
        app if isinstance(app, str) else "",
        timestamp if isinstance(timestamp, int) else 0,
        sequence if isinstance(sequence, int) else 0,
        data if isinstance(data, dict) else {},
    )


class Subscriptions:
    """The subscriptions of one connection. Not thread-safe: the owner holds a lock.

    An event can arrive before the answer to the subscribe that caused it, so before anybody can have registered for
    it. Such events are kept, within bounds, and handed over when somebody does.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, Listener] = {}
        self._early: OrderedDict[str, deque[tuple[AppEvent, int]]] = OrderedDict()
        self._early_bytes = 0
        self._ended: deque[str] = deque(maxlen=MAX_EARLY_SUBSCRIPTIONS)
        self.early_dropped = 0
        """Events for which no callback was registered in time."""

    def listen(self, subscription_id: str, listener: Listener) -> list[AppEvent]:
        """Registers ``listener``, and gives what came for it before: to be delivered first, in this order."""
        self._listeners[subscription_id] = listener
        early = self._early.pop(subscription_id, None)
        if early is None:
            return []
        self._early_bytes -= sum(size for _event, size in early)
        return [event for event, _size in early]

    def forget(self, subscription_id: str) -> None:
        """Its events are dropped from now on, also those on their way."""
        listener = self._listeners.pop(subscription_id, None)
        if listener is not None:
            listener.active = False
        self._ended.append(subscription_id)
        self._drop(self._early.pop(subscription_id, deque()))

    def route(self, event: AppEvent, size: int) -> Listener | None:
        """Who gets ``event``, whose message has ``size`` bytes; None where it is kept for later, or dropped."""
        listener = self._listeners.get(event.subscription_id)
        if listener is None and event.subscription_id not in self._ended:
            self._keep(event, size)
        return listener

    def end(self) -> list[tuple[str, Listener]]:
        """The connection is over: all who listened, and nothing is left."""
        listeners = list(self._listeners.items())
        self._listeners.clear()
        self._early.clear()
        self._early_bytes = 0
        return listeners

    def _keep(self, event: AppEvent, size: int) -> None:
        early = self._early.get(event.subscription_id)
        if early is None:
            if len(self._early) == MAX_EARLY_SUBSCRIPTIONS:
                self._drop(self._early.popitem(last=False)[1])
            early = self._early[event.subscription_id] = deque()
        early.append((event, size))
        self._early_bytes += size
        if len(early) > MAX_EARLY_EVENTS:
            self._drop([early.popleft()])
        while self._early_bytes > MAX_EARLY_BYTES:
            oldest = next(iter(self._early.values()))
            self._drop([oldest.popleft()])
            if not oldest:
                self._early.popitem(last=False)

    def _drop(self, events: "deque[tuple[AppEvent, int]] | list[tuple[AppEvent, int]]") -> None:
        self.early_dropped += len(events)
        self._early_bytes -= sum(size for _event, size in events)
