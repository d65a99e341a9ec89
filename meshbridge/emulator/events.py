"""Events, their one counter, and who gets them (docs/protocol.md, 'Events').

An event is encoded once; each copy differs by its message and subscription identifiers only, and those are put around
the common bytes. That is what lets :meth:`EventHub.emit` feed tens of thousands a second.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgpack
import orjson

from meshbridge.emulator.connection import Connection
from meshbridge.emulator.identifiers import Identifiers

EVENT_TYPES = ("START", "EXIT", "STDOUT", "HEALTH", "STATUS", "REMOVED")
"""In the order in which the daemon lists them in an answer, whatever the order in the question."""
DISCONNECTED = "__disconnected__"

_packed: Callable[[object], bytes] = msgpack.packb
_BEFORE_UUID = b"\x86" + _packed("uuid")
_AFTER_UUID = b"".join(
    (
        _packed("request_uri"), _packed("/appmesh/event"), _packed("http_status"), _packed(200),
        _packed("body_msg_type"), _packed("application/json"), _packed("body"),
    )
)  # fmt: skip
_HEADERS = _packed("headers") + b"\x83"


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """What :attr:`Emulator.history` keeps of an event, subscribers or not."""

    sequence: int
    type: str
    app: str
    data: Any
    timestamp: int


@dataclass(slots=True, eq=False)
class ClientSubscription:
    """One client's subscription to the events of one app, or of all (``*``)."""

    id: str
    app: str
    events: frozenset[str]
    connection: Connection
    caller: str = ""
    """Who subscribed."""
    tails: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """The encoded headers by app and event type: they are the same for each copy."""
    body_end: bytes = b""

    def __post_init__(self) -> None:
        self.body_end = b',"subscription_id":' + orjson.dumps(self.id) + b"}"

    def tail(self, app: str, event_type: str) -> bytes:
        found = self.tails.get((app, event_type))
        if found is None:
            if len(self.tails) > 10_000:  # one-off runs have ever new names  # noqa: PLR2004
                self.tails.clear()
            headers = {"X-App-Name": app, "X-Event-Type": event_type, "X-Subscription-Id": self.id}
            found = _HEADERS + b"".join(_packed(key) + _packed(value) for key, value in headers.items())
            self.tails[app, event_type] = found
        return found


class EventHub:
    """Numbers the events and hands them to the connections. Only the event loop's thread touches it."""

    def __init__(self, identifiers: Identifiers, record_limit: int = 0) -> None:
        self.sequence = 0
        self.pushed_bytes = 0
        """How much has been queued for clients, all copies counted."""
        self.history: deque[RecordedEvent] = deque(maxlen=record_limit)
        self._identifiers = identifiers
        self._subscriptions: dict[str, ClientSubscription] = {}
        self._by_app: dict[str, list[ClientSubscription]] = {}
        self._connections: dict[Connection, list[ClientSubscription]] = {}

    def subscribe(
        self, connection: Connection, app: str, events: Iterable[str], caller: str = ""
    ) -> ClientSubscription:
        subscription = ClientSubscription(self._identifiers.next(), app, frozenset(events), connection, caller)
        self._subscriptions[subscription.id] = subscription
        self._by_app.setdefault(app, []).append(subscription)
        if connection not in self._connections:
            self._connections[connection] = []
            connection.on_closed.append(lambda: self.forget(connection))
        self._connections[connection].append(subscription)
        return subscription

    def unsubscribe(self, connection: Connection, subscription_id: str, caller: str | None = None) -> bool:
        """False where this connection, or where ``caller`` is given any connection of theirs, has no such one."""
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None:
            return False
        if subscription.connection is not connection and (caller is None or subscription.caller != caller):
            return False
        self._connections[subscription.connection].remove(subscription)
        self._remove(subscription)
        return True

    def forget(self, connection: Connection) -> None:
        """Ends what a lost or cut-off connection was subscribed to."""
        for subscription in self._connections.pop(connection, ()):
            self._remove(subscription)

    @property
    def subscribers(self) -> Iterable[Connection]:
        return self._connections.keys()

    def wants(self, app: str, event_type: str) -> bool:
        return any(event_type in subscription.events for subscription in self._interested(app))

    def emit(self, app: str, event_type: str, data: Any) -> int:
        """Numbers an event and queues it for its subscribers; gives its number.

        STDOUT without a subscription has no number: then 0.
        """
        if event_type == "STDOUT" and not self.wants(app, "STDOUT"):
            return 0
        self.sequence += 1
        timestamp = int(time.time())
        if self.history.maxlen:
            self.history.append(RecordedEvent(self.sequence, event_type, app, data, timestamp))
        common = b""
        for subscription in self._interested(app):
            if event_type not in subscription.events:
                continue
            if not common:
                common = _body_start(app, event_type, data, self.sequence, timestamp)
            self._push(subscription, app, event_type, common)
        return self.sequence

    def disconnected(self) -> None:
        """Ends every subscription with an event, as 3.x ends forwarded ones whose next node is gone."""
        for subscription in list(self._subscriptions.values()):
            app = "" if subscription.app == "*" else subscription.app
            self._push(subscription, app, DISCONNECTED, _body_start(app, DISCONNECTED, {}, 0, int(time.time())))
            self._connections[subscription.connection].remove(subscription)
            self._remove(subscription)

    def _push(self, subscription: ClientSubscription, app: str, event_type: str, common: bytes) -> None:
        body = common + subscription.body_end
        uuid = self._identifiers.next().encode()
        tail = subscription.tail(app, event_type)
        message = b"".join((_BEFORE_UUID, b"\xab", uuid, _AFTER_UUID, _bytes_header(len(body)), body, tail))
        self.pushed_bytes += len(message)
        subscription.connection.push(message)

    def _interested(self, app: str) -> Iterable[ClientSubscription]:
        """Those of the app come before those of all apps, as measured."""
        yield from self._by_app.get(app, ())
        yield from self._by_app.get("*", ())

    def _remove(self, subscription: ClientSubscription) -> None:
        self._subscriptions.pop(subscription.id, None)
        of_app = self._by_app[subscription.app]
        of_app.remove(subscription)
        if not of_app:
            del self._by_app[subscription.app]


def _body_start(app: str, event_type: str, data: Any, sequence: int, timestamp: int) -> bytes:
    """The body of an event up to its subscription's identifier."""
    shown = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    return b'{"app_name":%b,"data":%b,"event_type":"%b","sequence":%d,"timestamp":%d' % (
        orjson.dumps(app),
        shown,
        event_type.encode(),
        sequence,
        timestamp,
    )


def parse_events(wanted: str) -> list[str]:
    """The known event types in a comma-separated list, in the daemon's order; all of them for none and for ``ALL``.

    Names count as they are: in capitals and without blanks.
    """
    names = wanted.split(",")
    if not wanted or "ALL" in names:
        return list(EVENT_TYPES)
    return [name for name in EVENT_TYPES if name in names]


def _bytes_header(length: int) -> bytes:
    """The msgpack header of a bin of ``length`` bytes."""
    if length < 1 << 8:
        return bytes((0xC4, length))
    if length < 1 << 16:
        return b"\xc5" + length.to_bytes(2, "big")
    return b"\xc6" + length.to_bytes(4, "big")
