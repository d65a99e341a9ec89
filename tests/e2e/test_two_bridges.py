"""Two bridges on a host: a command reaches the one that it names, and no other."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Process, free_port, meshbridge_command, write_config


def settings(tmp_path: Path, name: str) -> dict[str, Any]:
    return {
        "daemons": {"node-a": {"url": f"tcp://127.0.0.1:{free_port()}", "username": "u", "password": "p"}},
        "sinks": {"broker": {"type": "file", "path": str(tmp_path / f"{name}.jsonl")}},
        "journal": {"path": str(tmp_path / "journal")},
        "exporter": {"listen": "127.0.0.1:0"},
    }


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """The configuration of a bridge that runs."""
    config = write_config(tmp_path / "meshbridge.yaml", settings(tmp_path, "events"))
    with Process(meshbridge_command("run", "--config", str(config)), tmp_path / "log") as bridge:
        bridge.wait_for_output("meshbridge started")
        yield config
        bridge.end(signal.SIGTERM)


def call(*arguments: str, config: Path) -> subprocess.CompletedProcess[str]:
    command = meshbridge_command(*arguments, "--config", str(config))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "command", [("sinks", "pause", "broker"), ("reload",), ("journal", "stats"), ("dead-letters", "list")]
)
def test_a_command_for_another_configuration_is_refused(
    running: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    other = write_config(tmp_path / "blue.yaml", settings(tmp_path, "blue"))  # without a journal of its own
    refused = call(*command, config=other)
    assert refused.returncode == 1
    assert str(running) in refused.stderr
    assert str(other) in refused.stderr
    assert "paused" not in call("sinks", "list", config=running).stdout


def test_check_says_that_another_bridge_has_the_journal(running: Path, tmp_path: Path) -> None:
    other = write_config(tmp_path / "blue.yaml", settings(tmp_path, "blue"))
    found = call("check", config=other)
    assert found.returncode == 1
    assert f"has the configuration {running}" in found.stdout


def test_the_same_file_under_another_name_is_no_other_configuration(running: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(running)
    assert call("sinks", "list", config=link).returncode == 0


def test_a_refused_reload_ends_with_2_and_says_why(running: Path) -> None:
    write_config(running, {"daemons": {"node-a": {"urll": "x"}}, "journal": {"path": str(running.parent / "journal")}})
    refused = call("reload", config=running)
    assert refused.returncode == 2
    assert "meshbridge: daemons.node-a.urll: unknown key" in refused.stderr
