import json

import msgpack
import pytest

from meshbridge.appmesh.tcp_messages import ResponseMessage
from meshbridge.emulator.connection import Connection
from meshbridge.emulator.events import EVENT_TYPES, EventHub, parse_events
from meshbridge.emulator.identifiers import Identifiers
from tests.unit.emulator.golden import records


class Sender:
    def __init__(self) -> None:
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1

    def abort(self) -> None:
        raise AssertionError


def connection(**limits: int) -> Connection:
    made = Connection("tcp", max_messages=limits.get("messages"), max_bytes=limits.get("size"))
    made.sender = Sender()
    return made


@pytest.fixture
def hub() -> EventHub:
    return EventHub(Identifiers(), record_limit=3)


def taken(client: Connection) -> list[ResponseMessage]:
    return [ResponseMessage.from_bytes(client.take()) for _ in range(len(client.queue))]


def test_a_recorded_event_is_encoded_byte_for_byte_the_same(hub: EventHub) -> None:
    for record in records("events.jsonl")[:20]:
        body = json.loads(record["body"])
        client = connection()
        subscription = hub.subscribe(client, "*", EVENT_TYPES)
        hub.sequence = body["sequence"] - 1
        hub.emit(body["app_name"], body["event_type"], body["data"])
        raw = client.take()
        message = ResponseMessage.from_bytes(raw)
        own = json.loads(message.body)
        expected = record["body"].replace(body["subscription_id"], subscription.id)
        assert message.body.decode() == expected.replace(str(body["timestamp"]), str(own["timestamp"]))
        assert list(msgpack.unpackb(raw)) == list(record)
        assert isinstance(msgpack.unpackb(raw)["body"], bytes), "always bin"
        hub.forget(client)


@pytest.mark.parametrize("length", [0, 10, 200, 300, 70_000])
def test_a_body_of_any_length_is_valid_msgpack(hub: EventHub, length: int) -> None:
    client = connection()
    hub.subscribe(client, "*", ["STDOUT"])
    hub.emit("web", "STDOUT", {"output": "é" * length})
    assert json.loads(taken(client)[0].body)["data"] == {"output": "é" * length}


def test_only_the_wanted_types_of_the_wanted_app_come(hub: EventHub) -> None:
    client = connection()
    hub.subscribe(client, "web", ["START", "EXIT"])
    for app in ("web", "other"):
        for event_type in ("START", "HEALTH", "EXIT"):
            hub.emit(app, event_type, {})
    assert [message.headers["X-Event-Type"] for message in taken(client)] == ["START", "EXIT"]
    assert hub.sequence == 6


def test_output_without_a_subscriber_takes_no_number(hub: EventHub) -> None:
    assert hub.emit("web", "STDOUT", {"output": "x"}) == 0
    hub.subscribe(connection(), "other", ["STDOUT"])
    assert hub.emit("web", "STDOUT", {"output": "x"}) == 0
    hub.subscribe(connection(), "*", ["STDOUT"])
    assert hub.emit("web", "STDOUT", {"output": "x"}) == 1


def test_a_subscription_ends_by_its_own_connection_only(hub: EventHub) -> None:
    mine, other = connection(), connection()
    subscription = hub.subscribe(mine, "*", EVENT_TYPES)
    assert not hub.unsubscribe(other, subscription.id)
    assert not hub.unsubscribe(mine, "nope")
    assert hub.unsubscribe(mine, subscription.id)
    hub.emit("web", "START", {})
    assert not mine.queue


def test_a_lost_connection_loses_its_subscriptions(hub: EventHub) -> None:
    client = connection()
    hub.subscribe(client, "*", EVENT_TYPES)
    hub.subscribe(client, "web", EVENT_TYPES)
    client.close()
    client.close()
    assert not hub.wants("web", "STDOUT")
    assert not list(hub.subscribers)


def test_history_keeps_the_latest_subscribers_or_not(hub: EventHub) -> None:
    for number in range(5):
        hub.emit("web", "START", {"pid": number})
    assert [(event.sequence, event.data) for event in hub.history] == [
        (3, {"pid": 2}),
        (4, {"pid": 3}),
        (5, {"pid": 4}),
    ]


@pytest.mark.parametrize(
    ("wanted", "events"),
    [
        ("", list(EVENT_TYPES)),
        ("STDOUT,EXIT,REMOVED", ["EXIT", "STDOUT", "REMOVED"]),
        ("START,nope", ["START"]),
        ("ALL", list(EVENT_TYPES)),
        ("NOPE,ALL", list(EVENT_TYPES)),
        ("start", []),
        (" START , EXIT ", []),
        ("NOPE", []),
    ],
)
def test_wanted_events_come_back_in_the_daemons_order(wanted: str, events: list[str]) -> None:
    assert parse_events(wanted) == events


def test_a_queue_that_grows_too_long_or_too_large_is_overrun_and_takes_no_more() -> None:
    for client in (connection(messages=2), connection(size=10)):
        for _ in range(3):
            client.push(b"12345")
        assert client.overrun
        assert not client.queue
        client.push(b"1")
        assert (len(client.queue), client.queued_bytes) == (0, 0)


def test_identifiers_are_unique_rising_and_of_11_characters() -> None:
    identifiers = Identifiers()
    made = [identifiers.next() for _ in range(20_000)]
    assert len(set(made)) == len(made)
    assert {len(name) for name in made} == {11}
    assert all(name.isalnum() for name in made)
