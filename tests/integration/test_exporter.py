"""The exporter over HTTP: paths, errors, TLS and users, stopping."""

import base64
import gzip
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trustme
import yaml

from meshbridge.exporter import Exporter, ExporterOptions, Sources
from meshbridge.model.status import JournalStatus, LinkState, LinkStatus, SinkState, SinkStatus
from tests.support import returns_in_time, wait_for


@dataclass
class Daemon:
    """Answers at once, or when ``gate`` opens."""

    name: str = "node-a"
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    calls: int = 0

    def _answer(self, answer: Any) -> Any:
        self.calls += 1
        self.entered.set()
        self.gate.wait(60)
        return answer

    def get_metrics(self, timeout_seconds: float) -> bytes:
        text: bytes = self._answer(b"# TYPE appmesh_x gauge\nappmesh_x 1\n")
        return text

    def get_host_resources(self, timeout_seconds: float) -> dict[str, Any]:
        return {"load": {"1min": 0.5}}

    def list_apps(self, timeout_seconds: float) -> list[dict[str, Any]]:
        return [{"name": "web", "status": 1, "pid": 3, "memory": 5}]


@dataclass
class Bench:
    """An exporter and its sources."""

    daemon: Daemon
    reasons: list[str] = field(default_factory=list)
    broken: bool = False

    def links(self) -> list[LinkStatus]:
        if self.broken:
            raise RuntimeError("secret-detail")
        return [LinkStatus("node-a", LinkState.UP)]

    def sources(self) -> Sources:
        return Sources(
            daemons=lambda: [self.daemon],
            links=self.links,
            sinks=lambda: [SinkStatus("log", SinkState.UP)],
            journal=lambda: JournalStatus("/j", open=True),
            ready=lambda: self.reasons,
        )


@pytest.fixture
def bench() -> Iterator[Bench]:
    daemon = Daemon()
    daemon.gate.set()
    yield Bench(daemon)
    daemon.gate.set()


@pytest.fixture
def start(bench: Bench) -> Iterator[Callable[..., Exporter]]:
    """Starts exporters, which are stopped at the end."""
    started: list[Exporter] = []

    def run(listen: str = "127.0.0.1:0", web_config: Path | None = None) -> Exporter:
        exporter = Exporter(ExporterOptions(listen=listen, web_config=web_config), bench.sources())
        exporter.start()
        started.append(exporter)
        return exporter

    yield run
    for exporter in started:
        exporter.stop()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def get(
    exporter: Exporter, path: str, method: str = "GET", context: ssl.SSLContext | None = None, **headers: str
) -> Reply:
    host, port = exporter.address
    connection = (
        http.client.HTTPConnection(host, port, timeout=30)
        if context is None
        else http.client.HTTPSConnection(host, port, timeout=30, context=context)
    )
    try:
        connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


# --- paths ---------------------------------------------------------------------------------------------------------


def test_metrics_in_both_formats_and_gzip(start: Callable[..., Exporter]) -> None:
    exporter = start()
    plain = get(exporter, "/metrics")
    assert plain.status == 200
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'appmesh_x{daemon="node-a"} 1\n' in plain.body
    assert b'appmesh_app_memory_bytes{daemon="node-a",app="web"} 5\n' in plain.body
    assert "server" not in plain.headers
    packed = get(exporter, "/metrics", Accept="application/openmetrics-text", Accept_Encoding="gzip")
    assert packed.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert gzip.decompress(packed.body).endswith(b"# EOF\n")


def test_healthy_is_the_process_and_ready_the_service(start: Callable[..., Exporter], bench: Bench) -> None:
    exporter = start()
    assert get(exporter, "/-/healthy").status == 200
    ready = get(exporter, "/-/ready")
    assert (ready.status, ready.headers["content-type"]) == (200, "application/json")
    assert json.loads(ready.body)["daemons"]["node-a"]["up"] is True
    bench.reasons.append("journal not open")
    ready = get(exporter, "/-/ready")
    assert ready.status == 503
    assert json.loads(ready.body)["reasons"] == ["journal not open"]
    assert get(exporter, "/-/healthy").status == 200


def test_the_landing_page_loads_nothing(start: Callable[..., Exporter]) -> None:
    page = get(start(), "/")
    assert page.status == 200
    assert b"node-a" in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "method", "status", "text"),
    [
        ("/metrics?collect[]=nope", "GET", 400, "unknown collector 'nope': use daemon, host, apps, own\n"),
        ("/metrics?" + "a=1&" * 200, "GET", 400, "too many parameters\n"),
        ("/other", "GET", 404, "not found: try /metrics\n"),
        ("/metrics/", "GET", 404, "not found: try /metrics\n"),
        ("/metrics", "POST", 405, "use GET\n"),
        ("/-/ready", "HEAD", 200, ""),
        ("/-/healthy", "GET", 200, "meshbridge is healthy.\n"),
    ],
)
def test_answers_are_one_clear_line(
    start: Callable[..., Exporter], path: str, method: str, status: int, text: str
) -> None:
    reply = get(start(), path, method)
    assert (reply.status, reply.body.decode()) == (status, text)


def test_a_fault_of_ours_never_shows_to_a_client(start: Callable[..., Exporter], bench: Bench) -> None:
    exporter = start()
    bench.broken = True
    reply = get(exporter, "/-/ready")
    assert (reply.status, reply.body) == (500, b"internal error: see the log\n")
    scraped = get(exporter, "/metrics").body
    assert b"meshbridge_own_metrics_complete 0\n" in scraped
    assert b"meshbridge_sink_up" in scraped
    assert b"secret-detail" not in scraped


def test_a_head_that_is_too_large_is_refused(start: Callable[..., Exporter]) -> None:
    exporter = start()
    with socket.create_connection(exporter.address, timeout=30) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"x" * 100_000 + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 431")
    assert get(exporter, "/-/healthy").status == 200


# --- time ----------------------------------------------------------------------------------------------------------


def test_a_daemon_that_hangs_is_left_out_within_the_scrapes_time(start: Callable[..., Exporter], bench: Bench) -> None:
    bench.daemon.gate.clear()
    exporter = start()
    with returns_in_time(1.0):
        reply = get(exporter, "/metrics", X_Prometheus_Scrape_Timeout_Seconds="0.8")
    assert b'meshbridge_collector_success{daemon="node-a",collector="daemon"} 0\n' in reply.body
    assert b'meshbridge_collector_success{daemon="node-a",collector="host"} 1\n' in reply.body
    assert b'meshbridge_daemon_up{daemon="node-a"} 1\n' in reply.body
    for _ in range(3):
        get(exporter, "/metrics", X_Prometheus_Scrape_Timeout_Seconds="30")
    assert bench.daemon.calls == 1


def test_concurrent_scrapes_share_one_call_while_health_answers(start: Callable[..., Exporter], bench: Bench) -> None:
    bench.daemon.gate.clear()
    exporter = start()
    with ThreadPoolExecutor(4) as pool:
        scrapes = [pool.submit(get, exporter, "/metrics") for _ in range(4)]
        assert bench.daemon.entered.wait(30)
        assert get(exporter, "/-/healthy").status == 200
        assert get(exporter, "/-/ready").status == 200
        bench.daemon.gate.set()
        bodies = [scrape.result(30).body for scrape in scrapes]
    assert all(b"appmesh_x{" in body for body in bodies)
    assert 1 <= bench.daemon.calls <= 4


def test_stopping_waits_for_no_daemon(start: Callable[..., Exporter], bench: Bench) -> None:
    bench.daemon.gate.clear()
    exporter = start()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(get, exporter, "/metrics")
        assert bench.daemon.entered.wait(30)
        with returns_in_time(1.0):
            exporter.stop()
        reply = waiting.result(30)
        assert reply.status == 200
        assert b'meshbridge_collector_success{daemon="node-a",collector="daemon"} 0\n' in reply.body
    assert not [thread for thread in threading.enumerate() if thread.name == "exporter"]
    with pytest.raises(ConnectionRefusedError):
        get(exporter, "/-/healthy")


def test_what_was_never_started_can_be_stopped(bench: Bench) -> None:
    Exporter(ExporterOptions(), bench.sources()).stop()


# --- addresses -----------------------------------------------------------------------------------------------------


def test_an_address_in_use_is_named(start: Callable[..., Exporter]) -> None:
    host, port = start().address
    with pytest.raises(OSError, match=f"can't listen on {host} port {port}: Address already in use"):
        start(f"{host}:{port}")


def test_an_unknown_host_is_named(start: Callable[..., Exporter]) -> None:
    with pytest.raises(OSError, match=r"can't listen on host\.invalid port 1"):
        start("host.invalid:1")


def test_every_address_includes_ipv4(start: Callable[..., Exporter]) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    exporter = start("[::]:0")
    assert exporter.address[0] == "::"
    with socket.create_connection(("127.0.0.1", exporter.address[1]), timeout=30):
        pass


# --- TLS and users -------------------------------------------------------------------------------------------------


@dataclass
class Keys:
    """A folder with the files of a web config, and clients to go with it."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    @property
    def path(self) -> Path:
        return self.folder / "web.yml"

    def issue(self) -> None:
        certificate = self.authority.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(self.folder / "server.key")
        certificate.cert_chain_pems[0].write_to_path(self.folder / "server.pem")
        self.authority.cert_pem.write_to_path(self.folder / "ca.pem")

    def write(self, users: dict[str, str] | None = None, **tls: str) -> None:
        content: dict[str, Any] = {"basic_auth_users": users or {}}
        if tls:
            content["tls_server_config"] = {"cert_file": "server.pem", "key_file": "server.key"} | tls
        part = self.path.with_suffix(".part")
        part.write_text(yaml.safe_dump(content))
        part.replace(self.path)

    def context(self, *, with_certificate: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if with_certificate:
            self.authority.issue_cert("prometheus").configure_cert(context)
        return context


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path)
    made.issue()
    return made


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def refused(exporter: Exporter, context: ssl.SSLContext | None) -> bool:
    try:
        get(exporter, "/-/healthy", context=context)
    except (OSError, http.client.HTTPException):
        return True
    return False


def test_users_are_asked_for_their_password_on_every_path(start: Callable[..., Exporter], keys: Keys) -> None:
    keys.write({"ops": hashed("right")})
    exporter = start(web_config=keys.path)
    for path in ("/", "/metrics", "/-/healthy", "/-/ready", "/other"):
        reply = get(exporter, path)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Basic")
        assert get(exporter, path, Authorization=basic("ops", "wrong")).status == 401
        assert get(exporter, path, Authorization=basic("ops", "right")).status == (404 if path == "/other" else 200)


def test_tls_with_client_certificates(start: Callable[..., Exporter], keys: Keys) -> None:
    keys.write(client_auth_type="RequireAndVerifyClientCert", client_ca_file="ca.pem")
    exporter = start(web_config=keys.path)
    assert get(exporter, "/metrics", context=keys.context(with_certificate=True)).status == 200
    assert refused(exporter, keys.context())
    assert refused(exporter, None)


def test_a_changed_file_is_taken_over_without_a_restart(start: Callable[..., Exporter], keys: Keys) -> None:
    keys.write()
    exporter = start(web_config=keys.path)
    address = exporter.address
    assert get(exporter, "/-/healthy").status == 200
    keys.write(min_version="TLS12")
    wait_for(lambda: not refused(exporter, keys.context()), "TLS")
    assert refused(exporter, None)
    keys.write({"ops": hashed("right")}, client_auth_type="RequireAndVerifyClientCert", client_ca_file="ca.pem")
    wait_for(lambda: refused(exporter, keys.context()), "client certificates")
    with_certificate = keys.context(with_certificate=True)
    assert get(exporter, "/", context=with_certificate).status == 401
    assert get(exporter, "/", context=with_certificate, Authorization=basic("ops", "right")).status == 200
    assert exporter.address == address


def test_a_new_certificate_is_used(start: Callable[..., Exporter], keys: Keys) -> None:
    keys.write(min_version="TLS12")
    exporter = start(web_config=keys.path)
    keys.authority = trustme.CA()
    assert refused(exporter, keys.context())
    keys.issue()
    wait_for(lambda: not refused(exporter, keys.context()), "the new certificate")


def test_a_bad_file_leaves_the_old_one_in_force(
    start: Callable[..., Exporter], keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.write({"ops": hashed("right")})
    exporter = start(web_config=keys.path)
    keys.path.write_text("basic_auth_users: {ops: plain-text}\n")
    said = ""

    def complained() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "web config refused" in said

    wait_for(complained, "a complaint")
    assert "plain-text" not in said
    assert get(exporter, "/").status == 401
    assert get(exporter, "/", Authorization=basic("ops", "right")).status == 200


def test_a_bad_file_at_the_start_stops_it_there(start: Callable[..., Exporter], keys: Keys) -> None:
    keys.path.write_text("tls_server_config: {}\n")
    with pytest.raises(OSError, match=r"web\.yml: tls_server_config\.cert_file: Field required"):
        start(web_config=keys.path)
