"""A bridge that App Mesh itself runs: it answers tasks, and gives way to the process that takes its place."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshbridge.appmesh import App, AppMeshClientTCP
from meshbridge.emulator import Emulator
from tests.e2e.conftest import address_of, daemon_settings
from tests.support import Process, free_port, meshbridge_command, wait_for, write_config


@pytest.fixture
def settings(emulator: Emulator, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Parametrize indirectly with the scheme of the daemon's URL."""
    return {
        "daemons": {"here": daemon_settings(emulator, getattr(request, "param", "tcp"))},
        "journal": {"path": str(tmp_path / "journal")},
        "sinks": {"log": {"type": "file", "path": str(tmp_path / "log")}},
        "exporter": {"listen": f"127.0.0.1:{free_port()}"},
    }


@pytest.fixture
def client(emulator: Emulator) -> Iterator[AppMeshClientTCP]:
    with AppMeshClientTCP(address_of(emulator), str(emulator.ca_file)) as client:
        client.login("admin", "admin123")
        yield client


@pytest.mark.parametrize("settings", ["tcp", "wss"], indirect=True)
def test_it_answers_status_check_and_reload(settings: dict[str, Any], client: AppMeshClientTCP, tmp_path: Path) -> None:
    config = write_config(tmp_path / "meshbridge.yaml", settings)

    def ask(task: str) -> Any:
        return json.loads(client.run_task("meshbridge", task, timeout=60))

    try:
        command = shlex.join(meshbridge_command("run", "--config", str(config)))
        client.add_app(App({"name": "meshbridge", "command": command}))
        wait_for(lambda: client.get_app("meshbridge").task_status == "idle", "the bridge to ask for tasks")
        wait_for(lambda: [link["state"] for link in ask("status")["daemons"]] == ["up"], "its link")
        assert [sink["sink"] for sink in ask("status")["sinks"]] == ["log"]
        assert {one["subject"] for one in ask("check")["checks"]} >= {"daemon here", "sink log"}
        settings["sinks"]["copy"] = {"type": "file", "path": str(tmp_path / "copy")}
        write_config(config, settings)
        assert ask("reload")["sinks"]["added"] == ["copy"]
        write_config(config, settings | {"sinks": {"copy": {"type": "fiel"}}})
        assert "sinks.copy" in ask("reload")["error"]
        assert ask("dance")["allowed"] == ["check", "reload", "status"]
    finally:
        client.delete_app("meshbridge")


def test_it_ends_when_another_process_has_taken_its_place(
    settings: dict[str, Any], client: AppMeshClientTCP, tmp_path: Path
) -> None:
    client.add_app(App({"name": "meshbridge", "command": "sleep 600"}))
    config = write_config(tmp_path / "meshbridge.yaml", settings)
    managed = {"APP_MESH_APPLICATION_NAME": "meshbridge", "APP_MESH_PROCESS_KEY": "of-the-process-before"}
    command = meshbridge_command("run", "--config", str(config))
    with Process(command, tmp_path / "meshbridge.log", {**os.environ, **managed}) as process:
        process.wait_for_output("meshbridge stopped")
        assert "process replaced by App Mesh" in process.output()
        assert process.popen.wait(15) == 0
    client.delete_app("meshbridge")
