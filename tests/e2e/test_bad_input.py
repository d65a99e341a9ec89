"""What an operator does wrong gets one clear line, and never a traceback."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from meshbridge.emulator import Emulator
from tests.command_line import run_command
from tests.e2e.conftest import Bridge, address_of, daemon_settings
from tests.support import Mosquitto, free_port, meshbridge_command, returns_in_time, wait_for, write_config


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed program; where it ends before it does anything, :func:`run_command` is enough."""
    return subprocess.run(meshbridge_command(*arguments), capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "daemons: is missing"),
        ({"daemons": {}}, "daemons: "),
        ({"daemons": {"a": {"url": "ftp://x", "username": "u", "password": "p"}}}, "daemons.a.url: not the address"),
        ({"daemons": {"a": {"url": "tcp://x"}}}, "daemons.a: username is missing"),
        ({"daemons": {"A_b": {"url": "tcp://x", "username": "u", "password": "p"}}}, "daemons.A_b: 'A_b' is no name"),
        ({"daemons": {"a": "tcp://x"}}, "daemons.a: must be a mapping (key: value), not 'tcp://x'"),
        (
            {"exporter": {"listen": 9665}},
            "exporter.listen: must be text (in quotes, where it looks like a number), not 9665",
        ),
        ({"daemon": {}}, "daemon: unknown key: did you mean daemons?"),
        (
            {"sinks": {"b": {"type": "mqtt", "url": "mqtt://h", "qoss": 1}}},
            "sinks.b.qoss: unknown key: did you mean qos?",
        ),
        ({"sinks": {"b": {"type": "mqtt", "url": "mqtt://h", "qos": 3}}}, "sinks.b.qos: must be 0, 1 or 2, not 3"),
        (
            {"sinks": {"b": {"type": "mqqt"}}},
            "sinks.b.type: there is no sink of type 'mqqt': did you mean mqtt? (allowed: ",
        ),
        ({"sinks": {"b": {"url": "mqtt://h"}}}, "sinks.b.type: is missing (allowed: amqp, file, "),
        ({"journal": {"max_age": "soon"}}, "journal.max_age: not a duration: 'soon'"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_keys_path(
    tmp_path: Path, settings: dict[str, Any], line: str
) -> None:
    config = write_config(tmp_path / "m.yaml", settings)
    done = run_command("run", "--config", str(config))
    assert done.returncode == 2
    assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert all(text.startswith("meshbridge: ") for text in done.stderr.splitlines())


def test_without_any_configuration_it_says_how_to_give_one(tmp_path: Path) -> None:
    done = run_command("run", env={"HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "daemons: is missing: give the file (--config, or MESHBRIDGE_CONFIG)" in done.stderr


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    done = run_command("run", "--config", str(tmp_path / "none.yaml"))
    assert (done.returncode, done.stderr) == (2, f"meshbridge: {tmp_path}/none.yaml: no such file\n")
    broken = tmp_path / "broken.yaml"
    broken.write_text("daemons: [\n")
    done = run_command("run", "--config", str(broken))
    assert done.returncode == 2
    assert f"{broken}: line 2, column 1: no YAML" in done.stderr


def test_a_secret_never_shows(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "daemons": {"a": {"url": "tcp://127.0.0.1:1", "username": "u", "password": "hunter2", "bogus": 1}},
        "sinks": {"b": {"type": "mqtt", "url": "mqtt://h", "password": ["hunter2"]}},
    }
    config = write_config(tmp_path / "m.yaml", settings)
    done = run_command("run", "--config", str(config))
    assert done.returncode == 2
    assert "sinks.b.password" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    del settings["daemons"]["a"]["bogus"], settings["sinks"]["b"]["password"]
    done = run_command("config", "show", "--config", str(write_config(config, settings)))
    assert done.returncode == 0
    assert "hunter2" not in done.stdout
    assert "********" in done.stdout


def test_a_journal_in_use_is_said(tmp_path: Path, emulator: Emulator) -> None:
    bridge = Bridge(tmp_path, {"daemons": {"node-a": daemon_settings(emulator)}})
    try:
        bridge.start()
        bridge.wait_up()
        second = write_config(tmp_path / "second.yaml", bridge.settings | {"exporter": {"listen": "127.0.0.1:0"}})
        done = run("run", "--config", str(second))
        assert done.returncode == 2
        assert f"is in use by process {bridge.process.popen.pid}" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        bridge.close()


def test_a_port_in_use_is_said(tmp_path: Path, emulator: Emulator) -> None:
    host, port = address_of(emulator)
    settings = {"daemons": {"node-a": daemon_settings(emulator)}, "exporter": {"listen": f"{host}:{port}"}}
    settings["journal"] = {"path": str(tmp_path / "journal")}
    done = run("run", "--config", str(write_config(tmp_path / "m.yaml", settings)))
    assert done.returncode == 1
    assert f"{host} port {port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def slow(*values: Any) -> Any:
    """A case that starts the program once more than `make test` has time for."""
    return pytest.param(*values, marks=pytest.mark.slow)


def _refusal(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    match name:
        case "password":
            return settings | {"password": "mistaken"}
        case "user":
            return settings | {"username": "ghost"}
        case "certificate":
            return settings | {"tls": {}}
        case "permission":
            return settings | {"username": "mesh", "password": "mesh123"}
        case _:
            return settings | {"url": f"tcp://127.0.0.1:{free_port()}"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("password", ["login as 'admin' refused: wrong password", "set username and password"]),
        slow("user", ["login as 'ghost' refused: no such user"]),
        slow("certificate", ["not trusted", "set tls.ca_file of the daemon to its ca.pem"]),
        slow("permission", ["lacks required permission 'app-subscribe'", "give the user a role with app-subscribe"]),
        slow("address", ["cannot connect to 127.0.0.1:", "Connection refused"]),
    ],
)
def test_a_daemon_that_refuses_is_explained_and_tried_again(
    tmp_path: Path, emulator: Emulator, fault: str, said: list[str]
) -> None:
    settings = _refusal(fault, daemon_settings(emulator))
    bridge = Bridge(tmp_path, {"daemons": {"node-a": settings}})
    try:
        bridge.start()
        bridge.process.wait_for_output("daemon disconnected")
        for text in said:
            assert text in bridge.process.output()
        assert "Traceback" not in bridge.process.output()
        checked = run_command("check", "--config", str(bridge.directory / "meshbridge.yaml"))
        assert checked.returncode == 1
        assert "FAIL daemon node-a: " in checked.stdout
        assert "Traceback" not in checked.stdout + checked.stderr
        assert bridge.process.end() == 0
    finally:
        bridge.close()


def test_a_corrected_password_file_is_enough(tmp_path: Path, emulator: Emulator) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    settings = daemon_settings(emulator) | {"password_file": str(password)}
    del settings["password"]
    bridge = Bridge(tmp_path, {"daemons": {"node-a": settings}})
    try:
        bridge.start()
        bridge.process.wait_for_output("login as 'admin' refused")
        password.write_text("admin123\n")
        bridge.wait_up()
    finally:
        bridge.close()


@pytest.mark.needs("mosquitto")
def test_a_broker_that_stands_still_does_not_delay_the_end(
    bridge: Bridge, emulator: Emulator, mosquitto: Mosquitto
) -> None:
    bridge.start()
    bridge.wait_up()
    wait_for(lambda: "sink connected" in bridge.process.output())
    mosquitto.send(signal.SIGSTOP)
    try:
        emulator.emit_many(
            ("web", "STDOUT", {"finished": False, "output": "x" * 1000, "position": 0}) for _ in range(5000)
        )
        with returns_in_time(10):  # what an operator is promised
            assert bridge.process.end(seconds=30) == 0
    finally:
        mosquitto.send(signal.SIGCONT)
    assert "meshbridge stopped" in bridge.process.output()
