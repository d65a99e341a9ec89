"""What is retained at a broker: which topics, which words, and that nothing stays behind."""

import itertools
import re
from datetime import UTC, datetime
from typing import Any

import jinja2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshbridge.appmesh.exceptions import AppMeshConnectionError
from meshbridge.delivery import AppFigures
from meshbridge.link.app_state import AppState
from meshbridge.sinks.commands import CommandOptions
from meshbridge.sinks.memory import VolatileMemory
from meshbridge.sinks.mqtt.commands import CommandTopics
from meshbridge.sinks.mqtt.home_assistant import announcement
from meshbridge.sinks.mqtt.home_assistant import topic as discovery_topic
from meshbridge.sinks.mqtt.memory import KnownTopics
from meshbridge.sinks.mqtt.retained import Retained
from meshbridge.sinks.mqtt.sink import MqttOptions
from meshbridge.sinks.mqtt.states import StateMessages, Topics, state_of
from meshbridge.sinks.states import StateFigures
from tests.unit.state_table import States

TOPICS = Topics("meshbridge", "bridge-1")
LISTED = AppState("web", status="enabled", health=0, running=True, pid=7, starts=2, started_at=5, registered_at=4)


def remembered(memory: VolatileMemory) -> KnownTopics:
    """What a sink knows after a restart."""
    known = KnownTopics(memory)
    known.load()
    return known


class Broker:
    """Keeps what it is sent retained, as brokers do."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.received: list[tuple[str, bytes]] = []
        self._packet_ids = itertools.count(1000)

    def take(self, retained: Retained, window: int = 100) -> None:
        while messages := retained.take(window):
            for topic, payload in messages:
                packet_id = next(self._packet_ids)
                retained.sent(packet_id, topic)
                self.received.append((topic, payload))
                if payload:
                    self.retained[topic] = payload
                else:
                    self.retained.pop(topic, None)
                retained.settle(packet_id, taken=True)


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        ("meshbridge/{daemon}/{app}/{event}", "meshbridge"),
        ("site/plant-1/{daemon}/{app}/{event}", "site/plant-1"),
        ("site/app-{app}/{event}", "site"),
        ("{daemon}/{app}/{event}", "meshbridge"),
        ("all", "meshbridge"),
        ("/{app}", "meshbridge"),
    ],
)
def test_retained_topics_stand_under_the_levels_of_the_events(template: str, prefix: str) -> None:
    topics = Topics.beside(template, "id/1")
    assert topics.state("node-a", "a/b") == f"{prefix}/node-a/a_b/state"
    assert topics.daemon("node-a") == f"{prefix}/node-a/availability"
    assert topics.bridge == f"{prefix}/bridge/id_1/availability"


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (AppState("web", status="enabled", running=True), "running"),
        (AppState("web", status="disabled", running=True), "running"),
        (AppState("web", status="enabled"), "stopped"),
        (AppState("web", status="disabled"), "disabled"),
    ],
)
def test_a_state_has_a_word(state: AppState, word: str) -> None:
    said = state_of("node-a", "web", state.to_text())
    assert said is not None
    assert (said["daemon"], said["app"], said["state"]) == ("node-a", "web", word)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "null"])
def test_a_state_of_another_version_is_left_out(text: str) -> None:
    assert state_of("node-a", "web", text) is None


def test_every_word_of_a_state_is_a_field_of_the_table() -> None:
    said = state_of("node-a", "web", LISTED.to_text())
    assert said is not None
    assert {*said} - {"daemon", "app", "state"} <= {*AppState.__dataclass_fields__}


def test_a_state_goes_out_again_only_when_what_it_says_has_changed() -> None:
    states, broker = States(), Broker()
    messages = StateMessages(states, TOPICS, KnownTopics())
    states.put("web", LISTED)
    messages.begin()
    broker.take(messages.retained)
    assert [topic for topic, _ in broker.received] == [
        "meshbridge/bridge/bridge-1/availability",
        "meshbridge/node-a/availability",
        "meshbridge/node-a/web/state",
    ]
    broker.received.clear()
    states.put("web", AppState.from_text(LISTED.to_text().replace('"output_position":null', '"output_position":900')))
    messages.gather()
    broker.take(messages.retained)
    assert broker.received == []
    states.put("web", AppState("web", status="disabled"))
    states.up["node-a"] = False
    messages.gather()
    broker.take(messages.retained)
    assert len(broker.received) == 2
    assert orjson.loads(broker.retained["meshbridge/node-a/web/state"])["state"] == "disabled"
    assert broker.retained["meshbridge/node-a/availability"] == b"offline"


def test_a_daemon_that_was_not_looked_for_yet_is_left_as_it_is() -> None:
    states, broker, known = States(), Broker(), KnownTopics()
    first = StateMessages(states, TOPICS, known)
    first.begin()
    broker.take(first.retained)
    states.up["node-a"] = None
    first.gather()
    after_restart = StateMessages(states, TOPICS, known)
    after_restart.begin()
    after_restart.gather()
    broker.take(after_restart.retained)
    assert broker.retained["meshbridge/node-a/availability"] == b"online"
    assert [payload for topic, payload in broker.received if "node-a" in topic] == [b"online"]


@given(st.data())
def test_after_any_restarts_what_is_wanted_stands_retained_and_nothing_else(data: st.DataObject) -> None:
    """Apps come and go, also while no bridge runs; a bridge is killed at any point."""
    memory = VolatileMemory()
    states, broker = States(), Broker()
    apps = ("a", "b", "c")

    def new() -> StateMessages:
        made = StateMessages(states, TOPICS, KnownTopics(memory), with_home_assistant=True)
        made.begin()
        return made

    messages = new()
    for step in data.draw(st.lists(st.sampled_from(["put", "remove", "gather", "send", "kill"]), max_size=25)):
        app = data.draw(st.sampled_from(apps))
        match step:
            case "put":
                states.put(app, AppState(app, starts=data.draw(st.integers(0, 3))))
            case "remove":
                states.put(app, None)
            case "gather":
                messages.gather()
            case "send":
                for topic, payload in messages.retained.take(data.draw(st.integers(0, 3))):
                    broker.retained.pop(topic, None) if not payload else broker.retained.update({topic: payload})
            case "kill":
                messages = new()
    messages.begin()  # as after a lost connection: what was sent and not acknowledged is sent again
    broker.take(messages.retained)
    present = {app for _, app in states.table}
    of_app = TOPICS.state, TOPICS.figures, discovery_topic
    wanted = {topic("node-a", app) for topic in of_app for app in present}
    assert {*broker.retained} == wanted | {TOPICS.bridge, TOPICS.daemon("node-a")}
    for app in present:
        said = orjson.loads(broker.retained[TOPICS.state("node-a", app)])
        assert said == state_of("node-a", app, states.table["node-a", app])
    assert {*remembered(memory)} == {*broker.retained}


def test_a_topic_is_forgotten_only_when_the_broker_has_taken_its_clearing() -> None:
    known = KnownTopics()
    retained = Retained(known)
    retained.put("t", b"1")
    for packet_id, _ in enumerate(retained.take(1)):
        retained.sent(packet_id, "t")
    retained.drop("t")
    assert retained.take(1) == [("t", b"")]
    retained.sent(1, "t")
    retained.settle(0, taken=True)
    assert "t" in known
    retained.settle(1, taken=False)
    assert "t" in known
    retained.connected({}, ())
    assert retained.take(1) == [("t", b"")]
    retained.sent(2, "t")
    retained.settle(2, taken=True)
    assert "t" not in known
    assert not retained.busy


def test_state_topics_that_are_turned_off_are_cleared() -> None:
    states, broker, memory = States(), Broker(), VolatileMemory()
    states.put("web", LISTED)
    on = StateMessages(states, TOPICS, KnownTopics(memory))
    on.begin()
    broker.take(on.retained)
    off = StateMessages(None, TOPICS, KnownTopics(memory))
    off.begin()
    off.gather()
    broker.take(off.retained)
    assert broker.retained == {}
    assert len(remembered(memory)) == 0


# --- Home Assistant ------------------------------------------------------------------------------------------------
# Rules taken from https://www.home-assistant.io/integrations/mqtt/ ('Device discovery payload', 'Discovery topic',
# 'Using availability topics'), …/sensor.mqtt/ and …/binary_sensor.mqtt/.


def check_discovery(topic: str, payload: bytes) -> dict[str, Any]:
    match = re.fullmatch(r"homeassistant/device/([a-zA-Z0-9_-]+)/config", topic)
    assert match, topic
    fields: dict[str, Any] = orjson.loads(payload)
    shared = {"availability", "availability_mode", "state_topic", "command_topic", "qos", "encoding"}
    assert {"device", "origin", "components"} <= {*fields} <= {"device", "origin", "components"} | shared
    device, origin = fields["device"], fields["origin"]
    assert device["identifiers"]
    assert all(isinstance(one, str) for one in device["identifiers"])
    assert {*device} <= {"identifiers", "connections", "name", "manufacturer", "model", "sw_version", "serial_number"}
    assert {"name"} <= {*origin} <= {"name", "sw_version", "support_url"}
    assert fields["availability_mode"] in {"all", "any", "latest"}
    for one in fields["availability"]:
        assert {"topic"} <= {*one} <= {"topic", "payload_available", "payload_not_available", "value_template"}
        assert not set("+#") & set(one["topic"])
    unique = [one["unique_id"] for one in fields["components"].values()]
    assert len(set(unique)) == len(unique)
    for component in fields["components"].values():
        check_component(component)
    return fields


def check_component(component: dict[str, Any]) -> None:
    common = {"platform", "unique_id", "state_topic", "name", "value_template", "device_class", "entity_category"}
    own = {
        "sensor": {"state_class", "unit_of_measurement", "options", "suggested_display_precision"},
        "binary_sensor": {"payload_on", "payload_off"},
    }
    assert {"platform", "unique_id"} <= {*component} <= common | own[component["platform"]]
    assert component.get("entity_category") in {None, "diagnostic", "config"}
    assert component.get("entity_category") != "config", "not for sensors"
    device_class = component.get("device_class")
    if component["platform"] == "binary_sensor":
        assert device_class in {None, "problem", "running", "connectivity"}
        return
    assert component.get("state_class") in {None, "measurement", "total", "total_increasing"}
    if device_class in {"enum", "timestamp"}:
        assert not {"state_class", "unit_of_measurement"} & {*component}
    assert ("options" in component) == (device_class == "enum")
    assert device_class != "data_size" or component["unit_of_measurement"] in {"bit", "B", "kB", "MB", "KiB", "MiB"}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_an_app_of_any_name_is_announced_by_the_rules(app: str) -> None:
    state_topic, figures_topic = TOPICS.state("node-a", app), TOPICS.figures("node-a", app)
    payload = announcement("node-a", app, state_topic, figures_topic, [TOPICS.bridge, TOPICS.daemon("node-a")])
    fields = check_discovery(discovery_topic("node-a", app), payload)
    assert fields["state_topic"] == state_topic
    assert fields["availability_mode"] == "all"
    assert [one["topic"] for one in fields["availability"]] == [TOPICS.bridge, TOPICS.daemon("node-a")]
    assert {"state", "health", "memory", "cpu", "last_exit"} <= {*fields["components"]}
    assert fields["components"]["memory"]["state_topic"] == figures_topic


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (
            AppState("web", health=0, running=True, starts=2, exited_at=1795515820, exit_code=3),
            {
                "state": "running",
                "health": "OFF",
                "last_exit": "2026-11-24T10:23:40+00:00",
                "exit_code": "3",
                "starts": "2",
                "memory": "4096",
                "cpu": "1.5",
            },
        ),
        (
            AppState("web", health=1, status="disabled"),
            {"state": "disabled", "health": "ON", "last_exit": "None", "exit_code": "None", "starts": "None"},
        ),
        (AppState("web"), {"state": "stopped", "health": "None"}),
    ],
)
def test_the_templates_give_what_home_assistant_shows(state: AppState, shown: dict[str, str]) -> None:
    """``None`` makes a value unknown; ``as_datetime`` is Home Assistant's own filter."""
    environment = jinja2.Environment(autoescape=True)
    environment.filters["as_datetime"] = lambda seconds: datetime.fromtimestamp(seconds, UTC)
    said = (state_of("node-a", "web", state.to_text()) or {}) | StateFigures(4096, 1.5)._asdict()
    components = orjson.loads(announcement("node-a", "web", "s", "f", ["a"]))["components"]
    for key, value in shown.items():
        assert environment.from_string(components[key]["value_template"]).render(value_json=said) == value, key


def commands_of(messages: StateMessages, app: str = "web") -> dict[str, Any]:
    """The entities for commands of an app's device, as they were last announced."""
    broker = Broker()
    messages.begin()
    broker.take(messages.retained)
    components = orjson.loads(broker.retained[discovery_topic("node-a", app)])["components"]
    return {key: one for key, one in components.items() if one["platform"] in {"switch", "button"}}


def with_commands(memory: VolatileMemory, **options: Any) -> StateMessages:
    states = States()
    states.put("web", AppState("web", starts=1))
    topics = CommandTopics(CommandOptions(**options)) if options else None
    return StateMessages(states, TOPICS, KnownTopics(memory), with_home_assistant=True, commands=topics)


def test_a_device_has_a_switch_and_buttons_for_the_commands_that_its_app_takes() -> None:
    found = commands_of(with_commands(VolatileMemory(), allow=["enable", "disable", "restart", "run", "task"]))
    assert {key: one["platform"] for key, one in found.items()} == {
        "enabled": "switch", "restart": "button", "run": "button",
    }  # fmt: skip
    assert {one["command_topic"] for one in found.values()} == {"meshbridge/node-a/web/command"}
    assert (found["enabled"]["payload_on"], found["enabled"]["payload_off"]) == ("enable", "disable")
    assert found["enabled"]["optimistic"] is False
    assert (found["restart"]["payload_press"], found["run"]["payload_press"]) == ("restart", "run")
    assert len({one["unique_id"] for one in found.values()}) == 3
    template = jinja2.Environment(autoescape=True).from_string(found["enabled"]["value_template"])
    said = [template.render(value_json=state_of("node-a", "web", AppState("web", status=status).to_text()))
            for status in ("enabled", "disabled")]  # fmt: skip
    assert [*said, template.render()] == ["ON", "OFF", "None"]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"allow": ["restart"]}, {"restart"}),
        ({"allow": ["enable", "run"]}, {"run"}),  # a switch turns off, too
        ({"allow": ["task"]}, set()),
        ({"allow": ["run"], "when": {"apps": ["db-*"]}}, set()),
        ({"allow": ["run"], "when": {"not_apps": ["web"]}}, set()),
        ({"allow": ["run"], "when": {"daemons": ["node-b"]}}, set()),
        ({}, set()),
    ],
)
def test_a_device_has_no_entity_for_a_command_that_is_not_allowed(options: Any, keys: set[str]) -> None:
    assert {*commands_of(with_commands(VolatileMemory(), **options))} == keys


@pytest.mark.parametrize("left", [{"allow": ["restart"]}, {"allow": ["restart"], "when": {"not_apps": ["web"]}}, {}])
def test_an_entity_goes_when_its_command_is_no_longer_allowed_also_over_restarts(left: dict[str, Any]) -> None:
    """Home Assistant removes what is announced with its platform alone."""
    memory = VolatileMemory()
    every = ["enable", "disable", "restart", "run"]
    assert len(commands_of(with_commands(memory, allow=every))) == 3
    for _ in range(2):
        found = commands_of(with_commands(memory, **left))
        assert found["enabled"] == {"platform": "switch"}
        assert found["run"] == {"platform": "button"}
        assert ("command_topic" in found["restart"]) == (left == {"allow": ["restart"]})
    assert all("command_topic" in one for one in commands_of(with_commands(memory, allow=every)).values())


def test_apps_with_like_names_are_devices_of_their_own() -> None:
    names = ["web.1", "web_1", "web/1", "web-1", "web 1"]
    assert len({discovery_topic("node-a", name) for name in names}) == len(names)


def test_a_one_off_run_and_an_app_not_listed_yet_are_no_devices() -> None:
    states, broker = States(), Broker()
    messages = StateMessages(states, TOPICS, KnownTopics(), with_home_assistant=True)
    messages.begin()
    states.put("new", AppState("new", running=True))
    states.put("once", AppState("once", running=True, starts=1, one_off=True))
    messages.gather()
    broker.take(messages.retained)
    assert not [topic for topic in broker.retained if topic.startswith("homeassistant/")]
    states.put("new", AppState("new", running=True, starts=1))
    messages.gather()
    broker.take(messages.retained)
    assert discovery_topic("node-a", "new") in broker.retained


def test_figures_are_told_of_devices_when_they_were_measured() -> None:
    states, broker = States(), Broker()
    states.put("web", LISTED)
    messages = StateMessages(states, TOPICS, KnownTopics(), with_home_assistant=True)
    messages.begin()
    broker.take(messages.retained)
    topic = TOPICS.figures("node-a", "web")
    assert orjson.loads(broker.retained[topic]) == {"memory_bytes": None, "cpu_percent": None}
    states.measured = {("node-a", "web"): StateFigures(4096, 1.5), ("node-a", "unknown"): StateFigures(1, 1)}
    messages.gather()
    broker.take(messages.retained)
    assert orjson.loads(broker.retained[topic]) == {"memory_bytes": 4096, "cpu_percent": 1.5}
    assert TOPICS.figures("node-a", "unknown") not in broker.retained


def test_figures_are_measured_only_where_somebody_asks() -> None:
    class Daemon:
        name = "node-a"
        asked = 0

        def list_apps(self, _timeout_seconds: float) -> list[dict[str, Any]]:
            self.asked += 1
            return [{"name": "web", "pid": 7, "memory": 4096, "cpu": 1}, {"name": "idle"}, {"name": "old", "pid": 8}]

    class Down(Daemon):
        name = "node-b"

        def list_apps(self, _timeout_seconds: float) -> list[dict[str, Any]]:
            raise AppMeshConnectionError("down")

    daemon = Daemon()
    figures = AppFigures(lambda: [Down(), daemon])
    figures.measure()
    assert daemon.asked == 0
    assert figures.latest() == {}
    figures.measure()
    assert figures.latest() == {
        ("node-a", "web"): StateFigures(4096, 1.0),
        ("node-a", "idle"): StateFigures(0, 0.0),
        ("node-a", "old"): StateFigures(None, None),
    }


def test_devices_are_announced_again_when_home_assistant_has_come() -> None:
    states, broker = States(), Broker()
    states.put("web", LISTED)
    messages = StateMessages(states, TOPICS, KnownTopics(), with_home_assistant=True)
    messages.begin()
    broker.take(messages.retained)
    broker.received.clear()
    messages.hear("homeassistant/status", b"offline")
    broker.take(messages.retained)
    assert broker.received == []
    messages.hear("homeassistant/status", b"online")
    broker.take(messages.retained)
    assert [topic for topic, _ in broker.received] == [discovery_topic("node-a", "web")]
    states.put("web", None)
    messages.gather()
    broker.take(messages.retained)
    messages.hear("homeassistant/status", b"online")
    broker.take(messages.retained)
    assert discovery_topic("node-a", "web") not in broker.retained


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"home_assistant": True, "state_topics": False}, "home_assistant needs state_topics"),
        ({"message_expiry": "1h", "protocol": "3.1.1"}, "message_expiry needs protocol 5"),
        ({"max_payload_bytes": 100}, "greater than or equal to 1024"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        MqttOptions.model_validate({"type": "mqtt", "url": "mqtt://h"} | settings)
