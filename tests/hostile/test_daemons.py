"""One bridge, an honest daemon, and beside it every hostile one at once: what these do costs only themselves.

A new case is one line in ``daemons.CASES``.
"""

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from meshbridge.emulator import Emulator, EmulatorOptions
from tests.hostile.daemons import CASES, HostileDaemon, fuzzed
from tests.support import Process, free_port, meshbridge_command, wait_for, write_config

_FIRST = int(os.environ.get("HOSTILE_SEED", "0"))
FUZZED = range(_FIRST, _FIRST + int(os.environ.get("HOSTILE_FUZZED", "5")))
MORE_MIB = 64
LINES_EACH = 100


@dataclass
class Stage:
    """A running bridge with its daemons; ``exporter`` is the base of its URLs."""

    honest: Emulator
    bridge: Process
    events_file: Path
    exporter: str

    def events(self) -> list[dict[str, Any]]:
        if not self.events_file.exists():
            return []
        return [json.loads(line) for line in self.events_file.read_text().splitlines()]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.exporter + path, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def honest_event_arrives(self, mark: str) -> None:
        self.honest.emit("marker", "EXIT", {"pid": 1, "exit_code": 1, "last_error": mark})
        wait_for(
            lambda: any(one["data"] and one["data"].get("last_error") == mark for one in self.events()),
            f"the honest event {mark}: {self.bridge.output()[-3000:]}",
        )

    def resident_mib(self) -> float:
        for line in Path(f"/proc/{self.bridge.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the bridge has ended")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("hostile")
    directory.chmod(0o700)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    cases = CASES | {f"fuzzed-{seed}": fuzzed(seed) for seed in FUZZED}
    with contextlib.ExitStack() as stack:
        honest = stack.enter_context(Emulator(EmulatorOptions(wss_port=None, https_port=None)))
        assert honest.tcp_address is not None
        hostile = {name: stack.enter_context(HostileDaemon(authority, case)) for name, case in cases.items()}
        login = {"username": "admin", "password": "hostile-password", "tls": {"ca_file": str(directory / "ca.pem")}}
        daemons: dict[str, Any] = {
            name: {"url": f"tcp://127.0.0.1:{daemon.port}", **login} for name, daemon in hostile.items()
        }
        daemons["honest"] = {
            "url": f"tcp://127.0.0.1:{honest.tcp_address[1]}",
            "username": "admin",
            "password": "admin123",
            "tls": {"ca_file": str(honest.ca_file)},
        }
        port = free_port()
        events_file = directory / "events.jsonl"
        settings = {
            "daemons": daemons,
            "journal": {"path": str(directory / "journal")},
            "sinks": {"file": {"type": "file", "path": str(events_file)}},
            "exporter": {"listen": f"127.0.0.1:{port}"},
        }
        config = write_config(directory / "meshbridge.yaml", settings)
        bridge = stack.enter_context(
            Process(meshbridge_command("run", "--config", str(config)), directory / "bridge.log")
        )
        found = Stage(honest, bridge, events_file, f"http://127.0.0.1:{port}")
        wait_for(lambda: "meshbridge started" in bridge.output(), "the bridge")
        wait_for(lambda: 'meshbridge_daemon_up{daemon="honest"} 1' in found.get("/metrics"), "the honest daemon")
        for name, daemon in hostile.items():
            if "/appmesh/subscribe" not in cases[name].answers and name not in NEVER_SUBSCRIBED:
                wait_for(daemon.pushed.is_set, f"what {name} pushes")
        yield found


NEVER_SUBSCRIBED = {"start-1e300", "resources-list", "token-echo", *(f"fuzzed-{seed}" for seed in FUZZED)}


def test_the_honest_daemon_is_heard_and_not_forged(stage: Stage) -> None:
    stage.honest_event_arrives("after all of them")
    honest = [one for one in stage.events() if one["source"] == "appmesh://honest"]
    assert honest
    assert not [one for one in stage.events() if one["id"] == "honest/1/666"]
    assert all(one["id"].startswith(one["source"].removeprefix("appmesh://") + "/") for one in stage.events())


def test_what_is_no_event_is_counted_and_leaves_a_gap(stage: Stage) -> None:
    metrics = stage.get("/metrics")
    for name in ("sequence-2-63", "year-33658", "app-object", "other-subscription", "garbage", "nested"):
        line = next(one for one in metrics.splitlines() if f'events_invalid_total{{daemon="{name}"' in one)
        assert float(line.split()[-1]) >= 1, line


def test_every_thread_runs_and_the_bridge_is_ready(stage: Stage) -> None:
    assert json.loads(stage.get("/-/ready"))["ready"] is True
    names = set()
    for path in Path(f"/proc/{stage.bridge.popen.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            names.add((path / "comm").read_text().strip())
    assert names
    assert "thread failed" not in stage.bridge.output(), "no daemon's answer is a fault of the bridge's"
    assert "Traceback" not in stage.bridge.output()


def test_the_scrape_holds_nothing_that_a_daemon_may_not_say(stage: Stage) -> None:
    metrics = stage.get("/metrics")
    lines = metrics.splitlines()
    assert not [one for one in lines if one.startswith(("big", "up", "__x"))]
    assert [one for one in lines if one.startswith('fine{daemon="metrics-1e999"')]
    assert 'meshbridge_daemon_up{daemon="metrics-1e999"} 7' not in metrics


def test_log_and_memory_are_bounded(stage: Stage) -> None:
    before = stage.resident_mib()
    for number in range(3):
        stage.honest_event_arrives(f"round {number}")
    assert stage.resident_mib() - before < MORE_MIB
    assert len(stage.bridge.output().splitlines()) < LINES_EACH * (len(CASES) + len(FUZZED))


def test_no_secret_is_repeated(stage: Stage) -> None:
    for text in (stage.bridge.output(), stage.get("/"), stage.get("/-/ready")):
        assert "hostile-password" not in text
