"""The whole bridge as a process, beside a script of the official SDK and paho: what it carries, and what it costs.

    python benchmarks/bridge.py [--quick] [--json FILE]

Both subscribe at the same stub of a daemon, which sends bursts of STDOUT events, encoded beforehand, as fast as they
are read; both publish to a real mosquitto at QoS 1. The clock runs from the burst's start until the last is
acknowledged. The script is what people write: the SDK's callback hands the event's JSON to `publish`, paho's own thread
does the rest. It keeps nothing on disk. Also measured, of the bridge alone: memory and CPU when idle, memory with
events that wait for a dead sink, bytes of journal for an event.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import appmesh
import msgpack
import paho.mqtt.client as paho
import psutil
import trustme
import yaml
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support import Mosquitto, free_port

MAGIC = 0x07C707F8
APPS = 50
OUTPUT = "2026-01-31T12:00:00Z INFO request served in 12 ms, status 200, 4096 bytes\n" * 3
PERMISSIONS = ["app-subscribe", "app-view", "app-view-all", "app-output-view", "host-resource-view", "user-token-renew"]
ANSWERS: dict[str, Any] = {
    "/appmesh/login": {"access_token": "a.e30.c", "expire_time": 4_000_000_000, "expires_in": 86_400},
    "/appmesh/subscribe": {"subscription_id": "s1", "app_name": "*", "events": []},
    "/appmesh/resources": {"appmesh_start_time_unix_seconds": 1_795_510_000},
    "/appmesh/user/permissions": PERMISSIONS,
    "/appmesh/applications": [],
}


# --- the daemon ---------------------------------------------------------------------------------------------------


def frame(fields: dict[str, Any]) -> bytes:
    body: bytes = msgpack.packb(fields)
    return struct.pack("!II", MAGIC, len(body)) + body


def event(sequence: int) -> bytes:
    app = f"app-{sequence % APPS}"
    body = {
        "subscription_id": "s1",
        "event_type": "STDOUT",
        "app_name": app,
        "timestamp": 1_795_515_804,
        "sequence": sequence,
        "data": {"output": OUTPUT, "position": sequence * len(OUTPUT), "finished": False},
    }
    return frame(
        {
            "uuid": f"event-{sequence}",
            "request_uri": "/appmesh/event",
            "http_status": 200,
            "body_msg_type": "application/json",
            "body": json.dumps(body),
            "headers": {"X-Subscription-Id": "s1", "X-Event-Type": "STDOUT", "X-App-Name": app},
        }
    )


class Daemon:
    """Answers what a client asks, and sends a burst to whoever has subscribed when it is told to."""

    def __init__(self, certificate: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._subscribed: list[tuple[ssl.SSLSocket, threading.Lock]] = []
        self._sequence = 0
        self._burst: list[bytes] = []

    def serve(self, listener: socket.socket) -> None:
        while True:
            plain, _address = listener.accept()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._converse, args=(plain,), daemon=True).start()

    def prepare(self, count: int) -> None:
        numbers = range(self._sequence + 1, self._sequence + count + 1)
        self._sequence += count
        events = [event(number) for number in numbers]
        self._burst = [b"".join(events[first : first + 100]) for first in range(0, count, 100)]

    def send(self) -> None:
        for piece in self._burst:
            for connection, lock in self._subscribed:
                with lock:
                    connection.sendall(piece)

    def _converse(self, plain: socket.socket) -> None:
        connection, lock = self._context.wrap_socket(plain, server_side=True), threading.Lock()
        buffer = b""
        with contextlib.suppress(OSError):
            while data := connection.recv(1 << 18):
                buffer += data
                while len(buffer) >= 8 and len(buffer) >= 8 + (size := struct.unpack_from("!I", buffer, 4)[0]):
                    request = msgpack.unpackb(buffer[8 : 8 + size])
                    buffer = buffer[8 + size :]
                    with lock:
                        connection.sendall(answer(request))
                        if request["request_uri"] == "/appmesh/subscribe":
                            self._subscribed.append((connection, lock))
        self._subscribed = [one for one in self._subscribed if one[0] is not connection]


def answer(request: dict[str, Any]) -> bytes:
    fields = {"uuid": request["uuid"], "request_uri": request["request_uri"], "http_status": 200, "headers": {}}
    body = json.dumps(ANSWERS.get(request["request_uri"], {}))
    return frame(fields | {"body_msg_type": "application/json", "body": body})


def run_daemon(pipe: Any, certificate: str) -> None:
    daemon = Daemon(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=daemon.serve, args=(listener,), daemon=True).start()
    pipe.send(listener.getsockname()[1])
    while True:
        daemon.prepare(pipe.recv())
        pipe.send("prepared")
        pipe.recv()
        daemon.send()


# --- the script ---------------------------------------------------------------------------------------------------


def run_script(daemon_port: int, broker_port: int, ready: Any, acknowledged: Any) -> None:
    warnings.simplefilter("ignore")

    def on_publish(*_: Any) -> None:
        acknowledged.value += 1

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(1000)
    client.on_publish = on_publish
    client.connect("127.0.0.1", broker_port)
    client.loop_start()
    daemon = appmesh.AppMeshClientTCP(("127.0.0.1", daemon_port), ssl_verify=False)
    daemon.login("admin", "admin123")

    def on_event(event: Any) -> None:
        topic = f"meshbridge/node-a/{event.app_name}/{event.event_type.lower()}"
        client.publish(topic, json.dumps({"app": event.app_name, "type": event.event_type, "data": event.data}), qos=1)

    daemon.subscribe("*", ["START", "EXIT", "STDOUT", "HEALTH", "STATUS", "REMOVED"], on_event)
    ready.set()
    threading.Event().wait()


# --- the bridge ---------------------------------------------------------------------------------------------------


class Bridge:
    """``meshbridge run``, and what its metrics and /proc tell of it."""

    def __init__(self, directory: Path, daemon_port: int, broker: str) -> None:
        directory.mkdir()
        self._directory, port = directory, free_port()
        self._metrics = f"http://127.0.0.1:{port}/metrics"
        daemon = {"url": f"tcp://127.0.0.1:{daemon_port}", "username": "u", "password": "p", "tls": {"verify": False}}
        settings = {
            "daemons": {"node-a": daemon},
            "journal": {"path": str(directory / "journal")},
            "sinks": {"broker": {"type": "mqtt", "url": broker}},
            "exporter": {"listen": f"127.0.0.1:{port}"},
            "log": {"level": "error"},
        }
        file = directory / "meshbridge.yaml"
        file.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "meshbridge", "run", "--config", str(file)]
        self.process = subprocess.Popen(command)
        self.seen = psutil.Process(self.process.pid)
        until("the link is up", lambda: self.value("meshbridge_daemon_up") == 1)

    def value(self, name: str) -> float:
        with contextlib.suppress(OSError), urllib.request.urlopen(self._metrics, timeout=5) as response:
            return sum(
                float(line.split()[-1])
                for line in response.read().decode().splitlines()
                if line.startswith(f"{name}{{")
            )
        return -1

    def cpu_seconds(self) -> float:
        times = self.seen.cpu_times()
        return float(times.user + times.system)

    def memory_bytes(self) -> int:
        return int(self.seen.memory_info().rss)

    def journal_bytes(self) -> int:
        return sum(file.stat().st_size for file in (self._directory / "journal").glob("journal.db*"))

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


def until(what: str, condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


# --- what is measured ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(directory: Path) -> Iterator[tuple[Any, int]]:
    """The daemon in a process of its own: (a pipe to it, its port)."""
    certificate = directory / "daemon.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=run_daemon, args=(theirs, str(certificate)), daemon=True)
    process.start()
    try:
        yield ours, ours.recv()
    finally:
        process.kill()


def rate(pipe: Any, count: int, acknowledged: Callable[[], float]) -> float:
    """Events a second of one burst."""
    pipe.send(count)
    pipe.recv()
    before = acknowledged()
    begun = time.perf_counter()
    pipe.send("go")
    until(f"{count} events acknowledged", lambda: acknowledged() - before >= count)
    return count / (time.perf_counter() - begun)


def measure(directory: Path, count: int, rounds: int, idle_seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    broker = Mosquitto(directory / "mosquitto")
    broker.start()
    with contextlib.ExitStack() as stack:
        stack.callback(broker.stop)
        pipe, port = stack.enter_context(started(directory))
        bridge = Bridge(directory / "bridge", port, broker.url)
        stack.callback(bridge.end)
        cpu = bridge.cpu_seconds()
        time.sleep(idle_seconds)
        figures["idle CPU, share of a core"] = (bridge.cpu_seconds() - cpu) / idle_seconds
        figures["idle memory, MiB"] = bridge.memory_bytes() / 2**20
        cpu, size = bridge.cpu_seconds(), bridge.journal_bytes()
        rates = [rate(pipe, count, lambda: bridge.value("meshbridge_sink_delivered_total")) for _ in range(rounds)]
        figures["bridge, events/s"] = max(rates)
        figures["CPU, µs for each event"] = (bridge.cpu_seconds() - cpu) / (count * rounds) * 1e6
        figures["memory under load, MiB"] = bridge.memory_bytes() / 2**20
        figures["journal, bytes for each event"] = (bridge.journal_bytes() - size) / (count * rounds)
    with contextlib.ExitStack() as stack:
        pipe, port = stack.enter_context(started(directory))
        bridge = Bridge(directory / "waiting", port, f"mqtt://127.0.0.1:{free_port()}")
        stack.callback(bridge.end)
        before = bridge.memory_bytes()
        for _ in range(rounds):
            rate(pipe, count, lambda: bridge.value("meshbridge_sink_lag_events"))
        figures["events waiting for a dead sink"] = count * rounds
        figures["memory that they take, MiB"] = (bridge.memory_bytes() - before) / 2**20
    figures["script, events/s"] = script_rate(directory, count, rounds)
    figures["ratio"] = figures["bridge, events/s"] / figures["script, events/s"]
    figures["this benchmark's own peak, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def script_rate(directory: Path, count: int, rounds: int) -> float:
    spawn = multiprocessing.get_context("spawn")
    broker = Mosquitto(directory / "mosquitto-of-script")
    broker.start()
    with contextlib.ExitStack() as stack:
        stack.callback(broker.stop)
        pipe, port = stack.enter_context(started(directory))
        ready, acknowledged = spawn.Event(), spawn.Value("q", 0)
        script = spawn.Process(target=run_script, args=(port, broker.port, ready, acknowledged), daemon=True)
        script.start()
        stack.callback(script.kill)
        if not ready.wait(60):
            raise RuntimeError("the script does not begin")
        return max(rate(pipe, count, lambda: float(acknowledged.value)) for _ in range(rounds))


def main() -> int:
    parser = argparse.ArgumentParser(description="The bridge as a whole")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshbridge-bench-") as name:
        figures = measure(Path(name), *((2_000, 1, 1.0) if given.quick else (30_000, 3, 10.0)))
    print(f"one daemon, one MQTT sink, {os.cpu_count()} cores")
    for what, figure in figures.items():
        print(f"  {what:<34} {figure:>12,.2f}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
