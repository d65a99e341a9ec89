"""The main job: an App Mesh daemon's events reach MQTT, each once, in order; and nothing that was journaled is lost."""

import json
import re
import signal
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from meshbridge.emulator import Emulator
from meshbridge.journal.options import Sync
from meshbridge.journal.store import Store
from tests.e2e.conftest import Bridge, address_of
from tests.support import Mosquitto, Process, Subscriber, meshbridge_command, wait_for, write_config

pytestmark = pytest.mark.needs("mosquitto")

APPS = [f"app-{number}" for number in range(20)]


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["id"] for event in events]


def sequences_by_app(events: list[dict[str, Any]]) -> dict[str, list[str]]:
    by_app: dict[str, list[str]] = defaultdict(list)
    for event in events:
        if event["type"] != "io.meshbridge.gap":
            by_app[event["subject"]].append(f"{event['run']:>12}/{event['sequence']}")
    return by_app


def journaled(directory: Path) -> list[str]:
    """The ids in the journal of a bridge that has ended, in order."""
    store = Store(directory, Sync.NONE)
    try:
        found: list[str] = []
        after = 0
        while envelopes := store.read(after, 1000, 2**30):
            found += [envelope.event.id for envelope in envelopes]
            after = envelopes[-1].offset
        return found
    finally:
        store.close()


@pytest.mark.parametrize("bridge", ["tcp", pytest.param("wss", marks=pytest.mark.slow)], indirect=True)
def test_ten_thousand_events_arrive_once_each_and_in_order(
    bridge: Bridge, emulator: Emulator, mosquitto: Mosquitto
) -> None:
    with Subscriber(mosquitto.port, "meshbridge/#") as subscriber:
        bridge.start()
        bridge.wait_up()
        emulator.emit_many(
            (APPS[number % len(APPS)], "STDOUT", {"finished": False, "output": f"{number}\n", "position": number})
            for number in range(10_000)
        )
        wait_for(lambda: len(subscriber.messages) >= 10_000, "10,000 messages", 60)
        assert bridge.process.end() == 0
    events = subscriber.events()
    assert len(set(ids(events))) == len(events) == 10_000
    assert emulator.history is not None
    run = events[0]["run"]
    assert set(ids(events)) == {f"node-a/{run}/{event.sequence}" for event in emulator.history}
    for app, sequences in sequences_by_app(events).items():
        assert sequences == sorted(sequences), app
    assert journaled(bridge.directory / "journal") == ids(sorted(events, key=lambda event: event["sequence"]))


def test_an_events_message_is_the_cloud_event_of_the_daemons_own_data(
    bridge: Bridge, emulator: Emulator, mosquitto: Mosquitto
) -> None:
    with Subscriber(mosquitto.port, "meshbridge/node-a/+/exit") as subscriber:
        bridge.start()
        bridge.wait_up()
        data = {"exit_code": 3, "last_error": 'said "no",\n\\ twice', "pid": 8908}
        sequence = emulator.emit("web", "EXIT", data)
        wait_for(lambda: subscriber.messages, "the message")
    message = subscriber.messages[0]
    event = orjson.loads(message.payload)
    assert message.topic == "meshbridge/node-a/web/exit"
    assert event["data"] == data
    assert event["id"] == f"node-a/{event['run']}/{sequence}"
    assert event["source"] == "appmesh://node-a"
    assert event["type"] == "io.appmesh.app.exit"
    assert event["subject"] == "web"
    assert event["sequence"] == f"{sequence:020d}"
    assert message.properties is not None
    properties: Any = message.properties
    assert properties.ContentType == "application/cloudevents+json"
    assert properties.UserProperty == [("id", event["id"])]
    assert message.qos == 1
    assert not message.retain


def test_events_wait_for_a_broker_that_is_away(bridge: Bridge, emulator: Emulator, mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port, "meshbridge/#") as subscriber:
        bridge.start()
        bridge.wait_up()
        emulator.emit("web", "STDOUT", {"finished": False, "output": "before\n", "position": 0})
        wait_for(lambda: subscriber.messages, "the first message")
        mosquitto.stop()
        emulator.emit_many(
            ("web", "STDOUT", {"finished": False, "output": f"{number}\n", "position": number})
            for number in range(2000)
        )
        bridge.process.wait_for_output("sink failing")
        mosquitto.start()
        # The broker forgot the subscription with its process; what is published before it is made again is published.
        subscriber.wait_subscribed()
        bridge.process.wait_for_output("sink recovered")
        last = emulator.emit("web", "STDOUT", {"finished": False, "output": "after\n", "position": 9})
        wait_for(lambda: any(id_.endswith(f"/{last}") for id_ in ids(subscriber.events())), "the last event")
        assert bridge.process.end() == 0
    assert len(journaled(bridge.directory / "journal")) == 2002


def test_the_last_line_of_the_log_says_what_waits(bridge: Bridge, emulator: Emulator, mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    bridge.start()
    bridge.wait_up()
    emulator.emit("web", "STDOUT", {"finished": False, "output": "waits\n", "position": 0})
    wait_for(lambda: re.search(r'sink_lag_events\{sink="broker"\} [1-9]', metrics(bridge)), "an event that waits")
    assert bridge.process.end() == 0
    assert re.search(r"undelivered=\{'broker': [1-9]", bridge.process.output().splitlines()[-1])


def metrics(bridge: Bridge) -> str:
    with urllib.request.urlopen(bridge.metrics_url, timeout=60) as response:
        return str(response.read(), "utf-8")


def first_of_each(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the duplicates that at-least-once allows."""
    return list({event["id"]: event for event in reversed(events)}.values())[::-1]


def test_a_daemon_that_is_killed_and_started_again_is_a_new_run_and_the_loss_is_told(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    def start_daemon(port: int = 0) -> tuple[Process, dict[str, Any]]:
        log = tmp_path / "emulator.log"
        log.unlink(missing_ok=True)
        command = [*meshbridge_command()[:2], "meshbridge.emulator", "--tcp-port", str(port), "--wss-port", "-1"]
        process = Process([*command, "--https-port", "-1", "--data-dir", str(tmp_path / "daemon")], log)
        process.wait_for_output('"ready"')
        return process, json.loads(log.read_text().splitlines()[0])

    daemon, facts = start_daemon()
    settings = {
        "daemons": {
            "node-a": {
                "url": f"tcp://127.0.0.1:{facts['tcp'][1]}",
                "username": "admin",
                "password": "admin123",
                "tls": {"ca_file": facts["ca_file"]},
            }
        },
        "sinks": {"broker": {"type": "mqtt", "url": mosquitto.url}},
    }
    bridge = Bridge(tmp_path, settings)
    try:
        with Subscriber(mosquitto.port, "meshbridge/#") as subscriber:
            bridge.start()
            bridge.wait_up()
            _add_talker(facts)
            wait_for(lambda: "io.appmesh.app.stdout" in [event["type"] for event in subscriber.events()], "output")
            daemon.end(signal.SIGKILL)
            bridge.process.wait_for_output("daemon disconnected")
            daemon, _ = start_daemon(facts["tcp"][1])
            bridge.process.wait_for_output("daemon restarted")
            seen = len(subscriber.messages)
            wait_for(lambda: len(subscriber.messages) > seen + 3, "events of the new run")
            assert bridge.process.end() == 0
    finally:
        bridge.close()
        daemon.end(signal.SIGTERM)
    events = subscriber.events()
    gaps = [event for event in events if event["type"] == "io.meshbridge.gap"]
    runs = {event["run"] for event in events if event["type"] != "io.meshbridge.gap"}
    assert len(runs) == 2
    assert gaps[0]["data"]["missed"] is None
    assert gaps[0]["run"] == min(runs)
    assert "subject" not in gaps[0]
    assert len(set(ids(events))) == len(events)


def _add_talker(facts: dict[str, Any]) -> None:
    from appmesh import App, AppMeshClientTCP  # the official client: the emulator is a daemon to others, too

    client = AppMeshClientTCP(("127.0.0.1", facts["tcp"][1]), ssl_verify=facts["ca_file"])
    client.login("admin", "admin123")
    client.add_app(App({"name": "talker", "command": "while true; do date; sleep 0.2; done", "shell": True}))
    client.close()


def test_every_key_works_from_the_environment(tmp_path: Path, emulator: Emulator, mosquitto: Mosquitto) -> None:
    import os

    config = write_config(tmp_path / "empty.yaml", {})
    password = tmp_path / "password"
    password.write_text("admin123\n")
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MESHBRIDGE_")},
        "MESHBRIDGE_DAEMONS__NODE_A__URL": f"tcp://127.0.0.1:{address_of(emulator)[1]}",
        "MESHBRIDGE_DAEMONS__NODE_A__USERNAME": "admin",
        "MESHBRIDGE_DAEMONS__NODE_A__PASSWORD_FILE": str(password),
        "MESHBRIDGE_DAEMONS__NODE_A__TLS__CA_FILE": str(emulator.ca_file),
        "MESHBRIDGE_SINKS__BROKER__TYPE": "mqtt",
        "MESHBRIDGE_SINKS__BROKER__URL": mosquitto.url,
        "MESHBRIDGE_SINKS__BROKER__QOS": "2",
        "MESHBRIDGE_SINKS__BROKER__TOPIC": "plant/{daemon}/{event}/{app}",
        "MESHBRIDGE_SINKS__BROKER__WHEN__EVENTS": "exit,start",
        "MESHBRIDGE_JOURNAL__PATH": str(tmp_path / "journal"),
        "MESHBRIDGE_EXPORTER__LISTEN": "127.0.0.1:0",
        "MESHBRIDGE_LOG__FORMAT": "json",
    }
    command = meshbridge_command("run", "--config", str(config))
    with (
        Subscriber(mosquitto.port, "plant/#") as subscriber,
        Process(command, tmp_path / "meshbridge.log", environ) as process,
    ):
        process.wait_for_output("daemon connected")
        emulator.emit("web", "STDOUT", {"finished": False, "output": "left out", "position": 0})
        emulator.emit("web", "EXIT", {"exit_code": 0, "last_error": "", "pid": 1})
        wait_for(lambda: subscriber.messages, "the event")
        assert process.end() == 0
        for line in process.output().splitlines():
            json.loads(line)
    assert [message.topic for message in subscriber.messages] == ["plant/node-a/exit/web"]
    assert subscriber.messages[0].qos == 1  # the subscription's own
