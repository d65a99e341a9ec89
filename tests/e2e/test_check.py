"""``meshbridge check`` as a person and a script see it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from meshbridge.emulator import Emulator
from tests.command_line import run_command
from tests.e2e.conftest import Bridge, daemon_settings
from tests.e2e.test_bad_input import run
from tests.support import Mosquitto, free_port, write_config


def written(tmp_path: Path, settings: dict[str, Any]) -> str:
    file = write_config(tmp_path / "m.yaml", settings)
    file.chmod(0o600)  # it holds passwords
    return str(file)


@pytest.mark.needs("mosquitto")
def test_all_is_well(bridge: Bridge, mosquitto: Mosquitto, tmp_path: Path) -> None:
    config = written(tmp_path, bridge.settings)
    done = run("check", "--config", config)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok   ") for line in lines), done.stdout
    assert lines[0] == f"ok   configuration: {config}: 1 daemon, 1 sink"
    assert f"ok   exporter: 127.0.0.1:{bridge.exporter_port} is free" in lines
    assert "ok   daemon node-a: logged in as 'admin'" in lines
    assert lines[-1] == f"ok   sink broker: broker 127.0.0.1:{mosquitto.port} lets this bridge in (MQTT 5)"
    assert not (tmp_path / "journal").exists()  # nothing was made


@pytest.mark.needs("mosquitto")
def test_for_scripts(bridge: Bridge, tmp_path: Path) -> None:
    settings = bridge.settings
    settings["sinks"]["hook"] = {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/hook?key=hidden"}
    settings["daemons"]["node-a"]["tls"] = {"verify": False}
    done = run_command("check", "--json", "--config", written(tmp_path, settings))
    assert done.returncode == 1
    assert "hidden" not in done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "failed"
    found = {(one["subject"], one["aspect"]): one for one in answer["checks"]}
    assert found["daemon node-a", "certificate"]["verdict"] == "warning"
    hook = found["sink hook", "connection"]
    assert hook["verdict"] == "failed"
    assert "Connection refused" in hook["text"]
    assert hook["remedy"].startswith("check the address")


def test_warnings_do_not_fail(emulator: Emulator, tmp_path: Path) -> None:
    settings = {
        "daemons": {"node-a": daemon_settings(emulator) | {"tls": {"verify": False}}},
        "journal": {"path": str(tmp_path / "journal")},
        "exporter": {"listen": f"127.0.0.1:{free_port()}"},
    }
    done = run_command("check", "--config", written(tmp_path, settings))
    assert done.returncode == 0
    assert "warn daemon node-a: its certificate is not verified" in done.stdout
    assert "     -> set tls.ca_file" in done.stdout
    assert re.fullmatch(r"0 failed, 2 with a warning, \d+ ok", done.stdout.splitlines()[-1])


def test_offline_looks_at_the_file_alone(tmp_path: Path) -> None:
    settings = {
        "daemons": {"node-a": {"url": "tcp://127.0.0.1:1", "username": "u", "password": "p"}},
        "sinks": {"log": {"type": "file", "path": "-"}},
    }
    config = written(tmp_path, settings)
    done = run_command("check", "--offline", "--config", config)
    assert (done.returncode, done.stdout) == (0, f"ok   configuration: {config}: 1 daemon, 1 sink\n")


def test_a_configuration_that_cannot_be_used(tmp_path: Path) -> None:
    config = written(tmp_path, {"daemon": {}})
    done = run_command("check", "--config", config)
    assert (done.returncode, done.stdout) == (2, "")
    assert "daemon: unknown key: did you mean daemons?" in done.stderr
    done = run_command("check", "--json", "--config", config)
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "failed"
    assert {one["subject"] for one in answer["checks"]} == {"configuration"}
    assert any("did you mean daemons?" in one["text"] for one in answer["checks"])
