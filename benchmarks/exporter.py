"""/metrics for many apps and daemons: this exporter beside a collector written with prometheus_client.

Both are asked over HTTP for the same: each daemon's own text (8 series for an app) and 11 series for each app from the
app list, all with the label `daemon`. The other one parses the text with prometheus_client's parser and generates
everything with it, as one would write an exporter with that library. `parse` is the part of it that the design
compares with: parsing the daemons' text and generating it again, and nothing else.

Each row and contender has a process of its own, so that memory is its own. Ratios count, times are this machine's.

    python benchmarks/exporter.py [--quick] [--json FILE]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from meshbridge.exporter import Exporter, ExporterOptions, Sources
from meshbridge.model.status import JournalStatus

ROWS = [(1, 10), (10, 10), (100, 10), (1, 1_000), (10, 1_000), (100, 1_000), (1, 10_000), (10, 10_000), (100, 10_000)]
QUICK = [(1, 10), (1, 1_000), (10, 1_000)]
APP_FAMILIES = (
    ("process_starts_total", "counter", "starts"),
    ("metrics_collection_errors_total", "counter", "none"),
    ("process_id", "gauge", "pid"),
    ("process_resident_memory_bytes", "gauge", "memory"),
    ("process_cpu_usage_cores", "gauge", "cpu"),
    ("process_open_fds", "gauge", "fd"),
    ("enabled", "gauge", "status"),
    ("running", "gauge", "status"),
)
APP_GAUGES = {
    "start_timestamp_seconds": "last_start_time",
    "last_exit_timestamp_seconds": "last_exit_time",
    "exit_code": "return_code",
    "starts": "starts",
    "memory_bytes": "memory",
    "cpu_cores": "cpu",
    "open_fds": "fd",
    "enabled": "status",
    "healthy": "health",
    "running": "status",
}


@dataclass
class Daemon:
    """Answers from memory, as a daemon with this many apps does."""

    name: str
    text: bytes
    apps: list[dict[str, Any]]

    def get_metrics(self, _timeout_seconds: float) -> bytes:
        return self.text

    def get_host_resources(self, _timeout_seconds: float) -> dict[str, Any]:
        return {}

    def list_apps(self, _timeout_seconds: float) -> list[dict[str, Any]]:
        return self.apps


def make_daemons(daemons: int, apps: int) -> list[Daemon]:
    """``apps`` in all, dealt out; one each at least where there are fewer apps than daemons."""
    return [make_daemon(f"node-{number:03}", max(1, apps // daemons)) for number in range(daemons)]


def make_daemon(name: str, count: int) -> Daemon:
    apps = [
        {
            "name": f"app-{number:05}", "owner": "admin", "status": 1, "health": 0, "pid": 1000 + number, "none": 0,
            "memory": 4_759_552 + number * 4096, "cpu": 0.30660557746887207, "fd": 7, "starts": 3, "return_code": 0,
            "last_start_time": 1_795_563_427 + number, "last_exit_time": 1_795_563_426 + number,
        }
        for number in range(count)
    ]  # fmt: skip
    lines = []
    for family, kind, key in APP_FAMILIES:
        full = f"appmesh_application_{family}"
        lines += [f"# HELP {full} What it is", f"# TYPE {full} {kind}"]
        lines += [f'{full}{{application="{app["name"]}",host="{name}"}} {app[key]}' for app in apps]
    return Daemon(name, ("\n".join(lines) + "\n").encode(), apps)


class Naive(Collector):
    """What one would write with prometheus_client."""

    def __init__(self, daemons: list[Daemon], *, with_apps: bool = True) -> None:
        self.daemons = daemons
        self.with_apps = with_apps

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for daemon in self.daemons:
            for metric in text_string_to_metric_families(daemon.text.decode()):
                known = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    known.add_sample(sample.name, sample.labels | {"daemon": daemon.name}, sample.value)
        yield from families.values()
        if self.with_apps:
            yield from self.apps()

    def apps(self) -> Iterable[Metric]:
        info = GaugeMetricFamily("appmesh_app_info", "App", labels=["daemon", "app", "owner", "version", "description"])
        gauges = {
            key: GaugeMetricFamily(f"appmesh_app_{name}", "App", labels=["daemon", "app"])
            for name, key in APP_GAUGES.items()
        }
        for daemon in self.daemons:
            for app in daemon.apps:
                info.add_metric([daemon.name, app["name"], app["owner"], "", ""], 1)
                for key, gauge in gauges.items():
                    gauge.add_metric([daemon.name, app["name"]], app[key])
        return [info, *gauges.values()]


def registry_of(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def serve_meshbridge(daemons: list[Daemon]) -> Callable[[], bytes]:
    exporter = Exporter(
        ExporterOptions(listen="127.0.0.1:0"), Sources(lambda: daemons, list, list, lambda: JournalStatus(""), list)
    )
    exporter.start()
    return lambda: fetch(exporter.address[1])


def serve_naive(daemons: list[Daemon]) -> Callable[[], bytes]:
    server, _ = start_http_server(0, "127.0.0.1", registry_of(Naive(daemons)))
    return lambda: fetch(server.server_port)


def parse_only(daemons: list[Daemon]) -> Callable[[], bytes]:
    registry = registry_of(Naive(daemons, with_apps=False))
    return lambda: generate_latest(registry)


CONTENDERS: dict[str, Callable[[list[Daemon]], Callable[[], bytes]]] = {
    "meshbridge": serve_meshbridge,
    "prometheus_client": serve_naive,
    "parse": parse_only,
}


def fetch(port: int) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": "300"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        body: bytes = response.read()
    return body


def measure(contender: str, daemons: int, apps: int) -> dict[str, float]:
    """In this process: the median of some scrapes, and by how much they raised its peak of memory."""
    ask = CONTENDERS[contender](make_daemons(daemons, apps))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: list[float] = []
    started = time.perf_counter()
    while len(seconds) < 3 or (len(seconds) < 20 and time.perf_counter() - started < 2):
        if contender != "meshbridge" and seconds and seconds[0] > 3:
            break  # minutes of the slow one tell no more
        begun = time.perf_counter()
        body = ask()
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    series = sum(1 for line in body.splitlines() if not line.startswith(b"#"))
    return {"seconds": statistics.median(seconds), "memory_mib": (peak - before) / 1024, "series": series}


def run(contender: str, daemons: int, apps: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", contender, str(daemons), str(apps)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a few small rows")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        contender, daemons, apps = arguments.measure
        print(json.dumps(measure(contender, int(daemons), int(apps))))
        return
    contenders = f"{'meshbridge':>19} | {'prometheus_client':>19} | {'parse':>8}"
    print(f"{'daemons':>7} {'apps':>6} {'series':>7} | {contenders} | ratios")
    rows = []
    for daemons, apps in QUICK if arguments.quick else ROWS:
        found = {contender: run(contender, daemons, apps) for contender in CONTENDERS}
        ours, naive, parsed = (found[name] for name in CONTENDERS)
        row = {
            "daemons": daemons,
            "apps": apps,
            "results": found,
            "times_faster": naive["seconds"] / ours["seconds"],
            "times_faster_than_parse": parsed["seconds"] / ours["seconds"],
        }
        rows.append(row)
        times = [f"{result['seconds'] * 1e3:8.1f} ms {result['memory_mib']:4.0f} MiB" for result in (ours, naive)]
        print(
            f"{daemons:7} {apps:6} {ours['series']:7.0f} | {' | '.join(times)} | {parsed['seconds'] * 1e3:5.0f} ms"
            f" | {row['times_faster']:.1f} x, {row['times_faster_than_parse']:.1f} x parse",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"benchmark": "exporter", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
