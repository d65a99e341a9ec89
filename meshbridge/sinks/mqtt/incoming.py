"""What comes in from a broker, without I/O (MQTT 3.1.1 and 5, section 3): acknowledgements, messages, and the rest.

Messages are read here and not by paho-mqtt: of one with 500 kB of user properties, which any publisher may send, paho
takes a minute, and events wait meanwhile.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from meshbridge.sinks.mqtt.publishing import remaining_length

__all__ = [
    "MAX_PUBLISH_BYTES",
    "SUBACK",
    "Incoming",
    "IncomingMessage",
    "PacketError",
    "Received",
    "message_of",
    "puback",
]

PUBACK, PUBREC, PUBCOMP = 4, 5, 7
SUBACK = 9
_PUBLISH = 3
_ACKNOWLEDGEMENTS = frozenset({PUBACK, PUBREC, PUBCOMP})
MAX_PUBLISH_BYTES = 8 * 1024 * 1024  # what is subscribed to are commands and birth messages, far smaller
_MAX_PACKET_BYTES = 16 * 1024  # CONNACK, SUBACK and the rest: paho takes seconds for megabytes of user properties
_MAX_PUBLISH_HEAD_BYTES = 2 + 65_535 + 2  # of a PUBLISH up to its packet id (3.3.2)
_MAX_LENGTH_BYTES = 4  # of the length itself (MQTT 5, 1.5.5)
_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")
_MAX_PROPERTIES_BYTES = 256 * 1024  # a Response Topic and Correlation Data take 128 KiB at most
_RETAIN, _DUP = 0x01, 0x08
_EXPIRY, _RESPONSE_TOPIC, _CORRELATION, _SUBSCRIPTION, _USER = 0x02, 0x08, 0x09, 0x0B, 0x26
_FIXED_BYTES = {0x01: 1, _EXPIRY: 4, 0x23: 2}
_TEXTS = frozenset({0x03, _RESPONSE_TOPIC, _CORRELATION})


class PacketError(ValueError):
    """The broker sends something that is no packet, or a larger one than a broker has reason to send."""


class Received(NamedTuple):
    """The packets in what was received, as far as they are complete."""

    acknowledgements: list[tuple[int, int, int]]
    """(packet type, packet id, reason code) of each."""
    publishes: list[tuple[int, bytes, str | None]]
    """(the flags of its first byte, what follows its length, why that is its beginning alone) of each PUBLISH."""
    others: bytes
    """All other packets, for paho."""


class Incoming:
    """Takes received bytes apart; an incomplete packet waits for the rest of it.

    A PUBLISH that is too large is dropped while it arrives: of 3.1.1, where a bridge cannot say what is too large, a
    publisher must not be able to end the connection with one.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._dropping = 0  # bytes to come of a PUBLISH that is too large
        self._dropped: tuple[int, bytes, str | None] | None = None  # that PUBLISH

    def take(self, data: bytes) -> Received:
        """What is complete now.

        Raises:
            PacketError: a packet that a broker has no reason to send, or its length is malformed.

        """
        buffer, found = self._buffer, Received([], [], b"")
        buffer += data
        others = bytearray()
        self._drop(found)
        position, end = 0, len(buffer)
        while position < end:
            length, start = remaining_length(buffer, position + 1)
            kind = buffer[position] >> 4
            if length is None:
                if end - position > _MAX_LENGTH_BYTES:
                    raise PacketError("a packet whose length is malformed")
                break
            if kind == _PUBLISH and length > MAX_PUBLISH_BYTES:
                if end - start < _MAX_PUBLISH_HEAD_BYTES:
                    break
                fault = f"message of {length} bytes: at most {MAX_PUBLISH_BYTES} are taken"
                self._dropped = buffer[position] & 0x0F, bytes(buffer[start : start + _MAX_PUBLISH_HEAD_BYTES]), fault
                self._dropping = length
                del buffer[:start]
                self._drop(found)
                position, end = 0, len(buffer)
                continue
            if kind != _PUBLISH and length > _MAX_PACKET_BYTES:
                raise PacketError(f"a packet of type {kind} and {length} bytes")
            if start + length > end:
                break
            body = bytes(buffer[start : start + length])
            if kind == _PUBLISH:
                found.publishes.append((buffer[position] & 0x0F, body, None))
            elif (answer := _acknowledgement(kind, body)) is not None:
                found.acknowledgements.append(answer)
            else:
                others += buffer[position : start + length]
            position = start + length
        del buffer[:position]
        return found._replace(others=bytes(others))

    def _drop(self, found: Received) -> None:
        """Drops what has come of a message that is too large, which counts as received at its end."""
        dropped = min(self._dropping, len(self._buffer))
        del self._buffer[:dropped]
        self._dropping -= dropped
        if self._dropped is not None and not self._dropping:
            found.publishes.append(self._dropped)
            self._dropped = None


def _acknowledgement(kind: int, body: bytes) -> tuple[int, int, int] | None:
    """(packet type, packet id, reason code), if it is one."""
    if kind in _ACKNOWLEDGEMENTS and len(body) >= 2:  # noqa: PLR2004 the packet id
        # Without a reason code it is 0, success (3.4.2.1); 3.1.1 has none.
        return kind, _U16.unpack_from(body)[0], body[2] if len(body) > 2 else 0  # noqa: PLR2004
    if kind == SUBACK and len(body) > 2:  # noqa: PLR2004 paho knows none but the listed reason codes
        return kind, _U16.unpack_from(body)[0], body[-1]
    return None


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message that came in."""

    topic: str
    payload: bytes = b""
    packet_id: int | None = None
    """Of a message that is to be acknowledged; None at QoS 0."""
    is_retained: bool = False
    is_duplicate: bool = False
    reply_to: str | None = None
    correlation: bytes | None = None
    expiry_seconds: int | None = None
    fault: str | None = None
    """Why the rest of it was not read."""


def puback(packet_id: int) -> bytes:
    """The answer to a message at QoS 1."""
    return b"\x40\x02" + _U16.pack(packet_id)


def message_of(flags: int, body: bytes, *, is_v5: bool, fault: str | None = None) -> IncomingMessage:
    """A PUBLISH by the flags of its first byte, and what follows its length; with a ``fault``, its beginning alone.

    Raises:
        PacketError: it is not one, or of QoS 2, which a bridge does not subscribe to.

    """
    qos = flags >> 1 & 3
    try:
        topic, position = _binary(body, 0)
        packet_id = None
        if qos:
            (packet_id,) = _U16.unpack_from(body, position)
            position += 2
        properties: dict[int, bytes] = {}
        if is_v5 and fault is None:
            length, position = _number(body, position)
            end = position + length
            if length > _MAX_PROPERTIES_BYTES:
                fault = f"{length} bytes of properties: at most {_MAX_PROPERTIES_BYTES} are allowed"
            elif end > len(body):
                raise PacketError("properties longer than the packet")
            else:
                properties = _properties(body, position, end)
            position = end
    except (struct.error, IndexError) as error:
        raise PacketError("a packet that is shorter than it says") from error
    if qos > 1:
        raise PacketError("a message at QoS 2")
    return IncomingMessage(
        topic.decode("utf-8", "replace"),
        body[position:] if fault is None else b"",
        packet_id,
        bool(flags & _RETAIN),
        bool(flags & _DUP),
        _text(properties.get(_RESPONSE_TOPIC)),
        properties.get(_CORRELATION),
        _U32.unpack(properties[_EXPIRY])[0] if _EXPIRY in properties else None,
        fault,
    )


def _properties(body: bytes, position: int, end: int) -> dict[int, bytes]:
    """The values by their identifiers, without those of the user (2.2.2.2)."""
    found: dict[int, bytes] = {}
    while position < end:
        kind = body[position]
        start = position = position + 1
        if kind == _USER:
            for _ in range(2):
                position += 2 + _U16.unpack_from(body, position)[0]
        elif kind in _TEXTS:
            found[kind], position = _binary(body, position)
        elif kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
            found[kind] = body[start:position]
        elif kind == _SUBSCRIPTION:
            _, position = _number(body, position)
        else:
            raise PacketError(f"unknown property {kind:#04x}")
    if position != end:
        raise PacketError("properties longer than they say")
    return found


def _binary(body: bytes, position: int) -> tuple[bytes, int]:
    """(data with its length in front, the place behind it)."""
    start = position + 2
    end = start + _U16.unpack_from(body, position)[0]
    if end > len(body):
        raise PacketError("a packet that is shorter than it says")
    return body[start:end], end


def _number(body: bytes, position: int) -> tuple[int, int]:
    """(a variable byte integer, the place behind it) (1.5.5)."""
    value = 0
    for shift in (0, 7, 14, 21):
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 the last one
            return value, position
    raise PacketError("a number of more than four bytes")


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
