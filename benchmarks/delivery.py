"""From the daemon's socket through the journal to a broker, beside what does less, in one run.

    python benchmarks/delivery.py [--quick] [--only PART] [--json FILE]

* **throughput**: a burst of STDOUT events of 20 apps until all are acknowledged by mosquitto at QoS 1: the bridge, with
  every event fsynced first; a bare `paho-mqtt` loop, threaded, 1,000 in flight, with nothing in front; a script of the
  official SDK and paho. And until all are in the journal, beside the official SDK's callback doing nothing.
* **latency**: the age of events on arrival at a subscriber, at 1,000 events a second.
* **memory**: what a bridge takes more while a million events of 1 KB wait for a broker that is dead, and how long that
  journal takes to open.

The daemon is a stub in a process of its own, which puts events together from prepared bytes, so that it is not what is
measured. Every contender is a process of its own. Contenders take turns; a ratio is the median of those of the rounds,
each of figures that stand next to one another, since other work on the machine comes and goes.
"""

import argparse
import contextlib
import json
import multiprocessing
import re
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import appmesh
import msgpack
import paho.mqtt.client as paho
import trustme
import yaml
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from meshbridge import telemetry
from meshbridge.appmesh import AppMeshClientTCP
from meshbridge.config.load import load
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.events import cloudevent, decode_push
from meshbridge.service.service import Service

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the broker that the tests have already
from tests.support import Mosquitto, free_port, wait_for

APPS = [f"app-{number}" for number in range(20)]
LISTED = [{"name": app, "command": "x", "status": 1, "owner": "admin"} for app in APPS]
MAGIC = 0x07C707F8
FIRST = 1_000_000_000  # numbers of one width, so that a prepared frame fits them all
SECONDS = 600.0
RATE = 1_000  # events a second, of latency
FILL_RATE = 15_000  # of memory: no burst, whose marks in the memory would be of the burst
TARGETS = {
    "delivered beside paho alone": (1.8, 2.2),
    "delivered beside the script": (3.0, 4.0),
    "journaled beside the SDK's callback": (4.0, None),
    "age p50 beside the script": (1.5, None),
    "age p99 beside the script": (3.0, None),
    "MiB more with events waiting": (40.0, None),
    "seconds to open that journal": (2.0, None),
}


@dataclass(frozen=True)
class Place:
    """Where a contender finds the others."""

    daemon: tuple[str, int]
    authority: str
    broker: int
    directory: Path


# --- the daemon ----------------------------------------------------------------------------------------------------


def framed(fields: dict[str, Any]) -> bytes:
    body: bytes = msgpack.packb(fields)
    return struct.pack("!II", MAGIC, len(body)) + body


def prepared(app: str, output: str) -> list[bytes]:
    """A STDOUT event in pieces, between which its number goes."""
    body = {
        "app_name": app,
        "data": {"finished": False, "output": output, "position": 70},
        "event_type": "STDOUT",
        "sequence": FIRST,
        "subscription_id": "s1",
        "timestamp": 1795515804,
    }
    fields = {
        "uuid": f"event-{FIRST}",
        "request_uri": "/appmesh/event",
        "http_status": 200,
        "body_msg_type": "application/json",
        "body": json.dumps(body, separators=(",", ":")),
        "headers": {"X-Subscription-Id": "s1", "X-Event-Type": "STDOUT", "X-App-Name": app},
    }
    return framed(fields).split(b"%d" % FIRST)


class Daemon:
    """Answers what clients ask at their start, and sends events to the last subscriber."""

    def __init__(self, context: ssl.SSLContext, apps: Sequence[dict[str, Any]] = LISTED) -> None:
        self._context = context
        self._subscriber: ssl.SSLSocket | None = None
        self._sending: defaultdict[ssl.SSLSocket, threading.Lock] = defaultdict(threading.Lock)
        self._next = FIRST
        self._answers = {
            "/appmesh/login": {"access_token": "a.e30.c", "expires_in": 86400},
            "/appmesh/resources": {"appmesh_start_time_unix_seconds": 1795515000},
            "/appmesh/subscribe": {"subscription_id": "s1", "app_name": "*", "events": ["STDOUT"]},
            "/appmesh/applications": apps,
        }

    def serve(self, plain: socket.socket) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = b""
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connection:
            while data := connection.recv(1 << 18):
                buffer += data
                while len(buffer) >= 8 and len(buffer) >= (end := 8 + struct.unpack_from("!I", buffer, 4)[0]):
                    request = msgpack.unpackb(buffer[8:end])
                    buffer = buffer[end:]
                    self._answer(connection, request)

    def _answer(self, connection: ssl.SSLSocket, request: dict[str, Any]) -> None:
        uri = request["request_uri"]
        fields = {
            "uuid": request["uuid"],
            "request_uri": uri,
            "http_status": 200,
            "body_msg_type": "application/json",
            "body": json.dumps(self._answers.get(uri, {})),
            "headers": {},
        }
        with self._sending[connection]:
            connection.sendall(framed(fields))
        if uri == "/appmesh/subscribe":
            self._subscriber = connection
        if uri == "/appmesh/label/send":
            count, rate, size = map(int, request["query"]["value"].split())
            threading.Thread(target=self._send, args=(count, rate, size), daemon=True).start()

    def _send(self, count: int, rate: int, size: int) -> None:
        """``rate``: events a second, 0 for as many as are taken; ``size``: bytes of an event's body, about."""
        subscriber = self._subscriber
        assert subscriber is not None
        stamp = "2026-01-31T12:00:00Z INFO request served in 12 ms, status 200\n"
        output = f"{FIRST:020} {stamp * max(1, size // len(stamp) - 3)}"
        frames = [prepared(app, output) for app in APPS]
        step = max(1, min(100, rate // 1000 or 100))
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for sent in range(0, count, step):
                if rate and (ahead := sent / rate - (time.monotonic() - began)) > 0:
                    time.sleep(ahead)
                now = b"%020d" % time.time_ns()
                pieces = []
                for number in range(sent, min(sent + step, count)):
                    place = b"%d" % (self._next + number)
                    head, *rest = frames[number % len(APPS)]
                    pieces.append(place.join([head, *rest]).replace(b"0000000000" + place, now, 1))
                with self._sending[subscriber]:
                    subscriber.sendall(b"".join(pieces))
        self._next += count


def serve(ready: Any, certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    ready.put(listener.getsockname())
    daemon = Daemon(context)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=daemon.serve, args=(connection,), daemon=True).start()


@contextlib.contextmanager
def daemon(directory: Path) -> Iterator[tuple[tuple[str, int], str]]:
    """Its address, and the file of its authority."""
    authority = trustme.CA()
    pem, ca = directory / "daemon.pem", directory / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    authority.cert_pem.write_to_path(str(ca))
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Queue()
    process = spawn.Process(target=serve, args=(ready, str(pem)), daemon=True)
    process.start()
    try:
        yield tuple(ready.get(timeout=60)), str(ca)
    finally:
        process.kill()
        process.join()


def send(place: Place, count: int, rate: int = 0, size: int = 250) -> None:
    """Has the daemon send so many events to its subscriber."""
    with contextlib.closing(AppMeshClientTCP(place.daemon, place.authority)) as client:
        client.login("user", "password")
        client.add_label("send", f"{count} {rate} {size}")


# --- the contenders ------------------------------------------------------------------------------------------------


def paho_client(port: int) -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


def paho_alone(place: Place, count: int, _rate: int) -> float:
    """Publishes what the bridge would publish, over and over."""
    body = {"app_name": "web", "data": {"output": "x" * 190}, "event_type": "STDOUT", "sequence": 1, "timestamp": 1}
    body["data"] |= {"position": 70, "finished": False}  # type: ignore[operator]
    payload = cloudevent(decode_push("node-a", "1795515000", json.dumps(body).encode(), time.time(), {}))
    client = paho_client(place.broker)
    began = time.perf_counter()
    sent = [client.publish(f"meshbridge/node-a/{APPS[n % 20]}/stdout", payload, qos=1) for n in range(count)]
    sent[-1].wait_for_publish(SECONDS)
    for one in sent:
        one.wait_for_publish(SECONDS)
    return count / (time.perf_counter() - began)


def subscribed(place: Place, on_event: Callable[[Any], None]) -> appmesh.AppMeshClientTCP:
    """The official client, which has to be kept."""
    client = appmesh.AppMeshClientTCP(place.daemon, place.authority)
    client.login("user", "password")
    client.subscribe("*", ["STDOUT"], on_event)
    return client


def script(place: Place, count: int, rate: int) -> float:
    """What one writes without a bridge: each event published as it comes."""
    client, acknowledged, done = paho_client(place.broker), 0, threading.Event()

    def on_publish(*_: object) -> None:
        nonlocal acknowledged
        acknowledged += 1
        if acknowledged == count:
            done.set()

    def on_event(event: Any) -> None:
        fields = {"app": event.app_name, "type": event.event_type, "sequence": event.sequence, "data": event.data}
        client.publish(f"meshbridge/node-a/{event.app_name}/stdout", json.dumps(fields), qos=1)

    client.on_publish = on_publish
    kept = subscribed(place, on_event)
    began = time.perf_counter()
    send(place, count, rate)
    assert done.wait(SECONDS), f"{acknowledged} of {count}"
    took = time.perf_counter() - began
    del kept
    return count / took


def callback(place: Place, count: int, rate: int) -> float:
    """The official client, with a callback that counts."""
    received, done = 0, threading.Event()

    def on_event(_event: Any) -> None:
        nonlocal received
        received += 1
        if received == count:
            done.set()

    kept = subscribed(place, on_event)
    began = time.perf_counter()
    send(place, count, rate)
    assert done.wait(SECONDS), f"{received} of {count}"
    took = time.perf_counter() - began
    del kept
    return count / took


def settings(place: Place, broker: int | None, directory: Path) -> Path:
    daemon = {
        "url": "tcp://{}:{}".format(*place.daemon),
        "username": "user",
        "password": "password",
        "tls": {"ca_file": place.authority},
    }
    sinks = {} if broker is None else {"broker": {"type": "mqtt", "url": f"mqtt://127.0.0.1:{broker}"}}
    file = directory / "meshbridge.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "daemons": {"node-a": daemon},
                "sinks": sinks,
                "journal": {"path": str(directory / "journal")},
                "exporter": {"listen": f"127.0.0.1:{free_port()}"},
            }
        )
    )
    return file


def bridge(place: Place, count: int, rate: int, *, to_broker: bool = True) -> float:
    telemetry.configure_logging("warning")
    with tempfile.TemporaryDirectory(dir=place.directory) as directory:
        service = Service(load(settings(place, place.broker if to_broker else None, Path(directory)), {}))
        service.start()
        journal = service.journal
        wait_for(lambda: service.parts.links[0].status().up, "the link")
        began = time.perf_counter()
        send(place, count, rate)
        while journal.extent[1] < count or (to_broker and journal.cursor("broker") < journal.extent[1]):
            assert time.perf_counter() - began < SECONDS, journal.stats()
            time.sleep(0.002)
        took = time.perf_counter() - began
        service.stop()
    return count / took


def journal_alone(place: Place, count: int, rate: int) -> float:
    return bridge(place, count, rate, to_broker=False)


def contend(contender: Callable[..., float], place: Place, count: int, rate: int, figure: Any) -> None:
    warnings.simplefilter("ignore")
    figure.put(contender(place, count, rate))


def measured(contender: Callable[..., float], place: Place, count: int, rate: int = 0) -> float:
    """Events a second, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    figure = spawn.Queue()
    process = spawn.Process(target=contend, args=(contender, place, count, rate, figure))
    process.start()
    process.join(SECONDS)
    if process.exitcode:
        raise RuntimeError(f"{contender.__name__} failed")
    return float(figure.get(timeout=1))


# --- what is measured ----------------------------------------------------------------------------------------------


def row(what: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Medians; the ratio is that of the rounds."""
    target, aim = TARGETS[what]
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return {
        "what": what,
        "ours": round(statistics.median(ours), 2),
        "other": round(statistics.median(theirs), 2),
        "ratio": round(ratio, 2),
        "target": target,
        "aim": aim,
    }


def throughput(place: Place, *, quick: bool) -> list[dict[str, Any]]:
    count, rounds = (2_000, 1) if quick else (60_000, 5)
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for contender in (paho_alone, bridge, script, journal_alone, callback):
            figures.setdefault(contender.__name__, []).append(measured(contender, place, count))
    return [
        row("delivered beside paho alone", figures["bridge"], figures["paho_alone"]),
        row("delivered beside the script", figures["bridge"], figures["script"]),
        row("journaled beside the SDK's callback", figures["journal_alone"], figures["callback"]),
    ]


def listen(port: int, count: int, ready: Any, ages: Any) -> None:
    """Gives the age of each message on its arrival, in milliseconds."""
    found: list[float] = []
    done = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)

    def on_message(_client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        if (match := re.search(rb'"output": ?"(\d{20}) ', message.payload)) is not None:
            found.append((time.time_ns() - int(match[1])) / 1e6)
            if len(found) == count:
                done.set()

    client.on_message = on_message
    client.on_connect = lambda client, *_: client.subscribe("meshbridge/node-a/+/stdout", qos=0)
    client.on_subscribe = lambda *_: ready.put(None)
    client.connect("127.0.0.1", port)
    client.loop_start()
    done.wait(SECONDS)
    ages.put(found)


def latency(place: Place, *, quick: bool) -> list[dict[str, Any]]:
    count, rounds = (300, 1) if quick else (10_000, 3)
    spawn = multiprocessing.get_context("spawn")
    p50: dict[str, list[float]] = {"bridge": [], "script": []}
    p99: dict[str, list[float]] = {"bridge": [], "script": []}
    for _ in range(rounds):
        for contender in (bridge, script):
            ready, ages = spawn.Queue(), spawn.Queue()
            listener = spawn.Process(target=listen, args=(place.broker, count, ready, ages), daemon=True)
            listener.start()
            ready.get(timeout=60)
            measured(contender, place, count, RATE)
            cuts = statistics.quantiles(ages.get(timeout=60), n=100)
            listener.join(10)
            p50[contender.__name__].append(cuts[49])
            p99[contender.__name__].append(cuts[98])
    return [
        row("age p50 beside the script", p50["bridge"], p50["script"]),
        row("age p99 beside the script", p99["bridge"], p99["script"]),
    ]


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def steady_mib(pid: int, *, quick: bool) -> float:
    """Once it no longer moves."""
    time.sleep(1.0 if quick else 10.0)
    return resident_mib(pid)


def open_seconds(path: str, figure: Any) -> None:
    telemetry.configure_logging("warning")
    journal = Journal(JournalOptions(path=Path(path)))
    began = time.perf_counter()
    journal.open()
    figure.put(time.perf_counter() - began)
    journal.close()


def memory(place: Place, *, quick: bool) -> list[dict[str, Any]]:
    count = 5_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(dir=place.directory) as directory:
        file = settings(place, free_port(), Path(directory))
        exporter = yaml.safe_load(file.read_text())["exporter"]["listen"]
        command = [sys.executable, "-m", "meshbridge", "run", "--config", str(file)]
        with (Path(directory) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)

        def events() -> int:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{exporter}/metrics") as answer:
                text = answer.read()
                if b'meshbridge_daemon_up{daemon="node-a"} 1' in text:
                    return int(float(re.search(rb"^meshbridge_journal_events (\S+)", text, re.MULTILINE)[1]))  # type: ignore[index]
            return -1

        try:
            wait_for(lambda: events() >= 0, "the bridge")
            idle = steady_mib(process.pid, quick=quick)
            send(place, count, FILL_RATE, 1000)
            deadline = time.monotonic() + SECONDS
            while (have := events()) < count:
                assert time.monotonic() < deadline, f"{have} of {count}"
                time.sleep(1)
            full = steady_mib(process.pid, quick=quick)
        finally:
            process.terminate()
            process.wait(30)
        spawn = multiprocessing.get_context("spawn")
        figure = spawn.Queue()
        opener = spawn.Process(target=open_seconds, args=(str(Path(directory) / "journal"), figure))
        opener.start()
        opened = figure.get(timeout=SECONDS)
        opener.join()
    return [
        {
            "what": "MiB more with events waiting",
            "ours": round(full, 1),
            "other": round(idle, 1),
            "ratio": round(full - idle, 1),
            "target": TARGETS["MiB more with events waiting"][0],
            "aim": None,
        },
        {
            "what": "seconds to open that journal",
            "ours": round(opened, 3),
            "other": None,
            "ratio": round(opened, 3),
            "target": TARGETS["seconds to open that journal"][0],
            "aim": None,
        },
    ]


PARTS = {"throughput": throughput, "latency": latency, "memory": memory}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts alone")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="meshbridge-bench-") as name,
        Mosquitto(Path(name) / "broker") as broker,
        daemon(Path(name)) as (address, authority),
    ):
        place = Place(address, authority, broker.port, Path(name))
        rows = [row for part in arguments.only or PARTS for row in PARTS[part](place, quick=arguments.quick)]
    print(f"{'what':<40}{'ours':>12}{'other':>12}{'ratio':>9}{'target':>8}{'aim':>6}")
    for one in rows:
        other = "" if one["other"] is None else f"{one['other']:,}"
        aim = "" if one["aim"] is None else f"{one['aim']:g}"
        print(f"{one['what']:<40}{one['ours']:>12,}{other:>12}{one['ratio']:>9}{one['target']:>8g}{aim:>6}")
    text = json.dumps(rows)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
