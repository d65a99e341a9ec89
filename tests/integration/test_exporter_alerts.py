"""Rules and alerts on what the exporter serves: an hour of scrapes of a bridge that gets into every kind of trouble."""

import contextlib
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from meshbridge import telemetry
from meshbridge.exporter import ExporterOptions, Sources
from meshbridge.exporter.collectors import Deadline
from meshbridge.exporter.handler import ScrapeHandler
from meshbridge.model.status import JournalStatus, LinkState, LinkStatus, SinkState, SinkStatus
from tests.support import program

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
TROUBLE, LOOK, END = 20, 45, 60  # minutes: when it begins, when all alerts fire, how long it goes on
INSTANCE = "bridge:9665"
TARGET = frozenset({"instance", "job"})  # labels that Prometheus adds


class Bridge:
    """A bridge of one daemon and two sinks, minute by minute: well, and from ``TROUBLE`` on not."""

    name = "node"

    def __init__(self) -> None:
        self.minute = 0
        telemetry.settings_reloaded()
        telemetry.declare_daemon(self.name)
        for sink in ("stuck", "slow"):
            telemetry.declare_sink(sink)

    @property
    def troubled(self) -> bool:
        return self.minute >= TROUBLE

    def pass_minute(self) -> None:
        self.minute += 1
        telemetry.events_delivered("slow", 10)
        telemetry.events_delivered("stuck", 0 if self.troubled else 10)
        if self.minute == TROUBLE:
            telemetry.settings_refused(["sinks.stuck.url: is missing"])
        if self.minute == LOOK - 5:
            telemetry.gap_found(self.name, 1, 15)
            telemetry.events_dropped("stuck", "size", 30)
            telemetry.command_ended("slow", "run", "timeout", 300.0)

    # --- as a daemon

    def get_metrics(self, timeout_seconds: float) -> bytes:
        return b"meshbridge_daemon_up 1\n" if self.troubled else b""

    def get_host_resources(self, timeout_seconds: float) -> dict[str, Any]:
        if self.troubled:
            raise PermissionError("host-resource-view is missing")
        return {"hostname": "node"}

    def list_apps(self, timeout_seconds: float) -> list[dict[str, Any]]:
        app = {"status": 1, "pid": 7, "health": 0, "return_code": 0, "last_start_time": 0}
        if not self.troubled:
            return [app | {"name": name} for name in ("sick", "loop", "cron")]
        return [
            app | {"name": "sick", "health": 1},
            app | {"name": "loop", "last_start_time": 60 * self.minute, "return_code": 1},
            app | {"name": "cron", "last_start_time": 60 * self.minute},
        ]

    # --- as the rest of the service

    def sources(self) -> Sources:
        return Sources(lambda: [self], self.links, self.sinks, self.journal, list)

    def links(self) -> list[LinkStatus]:
        return [LinkStatus("node", LinkState.WAITING if self.troubled else LinkState.UP, token_expires_at=2400.0)]

    def sinks(self) -> list[SinkStatus]:
        if not self.troubled:
            return [SinkStatus("stuck", SinkState.UP), SinkStatus("slow", SinkState.UP)]
        return [
            SinkStatus("stuck", SinkState.WAITING, lag_events=7, lag_seconds=10, dead_letters=5),
            SinkStatus("slow", SinkState.UP, lag_events=900, lag_seconds=600),
        ]

    def journal(self) -> JournalStatus:
        if not self.troubled:
            return JournalStatus("/j", open=True, bytes=95, max_bytes=100)  # full of what was delivered
        return JournalStatus("/j", open=True, bytes=95, max_bytes=100, last_error="no space left on device")


def recorded() -> dict[str, list[str]]:
    """Series -> its value at each minute, as promtool wants them."""
    bridge = Bridge()
    handler = ScrapeHandler(ExporterOptions(), bridge.sources())
    series: dict[str, list[str]] = defaultdict(lambda: ["_"] * END)
    with contextlib.closing(handler):
        for minute in range(END):
            text = b"".join(handler.scrape({}, {}, Deadline.after(10)).pieces).decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    labels = sample.labels | {"instance": INSTANCE, "job": "meshbridge"}
                    written = ",".join(f"{label}={json.dumps(value)}" for label, value in labels.items())
                    series[f"{sample.name}{{{written}}}"][minute] = repr(sample.value)
            bridge.pass_minute()
    return series


@pytest.mark.needs("promtool")
def test_every_alert_fires_on_what_the_exporter_serves_and_none_before(tmp_path: Path) -> None:
    told = ("alertname", "daemon", "app", "sink", "collector", "reason", "result")
    firing = [
        {"alertname": "MeshbridgeDown"},  # another bridge: there is nothing to scrape
        {"alertname": "AppMeshDaemonDown", "daemon": "node"},
        {"alertname": "AppMeshAppUnhealthy", "daemon": "node", "app": "sick"},
        {"alertname": "AppMeshAppFlapping", "daemon": "node", "app": "loop"},
        {"alertname": "MeshbridgeSinkStuck", "sink": "stuck"},
        {"alertname": "MeshbridgeSinkLagging", "sink": "slow"},
        {"alertname": "MeshbridgeJournalFailing"},
        {"alertname": "MeshbridgeJournalFilling"},
        {"alertname": "MeshbridgeEventsDropped", "sink": "stuck", "reason": "size"},
        {"alertname": "MeshbridgeDeadLetters", "sink": "stuck"},
        {"alertname": "MeshbridgeCommandsFail", "sink": "slow", "result": "timeout"},
        {"alertname": "MeshbridgeTokenExpiring", "daemon": "node"},
        {"alertname": "MeshbridgeEventsMissed", "daemon": "node"},
        {"alertname": "MeshbridgeCollectorFailing", "daemon": "node", "collector": "host"},
        {"alertname": "MeshbridgeSeriesDropped", "daemon": "node", "reason": "clash"},
        {"alertname": "MeshbridgeReloadRefused"},
    ]
    series = recorded() | {'up{job="meshbridge",instance="other:9665"}': [f"1x{TROUBLE} 0x{END - TROUBLE}"]}
    expression = f'count by ({", ".join(told)}) (ALERTS{{alertstate="firing"}})'
    samples = [{"labels": json_labels(labels), "value": 1} for labels in firing]
    test = {
        "rule_files": [str(DEPLOY / "rules.yml"), str(DEPLOY / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": " ".join(values)} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": expression, "eval_time": f"{TROUBLE - 1}m", "exp_samples": []},
                    {"expr": expression, "eval_time": f"{LOOK}m", "exp_samples": samples},
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    checked = subprocess.run(
        [str(program("promtool")), "test", "rules", str(tmp_path / "test.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    alerts = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    assert [rule["alert"] for rule in alerts] == [labels["alertname"] for labels in firing]


def json_labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items()) + "}"


def input_series() -> Iterator[tuple[str, frozenset[str]]]:
    """Name and labels of each series in the test files, without what Prometheus adds."""
    for file in ("rules_test.yml", "alerts_test.yml"):
        for test in yaml.safe_load((DEPLOY / file).read_text())["tests"]:
            for given in test["input_series"]:
                name, _, rest = given["series"].partition("{")
                yield name, frozenset(re.findall(r'(\w+)="', rest)) - TARGET


def documented_labels() -> dict[str, frozenset[str]]:
    """The labels of each metric by its line in docs/metrics.md, which another test compares with the exporter."""
    page = (DEPLOY.parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| ((?:`\w+` ?)*) ?\|", page, re.MULTILINE)
    assert rows
    return {name: frozenset(re.findall(r"\w+", labels)) for name, labels in rows}


def test_rules_are_tested_with_series_as_they_are_served() -> None:
    served = documented_labels()
    served |= {f"{name}_bucket": labels | {"le"} for name, labels in served.items()}
    for name, labels in input_series():
        assert name == "up" or labels == served[name], name
