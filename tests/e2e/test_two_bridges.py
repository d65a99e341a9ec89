"""Two bridges on a host: a command reaches the one that it names, and no other."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import run_command
from tests.support import Process, free_port, meshbridge_command, write_config


def settings(tmp_path: Path, name: str) -> dict[str, Any]:
    return {
        "daemons": {"node-a": {"url": f"tcp://127.0.0.1:{free_port()}", "username": "u", "password": "p"}},
        "sinks": {"broker": {"type": "file", "path": str(tmp_path / f"{name}.jsonl")}},
        "journal": {"path": str(tmp_path / "journal")},
        "exporter": {"listen": "127.0.0.1:0"},
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration of a bridge that runs for all tests here."""
    directory = tmp_path_factory.mktemp("running")
    config = write_config(directory / "meshbridge.yaml", settings(directory, "events"))
    with Process(meshbridge_command("run", "--config", str(config)), directory / "log") as bridge:
        bridge.wait_for_output("meshbridge started")
        yield config
        bridge.end(signal.SIGTERM)


@pytest.fixture
def other(running: Path, tmp_path: Path) -> Path:
    """Another configuration with the same journal."""
    journal = {"path": str(running.parent / "journal")}
    return write_config(tmp_path / "blue.yaml", settings(tmp_path, "blue") | {"journal": journal})


def call(*arguments: str, config: Path) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, "--config", str(config))


@pytest.mark.parametrize(
    "command", [("sinks", "pause", "broker"), ("reload",), ("journal", "stats"), ("dead-letters", "list")]
)
def test_a_command_for_another_configuration_is_refused(running: Path, other: Path, command: tuple[str, ...]) -> None:
    refused = call(*command, config=other)
    assert refused.returncode == 1
    assert str(running) in refused.stderr
    assert str(other) in refused.stderr
    assert "paused" not in call("sinks", "list", config=running).stdout


def test_check_says_that_another_bridge_has_the_journal(running: Path, other: Path) -> None:
    found = call("check", config=other)
    assert found.returncode == 1
    assert f"has the configuration {running}" in found.stdout


def test_the_same_file_under_another_name_is_no_other_configuration(running: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(running)
    assert call("sinks", "list", config=link).returncode == 0


def test_a_refused_reload_ends_with_2_and_says_why(running: Path) -> None:
    before = running.read_bytes()
    write_config(running, {"daemons": {"node-a": {"urll": "x"}}, "journal": {"path": str(running.parent / "journal")}})
    refused = call("reload", config=running)
    running.write_bytes(before)
    assert refused.returncode == 2
    assert "meshbridge: daemons.node-a.urll: unknown key" in refused.stderr
