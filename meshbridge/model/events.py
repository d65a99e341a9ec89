"""The one event type inside meshbridge, and its CloudEvents form (DESIGN.md, 'The way of an event').

An event keeps the daemon's own JSON as the bytes that came in. Its CloudEvents form is put together around
the daemon's ``data``, cut out of those bytes: nothing is parsed or encoded twice.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final

import orjson

from meshbridge.fields import Format

__all__ = [
    "DAEMON_PLACE",
    "Envelope",
    "Event",
    "EventType",
    "PushError",
    "cloudevent",
    "cloudevent_attributes",
    "decode_push",
    "encode",
    "gap",
    "raw",
]

DAEMON_PLACE = "@daemon"
"""Stands where an app would, for an event of the daemon as a whole; no app can be called so."""

_REPLACEMENT = "\ufffd"
_TAIL = b',"event_type":"'


class EventType(IntEnum):
    """What happened. The numbers are kept in journals: never reuse one."""

    START = 1
    EXIT = 2
    STDOUT = 3
    HEALTH = 4
    STATUS = 5
    REMOVED = 6
    GAP = 7

    @property
    def label(self) -> str:
        """The lower-case name that people and queries meet."""
        return _LABELS[self]

    @property
    def cloudevents_type(self) -> str:
        return _CLOUDEVENTS_TYPES[self]


_STDOUT = EventType.STDOUT
_TYPES = {kind.name: kind for kind in EventType if kind is not EventType.GAP}  # as the daemon calls them
_LABELS = {kind: kind.name.lower() for kind in EventType}
_CLOUDEVENTS_TYPES = {
    kind: "io.meshbridge.gap" if kind is EventType.GAP else f"io.appmesh.app.{kind.name.lower()}" for kind in EventType
}


# Made for every event, twice on its way: a frozen dataclass of 13 fields takes 3 to 7 us to make, this one 0.6. That it
# does not change is held by ``Final``, which costs nothing.
@dataclass(slots=True, unsafe_hash=True)
class Event:
    """Something that happened on a daemon. It does not change.

    ``sequence`` is the daemon's own number, None for an event that meshbridge made (a gap, a reconciled one);
    those carry the rest of their id in ``key``. ``timestamp`` is the daemon's, in unix seconds; ``received_at`` is
    this host's clock when the event came in. ``body`` is the daemon's JSON as it came, subscription_id and all.
    ``span`` is where the bytes of a live STDOUT stand in the output, from and to; to None where bytes were replaced. It
    is for the link alone, and not kept. ``replayed``: of a pass over kept events; the sink may have had it before.
    """

    daemon: Final[str]
    run: Final[str]
    sequence: Final[int | None]
    type: Final[EventType]
    app: Final[str]
    timestamp: Final[float]
    body: Final[bytes]
    process_uuid: Final[str | None] = None
    reconciled: Final[bool] = False
    received_at: Final[float] = 0.0
    key: Final[str] = ""
    span: Final[tuple[int, int | None] | None] = field(default=None, compare=False)
    replayed: Final[bool] = False

    @property
    def id(self) -> str:
        """The name of this event for ever, whoever received it: ``<daemon>/<run>/<sequence>`` for a live one."""
        if self.sequence is None or self.key:
            return f"{self.daemon}/{self.key}"
        return f"{self.daemon}/{self.run}/{self.sequence}"

    @property
    def data(self) -> bytes:
        """The daemon's ``data`` value as it came, JSON."""
        return _data_of(self.body)


@dataclass(slots=True, unsafe_hash=True)
class Envelope:
    """An event and its place in the journal. It does not change, either."""

    offset: Final[int]
    event: Final[Event]


class PushError(ValueError):
    """A pushed message that is no event of App Mesh."""


def decode_push(daemon: str, run: str, body: bytes, received_at: float, processes: dict[str, str]) -> Event:
    """The event in the body of a pushed message (PROTOCOL.md, 'Events').

    ``processes`` is the caller's memory of which process each app runs: START alone carries its ``process_uuid``, and
    what the same connection brings of that app, up to EXIT, is of that process.

    Raises:
        PushError: not JSON, or without the fields of an event.

    """
    try:
        fields: dict[str, Any] = orjson.loads(body)
        event_type, app, data = _TYPES[fields["event_type"]], fields["app_name"], fields["data"]
        span = None
        if event_type is _STDOUT:
            process_uuid = processes.get(app)
            span = _span(data["position"], data["output"])
        elif event_type is EventType.START:
            process_uuid = processes[app] = data["process_uuid"]
        elif event_type is EventType.EXIT:
            process_uuid = processes.pop(app, None)
        else:
            process_uuid = None
        return Event(
            daemon,
            run,
            int(fields["sequence"]),
            event_type,
            app,
            float(fields["timestamp"]),
            body,
            process_uuid,
            False,
            received_at,
            "",
            span,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise PushError(f"a pushed message of {len(body)} bytes is no event: {error!r}") from error


def _span(position: int, text: str) -> tuple[int, int | None]:
    """Positions count the file's bytes, and a replacement stands for one to three of them (PROTOCOL.md, 'STDOUT')."""
    if text.isascii():
        return position, position + len(text)
    return position, None if _REPLACEMENT in text else position + len(text.encode())


def gap(daemon: str, run: str, first: int | None, last: int | None, received_at: float, *, reconciled: int) -> Event:
    """The event that says which events of a run were never received; None where that is not known.

    ``reconciled`` counts the events that repaired it.
    """
    missed = None if first is None or last is None else last - first + 1
    data = {"first": first, "last": last, "missed": missed, "reconciled": reconciled}
    body = {"app_name": DAEMON_PLACE, "data": data, "event_type": "GAP", "timestamp": int(received_at)}
    key = f"{run}/gap/{'' if first is None else first}-{'' if last is None else last}"
    return Event(
        daemon,
        run,
        None,
        EventType.GAP,
        DAEMON_PLACE,
        float(int(received_at)),
        orjson.dumps(body),
        received_at=received_at,
        key=key,
    )


def _data_of(body: bytes) -> bytes:
    # The daemon writes its keys in alphabetical order with subscription_id last, so data stands between the app's
    # name and event_type. Nothing after event_type can hold that marker, so the last one is the real one.
    if body.startswith(b'{"app_name":"'):
        head = body.find(b'","data":', 13)
        tail = body.rfind(_TAIL)
        if head > 0 and tail > head and b'"' not in body[13:head]:
            return body[head + 9 : tail]
    return orjson.dumps(orjson.loads(body)["data"])


@lru_cache(maxsize=4096)
def _rfc3339(timestamp: float) -> str:
    """RFC 3339 in UTC; whole seconds have no fraction, like the daemon's."""
    moment = datetime.fromtimestamp(timestamp, UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


def cloudevent_attributes(event: Event) -> dict[str, str]:
    """The context attributes of the CloudEvents 1.0 form, in order, as text (binary content mode, and structured)."""
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"appmesh://{event.daemon}",
        "type": event.type.cloudevents_type,
    }
    if event.type is not EventType.GAP:
        attributes["subject"] = event.app
    attributes["time"] = _rfc3339(event.timestamp)
    attributes["datacontenttype"] = "application/json"
    if event.sequence is not None and not event.reconciled:
        attributes["sequence"] = f"{event.sequence:020d}"
    attributes["run"] = event.run
    if event.process_uuid:
        attributes["processuuid"] = event.process_uuid
    if event.reconciled:
        attributes["reconciled"] = "true"
    if event.replayed:
        attributes["replayed"] = "true"
    return attributes


@lru_cache(maxsize=8192)
def _json_string(text: str) -> bytes:
    return orjson.dumps(text)


def cloudevent(event: Event) -> bytes:
    """The CloudEvents 1.0 form of an event, structured JSON (content type ``application/cloudevents+json``)."""
    kind = event.type
    parts = [b'{"specversion":"1.0","id":', orjson.dumps(event.id)]
    parts += (b',"source":', _json_string(f"appmesh://{event.daemon}"), b',"type":"', _TYPE_BYTES[kind], b'"')
    if kind is not EventType.GAP:
        parts += (b',"subject":', _json_string(event.app))
    parts += (b',"time":"', _rfc3339(event.timestamp).encode(), b'","datacontenttype":"application/json"')
    if event.sequence is not None and not event.reconciled:
        parts.append(b',"sequence":"%020d"' % event.sequence)
    parts += (b',"run":', _json_string(event.run))
    if event.process_uuid:
        parts += (b',"processuuid":', orjson.dumps(event.process_uuid))
    if event.reconciled:
        parts.append(b',"reconciled":true')
    if event.replayed:
        parts.append(b',"replayed":true')
    parts += (b',"data":', event.data, b"}")
    return b"".join(parts)


def encode(event: Event, shape: Format) -> bytes:
    """The body of a message in this shape; in binary content mode the attributes travel apart from it."""
    if shape is Format.CLOUDEVENTS:
        return cloudevent(event)
    return event.data if shape is Format.BINARY else raw(event)


_TYPE_BYTES = {kind: kind.cloudevents_type.encode() for kind in EventType}


def raw(event: Event) -> bytes:
    """The daemon's own event JSON, without ``subscription_id`` (which names a connection of this bridge)."""
    body = event.body
    tail = body.rfind(b',"subscription_id":"')
    if tail > 0 and body.endswith(b'"}') and body.count(b'"', tail) == 4:  # noqa: PLR2004 the key's two quotes and the value's
        return body[:tail] + b"}"
    fields = orjson.loads(body)
    fields.pop("subscription_id", None)
    return orjson.dumps(fields)
