"""Our packets, as another implementation reads them (amqtt), and acknowledgements however the stream is cut."""

import asyncio
import itertools
from typing import Any

import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt.publish import PublishPacket
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from meshbridge.sinks.base import Refused
from meshbridge.sinks.mqtt.incoming import Incoming, PacketError
from meshbridge.sinks.mqtt.publishing import (
    FAILURE,
    PublishFlight,
    as_text,
    packed_properties,
    publish,
    pubrel,
    topic_level,
    varint,
)
from tests.support import make_event

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)


@given(
    st.text(min_size=1, max_size=50, alphabet="abc/äß"),
    st.binary(max_size=400),
    st.sampled_from([0, 1, 2]),
    st.integers(min_value=1, max_value=65535),
)
def test_another_implementation_reads_what_we_publish(topic: str, payload: bytes, qos: int, packet_id: int) -> None:
    packet = publish(topic.encode(), payload, qos, packet_id, b"")
    read = asyncio.run(PublishPacket.from_stream(BufferReader(packet)))
    assert (read.topic_name, read.data, read.qos) == (topic, payload, qos)
    assert not read.retain_flag
    if qos:
        assert read.packet_id == packet_id


@given(texts, st.dictionaries(texts, texts, max_size=4), st.none() | st.integers(1, 2**32 - 1))
def test_properties_are_encoded_as_pahos_own(content_type: str, user: dict[str, str], expiry: int | None) -> None:
    expected = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    expected.ContentType = content_type
    if expiry is not None:
        expected.MessageExpiryInterval = expiry
    if user:
        expected.UserProperty = list(user.items())
    ours, theirs = packed_properties(content_type, user, expiry), expected.pack()  # type: ignore[no-untyped-call]
    # paho has an order of its own.
    assert sorted(_properties(ours)) == sorted(_properties(theirs))


def _properties(packed: bytes) -> list[tuple[int, Any]]:
    read = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    read.unpack(packed)  # type: ignore[no-untyped-call]
    return [(number, str(value)) for number, value in enumerate(sorted(vars(read).items(), key=str))]


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "00"), (127, "7f"), (128, "8001"), (16383, "ff7f"), (16384, "808001"), (268435455, "ffffff7f")],
)
def test_lengths_are_encoded_as_in_the_specification(value: int, encoded: str) -> None:
    assert varint(value) == bytes.fromhex(encoded)


acks = st.tuples(
    st.sampled_from([4, 5, 7]), st.integers(min_value=1, max_value=65535), st.sampled_from([0, 0x10, 0x87])
)
other = st.sampled_from([b"\xd0\x00", b"\xe0\x02\x8b\x00", b"\x30\x81\x01" + b"x" * 129])


@given(st.lists(acks | other, max_size=12), st.lists(st.integers(min_value=0, max_value=1000), max_size=8))
def test_acknowledgements_are_told_from_other_packets_however_the_stream_is_cut(
    packets: list[tuple[int, int, int] | bytes], cuts: list[int]
) -> None:
    stream = b""
    for packet in packets:
        if isinstance(packet, bytes):
            stream += packet
        else:
            kind, packet_id, reason = packet
            body = packet_id.to_bytes(2, "big") + (bytes((reason, 0)) if reason else b"")
            stream += bytes((kind << 4, len(body))) + body
    incoming = Incoming()
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    found: list[tuple[int, int, int]] = []
    others, published = b"", []
    for start, end in itertools.pairwise(edges):
        received = incoming.take(stream[start:end])
        found += received.acknowledgements
        published += received.publishes
        others += received.others
    assert found == [packet for packet in packets if not isinstance(packet, bytes)]
    kinds = [packet for packet in packets if isinstance(packet, bytes)]
    assert others == b"".join(packet for packet in kinds if packet[0] != 0x30)
    assert published == [(0, b"x" * 129, None) for packet in kinds if packet[0] == 0x30]


def test_a_release_is_the_packet_of_the_specification() -> None:
    assert pubrel(0x0102) == bytes.fromhex("62020102")


def test_only_the_front_counts_as_acknowledged() -> None:
    flight = PublishFlight(4)
    for packet_id in (11, 12, 13):
        flight.begin(packet_id)
    flight.settle(12, 0)
    assert flight.acknowledged == 0
    flight.settle(11, 0x10)
    assert flight.acknowledged == 2
    flight.settle(99, 0)
    assert flight.acknowledged == 2


def test_nothing_behind_a_refused_one_counts() -> None:
    flight = PublishFlight(3)
    for packet_id in (11, 12, 13):
        flight.begin(packet_id)
    flight.settle(13, 0)
    flight.settle(12, 0x90)
    flight.settle(11, 0)
    assert (flight.acknowledged, flight.end, flight.reasons[flight.end]) == (1, 1, 0x90)
    refused = Refused("too large")
    earlier = PublishFlight(2)
    earlier.begin(11)
    earlier.refuse(refused)
    earlier.settle(11, 0)
    assert (earlier.acknowledged, earlier.end, earlier.refused) == (1, 1, refused)
    assert refused.acknowledged == 1


@given(st.data())
def test_an_event_is_acknowledged_with_its_last_part_and_only_behind_acknowledged_ones(data: st.DataObject) -> None:
    """However many parts each event has, whatever the window, and in whichever order answers come."""
    parts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=8))  # of each event; 1: undivided
    window = data.draw(st.integers(1, 6))
    flight = PublishFlight(len(parts))
    part = (make_event(1), b"")
    packet_ids = itertools.count(1000)
    place_of: dict[int, int] = {}
    answers: dict[int, list[int]] = {place: [] for place in range(len(parts))}
    while flight.acknowledged < flight.end:
        while flight.sent < flight.end and len(flight.packets) < window:
            if flight.parts:
                flight.parts.popleft()
                packet_id, place = next(packet_ids), flight.sent
                flight.begin_part(packet_id)
            elif parts[flight.sent] > 1:
                flight.divide([part] * parts[flight.sent])
                continue
            else:
                packet_id, place = next(packet_ids), flight.sent
                flight.begin(packet_id)
            place_of[packet_id] = place
        answered = data.draw(st.sampled_from(sorted(flight.packets)))
        reason = data.draw(st.sampled_from([0, 0, 0, 0, 0, 0x10, 0x97]))
        flight.settle(answered, reason)
        answers[place_of[answered]].append(reason)
        whole = [len(answers[n]) == parts[n] and max(answers[n]) < FAILURE for n in range(len(parts))]
        refused = [n for n in range(len(parts)) if answers[n] and max(answers[n]) >= FAILURE]
        front = next((n for n, one in enumerate(whole) if not one), len(parts))
        end = min(refused, default=len(parts))
        assert (flight.acknowledged, flight.end) == (min(front, end), end)
        if end < len(parts):
            assert flight.reasons[end] == 0x97


@pytest.mark.parametrize(
    "data",
    [
        b"\x20" + varint(2_000_000),
        b"\x90" + varint(100_000) + b"\0" * 10,
        b"\x40\xff\xff\xff\xff\xff",
    ],
    ids=["connack", "suback", "length"],
)
def test_a_packet_that_no_broker_has_reason_to_send_is_refused_before_it_is_gathered(data: bytes) -> None:
    with pytest.raises(PacketError):
        Incoming().take(data)


def test_what_brokers_end_a_connection_for_is_replaced() -> None:
    assert as_text("a\0b\x1b\x85\ufdd0\uffff\U0010fffe") == "a\ufffdb" + "\ufffd" * 5
    assert as_text("plain äö/€") == "plain äö/€"
    assert topic_level("a\n/b\ufffe") == "a__b_"
