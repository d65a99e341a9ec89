import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshbridge.appmesh.tcp_messages import MessageError, RequestMessage, ResponseMessage
from meshbridge.appmesh.wire.conversation import Conversation

texts = st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=4)


@given(st.text(max_size=12), st.text(max_size=30), st.binary(max_size=50), texts, texts)
def test_a_request_survives_the_wire(
    uuid: str, uri: str, body: bytes, headers: dict[str, str], query: dict[str, str]
) -> None:
    request = RequestMessage(uuid, uri, "POST", "", body, headers, query)
    assert RequestMessage.from_bytes(request.serialize()) == request


@given(st.text(max_size=12), st.integers(min_value=0, max_value=999), st.binary(max_size=50), texts)
def test_an_answer_survives_the_wire(uuid: str, status: int, body: bytes, headers: dict[str, str]) -> None:
    for kind in ("application/json", "application/octet-stream"):
        answer = ResponseMessage(uuid, "/appmesh/labels", status, kind, body, headers)
        assert ResponseMessage.from_bytes(answer.serialize()) == answer


def test_every_field_is_sent_and_values_are_strings() -> None:
    request = RequestMessage("u", "/x", "GET", headers={"a": 1}, query={"b": 2})  # type: ignore[dict-item]
    assert msgpack.unpackb(request.serialize()) == {
        "uuid": "u",
        "request_uri": "/x",
        "http_method": "GET",
        "client_addr": "",
        "body": b"",
        "headers": {"a": "1"},
        "query": {"b": "2"},
    }


def test_looser_types_are_taken() -> None:
    loose = msgpack.packb({"uuid": None, "http_status": 200, "body": "text", "headers": {"n": 3, "x": None}})
    answer = ResponseMessage.from_bytes(loose)
    assert answer == ResponseMessage("", "", 200, "", b"text", {"n": "3", "x": ""})


@pytest.mark.parametrize(
    "bad", [b"", b"\xc1", b"junk", msgpack.packb([1]), msgpack.packb({"http_status": "x"}), msgpack.packb({"body": 7})]
)
def test_what_is_no_answer_is_a_message_error(bad: bytes) -> None:
    with pytest.raises(MessageError):
        ResponseMessage.from_bytes(bad)
    with pytest.raises(MessageError):
        Conversation.read(bad)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_message_error(data: bytes) -> None:
    for read in (ResponseMessage.from_bytes, RequestMessage.from_bytes, Conversation.read):
        try:
            read(data)
        except MessageError:
            continue


def test_a_pushed_event_is_told_from_answers_by_its_uri() -> None:
    push = ResponseMessage("u", "/appmesh/event", 200, "application/json", b'{"a":1}', {"X-Event-Type": "START"})
    assert Conversation.read(push.serialize()) == b'{"a":1}'
    answer = ResponseMessage("u", "/appmesh/app/event", 200, "application/json", b"{}")
    assert Conversation.read(answer.serialize()) == answer


def test_answers_find_who_waits_in_any_order_and_once() -> None:
    conversation: Conversation[str] = Conversation()
    first, second = RequestMessage(), RequestMessage()
    conversation.ask(first, "first")
    conversation.ask(second, "second")
    assert first.uuid != second.uuid
    assert conversation.take(ResponseMessage(uuid=second.uuid)) == "second"
    assert conversation.take(ResponseMessage(uuid=second.uuid)) is None
    assert conversation.abandon() == ["first"]
    assert conversation.take(ResponseMessage(uuid=first.uuid)) is None


def test_a_forgotten_request_leaves_nothing() -> None:
    conversation: Conversation[str] = Conversation()
    request = RequestMessage()
    conversation.ask(request, "gone")
    conversation.forget(request)
    assert conversation.abandon() == []
