"""The one event type inside meshbridge, and its CloudEvents form (docs/design.md, 'The way of an event').

An event keeps the daemon's own JSON as the bytes that came in. Its CloudEvents form is put together around
the daemon's ``data``, cut out of those bytes: nothing is parsed or encoded twice.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final

import orjson

from meshbridge.fields import Format

__all__ = [
    "DAEMON_PLACE",
    "MAX_NAME_CHARACTERS",
    "MAX_PUSH_BYTES",
    "MAX_SEQUENCE",
    "MAX_TIMESTAMP",
    "MIN_TIMESTAMP",
    "Envelope",
    "Event",
    "EventType",
    "PushError",
    "cloudevent",
    "cloudevent_attributes",
    "decode_push",
    "encode",
    "gap",
    "is_app_name",
    "raw",
]

DAEMON_PLACE = "@daemon"
"""Stands where an app would, for an event of the daemon as a whole; no app can be called so."""

MAX_SEQUENCE = 2**63 - 1
"""Of a daemon's counter, and of every other whole number in an event: what a database holds."""
MIN_TIMESTAMP, MAX_TIMESTAMP = -62_135_596_800, 253_402_300_799
"""Unix seconds of the years 1 and 9999: what RFC 3339 can write."""
MAX_NAME_CHARACTERS = 1024
"""Of an app, or of a process."""
MAX_PUSH_BYTES = 8 * 2**20
"""Of a pushed message. The largest STDOUT that was measured has 1.3 MB, and JSON can write a byte as six."""

_PLAIN_BYTES = 256 * 1024  # of a message that is read whatever it holds
_MAX_DEPTH = 32
_STDOUT_KEYS = 3
_MOST_PROCESSES = 20_000  # that are remembered: more apps than a daemon runs
_MAX_REASON_CHARACTERS = 60
_FIELDS = ("app_name", "data", "event_type", "sequence", "timestamp", "subscription_id")
_NESTED = frozenset({dict, list})
_DATA_TYPES: dict[str, frozenset[type]] = {
    "enabled": frozenset({bool}),
    "exit_code": frozenset({int, type(None)}),
    "health": frozenset({int}),
    "last_error": frozenset({str, type(None)}),
    "pid": frozenset({int, type(None)}),
    "process_uuid": frozenset({str}),
    "status": frozenset({str}),
}
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_REPLACEMENT = "\ufffd"
_TAIL = b',"event_type":"'
# From event_type on: each key has two, each text two. A live event, one without a subscription, one of this bridge.
_QUOTES = frozenset({12, 8, 6})
_BRACE = ord("{")
_SMALL_BYTES = 1024  # of a message: to write it again takes less time than to look through it


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
        """The name of this event for ever, on every bridge: ``<daemon>/<run>/<sequence>`` for a live one."""
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


def decode_push(
    daemon: str,
    run: str,
    body: bytes,
    received_at: float,
    processes: dict[str, str],
    *,
    subscription: str | None = None,
) -> Event:
    """The event in the body of a pushed message (docs/protocol.md, 'Events'). The one place where events are validated.

    ``processes`` is the caller's memory of which process each app runs: START alone carries its ``process_uuid``, and
    what the same connection brings of that app, up to EXIT, is of that process. ``subscription``: the one that the
    event must belong to; None: any.

    Raises:
        PushError: not JSON, not exactly the fields of an event, or a value out of range.

    """
    try:
        if len(body) > _PLAIN_BYTES:
            _check_size(body)
        fields: dict[str, Any] = orjson.loads(body)
        event_type, app, data = _TYPES[fields["event_type"]], fields["app_name"], fields["data"]
        sequence, timestamp = fields["sequence"], fields["timestamp"]
        if not (
            type(app) is str
            and type(sequence) is int
            and 0 <= sequence <= MAX_SEQUENCE
            and (type(timestamp) is int or type(timestamp) is float)
            and MIN_TIMESTAMP <= timestamp <= MAX_TIMESTAMP
            and len(fields) == (5 if subscription is None and "subscription_id" not in fields else 6)
            and (subscription is None or fields["subscription_id"] == subscription)
            and is_app_name(app)
        ):
            raise PushError(_what_is_wrong(fields, subscription))  # noqa: TRY301 a call would cost each event
        if event_type is _STDOUT:
            process_uuid, span = processes.get(app), _span(data["position"], data["output"])
            if len(data) != _STDOUT_KEYS or type(data["finished"]) is not bool:
                _check_data(data)
        else:
            process_uuid, span = _process_of(event_type, app, data, processes), None
        # Most are written as orjson writes them: then no key comes twice, and nothing stands between the tokens.
        if (len(body) > _SMALL_BYTES or orjson.dumps(fields) != body) and not _is_plain(body):
            body = orjson.dumps({name: fields[name] for name in _FIELDS if name in fields})
        return Event(
            daemon,
            run,
            sequence,
            event_type,
            app,
            float(timestamp),
            body,
            process_uuid,
            False,
            received_at,
            "",
            span,
        )
    except PushError:
        raise
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {str(error)[:_MAX_REASON_CHARACTERS]}"
        raise PushError(f"a pushed message of {len(body)} bytes is no event: {reason}") from error


def _span(position: object, text: object) -> tuple[int, int | None]:
    """Positions count the file's bytes; a replacement stands for one to three of them (docs/protocol.md, 'STDOUT')."""
    if type(position) is not int or not 0 <= position <= MAX_SEQUENCE or type(text) is not str:
        raise PushError("an event STDOUT whose position or output is invalid")
    if text.isascii():
        return position, position + len(text)
    return position, None if _REPLACEMENT in text else position + len(text.encode())


def _process_of(event_type: EventType, app: str, data: Any, processes: dict[str, str]) -> str | None:
    """Of an event that is not STDOUT: checks ``data``, and follows START and EXIT."""
    if data is not None:
        _check_data(data)
    if event_type is EventType.START:
        process: str = data["process_uuid"]
        if len(processes) >= _MOST_PROCESSES:
            processes.clear()
        processes[app] = process
        return process
    return processes.pop(app, None) if event_type is EventType.EXIT else None


def _check_data(data: object) -> None:
    """What events hold beside output: a few plain values, of which those that the link reads have their types.

    Raises:
        PushError: something else.

    """
    if type(data) is not dict:
        raise PushError(f"data is {type(data).__name__}, not an object")
    for key, value in data.items():
        kinds = _DATA_TYPES.get(key)
        if kinds is not None and type(value) not in kinds:
            raise PushError(f"data.{key} is {type(value).__name__}")
        if type(value) is int:
            if abs(value) > MAX_SEQUENCE:
                raise PushError(f"data.{key} is out of range")
        elif type(value) in _NESTED and _depth(value) > _MAX_DEPTH:
            raise PushError(f"data.{key} is nested too deeply")
    if "process_uuid" in data and not _is_name(data["process_uuid"]):
        raise PushError("data.process_uuid is not an identifier")


def _depth(value: Any) -> int:
    """How deeply arrays and objects are nested; no further than one more than is allowed."""
    level, depth = [value], 0
    while level and depth <= _MAX_DEPTH:
        depth += 1
        level = [
            inner for one in level for inner in (one.values() if type(one) is dict else one) if type(inner) in _NESTED
        ]
    return depth


def _check_size(body: bytes) -> None:
    """A large message holds a large text: everything else of it must be small, or it would fill the memory when read.

    Raises:
        PushError: it is larger than the largest event, or holds more than that.

    """
    if len(body) > MAX_PUSH_BYTES:
        raise PushError(f"a pushed message of {len(body)} bytes; at most {MAX_PUSH_BYTES} are allowed")
    if len(_STRING.sub(b"", body)) > _PLAIN_BYTES // 64:
        raise PushError(f"a pushed message of {len(body)} bytes holds more than one long text")


def _is_name(text: str) -> bool:
    """Whether a name has a length that every consumer can take; each sink writes it as its protocol allows."""
    return 0 < len(text) <= MAX_NAME_CHARACTERS


@lru_cache(maxsize=8192)
def is_app_name(name: str) -> bool:
    """Whether an app can be called so."""
    return _is_name(name) and name != DAEMON_PLACE


def _what_is_wrong(fields: dict[str, Any], subscription: str | None) -> str:
    """Of an event that failed validation; nothing of what it holds but short pieces."""
    if unknown := sorted(fields.keys() - set(_FIELDS)):
        return f"an event has the unknown key {unknown[0][:_MAX_REASON_CHARACTERS]!r}"
    if subscription is not None and fields.get("subscription_id") != subscription:
        return f"an event of another subscription: {str(fields.get('subscription_id'))[:_MAX_REASON_CHARACTERS]!r}"
    app, sequence = fields["app_name"], fields["sequence"]
    if type(app) is not str or not is_app_name(app):
        return f"an event whose app_name is invalid: {str(app)[:_MAX_REASON_CHARACTERS]!r}"
    if type(sequence) is not int or not 0 <= sequence <= MAX_SEQUENCE:
        return f"an event whose sequence is invalid: {str(sequence)[:_MAX_REASON_CHARACTERS]}"
    return f"an event whose timestamp is invalid: {str(fields['timestamp'])[:_MAX_REASON_CHARACTERS]}"


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
    span = _data_span(body)
    return orjson.dumps(orjson.loads(body)["data"]) if span is None else body[span[0] : span[1]]


def _data_span(body: bytes) -> tuple[int, int] | None:
    """Where the value of ``data`` stands in an event that is written as daemons write it; None for any other.

    The daemon writes its keys in alphabetical order with subscription_id last, so data stands between the app's name
    and event_type. Nothing after event_type can hold that marker, so the last one is the real one. What stands between
    is copied into messages only where it is one JSON value for sure: else it could bring keys along.
    """
    if not body.startswith(b'{"app_name":"'):
        return None
    head, tail = body.find(b'"', 13), body.rfind(_TAIL)
    if not body.startswith(b'","data":', head):
        return None
    head += 9
    if body.find(b"}", head) == tail - 1 and body[head] == _BRACE:
        return head, tail  # an object that ends where the first closing brace is has nothing behind it
    try:
        orjson.loads(memoryview(body)[head:tail])
    except orjson.JSONDecodeError:
        return None
    return head, tail


def _is_plain(body: bytes) -> bool:
    """Whether an event, which has the right keys, has each of them once, in the daemon's order and on one line."""
    if b"\n" in body or b"\r" in body or _data_span(body) is None:
        return False
    return body.count(b'"', body.rfind(_TAIL)) in _QUOTES


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
