"""Bytes that are no messages, and messages that no client would send: a typed error each, no hang, no growing memory.

The long form is tests/faults/fuzz_wire.py.
"""

import threading
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshbridge.appmesh.channel import Channel
from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.event_connection import EventConnection
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshError
from meshbridge.appmesh.run_watch import RunWatch
from meshbridge.appmesh.subscribe import AppEvent, Subscriptions, decode_event
from meshbridge.appmesh.tcp_messages import MessageError, RequestMessage, ResponseMessage
from meshbridge.appmesh.tokens import expiry
from meshbridge.appmesh.wire.conversation import Conversation
from meshbridge.appmesh.wire.framing import FrameDecoder, FramingError
from tests.faults import fuzz_wire
from tests.unit.appmesh.fakes import FakeDaemon, FakeExchange, answer, no_thread_left

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

packable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=10,
)
fields = st.sampled_from(
    ["uuid", "request_uri", "http_method", "client_addr", "http_status", "body_msg_type", "body", "headers", "query"]
)
messages = st.dictionaries(fields, packable | st.just("/appmesh/event"), max_size=9).map(msgpack.packb)


@pytest.mark.parametrize(
    ("count", "seed"), [(2_000, 0), *(pytest.param(20_000, n, marks=pytest.mark.slow) for n in (1, 2, 3))]
)
def test_mutated_messages_and_streams(count: int, seed: int) -> None:
    outcomes = fuzz_wire.run(count, seed)
    for kind in ("answer", "event", "no event", "MessageError", "FramingError", "stream", "request", "no request"):
        assert outcomes[kind], f"{kind} never came: the mutations do not reach it"


@FAST
@given(st.binary(max_size=300) | messages)
def test_any_bytes_are_a_message_or_a_message_error(data: bytes) -> None:
    for read in (Conversation.read, ResponseMessage.from_bytes, RequestMessage.from_bytes):
        try:
            read(data)
        except MessageError:
            continue


@FAST
@given(st.lists(st.binary(max_size=50), max_size=10))
def test_any_stream_is_frames_or_a_framing_error(pieces: list[bytes]) -> None:
    decoder = FrameDecoder(1000)
    for piece in pieces:
        decoder.feed(piece)
        try:
            frames = list(decoder.frames())
        except FramingError:
            return
        assert all(len(frame) <= 1000 for frame in frames)


@FAST
@given(st.binary(max_size=200) | packable.map(msgpack.packb))
def test_any_body_is_an_event_or_a_value_error(data: bytes) -> None:
    try:
        assert isinstance(decode_event(data), AppEvent)
    except ValueError:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
event_fields = st.sampled_from(["subscription_id", "event_type", "app_name", "timestamp", "sequence", "data"])


@FAST
@given(st.dictionaries(event_fields, json_values, max_size=6))
def test_any_json_object_is_an_event_that_can_be_routed(body: dict[str, Any]) -> None:
    event = decode_event(orjson.dumps(body))
    assert isinstance(event.subscription_id, str)
    assert isinstance(event.data, dict)
    assert Subscriptions().route(event, 1) is None
    RunWatch()(event)


@FAST
@given(st.text(max_size=60))
def test_any_text_may_stand_for_a_token(text: str) -> None:
    assert expiry(text) is None or isinstance(expiry(text), float)


OPERATIONS = [
    lambda c: c.list_apps(),
    lambda c: c.get_app("a").to_dict(),
    lambda c: c.list_labels(),
    lambda c: c.get_app_output("a"),
    lambda c: c.run_app_sync("x"),
    lambda c: c.run_app_async("x"),
    lambda c: c.check_app_health("a"),
    lambda c: c.get_config(),
    lambda c: c.set_log_level(),
    lambda c: c.get_totp_secret(),
    lambda c: c.login("a", "b"),
    lambda c: c.renew_token(),
    lambda c: c.cancel_task("a"),
    lambda c: c.list_users(),
    lambda c: c.get_metrics(),
    lambda c: c.authenticate("t"),
]


@FAST
@given(
    st.sampled_from(OPERATIONS),
    st.integers(0, 999),
    st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b"null", b'{"message":5}', b"[5]", b'{"BaseConfig":5}']),
    st.dictionaries(st.sampled_from(["X-Exit-Code", "X-Output-Position"]), st.text(max_size=5)),
)
def test_any_answer_is_a_result_or_an_error_of_the_sdk(
    operation: Any, status: int, body: bytes, headers: dict[str, str]
) -> None:
    response = ResponseMessage(http_status=status, body=body, headers=headers)
    client = AppMeshClient(exchange=FakeExchange(response), jwt_token="a.e30.c")
    try:
        operation(client)
    except AppMeshError:
        return


def test_a_connection_that_sends_nonsense_goes_on_or_ends_but_never_hangs() -> None:
    daemon = FakeDaemon()
    with no_thread_left():
        line = EventConnection(daemon.transport())
        line.open()
        events: list[AppEvent] = []
        line.listen("s", events.append)
        for nonsense in (
            b"\x00",
            b"\xc1",
            b"\xff" * 100,
            msgpack.packb([1]),
            msgpack.packb({"request_uri": "/appmesh/event"}),
        ):
            daemon.connection.push(nonsense)
        assert line.request(RequestMessage(), 10).http_status == 200
        line.close()


def test_whoever_waits_is_woken_when_a_connection_breaks_off_amid_nonsense() -> None:
    daemon = FakeDaemon(lambda _transport, _request: None)
    with no_thread_left():
        channel = Channel(daemon.transport())
        channel.open()
        failed = threading.Event()

        def ask() -> None:
            try:
                channel.request(RequestMessage(), 30)
            except AppMeshConnectionError:
                failed.set()

        thread = threading.Thread(target=ask)
        thread.start()
        daemon.connection.push(b"\xc1")
        daemon.connection.drop()
        assert failed.wait(10)
        thread.join()
        channel.close()


def test_memory_does_not_grow_with_a_flood_that_nobody_wants() -> None:
    subscriptions = Subscriptions()
    for number in range(70_000):
        subscriptions.route(AppEvent(f"s{number % 500}", "STDOUT"), 100)
    assert sum(len(early) for early in subscriptions._early.values()) <= 64 * 1000
    assert answer().http_status == 200
