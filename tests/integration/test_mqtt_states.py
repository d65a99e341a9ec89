"""What stands retained beside the events, on a real mosquitto: states, who is there, devices of Home Assistant."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from meshbridge.appmesh.app import App
from meshbridge.appmesh.client_tcp import AppMeshClientTCP
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.link.app_state import AppState
from meshbridge.sinks.base import NotConnected
from meshbridge.sinks.memory import VolatileMemory
from meshbridge.sinks.mqtt.home_assistant import topic as discovery_topic
from meshbridge.sinks.mqtt.sink import MqttOptions, MqttSink
from tests.support import (
    Mosquitto,
    Process,
    Subscriber,
    envelopes,
    free_port,
    make_event,
    meshbridge_command,
    returns_in_time,
    wait_for,
    write_config,
)
from tests.unit.state_table import States
from tests.unit.test_mqtt_states import check_discovery

pytestmark = pytest.mark.needs("mosquitto")

STATE = "meshbridge/node-a/web/state"
DAEMON = "meshbridge/node-a/availability"
BRIDGE = "meshbridge/bridge/bridge-1/availability"
LISTED = AppState("web", status="enabled", health=0, running=True, pid=7, starts=2, started_at=5, registered_at=4)


def retained(broker: Mosquitto) -> dict[str, bytes]:
    """What a new subscriber is given at once."""
    with Subscriber(broker.port, client_id="newcomer", retained=True) as newcomer:
        # It stands behind all that is retained.
        newcomer._client.publish("the/end", b"", qos=1)
        wait_for(lambda: any(message.topic == "the/end" for message in newcomer.messages), "the end")
        return {message.topic: bytes(message.payload) for message in newcomer.messages if message.retain}


def teller(broker: Mosquitto, states: States, memory: VolatileMemory | None = None, **options: Any) -> MqttSink:
    settings = MqttOptions.model_validate({"type": "mqtt", "url": broker.url} | options)
    sink = MqttSink(settings, "bridge-1")
    sink.use_memory(memory or VolatileMemory())
    sink.tell_states(states)
    return sink


def idle_until(sink: MqttSink, condition: Callable[[], bool], what: str) -> None:
    """As the courier does while there is nothing to write."""

    def met() -> bool:
        sink.idle()
        return condition()

    wait_for(met, what)


def settled(sink: MqttSink) -> bool:
    assert sink._states is not None
    return not sink._states.retained.busy


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_state_stands_retained_changes_and_is_cleared_for_good(mosquitto: Mosquitto, protocol: str) -> None:
    states = States()
    states.put("web", LISTED)
    sink = teller(mosquitto, states, protocol=protocol)
    sink.connect(5)
    there = retained(mosquitto)
    assert (there[BRIDGE], there[DAEMON]) == (b"online", b"online")
    assert orjson.loads(there[STATE])["state"] == "running"

    states.put("web", AppState("web", status="disabled", starts=2, exit_code=3, exited_at=9))
    sink.write(envelopes([make_event(1)]), 5)  # also where events flow, though at most some times a second
    idle_until(sink, lambda: settled(sink), "the answer")
    said = orjson.loads(retained(mosquitto)[STATE])
    assert (said["state"], said["exit_code"], said["exited_at"]) == ("disabled", 3, 9)

    states.put("web", None)
    idle_until(sink, lambda: settled(sink), "the answer")
    sink.write(envelopes([make_event(2, "STATUS", data={"status": "disabled"}), make_event(3, "EXIT", data={})]), 5)
    idle_until(sink, lambda: settled(sink), "nothing more")
    assert {*retained(mosquitto)} == {BRIDGE, DAEMON}
    sink.close(2)
    there = retained(mosquitto)
    assert (there[BRIDGE], there[DAEMON]) == (b"offline", b"online")


def test_what_is_told_is_seen_by_those_who_were_there_before(mosquitto: Mosquitto) -> None:
    states = States()
    states.put("web", LISTED)
    with Subscriber(mosquitto.port, STATE, retained=True) as subscriber:
        sink = teller(mosquitto, states)
        sink.connect(5)
        states.put("web", LISTED)  # nothing new
        idle_until(sink, lambda: settled(sink), "the answer")
        states.put("web", None)
        idle_until(sink, lambda: settled(sink), "the answer")
        wait_for(lambda: len(subscriber.messages) == 2, "two messages")
        sink.close(2)
    first, last = subscriber.messages
    assert (first.qos, last.payload) == (1, b"")
    assert vars(first.properties)["ContentType"] == "application/json"


def test_an_app_that_went_while_no_bridge_ran_is_cleared(mosquitto: Mosquitto) -> None:
    states, memory = States(), VolatileMemory()
    states.put("web", LISTED)
    states.put("db", LISTED)
    killed = teller(mosquitto, states, memory, home_assistant=True)
    killed.connect(5)
    assert discovery_topic("node-a", "web") in retained(mosquitto)
    killed._connection.close(0)  # without a word
    states.put("web", None)
    sink = teller(mosquitto, states, memory, home_assistant=True)
    sink.connect(5)
    db = {"meshbridge/node-a/db/state", "meshbridge/node-a/db/figures", discovery_topic("node-a", "db")}
    assert {*retained(mosquitto)} == {BRIDGE, DAEMON} | db
    sink.close(2)


def test_a_broker_that_forgot_everything_is_told_again(mosquitto: Mosquitto) -> None:
    states = States()
    states.put("web", LISTED)
    sink = teller(mosquitto, states)
    sink.connect(5)
    mosquitto.stop()

    def lost() -> bool:
        with contextlib.suppress(NotConnected):
            sink.idle()
            return False
        return True

    wait_for(lost, "the loss")
    mosquitto.start()
    assert retained(mosquitto) == {}
    sink.connect(5)
    assert {*retained(mosquitto)} == {BRIDGE, DAEMON, STATE}
    sink.close(2)


def test_many_states_and_events_share_a_small_window(tmp_path: Path) -> None:
    states = States()
    for number in range(300):
        states.put(f"app-{number}", LISTED)
    with Mosquitto(tmp_path / "narrow", "max_inflight_messages 1\n") as broker:
        sink = teller(broker, states)
        with Subscriber(broker.port) as subscriber:
            sink.connect(5)
            assert sink._window == 1
            for number in range(300):
                states.put(f"app-{number}", AppState(f"app-{number}"))
            sink.write(envelopes([make_event(number) for number in range(1, 101)]), 10)
            wait_for(lambda: len(subscriber.messages) == 100, "the events")
        idle_until(sink, lambda: settled(sink), "all states")
        there = retained(broker)
        assert all(orjson.loads(there[f"meshbridge/node-a/app-{n}/state"])["state"] == "stopped" for n in range(300))
        sink.close(2)


def test_a_broker_that_stands_still_holds_up_neither_idle_nor_connect(mosquitto: Mosquitto) -> None:
    states = States()
    sink = teller(mosquitto, states)
    sink.connect(5)
    mosquitto.send(signal.SIGSTOP)
    try:
        for number in range(5000):
            states.put(f"app-{number}", LISTED)
        with returns_in_time(2):
            for _ in range(50):
                sink.idle()
    finally:
        mosquitto.send(signal.SIGCONT)
    idle_until(sink, lambda: settled(sink), "all states")
    assert len(retained(mosquitto)) == 5002
    with returns_in_time(5):
        sink.connect(5)
    sink.close(2)


def test_state_topics_that_may_not_be_written_do_not_disturb_the_events(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite meshbridge/node-a/web/stdout\ntopic write the/end\ntopic read #\n")
    rules.chmod(0o644)
    tmp_path.chmod(0o755)
    states = States()
    states.put("web", LISTED)
    with Mosquitto(tmp_path / "acl-broker", f"acl_file {rules}\nuser root\n") as broker:
        sink = teller(broker, states)
        with Subscriber(broker.port) as subscriber:
            sink.connect(5)
            sink.write(envelopes([make_event(1), make_event(2)]), 5)
            sink.idle()
            wait_for(lambda: len(subscriber.messages) == 2, "the events")
        assert retained(broker) == {}
        sink.close(2)


def test_home_assistant_gets_every_app_as_a_device_and_once_more_when_it_comes_back(mosquitto: Mosquitto) -> None:
    states = States()
    states.put("web", LISTED)
    states.put("web.1", LISTED)
    sink = teller(mosquitto, states, home_assistant=True)
    with Subscriber(mosquitto.port, "homeassistant/#") as home_assistant:
        sink.connect(5)
        wait_for(lambda: len(home_assistant.messages) == 2, "two devices")
        for message in home_assistant.messages:
            fields = check_discovery(message.topic, bytes(message.payload))
            assert [one["topic"] for one in fields["availability"]] == [BRIDGE, DAEMON]
            assert retained(mosquitto).keys() >= {fields["state_topic"], message.topic}
        home_assistant._client.publish("homeassistant/status", b"online", qos=1)
        idle_until(sink, lambda: len(home_assistant.messages) == 5, "two devices again, and its own word")
        states.put("web", None)
        idle_until(sink, lambda: len(home_assistant.messages) == 6, "the removal")
        assert home_assistant.messages[-1].topic == discovery_topic("node-a", "web")
        assert home_assistant.messages[-1].payload == b""
    sink.close(2)


# --- the installed program -----------------------------------------------------------------------------------------


class Bridge:
    """``meshbridge run`` between an emulated daemon and a broker."""

    def __init__(
        self, directory: Path, emulator: Emulator, broker: Mosquitto, client_id: str | None = "bridge-1"
    ) -> None:
        assert emulator.tcp_address is not None
        host, port = emulator.tcp_address
        self._directory = directory
        self._config = write_config(
            directory / "meshbridge.yaml",
            {
                "daemons": {
                    "node-a": {
                        "url": f"tcp://{host}:{port}",
                        "username": "admin",
                        "password": "admin123",
                        "tls": {"ca_file": str(emulator.ca_file)},
                    }
                },
                "journal": {"path": str(directory / "journal")},
                "sinks": {
                    "broker": {
                        "type": "mqtt",
                        "url": broker.url,
                        "client_id": client_id,
                        "home_assistant": True,
                        "when": {"events": ["exit"], "apps": ["ghost"]},  # states don't depend on it
                    }
                },
                "exporter": {"listen": f"127.0.0.1:{free_port()}"},
            },
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[Process]:
        command = meshbridge_command("run", "--config", str(self._config))
        with Process(command, self._directory / "meshbridge.log") as process:
            yield process


def test_files_that_a_power_cut_has_torn_cost_no_delivery(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """An older version kept its client id and its topics in files; what a cut leaves there is NULs."""
    journal = tmp_path / "journal"
    journal.mkdir()
    (journal / "mqtt-client-id-broker").write_bytes(bytes(24))
    (journal / "mqtt-topics-broker").write_bytes(b"meshbridge/node-a/gone/state\n" + bytes(64))
    with contextlib.ExitStack() as parts:
        emulator = parts.enter_context(Emulator(EmulatorOptions(https_port=None, wss_port=None)))
        subscriber = parts.enter_context(Subscriber(mosquitto.port, retained=True))
        subscriber._client.publish("meshbridge/node-a/gone/state", b"{}", qos=1, retain=True)
        bridge = Bridge(tmp_path, emulator, mosquitto, client_id=None)
        with bridge.running() as process:
            wait_for(lambda: said(subscriber, "meshbridge/node-a/gone/state") == b"", "the clearing")
            wait_for(lambda: said(subscriber, DAEMON) == b"online", "the daemon's availability")
            births = [one.topic for one in list(subscriber.messages) if one.topic.startswith("meshbridge/bridge/")]
            assert process.end() == 0
        with bridge.running() as process:
            wait_for(lambda: words_of(subscriber, births[0])[-2:] == [b"offline", b"online"], "the same client id")
            assert process.end() == 0
    assert len(list(journal.glob("mqtt-*.unusable-*"))) == 2
    assert len(list(journal.glob("mqtt-*"))) == 2


def words_of(subscriber: Subscriber, topic: str) -> list[bytes]:
    return [bytes(message.payload) for message in list(subscriber.messages) if message.topic == topic]


def said(subscriber: Subscriber, topic: str) -> bytes | None:
    """The last word under a topic."""
    words = words_of(subscriber, topic)
    return words[-1] if words else None


def state(subscriber: Subscriber, topic: str = STATE) -> str | None:
    """The word for the app's state; empty once it is cleared."""
    payload = said(subscriber, topic)
    return None if payload is None else orjson.loads(payload)["state"] if payload else ""


def test_states_follow_the_daemon_through_kills_removals_and_its_own_end(mosquitto: Mosquitto, tmp_path: Path) -> None:
    device = discovery_topic("node-a", "web")
    with contextlib.ExitStack() as parts:
        emulator = parts.enter_context(Emulator(EmulatorOptions(https_port=None, wss_port=None)))
        subscriber = parts.enter_context(Subscriber(mosquitto.port, retained=True))
        assert emulator.tcp_address is not None
        client = AppMeshClientTCP(emulator.tcp_address, ssl_verify=str(emulator.ca_file))
        parts.callback(client.close)
        client.login("admin", "admin123")
        for name in ("web", "db"):
            client.add_app(App({"name": name, "command": "sleep 600"}))
        bridge = Bridge(tmp_path, emulator, mosquitto)

        with bridge.running() as process:
            wait_for(lambda: (said(subscriber, BRIDGE), said(subscriber, DAEMON)) == (b"online", b"online"), "birth")
            wait_for(lambda: state(subscriber) == "running", "the state")
            wait_for(lambda: said(subscriber, device), "the device")
            client.disable_app("web")
            wait_for(lambda: state(subscriber) == "disabled", "the new state")
            process.end(signal.SIGKILL)
            wait_for(lambda: said(subscriber, BRIDGE) == b"offline", "the will")
            assert said(subscriber, DAEMON) == b"online"

        client.delete_app("db")  # while no bridge runs
        with bridge.running() as process:
            wait_for(lambda: state(subscriber, "meshbridge/node-a/db/state") == "", "the clearing of the state")
            wait_for(lambda: said(subscriber, discovery_topic("node-a", "db")) == b"", "the device's")
            client.enable_app("web")
            wait_for(lambda: state(subscriber) == "running", "the state")
            client.delete_app("web")
            wait_for(lambda: state(subscriber) == "", "the clearing")
            wait_for(lambda: said(subscriber, device) == b"", "the device's")
            client.add_app(App({"name": "after", "command": "sleep 600"}))  # its state comes behind what web left
            wait_for(lambda: state(subscriber, "meshbridge/node-a/after/state") == "running", "the state")
            assert state(subscriber) == ""
            assert process.end() == 0
            wait_for(lambda: said(subscriber, BRIDGE) == b"offline", "its last words")
            assert said(subscriber, DAEMON) == b"online"

        words = len(words_of(subscriber, DAEMON))
        with bridge.running() as process:
            wait_for(lambda: said(subscriber, BRIDGE) == b"online", "birth")
            wait_for(lambda: len(words_of(subscriber, DAEMON)) > words, "the daemon")
            client.close()
            emulator.stop()
            wait_for(lambda: said(subscriber, DAEMON) == b"offline", "the daemon's end")
            assert process.end() == 0
        assert words_of(subscriber, DAEMON)[words:] == [b"online", b"offline"]
    there = retained(mosquitto)
    assert (there[BRIDGE], there[DAEMON]) == (b"offline", b"offline")
    assert "meshbridge/node-a/after/state" in there
    assert not {STATE, device} & {*there}


def test_a_daemon_that_leaves_the_configuration_is_cleared_at_once(mosquitto: Mosquitto) -> None:
    states = States()
    states.put("web", LISTED)
    sink = teller(mosquitto, states, home_assistant=True)
    sink.connect(5)
    assert {DAEMON, "meshbridge/node-a/web/state", discovery_topic("node-a", "web")} < {*retained(mosquitto)}
    states.up = {"node-b": True}
    states.table.clear()

    def cleared() -> bool:
        sink.idle()
        return {*retained(mosquitto)} == {BRIDGE, "meshbridge/node-b/availability"}

    wait_for(cleared, "the clearing")
    sink.close(2)


@pytest.mark.parametrize("keep", [set(), {"meshbridge/node-a/web/state"}])
def test_a_sink_that_is_removed_takes_its_topics_along(mosquitto: Mosquitto, keep: set[str]) -> None:
    states = States()
    states.put("web", LISTED)
    sink = teller(mosquitto, states, home_assistant=True)
    sink.connect(5)
    assert sink.kept_topics() == {*retained(mosquitto)}
    sink.close(2)
    assert sink.clear(keep, 5) == 0
    assert {*retained(mosquitto)} == keep


def test_what_others_have_left_is_found_and_cleared(mosquitto: Mosquitto) -> None:
    states = States()
    states.put("web", LISTED)
    old = teller(mosquitto, states, home_assistant=True)
    old.connect(5)
    old.close(2)
    options = MqttOptions.model_validate({"type": "mqtt", "url": mosquitto.url})
    assert options.leftovers().find(["node-a"], 5) == [BRIDGE]
    everything = options.leftovers().find([], 5)
    assert everything[0] == discovery_topic("node-a", "web")
    assert {*everything} == {*retained(mosquitto)}
    assert options.leftovers().clear(everything, 5) == []
    assert retained(mosquitto) == {}
    assert options.leftovers().find([], 5) == []
