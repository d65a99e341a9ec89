"""A real Prometheus scrapes the exporter, and promtool checks it and the files in deploy/prometheus."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshbridge import telemetry
from meshbridge.exporter import Exporter, ExporterOptions, Sources
from meshbridge.exporter.collectors.own import registry_families
from meshbridge.model.status import JournalStatus, LinkState, LinkStatus, SinkState, SinkStatus
from tests.integration.prometheus import Prometheus, fetch, scraping
from tests.support import program, wait_for

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"


def answers(file: str, operation: str) -> Any:
    for line in (GOLDEN / file).read_text().splitlines():
        exchange = json.loads(line)
        if exchange.get("operation") == operation and exchange["response"]["http_status"] == 200:
            return json.loads(exchange["response"]["body"])
    raise LookupError(operation)


@dataclass
class GoldenDaemon:
    """Answers what a real daemon answered."""

    name: str

    def get_metrics(self, timeout_seconds: float) -> bytes:
        return (GOLDEN / "metrics.txt").read_bytes()

    def get_host_resources(self, timeout_seconds: float) -> dict[str, Any]:
        resources: dict[str, Any] = answers("exchanges.jsonl", "get_host_resources")
        return resources

    def list_apps(self, timeout_seconds: float) -> list[dict[str, Any]]:
        apps: list[dict[str, Any]] = answers("output.jsonl", "list_apps while one-off runs run")
        return apps


class BrokenDaemon(GoldenDaemon):
    def get_metrics(self, timeout_seconds: float) -> bytes:
        raise ConnectionError("not reachable")


class OddDaemon(GoldenDaemon):
    """Writes what the format allows and no library writes, and some that it doesn't."""

    def get_metrics(self, timeout_seconds: float) -> bytes:
        lines = [
            '# HELP odd_total Says "hi" \\\\ and\\nmore',
            "# TYPE odd_total counter",
            'odd_total{a="x\\"y\\\\z\\n"} 1 # {trace_id="7"} 0.5 1795563427.25',
            'odd_total{a="C:\\dir",} 2',
            f'  odd_total {{ a = "é" , daemon = "theirs" }}\t3\t{int(time.time() * 1000)}  \r',
            "# TYPE odd_seconds histogram",
            'odd_seconds_bucket{le="1"} 1 # {} 0.5',
            'odd_seconds_bucket{le="+Inf"} 2',
            "odd_seconds_sum 3.5e0",
            "odd_seconds_count 2",
            "# TYPE odd_values gauge",
            'odd_values{v="nan"} NaN',
            'odd_values{v="inf"} +inf',
            'odd_values{v="small"} -.5E-3',
            "odd_untyped{} 7",
            "# TYPE odd_old counter",
            "odd_old 4",
            'odd_broken{a="1} 1',
            "meshbridge_daemon_up 1",
        ]
        return "\n".join(lines).encode()


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    telemetry.declare_daemon("node-a")
    telemetry.declare_sink("log")
    made = Exporter(
        ExporterOptions(listen="127.0.0.1:0"),
        Sources(
            daemons=lambda: [GoldenDaemon("node-a"), GoldenDaemon("node-b"), BrokenDaemon("node-c"), OddDaemon("odd")],
            links=lambda: [LinkStatus("node-a", LinkState.UP, token_expires_at=2e9), LinkStatus("node-b")],
            sinks=lambda: [SinkStatus("log", SinkState.UP, lag_events=2, lag_seconds=0.5, dead_letters=1)],
            journal=lambda: JournalStatus("/j", open=True, bytes=4096, max_bytes=2**30, events=3),
            ready=list,
        ),
    )
    made.start()
    yield made
    made.stop()


def scrape(exporter: Exporter) -> bytes:
    return fetch("http://{}:{}/metrics".format(*exporter.address))


@pytest.fixture(scope="module")
def prometheus(exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with scraping(["{}:{}".format(*exporter.address)], tmp_path_factory.mktemp("prometheus")) as found:
        yield found


@pytest.mark.needs("prometheus")
def test_prometheus_takes_every_series(prometheus: Prometheus, exporter: Exporter) -> None:
    def count() -> int:
        return len([line for line in scrape(exporter).splitlines() if not line.startswith(b"#")])

    # A scrape that a busy machine cuts short, at the first attempts of all, has fewer.
    wait_for(lambda: prometheus.values("scrape_samples_scraped") == {count()}, "a whole scrape")
    assert prometheus.values("scrape_samples_post_metric_relabeling") == prometheus.values("scrape_samples_scraped")
    target = prometheus.target()
    assert (target["health"], target["lastError"]) == ("up", "")
    assert prometheus.values('appmesh_application_enabled{daemon="node-b",application="pytask"}') == {1}
    assert prometheus.values('appmesh_http_requests_total{daemon="node-a",route="/appmesh/login"}') == {2}
    assert prometheus.values('appmesh_app_memory_bytes{daemon="node-a",app="pytask"}') == {33550336}
    assert prometheus.values('appmesh_host_load1{daemon="node-a"}') == {0.42578125}
    assert prometheus.values("meshbridge_daemon_up") == {0, 1}
    assert len(prometheus.query("count by (daemon) (appmesh_app_info)")) == 4
    assert prometheus.values('meshbridge_collector_success{daemon="node-c",collector="daemon"}') == {0}
    metadata = json.loads(fetch(f"{prometheus.url}/api/v1/metadata?metric=appmesh_http_request_duration_seconds"))
    (family,) = metadata["data"].values()
    assert (family[0]["type"], family[0]["help"]) == ("histogram", "App Mesh HTTP request duration in seconds")
    quantile = (
        'histogram_quantile(0.5, appmesh_http_request_duration_seconds_bucket{daemon="node-a",route="/appmesh/login"})'
    )
    assert prometheus.values(quantile) == {0.03}


@pytest.mark.needs("prometheus")
def test_prometheus_reads_an_odd_text_as_it_was_meant(prometheus: Prometheus) -> None:
    wait_for(lambda: prometheus.values("up") == {1}, "a good scrape")
    wait_for(lambda: prometheus.values('odd_total{exported_daemon="theirs",a="é"}') == {3}, "a sample with a timestamp")
    assert {found["metric"]["a"] for found in prometheus.query('odd_total{daemon="odd"}')} == {
        'x"y\\z\n',
        "C:\\dir",
        "é",
    }
    assert prometheus.values("odd_seconds_sum") == {3.5}
    assert {found["metric"]["le"] for found in prometheus.query("odd_seconds_bucket")} == {"1.0", "+Inf"}
    assert prometheus.values('odd_values{v!="nan"}') == {float("inf"), -0.0005}
    assert prometheus.query('odd_values{v="nan"}')[0]["value"][1] == "NaN"
    assert prometheus.values("odd_untyped") == {7}
    assert prometheus.values("odd_old") == {4}  # the same name in every format
    assert not prometheus.query("odd_broken")
    assert prometheus.values('meshbridge_scrape_series_dropped_total{daemon="odd",reason="clash"}') != {0}
    metadata = json.loads(fetch(f"{prometheus.url}/api/v1/metadata?metric=odd"))
    assert metadata["data"]["odd"][0]["help"] == 'Says "hi" \\ and\nmore'


@pytest.mark.needs("promtool")
def test_promtool_has_nothing_to_say(exporter: Exporter) -> None:
    checked = subprocess.run(
        [str(program("promtool")), "check", "metrics"],
        input=scrape(exporter),
        capture_output=True,
        check=False,
        timeout=120,
    )
    said = (checked.stdout + checked.stderr).decode().splitlines()
    assert [line for line in said if not line.startswith("odd_")] == []  # what a daemon calls its own is its own
    assert any("help" in line for line in said), "promtool looked at nothing"


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules.yml", "alerts.yml"],
        ["test", "rules", "rules_test.yml", "alerts_test.yml"],
    ],
)
def test_promtool_passes_what_is_deployed(command: list[str]) -> None:
    checked = subprocess.run(
        [str(program("promtool")), *command], cwd=DEPLOY, capture_output=True, text=True, check=False, timeout=120
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def rules() -> list[dict[str, Any]]:
    return [
        rule
        for name in ("rules.yml", "alerts.yml")
        for group in yaml.safe_load((DEPLOY / name).read_text())["groups"]
        for rule in group["rules"]
    ]


def test_rules_ask_for_series_that_are_served(exporter: Exporter) -> None:
    served = set(re.findall(r"^# TYPE (\S+)", scrape(exporter).decode(), re.MULTILINE))
    served |= {family.name for family in registry_families(telemetry.REGISTRY)}  # those without series yet, too
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        for name in re.findall(r"[a-z0-9_:]*(?:meshbridge|appmesh)_[a-z0-9_:]+", rule["expr"]):
            assert name in recorded if ":" in name else re.sub(r"_bucket$", "", name) in served, name


def test_every_alert_says_what_to_do_and_is_tested() -> None:
    tested = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]
    covered = {
        case["alertname"] for test in tested for case in test.get("alert_rule_test", []) if case.get("exp_alerts")
    }
    for rule in rules():
        if "alert" in rule:
            assert {"summary", "description", "runbook_url"} <= rule["annotations"].keys()
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert rule["annotations"]["runbook_url"].endswith(f"#{rule['alert'].lower()}")
            assert rule["alert"] in covered
