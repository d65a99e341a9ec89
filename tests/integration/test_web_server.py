"""The HTTP server of exporter and admin API: what clients may cost, and what no client can take from another."""

import asyncio
import contextlib
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import h11
import pytest
from structlog.testing import capture_logs

from meshbridge import telemetry
from meshbridge.web.addresses import listen_tcp
from meshbridge.web.asgi import Message, Receive, Send
from meshbridge.web.limits import Limits
from meshbridge.web.server import Server
from tests.support import wait_for

FEW = Limits(connections=8, tick_seconds=0.05)
IMPATIENT = Limits(
    connections=8,
    head_seconds=0.2,
    stalled_seconds=0.2,
    keep_alive_seconds=0.2,
    handshake_seconds=0.2,
    tick_seconds=0.05,
)


class App:
    """Answers with the request; ``/wait`` when the test allows it; ``/echo`` with the body."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.waiting = 0
        self.scopes: list[Message] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body = scope["path"].encode()
        if scope["path"] == "/wait":
            self.waiting += 1
            while not self.go.is_set():  # noqa: ASYNC110 an event of another thread
                await asyncio.sleep(0.01)
        elif scope["path"] == "/echo":
            body, more = b"", True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
        elif scope["path"] == "/fail":
            raise LookupError("hunter2")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})


class Run:
    def __init__(self, limits: Limits, **options: Any) -> None:
        self.app = App()
        listener = listen_tcp("127.0.0.1", 0, 128, who="a test")
        self.address = listener.getsockname()
        self.server = Server(self.app, listener, "exporter", limits=limits, vital=["/health"], **options)
        self.server.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def ask(self, path: str) -> bytes:
        with self.connect() as caller:
            caller.sendall(request(path, "Connection: close"))
            return rest_of(caller)


def request(path: str = "/", *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode() + body


def rest_of(caller: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while part := caller.recv(65536):
            parts.append(part)
    return b"".join(parts)


def answers(data: bytes, methods: list[bytes]) -> list[tuple[int, bytes]]:
    """(status, body) of the answers to requests on one connection, as a client of RFC 9112 reads them."""
    found = []
    client = h11.Connection(h11.CLIENT)
    client.receive_data(data)
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        status, body = 0, b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert not isinstance(event, type), event
            status = event.status_code if isinstance(event, h11.Response) else status
            body += event.data if isinstance(event, h11.Data) else b""
        found.append((status, bytes(body)))
        if client.their_state is h11.DONE:
            client.start_next_cycle()
    return found


def cut(reason: str) -> float:
    return telemetry.REGISTRY.get_sample_value("meshbridge_exporter_connections_cut_total", {"reason": reason}) or 0.0


@pytest.fixture
def serve() -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(limits: Limits = FEW, **options: Any) -> Run:
        runs.append(Run(limits, **options))
        return runs[-1]

    yield start
    for run in runs:
        run.app.go.set()
        assert run.server.stop(10)


def test_requests_on_one_connection_are_answered_in_order(serve: Callable[..., Run]) -> None:
    run = serve()
    chunked = b"3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    with run.connect() as caller:
        caller.sendall(
            request("/a")
            + request("/echo", "Content-Length: 3", method="POST", body=b"xyz")
            + request("/echo", "Transfer-Encoding: chunked", method="POST", body=chunked)
            + request("/b", method="HEAD")
            + request("http://x/c?d=e", "Connection: close")
        )
        said = rest_of(caller)
    assert answers(said, [b"GET", b"POST", b"POST", b"HEAD", b"GET"]) == [
        (200, b"/a"),
        (200, b"xyz"),
        (200, b"abcde"),
        (200, b""),
        (200, b"/c"),
    ]
    assert run.app.scopes[-1]["query_string"] == b"d=e"


def test_a_thousand_pipelined_requests_are_answered(serve: Callable[..., Run]) -> None:
    with serve().connect() as caller:
        caller.sendall(request("/a") * 999 + request("/b", "Connection: close"))
        assert answers(rest_of(caller), [b"GET"] * 1000) == [(200, b"/a")] * 999 + [(200, b"/b")]


def test_a_body_is_asked_for_where_the_client_waits_for_that(serve: Callable[..., Run]) -> None:
    with serve().connect() as caller:
        caller.sendall(
            request("/echo", "Content-Length: 2", "Expect: 100-continue", "Connection: close", method="POST")
        )
        assert caller.recv(25) == b"HTTP/1.1 100 \r\n\r\n"
        caller.sendall(b"ab")
        assert rest_of(caller).endswith(b"ab\r\n0\r\n\r\n")


def test_the_rest_of_a_body_that_the_application_leaves_is_left_out(serve: Callable[..., Run]) -> None:
    run = serve()
    with run.connect() as caller:
        caller.sendall(request("/a", "Content-Length: 300000", method="POST"))
        assert caller.recv(12) == b"HTTP/1.1 200"
        caller.sendall(b"x" * 300_000 + request("/b", "Connection: close"))
        assert b"/b" in rest_of(caller)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_old_clients_are_answered_and_hung_up_on(serve: Callable[..., Run], version: str) -> None:
    with serve().connect() as caller:
        caller.sendall(f"GET /a {version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert b"/a" in rest_of(caller)


def test_a_fault_of_the_application_is_one_line_for_the_client(serve: Callable[..., Run]) -> None:
    with capture_logs() as logs:
        said = serve().ask("/fail")
    assert said.startswith(b"HTTP/1.1 500")
    assert b"hunter2" not in said
    assert [log["event"] for log in logs] == ["HTTP server failed"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n", b"400"),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", b"505"),
        (request("/", "Content-Length: -1"), b"400"),
        (request("/", "Content-Length: 3", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), b"400"),
        (request("/", "Transfer-Encoding: gzip"), b"501"),
        (request("/", "X: " + "x" * 40_000), b"431"),
        (request("/echo", "Transfer-Encoding: chunked", method="POST", body=b"zz\r\n"), b"400"),
        (request("/echo", "Transfer-Encoding: chunked", method="POST", body=b"1" * 40_000), b"431"),
    ],
)
def test_what_is_not_http_is_refused_and_hung_up_on(serve: Callable[..., Run], sent: bytes, status: bytes) -> None:
    run, before = serve(), cut("garbage")
    with capture_logs() as logs, run.connect() as caller:
        caller.sendall(sent)
        assert rest_of(caller)[9:12] == status
    assert cut("garbage") == before + 1
    assert not logs
    assert run.ask("/health").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "slow_head"),
        (b"GET / HTTP/1.1\r\nHo", "slow_head"),
        (request("/echo", "Content-Length: 5", method="POST", body=b"x"), "slow_body"),
        (request("/a", "Content-Length: 5", method="POST", body=b"x"), "slow_head"),
    ],
)
def test_silent_clients_are_given_up_on(serve: Callable[..., Run], sent: bytes, reason: str) -> None:
    run, before = serve(IMPATIENT), cut(reason)
    with run.connect() as caller:
        caller.sendall(sent)
        rest_of(caller)
    wait_for(lambda: cut(reason) == before + 1, reason)


def test_a_connection_between_two_requests_is_closed_in_silence(serve: Callable[..., Run]) -> None:
    run = serve(IMPATIENT)
    reasons = ("slow_head", "slow_body", "slow_reader", "idle", "garbage")
    before = [cut(reason) for reason in reasons]
    with run.connect() as caller:
        caller.sendall(request("/a"))
        assert answers(rest_of(caller), [b"GET"]) == [(200, b"/a")]
    assert [cut(reason) for reason in reasons] == before


def test_an_answer_that_the_client_does_not_read_is_given_up_on(serve: Callable[..., Run]) -> None:
    run, before = serve(IMPATIENT), cut("slow_reader")
    with run.connect() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = b"x" * 20_000_000
        with contextlib.suppress(OSError):
            caller.sendall(request("/echo", f"Content-Length: {len(body)}", method="POST", body=body))
        wait_for(lambda: cut("slow_reader") == before + 1, "the slow reader")


def test_silent_connections_make_way_and_nobody_is_kept_out(serve: Callable[..., Run]) -> None:
    run = serve()
    with capture_logs() as logs, contextlib.ExitStack() as stack:
        for number in range(300):
            caller = stack.enter_context(run.connect())
            if number % 2:
                caller.sendall(b"GET / HT")
            if not number % 20:
                assert run.ask("/metrics").startswith(b"HTTP/1.1 200")
        assert run.ask("/health").startswith(b"HTTP/1.1 200")
        assert len(run.server.connections) <= FEW.connections
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["listener at its limit"]


def test_health_is_answered_while_scrapers_hold_every_connection(serve: Callable[..., Run]) -> None:
    run = serve()
    with contextlib.ExitStack() as stack:
        for _ in range(FEW.connections):
            stack.enter_context(run.connect()).sendall(request("/wait"))
        wait_for(lambda: run.app.waiting == FEW.connections, "the scrapers")
        before = cut("too_many")
        assert run.ask("/metrics").startswith(b"HTTP/1.1 503")
        assert run.ask("/health").startswith(b"HTTP/1.1 200")
        assert cut("too_many") == before + 1
        for _ in range(100):
            stack.enter_context(run.connect())
        assert run.ask("/health").startswith(b"HTTP/1.1 200")
        assert len(run.server.connections) <= 2 * FEW.connections
        run.app.go.set()


def test_without_descriptors_idle_connections_make_way_and_nothing_spins(serve: Callable[..., Run]) -> None:
    run = serve(Limits(connections=200, tick_seconds=0.05))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack, capture_logs() as logs:
        for _ in range(20):
            stack.enter_context(run.connect())
        wait_for(lambda: len(run.server.connections) == 20, "the connections")
        callers = [socket.socket() for _ in range(10)]
        for caller in callers:
            stack.enter_context(caller)
            caller.settimeout(30)
        used = max(sock.fileno() for sock in callers)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))  # not one more than are open
        try:
            for caller in callers:
                caller.connect(run.address)
                caller.sendall(request("/a", "Connection: close"))
            for caller in callers:
                assert b"/a" in rest_of(caller)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(logs) <= 2, logs


def test_the_bound_on_connections_follows_the_limit_of_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (112, hard))
        assert Limits().most_connections() == 16
        resource.setrlimit(resource.RLIMIT_NOFILE, (70, hard))
        assert Limits().most_connections() == 8
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert Limits(connections=5).most_connections() == 8


def test_a_stop_lets_an_answer_out_and_cancels_one_that_hangs(serve: Callable[..., Run]) -> None:
    run = serve()
    with run.connect() as slow, run.connect() as idle:
        slow.sendall(request("/wait"))
        wait_for(lambda: run.app.waiting, "the request")
        assert run.server.stop(1)
        assert rest_of(slow).startswith(b"HTTP/1.1 503")
        assert rest_of(idle) == b""
    with pytest.raises(OSError, match="refused"):
        run.connect()
