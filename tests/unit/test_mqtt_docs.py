"""docs/mqtt.md: each example is what goes out, each setting and each kind of topic has a place."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from meshbridge.fields import Format
from meshbridge.link.app_state import AppState
from meshbridge.model.events import Event, decode_push, encode, gap
from meshbridge.sinks.mqtt.connection import BrokerOptions
from meshbridge.sinks.mqtt.memory import KnownTopics
from meshbridge.sinks.mqtt.sink import MqttOptions, MqttSink
from meshbridge.sinks.mqtt.states import StateMessages, Topics
from meshbridge.sinks.states import StateFigures
from tests.support import push_body
from tests.unit.state_table import States

PAGE = Path(__file__).parents[2] / "docs" / "mqtt.md"
EXAMPLE = re.compile(r"^`([^`\n]+)`(?: \(([a-z]+)\))?:\n\n```(?:json|text)\n(.*?)```$", re.MULTILINE | re.DOTALL)

RUN = "1795510000"
OUTPUT = decode_push("node-a", RUN, push_body(41), 1795515820.2, {"web": "7c1e0a52"})
EXIT = decode_push(
    "node-a", RUN, push_body(42, "EXIT", data={"exit_code": 3, "last_error": "", "pid": 4711}), 1795515820.2, {}
)
GAP = gap("node-a", RUN, 43, 45, 1795515821.0, reconciled=1)
WEB = AppState(
    "web",
    status="enabled",
    health=0,
    running=True,
    pid=4712,
    process_uuid="7c1e0a52",
    starts=3,
    started_at=1795515822,
    exited_at=1795515820,
    exit_code=3,
    registered_at=1795510050,
    owner="admin",
)


def retained() -> dict[str, bytes]:
    states = States()
    states.put("web", WEB)
    states.measured = {("node-a", "web"): StateFigures(18_702_336, 1.5)}
    messages = StateMessages(
        states, Topics("meshbridge", "meshbridge-5f0c2a9be1d4"), KnownTopics(), with_home_assistant=True
    )
    messages.begin()
    return dict(messages.retained.take(100))


def published(event: Event, form: Format = Format.CLOUDEVENTS) -> tuple[str, bytes]:
    return f"meshbridge/{event.daemon}/{event.app}/{event.type.label}", encode(event, form)


def parts() -> list[bytes]:
    large = decode_push(
        "node-a",
        RUN,
        push_body(46, data={"finished": True, "output": "x" * 1000, "position": 100}),
        1795515820.2,
        {},
    )
    sink = MqttSink(MqttOptions.model_validate({"type": "mqtt", "url": "mqtt://h", "max_payload_bytes": 1024}), "id")
    return [payload for _, payload in sink._parts(large)]


EXAMPLES: dict[tuple[str, str], bytes] = {(topic, ""): payload for topic, payload in retained().items()} | {
    (published(OUTPUT)[0], ""): published(OUTPUT)[1],
    (published(EXIT)[0], ""): published(EXIT)[1],
    (published(GAP)[0], ""): published(GAP)[1],
    (published(EXIT)[0], "raw"): published(EXIT, Format.RAW)[1],
    (published(EXIT)[0], "binary"): published(EXIT, Format.BINARY)[1],
}


def value(text: str) -> Any:
    return orjson.loads(text) if text.startswith("{") else text.strip()


def test_each_example_is_what_goes_out_and_nothing_lacks_one() -> None:
    shown = {(topic, form): value(text) for topic, form, text in EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))}
    assert shown == {place: value(payload.decode()) for place, payload in EXAMPLES.items()}


def test_the_ids_of_parts_are_as_written() -> None:
    ids = [orjson.loads(part)["id"] for part in parts()]
    assert ids == ["node-a/1795510000/46/0", "node-a/1795510000/46/1"]
    assert all(f"`{one}`" in PAGE.read_text(encoding="utf-8") for one in ids)


@pytest.mark.parametrize("key", sorted({*MqttOptions.__annotations__, *BrokerOptions.__annotations__} - {"type"}))
def test_each_setting_has_a_line_with_its_default(key: str) -> None:
    (line,) = re.findall(rf"^\| `{key}` \| `?(.*?)`? \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    default = MqttOptions.model_validate({"type": "mqtt", "url": "mqtt://h"}).model_dump(mode="json")[key]
    if key in {"url", "tls"}:
        assert line == {"url": "required", "tls": "see below"}[key]
    else:
        assert line == ("" if default is None else str(default).lower() if isinstance(default, bool) else str(default))
