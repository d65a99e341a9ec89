"""Pushed events and who gets them: no threads, no sockets."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from meshbridge.appmesh import subscribe
from meshbridge.appmesh.subscribe import AppEvent, Listener, SubscriptionResult, Subscriptions, decode_event


def listener() -> Listener:
    return Listener(lambda _event: None)


def event(subscription: str, sequence: int = 0) -> AppEvent:
    return AppEvent(subscription, "STDOUT", "app", 1, sequence, {})


def test_an_event_is_read_from_its_json() -> None:
    body = {
        "subscription_id": "s",
        "event_type": "EXIT",
        "app_name": "a",
        "timestamp": 5,
        "sequence": 7,
        "data": {"exit_code": -9},
    }
    assert decode_event(orjson.dumps(body)) == AppEvent("s", "EXIT", "a", 5, 7, {"exit_code": -9})
    assert decode_event(orjson.dumps({**body, "data": None})).data == {}


@pytest.mark.parametrize("body", [b"{}", b'{"subscription_id":null,"data":null}'])
def test_missing_fields_have_their_defaults(body: bytes) -> None:
    assert decode_event(body) == AppEvent()


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b"5", b'"text"', b"null", b"\xff"])
def test_what_is_no_event_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode_event(body)


def test_defaults_of_the_reference() -> None:
    assert AppEvent().data == {}
    assert SubscriptionResult() == SubscriptionResult("", "", [])


def test_an_event_goes_to_the_one_who_listens() -> None:
    subscriptions, one, two = Subscriptions(), listener(), listener()
    assert subscriptions.listen("s1", one) == []
    subscriptions.listen("s2", two)
    assert subscriptions.route(event("s1"), 10) is one
    assert subscriptions.route(event("s2"), 10) is two


def test_events_that_come_before_their_listener_are_kept_in_order() -> None:
    subscriptions = Subscriptions()
    for sequence in range(5):
        assert subscriptions.route(event("s", sequence), 10) is None
    assert [kept.sequence for kept in subscriptions.listen("s", listener())] == [0, 1, 2, 3, 4]
    assert subscriptions.listen("s", listener()) == []
    assert subscriptions._early_bytes == 0


def test_s5_a_flood_for_a_subscription_that_nobody_registers_is_bounded() -> None:
    subscriptions = Subscriptions()
    for sequence in range(1500):
        subscriptions.route(event("s", sequence), 10)
    kept = subscriptions.listen("s", listener())
    assert [one.sequence for one in kept] == list(range(500, 1500)), "the oldest are dropped"
    assert subscriptions.early_dropped == 500


def test_s5_so_is_the_number_of_such_subscriptions() -> None:
    subscriptions = Subscriptions()
    for number in range(100):
        subscriptions.route(event(f"s{number}"), 10)
    assert len(subscriptions._early) == 64
    assert subscriptions.listen("s0", listener()) == []
    assert len(subscriptions.listen("s99", listener())) == 1


def test_s5_and_so_are_their_bytes() -> None:
    subscriptions = Subscriptions()
    for number in range(64):
        for sequence in range(10):
            subscriptions.route(event(f"s{number}", sequence), 1024 * 1024)
            assert subscriptions._early_bytes <= subscribe.MAX_EARLY_BYTES
    assert subscriptions.route(event("huge"), subscribe.MAX_EARLY_BYTES + 1) is None
    assert subscriptions._early_bytes <= subscribe.MAX_EARLY_BYTES
    total = sum(size for early in subscriptions._early.values() for _event, size in early)
    assert total == subscriptions._early_bytes


def test_what_comes_after_the_end_of_a_subscription_is_for_nobody() -> None:
    subscriptions, one = Subscriptions(), listener()
    subscriptions.listen("s", one)
    subscriptions.forget("s")
    assert not one.active
    assert subscriptions.route(event("s"), 10) is None
    assert not subscriptions._early


def test_forgetting_what_was_kept_early() -> None:
    subscriptions = Subscriptions()
    subscriptions.route(event("s"), 10)
    subscriptions.forget("s")
    assert subscriptions._early_bytes == 0


def test_the_end_of_the_connection_names_all_who_listen_once() -> None:
    subscriptions, one = Subscriptions(), listener()
    subscriptions.listen("s", one)
    subscriptions.route(event("early"), 10)
    assert subscriptions.end() == [("s", one)]
    assert subscriptions.end() == []
    assert subscriptions._early_bytes == 0


def test_this_module_does_no_io() -> None:
    names: dict[str, Any] = vars(subscribe)
    assert not {"threading", "socket", "time", "select", "ssl"} & set(names)
    assert isinstance(subscribe.EVENT_TYPE_DISCONNECTED, str)
    callback: Callable[[AppEvent], None] = lambda _event: None  # noqa: E731 shows the type of a callback
    assert Listener(callback).active
