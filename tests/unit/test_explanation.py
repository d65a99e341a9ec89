"""What ``explain`` says of an event: which sinks get it, by which rule, and what each would send."""

import dataclasses
from pathlib import Path
from typing import Any

import orjson
import pytest

from meshbridge.delivery import Explanation, ExplanationError, event_from_json, explain
from meshbridge.delivery.routing import Route
from meshbridge.model.events import Event, EventType, cloudevent, gap
from meshbridge.sinks.file import FileOptions
from meshbridge.sinks.mqtt.sink import MqttOptions
from meshbridge.sinks.webhook import WebhookOptions
from tests.support import make_event, push_body

MQTT = {"type": "mqtt", "url": "mqtt://broker.invalid"}
HOOK = {"type": "webhook", "url": "https://hook.invalid/secret-path", "headers": {"X-Key": "secret-header"}}


def explained(event: Event, **sinks: Any) -> dict[str, Explanation]:
    return {one.sink: one for one in explain(event, sinks, Route)}


def test_each_sink_tells_its_rule_and_the_message_it_would_send() -> None:
    event = make_event(7, "EXIT", data={"exit_code": 3})
    found = explained(
        event,
        broker=MqttOptions.model_validate(MQTT),
        hook=WebhookOptions.model_validate(HOOK | {"when": {"exit_codes": ["!0"]}}),
        log=FileOptions.model_validate({"type": "file", "path": "/nowhere/at/all", "when": {"events": ["start"]}}),
    )
    broker, hook, log = found["broker"], found["hook"], found["log"]
    assert (broker.wanted, broker.rule) == (True, "when: everything")
    (message,) = broker.messages
    assert (message.to, message.body) == ("meshbridge/node-a/web/exit", cloudevent(event))
    assert (message.headers["id"], message.headers["qos"]) == ("node-a/1/7", "1")
    assert (hook.wanted, hook.rule) == (True, "when: exit_codes [!0]")
    assert hook.messages[0].body == cloudevent(event)
    assert "secret" not in repr(hook)
    assert log == Explanation("log", wanted=False, rule="when.events: exit is not in it")


def test_the_message_has_the_sinks_shape_and_its_parts() -> None:
    event = make_event(7, data={"finished": False, "output": "x" * 3000, "position": 0})
    options = MQTT | {"max_payload_bytes": 1024, "reshape": {"add": {"site": "hall-3"}}}
    (broker,) = explained(event, broker=MqttOptions.model_validate(options)).values()
    parts = [orjson.loads(message.body) for message in broker.messages]
    assert [part["id"] for part in parts] == [f"node-a/1/7/{number}" for number in range(len(parts))]
    assert len(parts) > 3
    assert {part["data"]["site"] for part in parts} == {"hall-3"}
    assert "".join(part["data"]["output"] for part in parts) == "x" * 3000


def test_what_no_far_end_would_take_is_said_so() -> None:
    event = make_event(7, "EXIT", data={"exit_code": 3, "last_error": "x" * 3000})
    (broker,) = explained(event, broker=MqttOptions.model_validate(MQTT | {"max_payload_bytes": 1024})).values()
    assert broker.wanted
    assert broker.messages == ()
    assert broker.refused is not None
    assert "node-a/1/7" in broker.refused


def test_nothing_is_written_anywhere(tmp_path: Path) -> None:
    explained(
        make_event(1),
        broker=MqttOptions.model_validate(MQTT),
        log=FileOptions.model_validate({"type": "file", "path": str(tmp_path / "log")}),
    )
    assert list(tmp_path.iterdir()) == []


EVENTS = [
    make_event(7),
    make_event(8, "START", data={"process_uuid": "p", "pid": 1}),
    make_event(9, "REMOVED", app="a/b c", data={}),
    gap("node-a", "1", 3, 5, 1795515820.0, reconciled=2),
    dataclasses.replace(
        make_event(0, "EXIT", data={"exit_code": 1}), sequence=None, reconciled=True, key="r/web/exit/17"
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.id)
def test_a_cloud_event_that_was_sent_is_understood_again(event: Event) -> None:
    again = event_from_json(cloudevent(event), "ignored")
    assert (again.id, again.type, again.app, again.daemon, again.run) == (
        event.id, event.type, event.app, event.daemon, event.run,
    )  # fmt: skip
    assert orjson.loads(again.data) == orjson.loads(event.data)
    assert again.reconciled is event.reconciled
    assert orjson.loads(cloudevent(again))["id"] == event.id


def test_the_daemons_own_json_is_understood_and_little_of_it_is_enough() -> None:
    event = event_from_json(push_body(7, "EXIT", data={"exit_code": 3}), "node-b")
    assert (event.id, event.type, event.app) == ("node-b/1/7", EventType.EXIT, "web")
    short = event_from_json(b'{"app_name": "web", "event_type": "exit", "data": {"exit_code": 3}}', "node-b")
    assert (short.type, orjson.loads(short.data)) == (EventType.EXIT, {"exit_code": 3})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"{", "not JSON: "),
        (b"[1]", "an event is a JSON object, not list"),
        (b'{"app_name": "web"}', "an event has app_name, event_type and data"),
        (b'{"app_name": "web", "event_type": "boom"}', "no event of App Mesh: "),
        (b'{"app_name": "web", "event_type": "stdout", "data": {}}', "no event of App Mesh: "),
        (b'{"specversion": "1.0", "type": "com.example.other"}', "unknown type 'com.example.other'"),
    ],
)
def test_what_is_no_event_is_refused_with_why(text: bytes, why: str) -> None:
    with pytest.raises(ExplanationError, match=why):
        event_from_json(text, "node-a")
