"""What a broker sends: messages are read here, as paho-mqtt would, and none of them costs the connection."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from meshbridge.sinks.mqtt.incoming import MAX_PUBLISH_BYTES, Incoming, IncomingMessage, PacketError, message_of, puback
from meshbridge.sinks.mqtt.publishing import publish, varint

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def split(packet: bytes) -> tuple[int, bytes]:
    """(the flags, what follows the length) of one packet."""
    received = Incoming().take(packet)
    ((flags, body, fault),) = received.publishes
    assert (received.acknowledgements, received.others, fault) == ([], b"", None)
    return flags, body


@given(
    topic=st.text("abc/+ä€", min_size=1, max_size=20),
    payload=st.binary(max_size=50),
    qos=st.sampled_from([0, 1]),
    retain=st.booleans(),
    reply_to=text | st.none(),
    correlation=st.binary(max_size=10) | st.none(),
    expiry=st.integers(0, 2**32 - 1) | st.none(),
    user=st.lists(st.tuples(text, text), max_size=3),
)
def test_a_message_is_read_as_paho_writes_it(  # noqa: PLR0917 its fields
    topic: str,
    payload: bytes,
    qos: int,
    retain: bool,
    reply_to: str | None,
    correlation: bytes | None,
    expiry: int | None,
    user: list[tuple[str, str]],
) -> None:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in (
        ("ResponseTopic", reply_to),
        ("CorrelationData", correlation),
        ("MessageExpiryInterval", expiry),
    ):
        if value is not None:
            setattr(properties, name, value)
    if user:
        properties.UserProperty = user
    packed = properties.pack()  # type: ignore[no-untyped-call]
    flags, body = split(publish(topic.encode(), payload, qos, 7, packed, retain=retain))
    assert message_of(flags, body, is_v5=True) == IncomingMessage(
        topic, payload, 7 if qos else None, retain, False, reply_to, correlation, expiry
    )
    flags, body = split(publish(topic.encode(), payload, qos, 7, b"", retain=retain))
    assert message_of(flags, body, is_v5=False) == IncomingMessage(topic, payload, 7 if qos else None, retain)


@given(st.integers(0, 15), st.binary(max_size=60), st.booleans())
def test_any_body_is_a_message_or_a_documented_error(flags: int, body: bytes, is_v5: bool) -> None:
    with contextlib.suppress(PacketError):
        message_of(flags, body, is_v5=is_v5)


@given(st.lists(st.integers(1, 3_000_000), max_size=8), st.integers(0, 3))
def test_a_message_that_is_too_large_is_dropped_and_acknowledged_however_it_is_cut(cuts: list[int], qos: int) -> None:
    size = MAX_PUBLISH_BYTES + 5
    large = bytes((0x30 | (qos & 1) << 1,)) + varint(size) + b"\0\3a/b" + b"\0\x2a" + b"x" * (size - 7)
    stream = large + b"\x40\x02\x00\x07" + publish(b"t", b"next", 0, 0, b"")
    incoming, published, acks, start = Incoming(), [], [], 0
    for step in [*cuts, len(stream)]:
        received = incoming.take(stream[start : start + step])
        start += step
        published += received.publishes
        acks += received.acknowledgements
        assert len(incoming._buffer) <= MAX_PUBLISH_BYTES
    (flags, head, fault), (_, following, none) = published
    first = message_of(flags, head, is_v5=False, fault=fault)
    assert (first.topic, first.payload, first.packet_id) == ("a/b", b"", 42 if qos & 1 else None)
    assert f"message of {size} bytes" in (first.fault or "")
    assert (acks, following, none) == ([(4, 7, 0)], b"\0\1tnext", None)


def test_many_properties_are_not_read() -> None:
    user = b"\x26\0\0\0\0" * 100_000
    flags, body = split(publish(b"t", b"run", 1, 7, varint(len(user)) + user))
    message = message_of(flags, body, is_v5=True)
    assert (message.packet_id, message.payload, message.fault) == (
        7, b"", "500000 bytes of properties: at most 262144 are allowed",
    )  # fmt: skip


def test_an_acknowledgement_is_the_packet_of_the_specification() -> None:
    assert puback(0x0102) == bytes.fromhex("40020102")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\5ab",
        b"\0\1a\0",
        b"\0\1a\0\1\x02\x7f\0",
        b"\0\1a\0\1\x03\x26\0\x09",
        b"\0\1a\0\1\xff\xff\xff\xff\xff",
    ],
)
def test_what_is_no_message_is_the_brokers_fault(body: bytes) -> None:
    with pytest.raises(PacketError):
        message_of(2, body, is_v5=True)
