"""What every call passes: bounds, headers, the audit log; and callers that mean no good leave nothing behind."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from meshbridge import telemetry
from meshbridge.admin.options import Scope
from meshbridge.admin.tokens import new_token
from meshbridge.web.limits import Limits
from tests.integration.admin_access import SECRETS, Door, doors, issue, trusting
from tests.support import make_event, wait_for

ADMIN = SECRETS[Scope.ADMIN]
EXPLAIN = ("POST", "/api/v1/bridge/explain")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    with doors(tmp_path) as open_door:
        yield open_door


def cut(reason: str) -> float:
    return telemetry.REGISTRY.get_sample_value("meshbridge_admin_connections_cut_total", {"reason": reason}) or 0.0


def threads_of_parts() -> list[str]:
    """All but the workers that serve any call, of which there are never more than so many."""
    names = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("AnyIO") for name in names) <= 42
    return sorted(name for name in names if not name.startswith("AnyIO"))


def request_of(path: str, *headers: str, method: str = "GET", token: str | None = ADMIN) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    lines += [] if token is None else [f"Authorization: Bearer {token}"]
    return "\r\n".join([*lines, "", ""]).encode()


def rest_of(caller: socket.socket) -> bytes:
    """What the other side still says before it hangs up."""
    parts = []
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while part := caller.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture(scope="module")
def small_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with doors(tmp_path_factory.mktemp("small")) as open_door:
        yield open_door(max_connections=20, max_request_bytes=4096)


@pytest.fixture(scope="module")
def impatient_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    limits = Limits(head_seconds=0.2, stalled_seconds=0.2, tick_seconds=0.05)
    with doors(tmp_path_factory.mktemp("impatient")) as open_door:
        yield open_door(limits, max_connections=20, max_request_bytes=4096)


@contextlib.contextmanager
def leaving_nothing(door: Door) -> Iterator[Door]:
    """Afterwards there is no connection, thread or file more than before behind the door."""
    door.ask("GET", "/api/v1/bridge", ADMIN)
    door.ask("GET", "/api/v1/events?event=nope", ADMIN)
    wait_for(lambda: not door.server.connections, "no connections")
    process = psutil.Process()
    threads, files = threads_of_parts(), process.num_fds()
    yield door
    wait_for(lambda: not door.server.connections, "no connections")
    wait_for(lambda: process.num_fds() <= files, "no open files")
    assert threads_of_parts() == threads
    assert door.ask("GET", "/api/v1/bridge", ADMIN)[0].status == 200


@pytest.fixture
def nothing_stays(small_door: Door) -> Iterator[Door]:
    with leaving_nothing(small_door) as door:
        yield door


@pytest.fixture
def impatient(impatient_door: Door) -> Iterator[Door]:
    """As ``nothing_stays``, with less patience."""
    with leaving_nothing(impatient_door) as door:
        yield door


def test_security_headers_are_on_every_answer(opened: Callable[..., Door]) -> None:
    door = opened()
    for method, path, token in [
        ("GET", "/api/v1/bridge", ADMIN),
        ("GET", "/api/v1/bridge", None),
        ("GET", "/nowhere", None),
        ("POST", "/openapi.json", None),
        ("GET", "/openapi.json", None),
        ("GET", "/api/v1/bridge/replays/x", ADMIN),
    ]:
        response, _ = door.ask(method, path, token)
        assert response.headers["x-content-type-options"] == "nosniff", path
        assert response.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "server" not in response.headers


def test_without_a_token_nothing_is_told_or_read(opened: Callable[..., Door]) -> None:
    door = opened(max_request_bytes=1024)
    for path in ("/api/v1/nowhere", "/api/v1/daemons/ghost/apps", "/-/reload", "/-/x", "/api/"):
        assert door.ask("POST", path)[0].status == 401, path
    assert door.ask(*EXPLAIN, body=b"{" * 5000)[0].status == 401


@pytest.mark.parametrize("name", ["a%2Fb", "a%2fb%20%25", "web.prod", "..", "%E6%97%A5"])
def test_any_name_of_an_app_has_its_place_in_a_path(opened: Callable[..., Door], name: str, tmp_path: Path) -> None:
    door = opened(audit_file=tmp_path / "audit")
    response, problem = door.ask("GET", f"/api/v1/daemons/ghost/apps/{name}/output", ADMIN)
    assert (response.status, problem["type"]) == (404, "/problems/unknown-daemon"), "the path was understood"
    assert door.ask("POST", f"/api/v1/daemons/ghost/users/{name}", ADMIN)[0].status < 500
    assert json.loads((tmp_path / "audit").read_text().splitlines()[0])["status"] == 404


def test_a_body_has_a_bound(opened: Callable[..., Door]) -> None:
    door = opened(max_request_bytes=2048)
    headers = {"Content-Type": "application/json"}
    for body in (b"x" * 2049, iter([b"x" * 1500] * 2)):
        response, problem = door.ask(*EXPLAIN, ADMIN, body=body, headers=headers)
        assert (response.status, problem["type"]) == (413, "/problems/too-large")
        assert "2048" in problem["detail"]
    response, problem = door.ask(*EXPLAIN, ADMIN, body=b"{}".ljust(2048), headers=headers)
    assert (response.status, problem["type"]) == (422, "/problems/invalid")


def test_a_bug_is_told_in_the_log_and_not_to_the_caller(
    opened: Callable[..., Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    door = opened()

    def fail() -> None:
        raise LookupError("hunter2")

    monkeypatch.setattr(door.journal, "stats", fail)
    with capture_logs() as logs:
        response, problem = door.ask("GET", "/api/v1/bridge/journal", ADMIN)
    assert (response.status, problem["type"]) == (500, "/problems/internal")
    assert "hunter2" not in json.dumps(problem)
    assert [log["path"] for log in logs if log["event"] == "admin request failed"] == ["/api/v1/bridge/journal"]


def test_every_call_is_audited_and_no_secret_is(opened: Callable[..., Door], tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    door = opened(audit_file=file)
    wrong = new_token()
    door.ask("GET", "/api/v1/bridge/dead-letters?sink=a&password=hunter2", SECRETS[Scope.READ])
    door.ask("POST", "/api/v1/bridge/sinks/none/pause", SECRETS[Scope.READ])
    door.ask("POST", "/api/v1/bridge/sinks/none/pause", ADMIN)
    door.ask("GET", "/api/v1/daemons/node-a/apps", ADMIN)
    for _ in range(12):
        door.ask("GET", "/api/v1/bridge", wrong)
    door.ask("GET", "/openapi.json")
    with door.events("?app=web") as stream:
        stream.until_line(b"id:")
    wait_for(lambda: file.read_text().count("/events"), "the stream's line")
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(call.get("who"), call["path"].removeprefix("/api/v1/"), call["status"]) for call in told] == [
        ("the-read", "bridge/dead-letters", 200),
        ("the-read", "bridge/sinks/none/pause", 403),
        ("the-admin", "bridge/sinks/none/pause", 404),
        ("the-admin", "daemons/node-a/apps", 404),
        *[(None, "bridge", 401)] * 10,
        ("the-read", "events", 200),
    ]
    assert told[0]["query"] == {"sink": ["a"], "password": ["***"]}
    assert (told[1]["scope"], told[1]["method"], told[3]["daemon"]) == ("operate", "POST", "node-a")
    for call in told:
        assert call["peer"] == "127.0.0.1"
        assert call["duration_seconds"] >= 0
    text = file.read_text()
    for secret in ("hunter2", wrong, *SECRETS.values()):
        assert secret not in text


def test_a_unix_socket_tells_whose_process_called(opened: Callable[..., Door], tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    door = opened(listen=f"unix:{tmp_path}/admin.sock", audit_file=file)
    door.ask("GET", "/api/v1/bridge", ADMIN)
    wait_for(file.exists, "the audit file")
    assert json.loads(file.read_text())["peer"].startswith("user ")


GARBAGE = {
    "noise": b"\x00\xff\x13\x37" * 50 + b"\r\n\r\n",
    "tls to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "no version": b"GET /\r\n\r\n",
    "a head without end": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000,
    "two lengths": request_of("/api/v1/bridge", "Content-Length: 1", "Content-Length: 2"),
    "a length that is none": request_of("/api/v1/bridge", "Content-Length: many"),
    "a chunk that is none": request_of(EXPLAIN[1], "Transfer-Encoding: chunked", method="POST") + b"zz\r\nx\r\n",
    "a length and a coding": request_of(EXPLAIN[1], "Content-Length: 3", "Transfer-Encoding: chunked", method="POST")
    + b"0\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "a bare LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "a bare CR": b"GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_answered_as_a_problem(nothing_stays: Door, what: str) -> None:
    before = cut("garbage")
    with nothing_stays.connect() as caller:
        caller.sendall(GARBAGE[what])
        said = rest_of(caller)
    assert said.startswith(b"HTTP/1.1 4"), said
    assert b"application/problem+json" in said
    assert b"nosniff" in said
    assert cut("garbage") == before + 1


@pytest.mark.parametrize("sent", [b"", b"GET /api/v1/bri", request_of("/api/v1/bridge")[:-2]])
def test_a_head_that_does_not_come_to_its_end_is_given_up(impatient: Door, sent: bytes) -> None:
    before = cut("slow_head")
    with impatient.connect() as caller:
        caller.sendall(sent)
        said = rest_of(caller)
    assert said.startswith(b"HTTP/1.1 408") if sent else not said
    assert cut("slow_head") == before + 1


def test_a_head_that_drips_is_given_up(impatient: Door) -> None:
    with impatient.connect() as caller, contextlib.suppress(OSError):
        caller.sendall(b"GET /api/v1/bridge HTTP/1.1\r\n")
        caller.settimeout(0.05)
        said = b""
        for number in range(600):
            caller.sendall(b"X-%d: y\r\n" % number)
            with contextlib.suppress(TimeoutError):
                said = caller.recv(65536)
                break
        assert said.startswith(b"HTTP/1.1 408")


def test_a_body_that_drips_is_given_up(impatient: Door) -> None:
    before = cut("slow_body")
    head = request_of(EXPLAIN[1], "Content-Length: 4000", "Content-Type: application/json", method="POST")
    with impatient.connect() as caller:
        caller.sendall(head + b"{")
        assert rest_of(caller).startswith(b"HTTP/1.1 408")
    assert cut("slow_body") == before + 1


def test_a_body_that_nobody_wants_is_not_waited_for(impatient: Door) -> None:
    with impatient.connect() as caller:
        caller.sendall(request_of(EXPLAIN[1], "Content-Length: 1000000", method="POST", token=None) + b"{")
        assert rest_of(caller).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "sent",
    [
        b"POST",
        request_of(EXPLAIN[1], "Content-Length: 4000", method="POST") + b"{",
        request_of(EXPLAIN[1], "Transfer-Encoding: chunked", method="POST") + b"5\r\n{",
        request_of("/api/v1/events"),
        request_of("/api/v1/bridge") * 20,
    ],
)
@pytest.mark.parametrize("how", ["end", "half", "reset"])
def test_callers_that_go_leave_nothing_behind(nothing_stays: Door, sent: bytes, how: str) -> None:
    for _ in range(5):
        with nothing_stays.connect() as caller:
            caller.sendall(sent)
            if how == "half":
                caller.shutdown(socket.SHUT_WR)
            elif how == "reset":
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_a_stream_whose_client_takes_nothing_is_cut_off(impatient: Door) -> None:
    before = cut("slow_reader")
    output = {"finished": False, "output": "x" * 50_000, "position": 0}
    with impatient.connect() as caller, impatient.events() as reader:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.sendall(request_of("/api/v1/events?since=1h"))
        for first in range(1, 400, 20):
            impatient.journal.append([make_event(first + one, data=output) for one in range(20)])
            assert [sent.id for sent in reader.take(20)] == [str(first + one) for one in range(20)]
        wait_for(lambda: cut("slow_reader") == before + 1, "the slow one to be cut off")


def test_connections_have_a_bound(nothing_stays: Door) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(nothing_stays.connect())
        wait_for(lambda: len(nothing_stays.server.connections) == 20, "the connections")
        before = cut("idle")
        assert nothing_stays.ask("GET", "/api/v1/bridge", ADMIN)[0].status == 200
        assert cut("idle") > before, "one that was silent has made way"
        for _ in range(60):
            stack.enter_context(nothing_stays.connect())
        assert nothing_stays.ask("GET", "/api/v1/bridge", ADMIN)[0].status == 200
        assert len(nothing_stays.server.connections) <= 20


def test_where_all_connections_are_busy_further_callers_are_refused(nothing_stays: Door) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(nothing_stays.events())
        response, problem = nothing_stays.ask("GET", "/api/v1/bridge", ADMIN)
        assert (response.status, problem["type"]) == (503, "/problems/busy")
        assert response.headers["retry-after"] == "5"


def test_tls_handshakes_that_are_never_begun_keep_nobody_else_out(opened: Callable[..., Door], tmp_path: Path) -> None:
    authority, tls = issue(tmp_path)
    door = opened(tls=tls, max_connections=8)
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(door.connect())
        assert door.ask("GET", "/api/v1/bridge", ADMIN, tls=trusting(authority))[0].status == 200
        with door.connect() as plain:
            plain.sendall(request_of("/api/v1/bridge"))
            assert b"200" not in rest_of(plain)


def test_a_new_certificate_is_shown_without_a_restart(opened: Callable[..., Door], tmp_path: Path) -> None:
    old, tls = issue(tmp_path)
    door = opened(tls=tls)
    assert door.ask("GET", "/api/v1/bridge", ADMIN, tls=trusting(old))[0].status == 200
    (tmp_path / "cert.pem").write_text("none")
    new, _ = issue(tmp_path)

    def shown() -> bool:
        with contextlib.suppress(OSError):
            return door.ask("GET", "/api/v1/bridge", ADMIN, tls=trusting(new))[0].status == 200
        return False

    wait_for(shown, "the new certificate")
