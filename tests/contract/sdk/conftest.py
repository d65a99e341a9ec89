"""What every daemon must do for every client: which daemon, which client, over which transport.

The daemon is the emulator, unless ``MESHBRIDGE_TEST_DAEMON`` is set: then it is the one at
``MESHBRIDGE_TEST_DAEMON_TCP``, ``_WSS`` and ``_HTTPS`` (``host:port`` each; a transport without one is left out), with
``_USER``, ``_PASSWORD`` and ``_CA``. It is left as it was found.
"""

import gc
import os
import secrets
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import appmesh
import pytest
import requests

import meshbridge.appmesh
from meshbridge.appmesh import AppMeshClient
from meshbridge.emulator import Emulator, EmulatorOptions

TRANSPORTS = ("https", "tcp", "wss")
WSS_PORT = 6058


@dataclass(frozen=True)
class Daemon:
    """A running daemon and how to log in."""

    addresses: dict[str, tuple[str, int]]
    ca_file: str
    user: str
    password: str
    emulator: Emulator | None = None

    def loses_attributes(self, transport: str) -> bool:
        """Whether files go in two steps there: the daemon ignores mode and owner of an upload."""
        return transport == "wss" or self.addresses[transport][1] == WSS_PORT

    @property
    def is_local(self) -> bool:
        """Whether paths and programs of this host are its own."""
        return all(host in {"127.0.0.1", "::1", "localhost"} for host, _port in self.addresses.values())


@dataclass(frozen=True)
class Sdk:
    """A client library: this one, or the official one, which has the same names."""

    name: str
    package: Any

    @property
    def is_ours(self) -> bool:
        return self.name == "meshbridge"

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What it raises for an answer that is an error."""
        return (self.package.AppMeshError,) if self.is_ours else (self.package.AppMeshError, requests.RequestException)

    @contextmanager
    def refused(self, status: int, message: str) -> Iterator[None]:
        """Expects the daemon's refusal; the official SDK keeps neither its status nor its words."""
        with pytest.raises(self.errors) as caught:
            yield
        if self.is_ours:
            assert getattr(caught.value, "status", None) == status
            assert message in str(caught.value)

    def connect(self, daemon: Daemon, transport: str) -> Any:
        address = daemon.addresses.get(transport)
        if address is None:
            pytest.skip(f"the daemon has no address for {transport}")
        if transport == "https":
            return self.package.AppMeshClient("https://{}:{}".format(*address), daemon.ca_file)
        return getattr(self.package, f"AppMeshClient{transport.upper()}")(address, daemon.ca_file)


SDKS = {"meshbridge": Sdk("meshbridge", meshbridge.appmesh), "official": Sdk("official", appmesh)}


def _daemon_named_by_the_environment() -> Daemon:
    prefix = "MESHBRIDGE_TEST_DAEMON"
    addresses = {}
    for transport in TRANSPORTS:
        if value := os.environ.get(f"{prefix}_{transport.upper()}"):
            host, _, port = value.rpartition(":")
            addresses[transport] = (host.strip("[]"), int(port))
    return Daemon(
        addresses,
        os.environ.get(f"{prefix}_CA", ""),
        os.environ.get(f"{prefix}_USER", "admin"),
        os.environ.get(f"{prefix}_PASSWORD", "admin123"),
    )


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    if os.environ.get("MESHBRIDGE_TEST_DAEMON"):
        yield _daemon_named_by_the_environment()
        return
    with Emulator(EmulatorOptions(tcp_port=0, wss_port=0, https_port=0)) as emulator:
        assert emulator.tcp_address
        assert emulator.wss_address
        assert emulator.https_address
        addresses = {"tcp": emulator.tcp_address, "wss": emulator.wss_address, "https": emulator.https_address}
        yield Daemon(addresses, str(emulator.ca_file), "admin", "admin123", emulator)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each case over each transport by each client; marks leave some out."""
    if not {"client", "daemon"} <= set(metafunc.fixturenames):  # those for 3.x have fixtures of their own
        return
    transports = TRANSPORTS[1:] if metafunc.definition.get_closest_marker("events") else TRANSPORTS
    names = ["meshbridge"] if metafunc.definition.get_closest_marker("ours") else list(SDKS)
    pairs = [(name, transport) for name in names for transport in transports]
    ids = [f"{name}-{transport}" for name, transport in pairs]
    metafunc.parametrize(("sdk", "transport"), [(SDKS[name], transport) for name, transport in pairs], ids=ids)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "events: needs a transport that carries events")
    config.addinivalue_line("markers", "ours: what the official client does not promise")


@pytest.fixture(scope="session")
def left_open(daemon: Daemon) -> Iterator[list[Any]]:
    """Clients of the official SDK, closed together at the end.

    Each takes 5 s for it once it has subscribed. Meanwhile its reader goes on with a number of a file descriptor that
    may be another connection's by then: that must not be one under test.
    """
    clients: list[Any] = []
    yield clients
    threads = [threading.Thread(target=client.close) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clients.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves sockets to the garbage collector
        gc.collect()


@pytest.fixture
def client(sdk: Sdk, transport: str, daemon: Daemon, left_open: list[Any]) -> Iterator[Any]:
    """A client that is logged in as the daemon's administrator."""
    made = sdk.connect(daemon, transport)
    made.login(daemon.user, daemon.password)
    yield made
    if sdk.is_ours:
        made.close()
    else:
        left_open.append(made)


@pytest.fixture(scope="session")
def janitor(daemon: Daemon) -> Iterator[AppMeshClient]:
    """A client apart from those under test.

    It also does what is to cause events: the official client breaks its TLS stream when it sends while it receives.
    """
    transport = next(iter(daemon.addresses))
    with SDKS["meshbridge"].connect(daemon, transport) as client:
        client.login(daemon.user, daemon.password)
        yield client


@pytest.fixture
def name(janitor: AppMeshClient) -> Iterator[str]:
    """A name that nothing on the daemon has; an application or user of it is gone afterwards."""
    chosen = f"contract-{secrets.token_hex(4)}"
    yield chosen
    janitor.delete_app(chosen)
    if chosen in janitor.list_users():
        janitor.delete_user(chosen)


@pytest.fixture
def host_directory(daemon: Daemon, tmp_path: Path) -> Path:
    """A directory that the daemon sees, too."""
    if not daemon.is_local:
        pytest.skip("the daemon is on another host")
    return tmp_path
