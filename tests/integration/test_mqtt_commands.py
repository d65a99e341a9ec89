"""Commands over a real broker to apps of an emulated daemon, by the whole bridge, in both versions of MQTT."""

import json
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.client as paho
import pytest
import requests
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from prometheus_client.parser import text_string_to_metric_families

from meshbridge.appmesh import App, AppMeshClientTCP
from meshbridge.emulator import Emulator, EmulatorOptions
from tests.command_line import run_command
from tests.e2e.conftest import address_of, daemon_settings
from tests.support import DEADLINE_SECONDS, Mosquitto, Process, free_port, meshbridge_command, wait_for, write_config

pytestmark = pytest.mark.needs("mosquitto")

COMMANDS = {"allow": ["enable", "disable", "restart", "run", "task"], "when": {"not_apps": ["private"]}}


class Sender:
    """A client that sends commands and waits for their answers."""

    def __init__(self, port: int, protocol: str) -> None:
        version = MQTTProtocolVersion.MQTTv5 if protocol == "5" else MQTTProtocolVersion.MQTTv311
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
        self.answers: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.client.on_message = lambda _client, _userdata, message: self.answers.put(message)
        subscribed: queue.Queue[None] = queue.Queue()
        self.client.on_subscribe = lambda *_: subscribed.put(None)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        for topic in ("replies/me", "meshbridge/+/+/result"):
            self.client.subscribe(topic, qos=1)
            subscribed.get(timeout=DEADLINE_SECONDS)
        self._v5 = protocol == "5"

    def send(self, topic: str, payload: bytes | str, *, correlation: bytes | None = None, **more: Any) -> None:
        properties = None
        if self._v5 and correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = "replies/me"
            properties.CorrelationData = correlation
        self.client.publish(topic, payload, qos=1, properties=properties, **more).wait_for_publish(DEADLINE_SECONDS)

    def answer(self) -> paho.MQTTMessage:
        return self.answers.get(timeout=DEADLINE_SECONDS)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Stage:
    def __init__(self, directory: Path, broker: Mosquitto, emulator: Emulator, protocol: str) -> None:
        self.directory = directory
        self.protocol = protocol
        self.runs = 0
        self.exporter_port = free_port()
        self.config = write_config(
            directory / "meshbridge.yaml",
            {
                "daemons": {"node-a": daemon_settings(emulator)},
                "journal": {"path": str(directory / "journal")},
                "sinks": {"broker": {"type": "mqtt", "url": broker.url, "protocol": protocol, "commands": COMMANDS}},
                "exporter": {"listen": f"127.0.0.1:{self.exporter_port}"},
            },
        )
        self.bridge = self.run()
        self.sender = Sender(broker.port, protocol)

    def run(self) -> Process:
        self.runs += 1
        command = meshbridge_command("run", "--config", str(self.config))
        process = Process(command, self.directory / f"log-{self.runs}")
        process.wait_for_output("sink connected")
        return process

    def command(self, word: str, app: str = "web") -> dict[str, Any]:
        self.sender.send(f"meshbridge/node-a/{app}/command", word)
        answer: dict[str, Any] = orjson.loads(self.sender.answer().payload)
        return answer

    def close(self) -> None:
        self.sender.close()
        self.bridge.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(wss_port=None, https_port=None)) as running:
        client = AppMeshClientTCP(address_of(running), ssl_verify=str(running.ca_file))
        client.login("admin", "admin123")
        for name, command in (("web", "sleep 600"), ("job", "echo hello; exit 3"), ("private", "sleep 600")):
            client.add_app(App({"name": name, "command": command, "shell": True}))
        client.close()
        yield running


@pytest.fixture(params=["5", "3.1.1"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, mosquitto: Mosquitto, emulator: Emulator) -> Iterator[Stage]:
    made = Stage(tmp_path, mosquitto, emulator, request.param)
    yield made
    made.close()


def client_of(emulator: Emulator) -> AppMeshClientTCP:
    client = AppMeshClientTCP(address_of(emulator), ssl_verify=str(emulator.ca_file))
    client.login("admin", "admin123")
    return client


def test_each_command_does_what_it_says_and_is_answered(stage: Stage, emulator: Emulator) -> None:
    client = client_of(emulator)
    before = wait_for(lambda: client.get_app("web").pid, "the app to run")
    assert stage.command("restart")["ok"] is True
    assert wait_for(lambda: client.get_app("web").pid, "the app to run again") != before
    assert stage.command("disable")["ok"] is True
    assert client.get_app("web").status == 0
    assert stage.command('{"command": "enable", "id": "x"}') | {"duration_seconds": 0} == {
        "id": "x", "command": "enable", "daemon": "node-a", "app": "web", "ok": True, "error": None, "hint": None,
        "exit_code": None, "output": None, "duration_seconds": 0,
    }  # fmt: skip
    ran = stage.command("run", "job")
    assert (ran["ok"], ran["exit_code"], ran["output"]) == (True, 3, "hello\n")
    client.close()


def test_refusals_are_answered_and_audited(stage: Stage) -> None:
    assert "not allowed" in stage.command("restart", "private")["error"]
    assert "no app" in stage.command("restart", "ghost")["error"]
    assert "unknown command" in stage.command("rm -rf /")["error"]
    assert stage.bridge.output().count("result=forbidden") == 1
    served = requests.get(f"http://127.0.0.1:{stage.exporter_port}/metrics", timeout=DEADLINE_SECONDS).text
    found = {
        (sample.labels["command"], sample.labels["result"]): sample.value
        for family in text_string_to_metric_families(served)
        for sample in family.samples
        if sample.name == "meshbridge_commands_total"
    }
    assert found == {("restart", "forbidden"): 1, ("restart", "unknown_app"): 1, ("none", "invalid"): 1}
    assert "meshbridge_command_seconds_bucket" in served


def test_retained_commands_are_ignored(stage: Stage) -> None:
    stage.bridge.end(signal.SIGTERM)
    stage.sender.send("meshbridge/node-a/web/command", "disable", retain=True)
    stage.bridge = stage.run()
    if stage.protocol == "5":  # which shows it of a message that arrives while the bridge is there, too
        stage.sender.send("meshbridge/node-a/web/command", "disable", retain=True)
    assert stage.command("enable")["command"] == "enable"
    stage.sender.send("meshbridge/node-a/web/command", b"", retain=True)


def test_a_reply_goes_to_the_response_topic_with_its_correlation(
    tmp_path: Path, mosquitto: Mosquitto, emulator: Emulator
) -> None:
    stage = Stage(tmp_path, mosquitto, emulator, "5")

    def run(correlation: bytes) -> None:
        stage.sender.send("meshbridge/node-a/job/command", "run", correlation=correlation)

    run(b"\x00\xff")
    answer = stage.sender.answer()
    assert (answer.topic, vars(answer.properties)["CorrelationData"]) == ("replies/me", b"\x00\xff")
    assert orjson.loads(answer.payload)["exit_code"] == 3
    run(b"\x00\xff")  # repeated: it runs once
    run(b"other")
    assert vars(stage.sender.answer().properties)["CorrelationData"] == b"other"
    stage.close()


def test_the_last_commands_are_shown_and_a_command_is_explained(stage: Stage) -> None:
    stage.command('{"command": "enable", "id": "x"}')
    stage.command("restart", "private")

    def cli(*arguments: str) -> str:
        done = run_command(*arguments, "--config", str(stage.config))
        assert done.returncode == 0, done.stderr
        return done.stdout

    last, first = json.loads(cli("commands", "--json"))
    assert (last["app"], last["command"], last["result"]) == ("private", "restart", "forbidden")
    assert (first["sink"], first["id"], first["result"]) == ("broker", "x", "ok")
    assert "forbidden" in cli("commands").splitlines()[1]
    said = cli("explain", "--command", "meshbridge/node-a/private/command", "restart")
    assert "broker: refused, by when.not_apps: a pattern matches private" in said
    (explained,) = json.loads(cli("explain", "--command", "meshbridge/node-a/web/task", "any", "--json"))
    assert (explained["wanted"], explained["command"]) == (True, "task")
