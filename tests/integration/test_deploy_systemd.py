"""The units, and the service as systemd sees it."""

import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.integration.service_manager import Manager
from tests.support import Process, free_port, meshbridge_command, program, write_config

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
INSTANCES = {"meshbridge.service": "meshbridge.service", "meshbridge@.service": "meshbridge@blue.service"}
WORST_EXPOSURE = 1.5


def systemd_analyze(*arguments: str) -> str:
    binary = program("systemd-analyze")
    assert binary is not None
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", INSTANCES)
def test_units_are_valid(unit: str, tmp_path: Path) -> None:
    """Nothing to complain of, with a program where the unit has /opt/meshbridge/bin/meshbridge."""
    installed = tmp_path / "meshbridge"
    installed.write_text("#!/bin/sh\n", encoding="utf-8")
    installed.chmod(0o755)
    text = (UNITS / unit).read_text(encoding="utf-8")
    # Before version 254 systemd ignores these two, and logs it.
    text = re.sub(r"^Restart(Steps|MaxDelaySec)=.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(User|Group)=.*\n", "", text, flags=re.MULTILINE)  # not on this host
    (tmp_path / unit).write_text(text.replace("/opt/meshbridge/bin/meshbridge", str(installed)), encoding="utf-8")
    assert systemd_analyze("verify", "--man=no", str(tmp_path / INSTANCES[unit])) == ""


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", INSTANCES)
def test_units_expose_little(unit: str, tmp_path: Path) -> None:
    shutil.copy(UNITS / unit, tmp_path)
    report = systemd_analyze("security", "--offline=true", "--no-pager", str(tmp_path / INSTANCES[unit]))
    exposure = re.search(r"Overall exposure level for \S+ (\d+\.\d+)", report)
    assert exposure is not None, report
    assert float(exposure[1]) <= WORST_EXPOSURE, report


@pytest.mark.parametrize("unit", INSTANCES)
def test_reload_asks_the_bridge_of_the_units_own_configuration(unit: str) -> None:
    """Its exit code shows in `systemctl reload` whether the file was refused."""
    text = (UNITS / unit).read_text(encoding="utf-8")
    started = re.search(r"^ExecStart=(\S+) run (.*)$", text, re.MULTILINE)
    assert started is not None
    assert f"\nExecReload={started[1]} reload {started[2]}\n" in text


def test_the_template_differs_only_in_what_an_instance_has_of_its_own() -> None:
    def settings(unit: str) -> set[str]:
        lines = (UNITS / unit).read_text(encoding="utf-8").splitlines()
        return {line for line in lines if line and not line.startswith("#")}

    one, several = settings("meshbridge.service"), settings("meshbridge@.service")
    assert {line.split("=")[0] for line in one ^ several} == {
        "Description",
        "ExecReload",
        "ExecStart",
        "LoadCredential",
        "LogsDirectory",
        "RuntimeDirectory",
        "StateDirectory",
    }
    assert all("%i" in line for line in several - one)


def test_the_service_is_ready_when_it_listens_then_feeds_and_says_that_it_stops(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    port = free_port()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    # As systemd names what LoadCredential=meshbridge:/etc/meshbridge/credentials finds in that folder.
    (credentials / "meshbridge_daemons__node_a__password").write_text("secret", encoding="utf-8")
    config = write_config(
        tmp_path / "meshbridge.yaml",
        {
            "daemons": {
                "node-a": {"url": f"tcp://127.0.0.1:{free_port()}", "username": "bridge"}
            },  # no daemon is there
            "sinks": {"log": {"type": "file", "path": str(tmp_path / "events")}},
            "journal": {"path": str(tmp_path / "journal")},
            "exporter": {"listen": f"127.0.0.1:{port}"},
        },
    )
    environ = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "300000",
        "CREDENTIALS_DIRECTORY": str(credentials),
    }
    try:
        with Process(meshbridge_command("run", "--config", str(config)), tmp_path / "log", environ) as bridge:
            assert manager.receive() == ["READY=1"], bridge.output()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5) as answer:
                assert answer.status == 200
            fed, status = manager.receive()
            assert fed == "WATCHDOG=1"
            assert re.fullmatch(r"STATUS=0 of 1 daemons up, [01] of 1 sinks up, 0 events waiting", status)
            assert manager.receive()[0] == "WATCHDOG=1"
            bridge.send(signal.SIGTERM)
            while (message := manager.receive()) != ["STOPPING=1"]:
                assert message[0] == "WATCHDOG=1"
            assert bridge.end() == 0, bridge.output()
    finally:
        manager.close()
