"""Helpers of the tests: conditions to wait for, real programs to run, events to send."""

import atexit
import contextlib
import itertools
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
import paho.mqtt.client as paho
import yaml
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from meshbridge.model.events import Envelope, Event, decode_push

Value = TypeVar("Value")

DEADLINE_SECONDS = 60.0  # for anything to happen at all; what is waited for comes long before


def program(name: str) -> str | None:
    """The path of a program, also where a user's PATH does not look."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def wait_for(condition: Callable[[], Value], what: str = "", seconds: float = DEADLINE_SECONDS) -> Value:
    """The first true value of ``condition``; fails with ``what`` when there is none in time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        pause.wait(0.01)


@contextlib.contextmanager
def returns_in_time(seconds: float) -> Iterator[None]:
    """The block has a time limit of its own, ``seconds``, against something that would hold it up for much longer.

    A busy machine may make it late, so that it gets ten seconds more; without its limit it would take longer still.
    """
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took <= seconds + 10.0, f"took {took:.1f} s, with a limit of {seconds:g} s"


_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """A port that the kernel gives to no other program while this process runs.

    A socket stays bound to it and does not listen: connections are refused until a server listens there. Servers set
    SO_REUSEADDR, as this socket does, and so can bind to it as well, as often as a test starts them.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _RESERVED.append(sock)
    return int(sock.getsockname()[1])


@atexit.register
def _release_ports() -> None:
    for sock in _RESERVED:
        sock.close()


def push_body(sequence: int, event_type: str = "STDOUT", app: str = "web", data: Any = ...) -> bytes:
    """A pushed message's JSON, as the daemon writes it."""
    if data is ...:
        data = {"finished": False, "output": f"line {sequence}\n", "position": sequence * 10}
    fields = {"app_name": app, "data": data, "event_type": event_type, "sequence": sequence, "timestamp": 1795515820}
    return orjson.dumps(fields | {"subscription_id": "8yJmRcYk2ZN"})


def make_event(sequence: int, event_type: str = "STDOUT", app: str = "web", data: Any = ..., run: str = "1") -> Event:
    """An event of daemon ``node-a``."""
    return decode_push("node-a", run, push_body(sequence, event_type, app, data), time.time(), {})


def envelopes(events: Sequence[Event], first: int = 1) -> list[Envelope]:
    """Events in their places, as the journal gives them."""
    return [Envelope(offset, event) for offset, event in enumerate(events, first)]


class Process:
    """A program in a process group of its own, its output in a file."""

    def __init__(self, command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for_output(self, text: str) -> None:
        wait_for(lambda: text in self.output() or self.popen.poll() is not None, f"{text!r} in {self.log}")
        assert text in self.output(), self.output()[-4000:]

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def end(self, number: int = signal.SIGTERM, seconds: float = 15.0) -> int:
        """Signals the program and gives its exit code."""
        if self.popen.poll() is None:
            self.send(number)
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.send(signal.SIGKILL)
                self.popen.wait(5)
                raise
        return self.popen.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Mosquitto:
    """A real mosquitto, which can be stopped and started again at the same place."""

    def __init__(self, directory: Path, extra: str = "") -> None:
        """``extra`` is added to its settings; what stands before a ``listener`` there belongs to the plain one."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._extra = extra
        self._process: Process | None = None

    def start(self) -> None:
        settings = f"listener {self.port} 127.0.0.1\nmax_queued_messages 1000000\n"
        if "allow_anonymous" not in self._extra:
            settings += "allow_anonymous true\n"
        config = self.directory / "mosquitto.conf"
        config.write_text(settings + self._extra, encoding="utf-8")
        binary = program("mosquitto")
        assert binary is not None
        self._process = Process([binary, "-c", str(config)], self.directory / "mosquitto.log")
        for port in re.findall(r"^listener (\d+)", config.read_text(), re.MULTILINE):
            wait_for(lambda port=port: _listens(int(port)), f"mosquitto on {port}: {self._process.output()}")  # type: ignore[misc]

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.end(number)
            self._process = None

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)


class Subscriber:
    """Receives everything under a topic filter, and comes back by itself when the broker was away.

    What a bridge keeps retained beside its events is left out, unless ``retained`` asks for it.
    """

    def __init__(self, port: int, topic: str = "#", *, client_id: str = "oracle", retained: bool = False) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._arrived: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._port = port
        self._topic = topic
        self._retained = retained
        self._subscribed = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]  # it takes fractions
        self._client.on_connect = lambda client, *_: client.subscribe(self._topic, qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = self._take

    def _take(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        if self._retained or not message.topic.endswith(("/state", "/availability")):
            self.messages.append(message)

    def wait_subscribed(self) -> None:
        assert self._subscribed.wait(DEADLINE_SECONDS), "no subscription"

    def events(self) -> list[dict[str, Any]]:
        """The CloudEvents received so far, in order of arrival."""
        return [orjson.loads(message.payload) for message in list(self.messages)]

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self.wait_subscribed()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def meshbridge_command(*arguments: str) -> list[str]:
    """The installed program, in the interpreter that runs the tests."""
    return [sys.executable, "-m", "meshbridge", *arguments]


def write_config(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@contextlib.contextmanager
def thread(target: Callable[[], None], name: str) -> Iterator[threading.Thread]:
    """Runs ``target`` beside the block and waits for it."""
    running = threading.Thread(target=target, name=name, daemon=True)
    running.start()
    try:
        yield running
    finally:
        running.join(DEADLINE_SECONDS)
        assert not running.is_alive(), f"{name} does not end"


def numbers(start: int = 1) -> Iterator[int]:
    return itertools.count(start)
