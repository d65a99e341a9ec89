"""A connection that is only there on one side is found, whatever the link, or another thread, is doing on it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from pydantic import SecretStr

from meshbridge.appmesh import AppMeshError
from meshbridge.appmesh.exceptions import AppMeshConnectionError
from meshbridge.appmesh.wss_transport import WSSTransport
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.fields import Tls
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from meshbridge.model.status import LinkState
from tests.faults.proxy import Proxy
from tests.support import thread, wait_for
from tests.unit.appmesh.https_server import HttpsServer

FAR_SECONDS = 60.0  # what no test waits for


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(https_port=None)) as daemon:
        yield daemon


@pytest.fixture(params=["tcp", "wss"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def proxy(emulator: Emulator, scheme: str) -> Iterator[Proxy]:
    target = emulator.tcp_address if scheme == "tcp" else emulator.wss_address
    assert target is not None
    with Proxy(target) as proxy:
        yield proxy


@pytest.fixture
def link(emulator: Emulator, proxy: Proxy, scheme: str, tmp_path: Path) -> Iterator[Link]:
    """Behind the proxy, not yet started."""
    journal = Journal(JournalOptions(path=tmp_path))
    journal.open()
    host, port = proxy.address
    options = DaemonOptions(
        url=f"{scheme}://{host}:{port}",
        username="admin",
        password=SecretStr("admin123"),
        tls=Tls(ca_file=emulator.ca_file),
    )
    link = Link("node-a", options, journal)
    yield link
    proxy.cut()
    assert link.stop(10)
    journal.close()


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshbridge.link.runner._PROBE_AFTER_SECONDS", 0.3)
    monkeypatch.setattr("meshbridge.link.runner._REQUEST_SECONDS", 0.5)
    monkeypatch.setattr("meshbridge.link.runner._CONNECT_SECONDS", 1.0)


@pytest.mark.usefixtures("quickly")
def test_silence_is_noticed_while_a_request_still_connects_into_it(
    link: Link, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshbridge.link.requests._CONNECT_SECONDS", FAR_SECONDS)
    link.start()
    wait_for(lambda: link.status().up, "the link")
    proxy.black_hole()
    link.requests.close()
    made = proxy.connections
    ended: list[AppMeshError] = []

    def ask() -> None:
        try:
            link.requests.list_apps(FAR_SECONDS)
        except AppMeshError as error:
            ended.append(error)

    with thread(ask, "asks"):
        wait_for(lambda: proxy.connections > made, "the request's connection")
        wait_for(lambda: link.status().state is LinkState.WAITING, "the silence to be noticed")
        assert not ended, "the request is still connecting"
        proxy.heal()
        wait_for(lambda: link.status().up, "the next connection")
        proxy.cut()


@pytest.mark.usefixtures("quickly")
def test_a_daemon_that_is_silent_from_the_first_byte_is_given_up(link: Link, proxy: Proxy) -> None:
    proxy.black_hole()
    link.start()
    for _ in range(2):
        made = proxy.connections
        wait_for(lambda made=made: proxy.connections > made, "another attempt")  # type: ignore[misc]
    assert "in time" in (link.status().last_error or "")
    proxy.heal()
    wait_for(lambda: link.status().up, "the link")


def test_an_upgrade_that_drips_does_not_outlast_the_time_to_connect(tmp_path: Path) -> None:
    """Each byte comes in time, the last one never."""
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\n")
        while not stop.wait(0.05):
            handler.wfile.write(b"X-Wait: longer\r\n")

    with HttpsServer(tmp_path, drip) as server:
        host, _, port = server.url.removeprefix("https://").partition(":")
        transport = WSSTransport((host, int(port)), str(server.ca_file))
        try:
            with pytest.raises(AppMeshConnectionError, match="in time"):
                transport.connect(0.5)
        finally:
            stop.set()


def test_every_address_of_a_host_gets_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that swallows all must leave some for the next."""
    asked = []

    def create_connection(address: tuple[str, int], timeout: float) -> object:
        asked.append((address[0], timeout))
        raise TimeoutError("timed out")

    places = [(0, 0, 0, "", (host, 6058, 0, 0)) for host in ("2001:db8::1", "2001:db8::2")]
    monkeypatch.setattr("meshbridge.appmesh.tls_stream.socket.getaddrinfo", lambda *_, **__: places)
    monkeypatch.setattr("meshbridge.appmesh.tls_stream.socket.create_connection", create_connection)
    with pytest.raises(AppMeshConnectionError, match="in time"):
        WSSTransport(("node", 6058), ssl_verify=False).connect(60)
    (first, share), (second, rest) = asked
    assert (first, second) == ("2001:db8::1", "2001:db8::2")
    assert share <= 30 < rest, "half of the time, then all that is left"
