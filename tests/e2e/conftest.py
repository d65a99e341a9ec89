"""The installed program against the emulator and a real broker, and the status page in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshbridge.emulator import Emulator, EmulatorOptions
from tests.e2e.chromium import Browser
from tests.e2e.stage import Stage
from tests.e2e.watched import Watched
from tests.support import Mosquitto, Process, free_port, meshbridge_command, write_config


class Bridge:
    """``meshbridge run`` as a process of its own, which can be ended and started again with the same journal."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self.directory = directory
        self.exporter_port = free_port()
        settings.setdefault("exporter", {"listen": f"127.0.0.1:{self.exporter_port}"})
        settings.setdefault("journal", {"path": str(directory / "journal")})
        self.settings = settings
        self._process: Process | None = None

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.exporter_port}/metrics"

    def start(self) -> Process:
        config = write_config(self.directory / "meshbridge.yaml", self.settings)
        self._process = Process(meshbridge_command("run", "--config", str(config)), self.directory / "meshbridge.log")
        return self._process

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def wait_up(self) -> None:
        """Waits until the link of this start is up."""
        self.process.wait_for_output("daemon connected")

    def close(self) -> None:
        if self._process is not None:
            self._process.__exit__()


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(https_port=None, record=True)) as daemon:
        yield daemon


def address_of(emulator: Emulator, scheme: str = "tcp") -> tuple[str, int]:
    address = emulator.tcp_address if scheme == "tcp" else emulator.wss_address
    assert address is not None
    return address


def daemon_settings(emulator: Emulator, scheme: str = "tcp") -> dict[str, Any]:
    host, port = address_of(emulator, scheme)
    return {
        "url": f"{scheme}://{host}:{port}",
        "username": "admin",
        "password": "admin123",
        "tls": {"ca_file": str(emulator.ca_file)},
    }


@pytest.fixture
def bridge(
    tmp_path: Path, emulator: Emulator, mosquitto: Mosquitto, request: pytest.FixtureRequest
) -> Iterator[Bridge]:
    """A bridge from the emulator to mosquitto; parametrize indirectly with the scheme of the daemon's URL."""
    scheme = getattr(request, "param", "tcp")
    running = Bridge(
        tmp_path,
        {
            "daemons": {"node-a": daemon_settings(emulator, scheme)},
            "sinks": {"broker": {"type": "mqtt", "url": mosquitto.url, "retry": {"initial": "100ms", "max": "1s"}}},
        },
    )
    yield running
    running.close()


# --- the status page -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as running:
        yield running


@pytest.fixture
def visit(browser: Browser) -> Iterator[Watched]:
    watched = Watched(browser)
    yield watched
    watched.close()
