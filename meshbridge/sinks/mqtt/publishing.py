"""The packets of publishing, without I/O (MQTT 3.1.1 and 5, section 3).

paho-mqtt keeps the connection; what is sent and received for each event is encoded and decoded here, since paho builds
some twenty objects for each, and makes four system calls where one serves a whole window.
"""

import re
import struct
from collections import deque
from collections.abc import Mapping, Sequence

from meshbridge.model.events import Event
from meshbridge.sinks.base import Refused
from meshbridge.sinks.mqtt.answers import FAILURE

__all__ = [
    "FAILURE",
    "PUBREC",
    "PublishFlight",
    "as_text",
    "packed_properties",
    "publish",
    "pubrel",
    "reason_in",
    "remaining_length",
    "topic_level",
]

PUBACK, PUBREC, PUBCOMP = 4, 5, 7
CONNACK, DISCONNECT = 2, 14
# What brokers close the connection for (1.5.4): controls, and code points that are no characters.
_NO_TEXT = "\x00-\x1f\x7f-\x9f\ufdd0-\ufdef" + "".join(
    chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
_FORBIDDEN = re.compile(f"[{_NO_TEXT}]")
_NOT_IN_LEVELS = re.compile(f"[/+#{_NO_TEXT}]")
_REPLACEMENT = "\ufffd"
_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")
_PUBREL = b"\x62\x02"


def publish(
    topic: bytes, payload: bytes, qos: int, packet_id: int, properties: bytes, *, retain: bool = False
) -> bytes:
    """A PUBLISH. ``properties`` is their encoded form with its length in front; empty for 3.1.1, which has none."""
    identifier = _U16.pack(packet_id) if qos else b""
    length = 2 + len(topic) + len(identifier) + len(properties) + len(payload)
    head = bytes((0x30 | qos << 1 | retain,)) + varint(length) + _U16.pack(len(topic))
    return b"".join((head, topic, identifier, properties, payload))


def pubrel(packet_id: int) -> bytes:
    """The answer to a PUBREC."""
    return _PUBREL + _U16.pack(packet_id)


def packed_properties(
    content_type: str,
    user: Mapping[str, str],
    expiry_seconds: int | None = None,
    correlation: bytes | None = None,
) -> bytes:
    """Content type, user properties, message expiry and correlation data of a PUBLISH, encoded (MQTT 5, 3.3.2.3)."""
    body = [b"\x03", utf8(content_type)]
    if expiry_seconds is not None:
        body += (b"\x02", _U32.pack(expiry_seconds))
    if correlation is not None:
        body += (b"\x09", _U16.pack(len(correlation)), correlation)
    for key, value in user.items():
        body += (b"\x26", utf8(key), utf8(value))
    joined = b"".join(body)
    return varint(len(joined)) + joined


def topic_level(name: str) -> str:
    """A name as one level of a topic: separators, wildcards and control characters become ``_``."""
    return _NOT_IN_LEVELS.sub("_", name)


def as_text(value: str) -> str:
    """``value`` without what brokers end a connection for."""
    return value if value.isprintable() else _FORBIDDEN.sub(_REPLACEMENT, value)


def utf8(text: str) -> bytes:
    """A string with its length in front (1.5.4)."""
    encoded = text.encode()
    return _U16.pack(len(encoded)) + encoded


def varint(value: int) -> bytes:
    """A variable byte integer (1.5.5)."""
    if value < 0x80:  # noqa: PLR2004 seven bits
        return bytes((value,))
    encoded = bytearray()
    while True:
        value, low = divmod(value, 0x80)
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def reason_in(packets: bytes) -> int | None:
    """The reason code of the first CONNACK or DISCONNECT in these whole packets of MQTT 5 (3.2.2, 3.14.2)."""
    position = 0
    while position < len(packets):
        length, start = remaining_length(packets, position + 1)
        if length is None:
            return None
        kind = packets[position] >> 4
        place = start + 1 if kind == CONNACK else start
        if kind in {CONNACK, DISCONNECT} and place < min(start + length, len(packets)):
            return packets[place]
        position = start + length
    return None


def remaining_length(buffer: bytes | bytearray, position: int) -> tuple[int | None, int]:
    """(the length of a packet (2.1.4), where what it measures begins); None while it is incomplete."""
    length = shift = 0
    for place in range(position, min(position + 4, len(buffer))):
        byte = buffer[place]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 the last one
            return length, place + 1
        shift += 7
    return None, position


class PublishFlight:
    """The messages of one write: which are sent, which acknowledged, and where the batch ends early.

    An event is one message, or several parts, which count as acknowledged together. ``parts`` holds those of the event
    at hand that are still to be sent, each with its payload.
    """

    def __init__(self, size: int) -> None:
        self.packets: dict[int, int] = {}  # packet id -> place in the batch, of those in flight
        self.reasons: list[int | None] = [None] * size  # the broker's reason code for each, once it has come
        self.parts: deque[tuple[Event, bytes]] = deque()
        self.sent = 0
        self.acknowledged = 0  # from the front
        self.end = size  # nothing from here on counts: the first refused one, or the end of the batch
        self.refused: Refused | None = None  # where it was refused here, before it was sent
        self._unanswered: dict[int, int] = {}  # place -> parts without an answer, of divided events

    def begin(self, packet_id: int) -> None:
        """The next event has been sent, as one message."""
        self.packets[packet_id] = self.sent
        self.sent += 1

    def divide(self, parts: Sequence[tuple[Event, bytes]]) -> None:
        """The next event goes out as these."""
        self.parts.extend(parts)
        self._unanswered[self.sent] = len(parts)

    def begin_part(self, packet_id: int) -> None:
        """The first of ``parts`` has been taken from it and sent."""
        self.packets[packet_id] = self.sent
        if not self.parts:
            self.sent += 1

    def refuse(self, refused: Refused) -> None:
        self.end, self.refused = self.sent, refused
        refused.acknowledged = self.sent  # all before it will be, or another end is found first

    def settle(self, packet_id: int, reason: int) -> None:
        place = self.packets.pop(packet_id, None)
        if place is None:
            return  # of an earlier connection's write, or an unknown packet id
        if reason < FAILURE and self._unanswered and not self._is_whole(place):
            return
        self.reasons[place] = reason
        if reason >= FAILURE and place < self.end:
            self.end, self.refused = place, None
        while self.acknowledged < self.end and self.reasons[self.acknowledged] is not None:
            self.acknowledged += 1

    def _is_whole(self, place: int) -> bool:
        """Whether a part that was taken was the last of its event, and none of it was refused."""
        if place not in self._unanswered:
            return True
        self._unanswered[place] -= 1
        return not self._unanswered[place] and self.reasons[place] is None

    def handed_over(self) -> None:
        """At QoS 0, acknowledged means handed to the socket."""
        self.packets.clear()
        self.acknowledged = self.sent
