"""A bridge that takes commands, and clients that send them."""

import queue
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from meshbridge.appmesh import App, AppMeshClientTCP
from meshbridge.emulator import Emulator
from tests.e2e.conftest import address_of, daemon_settings
from tests.support import DEADLINE_SECONDS, Process, free_port, meshbridge_command, wait_for, write_config

# A managed process: it answers each task, fetches the next over `hang`, ends over `die`, and notes what it did.
WORKER = """
import os, sys
from meshbridge.appmesh import AppMeshServerTCP

host, port, ca_file, notes = sys.argv[1:]
server = AppMeshServerTCP(ca_file, tcp_address=(host, int(port)))
while True:
    task = server.task_fetch()
    with open(notes, "ab") as file:
        file.write(task + b"\\n")
    if task == b"die":
        os._exit(3)
    if task != b"hang":
        server.task_return(b"\\xff" + task)
"""


def client_of(emulator: Emulator) -> AppMeshClientTCP:
    client = AppMeshClientTCP(address_of(emulator), ssl_verify=str(emulator.ca_file))
    client.login("admin", "admin123")
    return client


def add_worker(emulator: Emulator, directory: Path, name: str = "worker") -> Path:
    """Registers an app whose process takes tasks; gives the file with the tasks that it took."""
    script, notes = directory / f"{name}.py", directory / f"{name}.tasks"
    script.write_text(WORKER, encoding="utf-8")
    notes.touch()
    host, port = address_of(emulator)
    client = client_of(emulator)
    command = f"{sys.executable} {script} {host} {port} {emulator.ca_file} {notes}"
    client.add_app(App({"name": name, "command": command, "behavior": {"exit": "restart"}}))
    wait_for(lambda: client.get_app_json(name).get("task_status") == "idle", "the worker to ask for work")
    client.close()
    return notes


class Sender:
    """A client that sends commands and waits for their answers."""

    def __init__(self, port: int, protocol: str = "5", *, reply_to: str = "replies/me") -> None:
        version = MQTTProtocolVersion.MQTTv5 if protocol == "5" else MQTTProtocolVersion.MQTTv311
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
        self.answers: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.client.on_message = lambda _client, _userdata, message: self.answers.put(message)
        subscribed: queue.Queue[None] = queue.Queue()
        self.client.on_subscribe = lambda *_: subscribed.put(None)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self._reply_to = reply_to
        for topic in (reply_to, "meshbridge/+/+/result"):
            self.client.subscribe(topic, qos=1)
            subscribed.get(timeout=DEADLINE_SECONDS)
        self._v5 = protocol == "5"

    def send(
        self,
        topic: str,
        payload: bytes | str,
        *,
        correlation: bytes | None = None,
        reply_to: str | None = None,
        user: list[tuple[str, str]] | None = None,
        **more: Any,
    ) -> None:
        """Publishes at QoS 1, and waits until the broker has it."""
        properties = None
        if self._v5 and (correlation is not None or reply_to is not None or user is not None):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = reply_to or self._reply_to
            if correlation is not None:
                properties.CorrelationData = correlation
            if user is not None:
                properties.UserProperty = user
        self.client.publish(topic, payload, qos=1, properties=properties, **more).wait_for_publish(DEADLINE_SECONDS)

    def answer(self) -> paho.MQTTMessage:
        return self.answers.get(timeout=DEADLINE_SECONDS)

    def json_answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = orjson.loads(self.answer().payload)
        return answer

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Stage:
    """A bridge from an emulated daemon to a broker, and a sender."""

    def __init__(
        self, directory: Path, broker_url: str, emulator: Emulator, protocol: str, commands: dict[str, Any], **sink: Any
    ) -> None:
        self.directory = directory
        self.protocol = protocol
        self.runs = 0
        self.exporter_port = free_port()
        broker = {"type": "mqtt", "url": broker_url, "protocol": protocol, "commands": commands}
        self.config = write_config(
            directory / "meshbridge.yaml",
            {
                "daemons": {"node-a": daemon_settings(emulator)},
                "journal": {"path": str(directory / "journal")},
                "sinks": {"broker": broker | {"retry": {"initial": "100ms", "max": "500ms"}} | sink},
                "exporter": {"listen": f"127.0.0.1:{self.exporter_port}"},
            },
        )
        self.bridge = self.run()
        self.sender = Sender(int(broker_url.rpartition(":")[2]), protocol)

    def run(self) -> Process:
        self.runs += 1
        command = meshbridge_command("run", "--config", str(self.config))
        process = Process(command, self.directory / f"log-{self.runs}")
        process.wait_for_output("sink connected")
        process.wait_for_output("daemon connected")
        return process

    def command(self, word: str, app: str = "web") -> dict[str, Any]:
        self.sender.send(f"meshbridge/node-a/{app}/command", word)
        return self.sender.json_answer()

    def close(self) -> None:
        self.sender.close()
        self.bridge.end(signal.SIGKILL)
