"""``meshbridge demo``: an emulated daemon with lively apps, a broker, the bridge, and what a subscriber sees.

Everything listens on loopback, lives in one temporary directory, and is gone at the end.
"""

import asyncio
import contextlib
import json
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self
from urllib.parse import urlsplit

import paho.mqtt.client as paho
import yaml
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console  # noqa: TID251 what a broker says is escaped in _line
from rich.text import Text

from meshbridge import telemetry
from meshbridge.admin.tokens import digest, new_token
from meshbridge.appmesh.app import App
from meshbridge.appmesh.client_tcp import AppMeshClientTCP
from meshbridge.config.load import load
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.emulator.past import synthetic_day
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.event_summary import COLOURS, summary
from meshbridge.outside import printable
from meshbridge.service.service import Service

__all__ = ["run_demo"]

_LOOPBACK = "127.0.0.1"
_DAEMON = "demo"
_USER, _PASSWORD = "admin", "admin123"  # the emulator's default user, as a fresh App Mesh has it
_SAMPLE_APPS: tuple[dict[str, Any], ...] = (
    {
        "name": "talker",
        "description": "says something every second",
        "command": 'i=0; while true; do i=$((i+1)); echo "order $i shipped"; sleep 1; done',
        "shell": True,
    },
    {
        "name": "crasher",
        "description": "crashes after some seconds and is started again",
        "command": "echo working; sleep 4; echo 'panic: out of ideas' >&2; exit 3",
        "shell": True,
        "behavior": {"exit": "restart"},
    },
    {
        "name": "reporter",
        "description": "runs on a schedule",
        "command": "date '+report of %H:%M:%S'",
        "shell": True,
        "start_interval_seconds": "*/10 * * * * *",
        "cron": True,
    },
    {
        "name": "patient",
        "description": "is healthy half of the time",
        "command": "sleep 86400",
        "shell": True,
        "health_check_cmd": "test $(( $(date +%s) / 10 % 2 )) -eq 0",
    },
)


def run_demo(mqtt_url: str | None) -> None:
    """Runs until SIGINT or SIGTERM. ``mqtt_url`` names a broker to use instead of the embedded one.

    Raises:
        OSError: something can't be listened on or reached.
        ValueError: ``mqtt_url`` is no address of a broker.

    """
    console = Console(highlight=False)
    stopping = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    telemetry.configure_logging("warning")
    console.print("[bold]meshbridge demo[/bold]: an emulated App Mesh daemon, a broker, and the bridge between them")
    with contextlib.ExitStack() as parts:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="meshbridge-demo-")))
        emulator = parts.enter_context(
            Emulator(EmulatorOptions(tcp_port=_free_port(6059), wss_port=_free_port(6058), https_port=None))
        )
        broker = mqtt_url or parts.enter_context(_embedded_broker(_free_port(1883)))
        subscriber = parts.enter_context(_Subscriber(broker))
        token = new_token()
        _write_past(directory / "journal")
        service = _service(directory, emulator, broker, token, embedded=mqtt_url is None)
        service.start()
        parts.callback(service.stop)
        _register_apps(emulator)
        assert service.admin is not None
        _show_page(console, service.admin.address, token)
        _introduce(console, service, emulator, broker, directory)
        while not stopping.is_set():
            subscriber.show_next(console)
        console.print("\nstopping …")
    console.print("all of it has ended")


def _write_past(directory: Path) -> None:
    """A synthetic day before the bridge starts: its sinks begin behind it, so that only the page shows it."""
    journal = Journal(JournalOptions(path=directory))
    journal.open()
    try:
        journal.append(synthetic_day(_DAEMON, time.time()))
    finally:
        journal.close()


def _service(directory: Path, emulator: Emulator, broker: str, token: str, *, embedded: bool) -> Service:
    settings = {
        "daemons": {
            _DAEMON: {
                "url": f"tcp://{_LOOPBACK}:{_port(emulator)}",
                "username": _USER,
                "password": _PASSWORD,
                "tls": {"ca_file": str(emulator.ca_file)},
            }
        },
        "journal": {"path": str(directory / "journal")},
        # amqtt speaks 3.1.1 alone.
        "sinks": {"broker": {"type": "mqtt", "url": broker, "protocol": "3.1.1" if embedded else "5"}},
        "exporter": {"listen": f"{_LOOPBACK}:{_free_port(9665)}"},
        "admin": {
            "listen": f"{_LOOPBACK}:{_free_port(9666)}",
            "tokens": [{"name": "demo", "sha256": digest(token), "scopes": ["operate"]}],
        },
    }
    file = directory / "meshbridge.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return Service(load(file, {}))


def _port(emulator: Emulator) -> int:
    assert emulator.tcp_address is not None
    return emulator.tcp_address[1]


def _register_apps(emulator: Emulator) -> None:
    client = AppMeshClientTCP((_LOOPBACK, _port(emulator)), ssl_verify=str(emulator.ca_file))
    try:
        client.login(_USER, _PASSWORD)
        for app in _SAMPLE_APPS:
            client.add_app(App(app))
    finally:
        client.close()


def _show_page(console: Console, address: str, token: str) -> None:
    """A browser does not send what stands behind ``#``, and the page takes it out of the address."""
    console.print(
        f"""
  page       [bold]http://{address}/#token={token}[/bold]
             daemons, sinks, events, the output of apps: open it in a browser
             (the 24 hours before this moment are synthetic, as each line of their output reads)""",
        soft_wrap=True,
    )


def _introduce(console: Console, service: Service, emulator: Emulator, broker: str, directory: Path) -> None:
    address = urlsplit(broker)
    host, port = service.exporter.address
    console.print(
        f"""
  App Mesh   tcp://{_LOOPBACK}:{_port(emulator)}  user {_USER}, password {_PASSWORD}, CA {emulator.ca_file}
  metrics    http://{host}:{port}/metrics
             [cyan]curl -s http://{host}:{port}/metrics | grep ^appmesh_app[/cyan]
  broker     {broker}
             [cyan]mosquitto_sub -h {address.hostname} -p {address.port or 1883} -v -t 'meshbridge/#'[/cyan]
  settings   {directory / "meshbridge.yaml"}

What a subscriber of [cyan]meshbridge/#[/cyan] receives (Ctrl-C ends all of it):
""",
        soft_wrap=True,
    )


# --- the subscriber ------------------------------------------------------------------------------------------------


class _Subscriber:
    """A client of the broker, like any other's. paho's thread receives; the main thread shows."""

    def __init__(self, broker: str) -> None:
        parts = urlsplit(broker)
        if parts.scheme != "mqtt" or not parts.hostname:
            raise ValueError(f"not the address of a broker: {broker!r} (use mqtt://host:1883)")
        self._address = parts.hostname, parts.port or 1883
        self._messages: queue.Queue[tuple[str, bytes]] = queue.Queue(maxsize=10_000)
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("meshbridge/#", qos=1)
        self._client.on_message = self._take

    def _take(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        with contextlib.suppress(queue.Full):  # a terminal that stands still must not stop the demo
            self._messages.put_nowait((message.topic, bytes(message.payload)))

    def __enter__(self) -> Self:
        self._client.connect(*self._address)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def show_next(self, console: Console) -> None:
        """Waits a moment for a message and prints it."""
        try:
            topic, payload = self._messages.get(timeout=0.2)
        except queue.Empty:
            return
        if topic.endswith(("/state", "/availability")):
            return  # retained beside the events; what they say shows in these
        try:
            event = json.loads(payload)
            console.print(_line(topic, event), no_wrap=True, overflow="ellipsis")
        except (ValueError, KeyError, TypeError):
            console.print(f"{topic}: {payload[:200]!r}", markup=False)


def _line(topic: str, event: dict[str, Any]) -> Text:
    name = topic.rpartition("/")[2]
    line = Text(f"  {printable(event['time'][11:19])}  ", style="bright_black")
    line.append(f"{printable(topic):<32}  ", style="cyan")
    return line.append(summary(name, event["data"] or {}), style=COLOURS.get(name, "default"))


# --- the broker ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _embedded_broker(port: int) -> Iterator[str]:
    """An MQTT broker (amqtt, 3.1.1) in a thread of its own; gives its URL."""
    from amqtt.broker import Broker  # noqa: PLC0415 slow to import, and not needed with --mqtt

    loop = asyncio.new_event_loop()
    settings = {
        "listeners": {"default": {"type": "tcp", "bind": f"{_LOOPBACK}:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    thread = threading.Thread(target=loop.run_forever, name="broker", daemon=True)
    thread.start()

    async def start() -> Any:
        broker = Broker(settings, loop=loop)
        await broker.start()
        return broker

    broker = asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=10)
    try:
        yield f"mqtt://{_LOOPBACK}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(broker.shutdown(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _free_port(wanted: int) -> int:
    """The usual port where it is free, else one from the kernel."""
    for port in (wanted, 0):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((_LOOPBACK, port))
            except OSError:
                continue
            return int(trial.getsockname()[1])
    sys.exit("no free port on loopback")
