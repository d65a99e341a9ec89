"""A real Home Assistant beside a real broker: devices, switch and buttons, and no complaint about what a bridge sends.

The first run installs Home Assistant (from PyPI) into an environment in the user's cache, which later runs use again.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from meshbridge.appmesh import App, AppMeshClientTCP
from meshbridge.emulator import Emulator, EmulatorOptions
from tests.e2e.conftest import Bridge, address_of, daemon_settings
from tests.support import Mosquitto, free_port, program, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs("mosquitto")]

DRIVER = Path(__file__).parent / "home_assistant_driver.py"
DEVICE = "web on node-a"
SENSORS = ("State", "Health", "Last exit", "Last exit code", "Starts", "Memory", "CPU")
# Not about what a bridge sends: how this Home Assistant is run, and a broker that is stopped on purpose.
NOT_OURS = re.compile(
    r"Skipping pip installation|zlib_ng and isal|Failed to connect to MQTT server|Error returned from MQTT server"
    r"|Disconnected from MQTT server"
)


def _runs(python: str) -> bool:
    """A version manager leaves a command for versions that are not installed."""
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


def python_of_home_assistant() -> str:
    """A Python that Home Assistant with device discovery (2024.11) runs on."""
    names = [f"python3.{minor}" for minor in (13, 14)]
    candidates = [sys.executable] if sys.version_info >= (3, 13) else []
    candidates += [path for name in names if (path := program(name)) is not None and _runs(path)]
    if not candidates:
        pytest.skip(f"Home Assistant with device discovery needs Python 3.13; this is {sys.version.split()[0]}")
    return candidates[0]


@pytest.fixture(scope="session")
def home_assistant_python() -> str:
    """The interpreter of an environment with Home Assistant."""
    python = python_of_home_assistant()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshbridge-tests" / "home-assistant"
    own, done = cache / "bin" / "python", cache / "installed"
    if not done.exists():
        subprocess.run([python, "-m", "venv", "--clear", str(cache)], check=True)
        pip = [str(own), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "homeassistant>=2024.11"], check=True)
        find = "import homeassistant.components.mqtt as found; print(found.__path__[0])"
        where = subprocess.run([str(own), "-c", find.replace(".components.mqtt", "")], check=True, capture_output=True)
        manifest = Path(where.stdout.decode().strip()) / "components" / "mqtt" / "manifest.json"
        subprocess.run([*pip, *json.loads(manifest.read_text())["requirements"]], check=True)
        done.touch()
    return str(own)


class HomeAssistant:
    """One that has the MQTT integration set up, and nothing else."""

    def __init__(self, python: str, directory: Path, broker_port: int) -> None:
        self._python = python
        self._directory = directory
        (directory / ".storage").mkdir(parents=True)
        (directory / "configuration.yaml").write_text(
            "homeassistant: {name: test, latitude: 0, longitude: 0}\n"
            f"http: {{server_host: 127.0.0.1, server_port: {free_port()}}}\n"
            "logger: {default: warning}\n"
        )
        entry = {
            "entry_id": "0123456789abcdef0123456789abcdef", "version": 1, "minor_version": 2, "domain": "mqtt",
            "title": "broker", "data": {"broker": "127.0.0.1", "port": broker_port, "protocol": "5"}, "options": {},
            "pref_disable_new_entities": False, "pref_disable_polling": False, "source": "user", "unique_id": None,
            "disabled_by": None,
        }  # fmt: skip
        stored = {"version": 1, "minor_version": 1, "key": "core.config_entries", "data": {"entries": [entry]}}
        (directory / ".storage" / "core.config_entries").write_text(json.dumps(stored))
        self.log = directory / "log"
        self._popen: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with self.log.open("a") as log:
            self._popen = subprocess.Popen(
                [self._python, str(DRIVER), str(self._directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._popen is not None
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        try:
            self._popen.wait(30)
        finally:
            if self._popen.poll() is None:
                os.killpg(self._popen.pid, signal.SIGKILL)
            assert self._popen.stdout is not None
            self._popen.stdout.close()

    def _ask(self, *question: str) -> Any:
        assert self._popen is not None
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(question) + "\n")
        self._popen.stdin.flush()
        answer = self._popen.stdout.readline()
        assert answer, self.log.read_text()[-4000:]
        return json.loads(answer)

    def device(self) -> dict[str, str | None]:
        """The state of each entity of the app's device, by name."""
        return {name: state for name, (state, _) in self._ask("states").get(DEVICE, {}).items()}

    def wait(self, **wanted: str | None) -> dict[str, str | None]:
        """Waits until entities have these states; ``Last_exit`` is ``Last exit``."""
        named = {name.replace("_", " "): state for name, state in wanted.items()}
        last: dict[str, str | None] = {}

        def arrived() -> bool:
            nonlocal last
            last = self.device()
            return named.items() <= last.items()

        try:
            wait_for(arrived)
        except AssertionError:
            raise AssertionError(f"wanted {named}, but {last}; {self.log.read_text()[-3000:]}") from None
        return last

    def act(self, domain: str, service: str, name: str) -> None:
        entity = self._ask("states")[DEVICE][name][1]
        self._ask("call", domain, service, entity)

    def complaints(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line for line in lines if re.search(r" (WARNING|ERROR|CRITICAL) ", line) and not NOT_OURS.search(line)]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(wss_port=None, https_port=None)) as running:
        yield running


def test_an_app_is_a_device_with_a_switch_and_buttons(
    home_assistant_python: str, tmp_path: Path, mosquitto: Mosquitto, emulator: Emulator
) -> None:
    client = AppMeshClientTCP(address_of(emulator), ssl_verify=str(emulator.ca_file))
    client.login("admin", "admin123")
    client.add_app(App({"name": "web", "command": "sleep 600", "shell": True}))
    commands = {"allow": ["enable", "disable", "restart", "run"], "timeout": "2s"}
    sink = {"type": "mqtt", "url": mosquitto.url, "home_assistant": True, "commands": commands,
            "retry": {"initial": "100ms", "max": "1s"}}  # fmt: skip
    bridge = Bridge(tmp_path, {"daemons": {"node-a": daemon_settings(emulator)}, "sinks": {"broker": sink}})
    home = HomeAssistant(home_assistant_python, tmp_path / "home-assistant", mosquitto.port)
    try:
        bridge.start()
        bridge.wait_up()
        with home:
            shown = home.wait(State="running", Enabled="on", Health="off")
            assert {*shown} == {*SENSORS, "Enabled", "Restart", "Run"}
            check_commands(home, client, bridge)
            check_restarts(home, bridge, mosquitto)
        with home:  # it comes back to what is retained
            home.wait(State="running", Enabled="on")
            check_removals(home, client, bridge, commands)
        assert home.complaints() == []
    finally:
        client.close()
        bridge.close()


def check_commands(home: HomeAssistant, client: AppMeshClientTCP, bridge: Bridge) -> None:
    home.act("switch", "turn_off", "Enabled")
    home.wait(State="disabled", Enabled="off")
    assert client.get_app("web").status == 0
    home.act("switch", "turn_on", "Enabled")
    home.wait(State="running", Enabled="on")
    before = client.get_app("web").pid
    home.act("button", "press", "Restart")
    wait_for(lambda: client.get_app("web").pid not in {None, before}, "a restart")
    home.act("button", "press", "Run")
    wait_for(lambda: "command=run" in bridge.process.output(), "a run")
    assert "command=restart" in bridge.process.output()


def check_restarts(home: HomeAssistant, bridge: Bridge, mosquitto: Mosquitto) -> None:
    bridge.process.end(signal.SIGKILL)
    home.wait(State="unavailable", Enabled="unavailable", Restart="unavailable")
    bridge.process.log.unlink()
    bridge.start()
    home.wait(State="running", Enabled="on")
    mosquitto.stop()
    home.wait(State="unavailable")
    mosquitto.start()  # it has forgotten what was retained
    home.wait(State="running", Enabled="on")


def check_removals(home: HomeAssistant, client: AppMeshClientTCP, bridge: Bridge, commands: dict[str, Any]) -> None:
    commands["allow"] = ["restart"]
    bridge.process.end()
    bridge.start()
    wait_for(lambda: {"Enabled", "Run"}.isdisjoint(home.device()), "the switch to go")
    assert "Restart" in home.wait(State="running")
    client.delete_app("web")
    wait_for(lambda: not home.device(), "the device to go")
