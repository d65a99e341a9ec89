"""The NATS sink and a real nats-server: stored once, in order, over restarts and a full stream."""

import asyncio
import contextlib
import signal
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import nats
import orjson
import pytest
import trustme
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DiscardPolicy, StreamConfig
from nats.js.errors import FetchTimeoutError
from pydantic import ValidationError

from meshbridge.model.events import Envelope
from meshbridge.sinks.base import NotConnected, Refused, Retry, SinkError
from meshbridge.sinks.nats import NatsOptions, NatsSink
from tests.contract.sinks.socket_server import SocketServer
from tests.support import Process, envelopes, free_port, make_event, program, wait_for

pytestmark = pytest.mark.needs("nats-server")
SECONDS = 5.0
Value = TypeVar("Value")


class NatsServer:
    """A real server with JetStream on, which can be stopped and started again with what it has stored."""

    def __init__(self, directory: Path, extra: str = "") -> None:
        directory.mkdir()
        self.port = free_port()
        self.settings: dict[str, Any] = {}  # of the oracle's connection
        self._directory = directory
        self._extra = extra
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self._directory / "nats.conf"
        store = f'jetstream {{ store_dir: "{self._directory}/store" }}\n'
        config.write_text(f"host: 127.0.0.1\nport: {self.port}\n{store}{self._extra}", encoding="utf-8")
        binary = program("nats-server")
        assert binary is not None
        log = self._directory / "nats.log"
        log.unlink(missing_ok=True)
        self._process = Process([binary, "-c", str(config)], log)
        self._process.wait_for_output("Server is ready")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.end(number)
            self._process = None

    def ask(self, work: Callable[[Client], Awaitable[Value]]) -> Value:
        """Runs work with a client of its own."""

        async def run() -> Value:
            client = await nats.connect(self.url, **self.settings)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(run())

    def make_stream(self, **settings: Any) -> None:
        async def make(client: Client) -> None:
            await client.jetstream().add_stream(StreamConfig(name="EVENTS", subjects=["meshbridge.>"], **settings))

        self.ask(make)

    def stored(self) -> list[Any]:
        """What is in the stream, in its order."""

        async def fetch(client: Client) -> list[Any]:
            unlimited = ConsumerConfig(max_ack_pending=-1)
            subscription = await client.jetstream().pull_subscribe("meshbridge.>", stream="EVENTS", config=unlimited)
            messages: list[Any] = []
            with contextlib.suppress(FetchTimeoutError, TimeoutError):
                while True:
                    more = await subscription.fetch(1000, timeout=0.5)
                    messages += more
                    if more[-1].metadata.num_pending == 0:
                        break
            return messages

        return self.ask(fetch)

    def stored_ids(self) -> list[str]:
        return [message.headers["Nats-Msg-Id"] for message in self.stored()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path / "nats")
    made.start()
    yield made
    made.stop(signal.SIGKILL)


@contextlib.contextmanager
def connected(url: str, **settings: Any) -> Iterator[NatsSink]:
    sink = NatsSink(NatsOptions.model_validate({"type": "nats", "url": url, **settings}))
    try:
        sink.connect(SECONDS)
        yield sink
    finally:
        sink.close(SECONDS)


def some(count: int, first: int = 1) -> list[Envelope]:
    return envelopes([make_event(first + n, app=f"app-{n % 7}") for n in range(count)], first)


def ids(batch: list[Envelope]) -> list[str]:
    return [envelope.event.id for envelope in batch]


def deliver(sink: NatsSink, batch: list[Envelope]) -> int:
    """Offers until all is stored, as the courier would without its waits; gives the number of failures."""
    rest, failures = list(batch), 0
    online = True

    def attempt() -> bool:
        nonlocal failures, online
        try:
            if not online:
                sink.connect(1.0)
                online = True
            sink.write(rest, SECONDS)
            rest.clear()
        except SinkError as error:
            failures += 1
            del rest[: error.acknowledged]
            online = online and not isinstance(error, NotConnected)
        return not rest

    wait_for(attempt, "all to be stored")
    return failures


def test_events_are_stored_with_their_id_in_order(server: NatsServer) -> None:
    server.make_stream()
    with connected(server.url, stream="EVENTS") as sink:
        sink.write(some(500), SECONDS)
    stored = server.stored()
    assert sorted(message.headers["Nats-Msg-Id"] for message in stored) == sorted(ids(some(500)))
    for app in range(7):
        of_app = [message.headers["Nats-Msg-Id"] for message in stored if f".app-{app}." in message.subject]
        assert of_app == [envelope.event.id for envelope in some(500) if envelope.event.app == f"app-{app}"]
    assert stored[0].subject == "meshbridge.node-a.app-0.stdout"
    assert stored[0].headers["Content-Type"] == "application/cloudevents+json"
    assert orjson.loads(stored[0].data)["id"] == stored[0].headers["Nats-Msg-Id"]


def test_what_is_offered_again_is_stored_once(server: NatsServer) -> None:
    server.make_stream()
    with connected(server.url) as sink:
        sink.write(some(50), SECONDS)
        sink.connect(SECONDS)
        sink.write(some(60), SECONDS)
    assert sorted(server.stored_ids()) == sorted(ids(some(60)))


def test_a_killed_server_loses_nothing(server: NatsServer) -> None:
    server.make_stream()
    batch = some(2000)

    def kill_twice() -> None:
        for _ in range(2):
            wait_for(lambda: server._process is not None)
            server.stop(signal.SIGKILL)
            server.start()

    with connected(server.url) as sink:
        sink.write(batch[:100], SECONDS)
        killer = threading.Thread(target=kill_twice)
        killer.start()
        failures = sum(deliver(sink, batch[first : first + 100]) for first in range(100, 2000, 100))
        killer.join()
        failures += deliver(sink, batch)  # also the ones before the last kill: the server knows them
    stored = server.stored_ids()
    assert sorted(set(stored)) == sorted(ids(batch))
    for app in range(7):
        of_app = [envelope.event.id for envelope in batch if envelope.event.app == f"app-{app}"]
        wanted = set(of_app)
        assert list(dict.fromkeys(one for one in stored if one in wanted)) == of_app


def test_a_full_stream_is_retry_and_goes_on_when_there_is_room(server: NatsServer) -> None:
    server.make_stream(max_msgs=25, discard=DiscardPolicy.NEW)
    batch = some(40)
    with connected(server.url) as sink:
        with pytest.raises(Retry, match="maximum messages exceeded") as caught:
            sink.write(batch, SECONDS)
        assert caught.value.acknowledged <= 25
        assert caught.value.reason == "nats_10077"
        first = server.stored_ids()
        assert len(first) == 25

        async def purge(client: Client) -> None:
            await client.jetstream().purge_stream("EVENTS")

        server.ask(purge)
        sink.write(batch[caught.value.acknowledged :], SECONDS)
    stored = list(dict.fromkeys(first + server.stored_ids()))
    assert sorted(stored) == sorted(ids(batch))


def test_a_message_above_the_streams_limit_is_refused(server: NatsServer) -> None:
    server.make_stream(max_msg_size=2000)
    batch = envelopes([make_event(1), make_event(2, "EXIT", data={"last_error": "x" * 3000}), make_event(3, app="db")])
    with connected(server.url) as sink, pytest.raises(Refused) as caught:
        sink.write(batch, SECONDS)
    assert (caught.value.acknowledged, caught.value.reason) == (1, "too_large")


@pytest.mark.parametrize("settings", [{"stream": "EVENTS"}, {}])
def test_output_above_the_streams_limit_is_divided(server: NatsServer, settings: dict[str, Any]) -> None:
    server.make_stream(max_msg_size=2000)
    text = "0123456789" * 900
    events = [make_event(1), make_event(2, data={"finished": False, "output": text, "position": 0}), make_event(3)]
    with connected(server.url, **settings) as sink:
        sink.write(envelopes(events), SECONDS)
    stored = server.stored()
    parts = [message for message in stored if message.headers["Nats-Msg-Id"].startswith("node-a/1/2/")]
    assert "".join(orjson.loads(message.data)["data"]["output"] for message in parts) == text
    assert stored[-1].headers["Nats-Msg-Id"] == "node-a/1/3"


def test_a_subject_without_the_right_to_publish_is_named_and_holds_nothing_up_for_long(tmp_path: Path) -> None:
    rights = 'publish: { deny: ["meshbridge.*.db.>"] }'
    users = f"{{user: bridge, password: secret, permissions: {{ {rights} }} }}, {{user: all, password: secret}}"
    server = NatsServer(tmp_path / "rights", f"authorization {{ users: [ {users} ] }}\n")
    server.settings = {"user": "all", "password": "secret"}
    server.start()
    try:
        server.make_stream()
        batch = envelopes([make_event(1), make_event(2, app="db"), make_event(3), make_event(4, app="db")])
        with connected(server.url, username="bridge", password="secret", denied_wait="1ms") as sink:
            with pytest.raises(Retry, match=r"no right to publish to meshbridge.node-a.db.stdout; allow it") as caught:
                sink.write(batch, SECONDS)
            assert (caught.value.acknowledged, caught.value.reason) == (1, "not_authorized")
            with pytest.raises(Refused, match="dead-letters retry") as refused:
                sink.write(batch[1:], SECONDS)
            assert refused.value.acknowledged == 0
            sink.write(batch[2:3], SECONDS)
        stored = set(server.stored_ids())
        assert stored == {"node-a/1/1", "node-a/1/3"}
    finally:
        server.stop(signal.SIGKILL)


@pytest.mark.parametrize("shape", ["cloudevents", "binary"])
def test_output_above_the_servers_limit_is_divided(tmp_path: Path, shape: str) -> None:
    server = NatsServer(tmp_path / "small", "max_payload: 8KB\n")
    server.start()
    try:
        server.make_stream()
        text = "é€𝄞\n" * 6000
        with connected(server.url, format=shape) as sink:
            sink.write(envelopes([make_event(1, data={"finished": False, "output": text, "position": 0})]), SECONDS)
        stored = server.stored()
        bodies = [orjson.loads(message.data) for message in stored]
        outputs = [(body if shape == "binary" else body["data"])["output"] for body in bodies]
        assert "".join(outputs) == text
        assert [message.headers["Nats-Msg-Id"] for message in stored] == [f"node-a/1/1/{n}" for n in range(len(stored))]
        if shape == "binary":
            assert stored[1].headers["ce-id"] == "node-a/1/1/1"
    finally:
        server.stop(signal.SIGKILL)


def test_what_is_missing_is_said(server: NatsServer) -> None:
    with connected(server.url) as sink, pytest.raises(Retry, match="no stream") as caught:
        sink.write(some(3), SECONDS)
    assert (caught.value.reason, caught.value.acknowledged) == ("no_stream", 0)
    with pytest.raises(NotConnected, match="no stream EVENTS"), connected(server.url, stream="EVENTS"):
        pass
    server.stop()
    with pytest.raises(NotConnected, match="cannot connect"), connected(server.url):
        pass


def test_a_server_without_jetstream_is_noticed(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "plain")
    port = server.port
    binary = program("nats-server")
    assert binary is not None
    with Process([binary, "-a", "127.0.0.1", "-p", str(port)], tmp_path / "log") as process:
        process.wait_for_output("Server is ready")
        with pytest.raises(NotConnected, match="no JetStream"):
            NatsOptions.model_validate({"type": "nats", "url": server.url}).probe(SECONDS)


def test_a_lost_connection_is_noticed_while_idle(server: NatsServer) -> None:
    server.make_stream()
    with connected(server.url) as sink:
        sink.write(some(3), SECONDS)
        sink.idle()
        server.stop(signal.SIGKILL)

        def lost() -> bool:
            try:
                sink.idle()
            except NotConnected:
                return True
            return False

        wait_for(lost, "the loss to be noticed")


def test_a_wrong_password_is_refused_and_not_shown(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "auth", 'authorization { user: "bridge", password: "right" }\n')
    server.settings = {"user": "bridge", "password": "right"}
    server.start()
    try:
        server.make_stream()
        with connected(server.url, username="bridge", password="right") as sink:
            sink.write(some(3), SECONDS)
        for settings in ({"username": "bridge", "password": "hunter2"}, {"token": "hunter2"}, {}):
            with pytest.raises(NotConnected, match="not authorized") as caught, connected(server.url, **settings):
                pass
            assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"
    finally:
        server.stop(signal.SIGKILL)


def test_tls_is_verified(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    tls = f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.pem" }}\n'
    server = NatsServer(tmp_path / "tls", tls)
    server.settings = {"tls": _trusting(authority)}
    server.start()
    try:
        server.make_stream()
        url = server.url.replace("nats://", "tls://")
        with connected(url, tls={"ca_file": str(tmp_path / "ca.pem")}) as sink:
            sink.write(some(3), SECONDS)
        with pytest.raises(NotConnected, match="not trusted"), connected(url):
            pass
    finally:
        server.stop(signal.SIGKILL)


def _trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_server_that_offers_no_tls_gets_no_password() -> None:
    heard = b""

    def serve(sock: socket.socket) -> None:
        nonlocal heard
        sock.sendall(b'INFO {"server_id":"S","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576}\r\n')
        while data := sock.recv(4096):
            heard += data

    server = SocketServer(serve)
    server.start()
    try:
        with (
            pytest.raises(NotConnected, match="offers no TLS"),
            connected(f"tls://127.0.0.1:{server.port}", username="u", password="hunter2"),
        ):
            pass
    finally:
        server.stop()
    assert heard == b""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "http://x"}, "not the address"),
        ({"url": "nats://u:p@x"}, "keys of their own"),
        ({"url": "nats://a,tls://b"}, "all nats:// or all tls://"),
        ({"username": "u"}, "go together"),
        ({"subject": "a.{thing}"}, "unknown place"),
        ({"subject": "a..b"}, "words separated by dots"),
        ({"subject": "a.>"}, "words separated by dots"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        NatsOptions.model_validate({"type": "nats", "url": "nats://localhost", **settings})


def test_without_the_extra_there_is_one_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ValidationError) as caught:
        NatsOptions.model_validate({"type": "nats", "url": "nats://localhost"})
    [problem] = caught.value.errors()
    assert problem["msg"].endswith("needs the extra nats: pip install 'meshbridge[nats]'")


def test_a_name_is_one_word_of_the_subject() -> None:
    sink = NatsSink(NatsOptions.model_validate({"type": "nats", "url": "nats://localhost"}))
    assert sink._subject(make_event(1, app="a.b *>c\n")) == "meshbridge.node-a.a_b___c_.stdout"
