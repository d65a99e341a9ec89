"""A real Prometheus scrapes a real bridge of a daemon with running apps."""

import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from appmesh import App, AppMeshClientTCP

from meshbridge.emulator import Emulator
from tests.e2e.conftest import Bridge, address_of, daemon_settings
from tests.support import Process, free_port, program, wait_for


@pytest.fixture
def bridge(tmp_path: Path, emulator: Emulator) -> Any:
    running = Bridge(tmp_path, {"daemons": {"node-a": daemon_settings(emulator)}})
    running.start()
    running.wait_up()
    yield running
    running.close()


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
    return body


def run_an_app(emulator: Emulator) -> None:
    client = AppMeshClientTCP(address_of(emulator), ssl_verify=str(emulator.ca_file))
    client.login("admin", "admin123")
    client.add_app(App({"name": "web", "command": "sleep 600"}))
    client.close()


@pytest.mark.needs("promtool")
def test_promtool_has_nothing_to_say(bridge: Bridge, emulator: Emulator) -> None:
    run_an_app(emulator)
    text = fetch(bridge.metrics_url)
    binary = program("promtool")
    assert binary is not None
    done = subprocess.run([binary, "check", "metrics"], input=text, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert b'appmesh_app_running{daemon="node-a",app="web"} 1' in text


@pytest.mark.needs("prometheus")
def test_prometheus_scrapes_the_bridge_and_answers_queries(bridge: Bridge, emulator: Emulator, tmp_path: Path) -> None:
    run_an_app(emulator)
    config = tmp_path / "prometheus.yml"
    target = {"targets": [f"127.0.0.1:{bridge.exporter_port}"]}
    config.write_text(
        yaml.safe_dump(
            {"scrape_configs": [{"job_name": "meshbridge", "scrape_interval": "1s", "static_configs": [target]}]}
        )
    )
    port = free_port()
    binary = program("prometheus")
    assert binary is not None
    command = [
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def query(expression: str) -> list[dict[str, Any]]:
        try:
            answer = orjson.loads(fetch(f"http://127.0.0.1:{port}/api/v1/query?query={expression}"))
        except OSError:
            return []
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    with Process(command, tmp_path / "prometheus.log"):
        (running,) = wait_for(lambda: query("appmesh_app_running"), "a sample")
        assert running["metric"]["app"] == "web"
        assert running["value"][1] == "1"
        assert query("up")[0]["value"][1] == "1"
        assert query("meshbridge_daemon_up")[0]["value"][1] == "1"


def test_readiness_and_health_are_told(bridge: Bridge) -> None:
    base = bridge.metrics_url.removesuffix("/metrics")
    ready = orjson.loads(fetch(f"{base}/-/ready"))
    assert ready["ready"] is True
    assert ready["daemons"]["node-a"]["up"] is True
    assert fetch(f"{base}/-/healthy")
    assert b"node-a" in fetch(f"{base}/")
