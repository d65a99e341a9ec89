"""Settings that are read again while the bridge runs: by SIGHUP and over the control socket."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests

from meshbridge.admin.client import Client, RefusedError
from meshbridge.admin.tokens import digest, new_token
from meshbridge.config.load import Settings, load
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.service.service import Service
from tests.e2e.conftest import Bridge, daemon_settings
from tests.support import free_port, thread, wait_for, write_config

REFUSED = "meshbridge_config_last_reload_successful 0.0"


@pytest.fixture
def bridge(tmp_path: Path, emulator: Emulator) -> Iterator[Bridge]:
    settings = {
        "daemons": {"node-a": daemon_settings(emulator)},
        "sinks": {"kept": file_sink(tmp_path / "kept"), "moved": file_sink(tmp_path / "moved")},
    }
    running = Bridge(tmp_path, settings)
    yield running
    running.close()


def file_sink(path: Path) -> dict[str, Any]:
    return {"type": "file", "path": str(path), "format": "raw"}


def outputs(path: Path) -> list[str]:
    """What the STDOUT events in a sink's file say."""
    if not path.exists():
        return []
    events = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [event["data"]["output"] for event in events if event["event_type"] == "STDOUT"]


def emit(emulator: Emulator, text: str) -> None:
    emulator.emit("web", "STDOUT", {"finished": False, "output": text, "position": 0})


def change(bridge: Bridge, **parts: Any) -> None:
    bridge.settings.update(parts)
    write_config(bridge.directory / "meshbridge.yaml", bridge.settings)


def test_by_sighup_sinks_come_change_and_go_and_nobody_else_notices(
    bridge: Bridge, emulator: Emulator, tmp_path: Path
) -> None:
    process = bridge.start()
    bridge.wait_up()
    emit(emulator, "first")
    wait_for(lambda: outputs(tmp_path / "moved") == outputs(tmp_path / "kept") == ["first"], "the first event")

    paths = {"kept": "kept", "moved": "there", "new": "new"}
    sinks = {name: file_sink(tmp_path / path) for name, path in paths.items()}
    change(bridge, sinks=sinks)
    process.send(signal.SIGHUP)
    process.wait_for_output("configuration reloaded")
    emit(emulator, "second")
    wait_for(lambda: outputs(tmp_path / "new") == outputs(tmp_path / "there") == ["second"], "the second event")
    wait_for(lambda: outputs(tmp_path / "kept") == ["first", "second"], "it in the sink that did not change")
    assert outputs(tmp_path / "moved") == ["first"]

    change(bridge, sinks={"kept": sinks["kept"]})
    answer = Client(tmp_path / "journal").post("/-/reload")
    assert answer["sinks"] == {"added": [], "changed": [], "removed": ["moved", "new"]}
    assert answer["daemons"] == {"added": [], "changed": [], "removed": []}
    emit(emulator, "third")
    wait_for(lambda: outputs(tmp_path / "kept") == ["first", "second", "third"], "the third event")

    change(bridge, sinks=sinks)
    Client(tmp_path / "journal").post("/-/reload")
    wait_for(lambda: outputs(tmp_path / "new") == ["second", "third"], "what a sink that comes back has missed")
    said = process.output()
    assert said.count("daemon connected") == 1
    assert said.count("sink connected") == 2 + 2 + 2
    assert process.end() == 0


def test_settings_that_cannot_be_used_are_refused_and_the_old_ones_stay(
    bridge: Bridge, emulator: Emulator, tmp_path: Path
) -> None:
    process = bridge.start()
    bridge.wait_up()
    change(bridge, sinks={"kept": {"type": "file", "pfad": "x"}})
    process.send(signal.SIGHUP)
    process.wait_for_output("sinks.kept.pfad: unknown key")
    wait_for(lambda: REFUSED in requests.get(bridge.metrics_url, timeout=60).text, "the metric")
    with pytest.raises(RefusedError, match=r"sinks\.kept\.pfad: unknown key"):
        Client(tmp_path / "journal").post("/-/reload")
    emit(emulator, "on and on")
    wait_for(lambda: outputs(tmp_path / "kept") == outputs(tmp_path / "moved") == ["on and on"], "the event")

    change(bridge, sinks={"kept": file_sink(tmp_path / "kept")})
    assert Client(tmp_path / "journal").post("/-/reload")["sinks"]["removed"] == ["moved"]
    wait_for(lambda: REFUSED not in requests.get(bridge.metrics_url, timeout=60).text, "the metric to recover")
    assert process.end() == 0


def test_a_reload_that_fails_in_a_way_that_nobody_foresaw_ends_nothing(bridge: Bridge) -> None:
    def fail() -> Settings:
        raise RuntimeError("unforeseen")

    def reload_and_end() -> None:
        wait_for(lambda: answer_of(bridge.metrics_url.replace("metrics", "-/ready")), "the bridge")
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(lambda: REFUSED in answer_of(bridge.metrics_url), "the metric")
        os.kill(os.getpid(), signal.SIGTERM)

    config = write_config(bridge.directory / "meshbridge.yaml", bridge.settings)
    service = Service(load(config, {}), fail)
    with thread(reload_and_end, "operator"):
        service.run()


def answer_of(url: str) -> str:
    """Nothing where there is no good one."""
    with contextlib.suppress(requests.ConnectionError):
        found = requests.get(url, timeout=60)
        return found.text if found.ok else ""
    return ""


def test_daemons_come_and_go_and_what_belongs_to_the_process_is_named(
    bridge: Bridge, emulator: Emulator, tmp_path: Path
) -> None:
    process = bridge.start()
    bridge.wait_up()
    with Emulator(EmulatorOptions(https_port=None)) as other:
        change(
            bridge,
            daemons={"node-a": daemon_settings(emulator), "node-b": daemon_settings(other)},
            exporter={"listen": "127.0.0.1:0"},
        )
        answer = Client(tmp_path / "journal").post("/-/reload")
        assert answer["daemons"]["added"] == ["node-b"]
        assert answer["need_restart"] == ["exporter"]
        up = 'meshbridge_daemon_up{daemon="node-b"} 1'
        wait_for(lambda: up in requests.get(bridge.metrics_url, timeout=60).text, "the new daemon to be up")
        emit(other, "from b")
        wait_for(lambda: outputs(tmp_path / "kept") == ["from b"], "the new daemon's event")

        change(bridge, daemons={"node-b": daemon_settings(other)})
        answer = Client(tmp_path / "journal").post("/-/reload")
        assert answer["daemons"]["removed"] == ["node-a"]
        assert answer["need_restart"] == ["exporter"]  # until that has happened
        emit(other, "still from b")
        wait_for(lambda: outputs(tmp_path / "kept") == ["from b", "still from b"], "the event")
        assert 'daemon_up{daemon="node-a"}' not in requests.get(bridge.metrics_url, timeout=60).text
    assert process.end() == 0


def test_a_token_that_is_taken_away_opens_nothing_from_then_on(bridge: Bridge, tmp_path: Path) -> None:
    old, new = new_token(), new_token()
    address = f"127.0.0.1:{free_port()}"
    bridge.settings["admin"] = {"listen": address, "tokens": [token("old", old)]}
    process = bridge.start()
    bridge.wait_up()

    def status(secret: str) -> int:
        headers = {"Authorization": f"Bearer {secret}"}
        return requests.get(f"http://{address}/api/v1/bridge", headers=headers, timeout=60).status_code

    assert (status(old), status(new)) == (200, 401)
    change(bridge, admin={"listen": address, "tokens": [token("new", new)]})
    assert Client(tmp_path / "journal").post("/-/reload")["need_restart"] == []
    assert (status(old), status(new)) == (401, 200)

    change(bridge, admin={"listen": "127.0.0.1:0", "tokens": [token("old", old)]})
    assert Client(tmp_path / "journal").post("/-/reload")["need_restart"] == ["admin"]
    assert (status(old), status(new)) == (200, 401)
    assert process.end() == 0


def token(name: str, secret: str) -> dict[str, Any]:
    return {"name": name, "sha256": digest(secret), "scopes": ["read"]}
