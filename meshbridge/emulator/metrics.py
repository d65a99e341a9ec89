"""``GET /appmesh/metrics``: text format 0.0.4, families and their order as measured (``golden/metrics.txt``)."""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from meshbridge.emulator import procfs
from meshbridge.emulator.application import ENABLED, HEALTHY, Application
from meshbridge.emulator.describe import cpu_percent, shown_in_metrics
from meshbridge.emulator.http_metrics import BUCKETS

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """The figures of processes are those of the scrape before, as the daemon's are."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon
        self._scrapes = 0
        self._open_fds = 0
        self._usage: dict[str, tuple[int, float, int]] = {}

    def text(self) -> str:
        self._scrapes += 1
        apps = [app for app in self._daemon.applications if shown_in_metrics(app)]
        if not self._daemon.configuration.metrics_have_apps:
            apps = []
        shown = "".join(line for family in self._families(apps) for line in family)
        self._measure(apps)
        return shown

    def _families(self, apps: list[Application]) -> Iterator[Iterable[str]]:
        host = f'host="{_escape(self._daemon.options.node_name)}"'
        one = _Family(host)
        yield one.of(
            "appmesh_metrics_scrapes_total", "Total number of App Mesh metrics scrapes", "counter", self._scrapes
        )
        yield one.of(
            "appmesh_metrics_collection_errors_total",
            "Total number of App Mesh metrics collection errors",
            "counter",
            0,
        )
        if apps:
            yield _by_app(
                "appmesh_application_process_starts_total",
                "Total application process start attempts, including attach and recovery",
                "counter",
                host,
                ((app, app.starts) for app in apps),
            )
            yield _by_app(
                "appmesh_application_metrics_collection_errors_total",
                "Total process metric collection errors for an application",
                "counter",
                host,
                ((app, 0) for app in apps),
            )
        yield self._requests(host)
        yield one.of(
            "appmesh_process_open_fds",
            "Open file descriptors in the App Mesh daemon process tree",
            "gauge",
            self._open_fds,
        )
        yield one.of("appmesh_process_id", "App Mesh daemon process ID", "gauge", os.getpid())
        version = _escape(str(self._daemon.configuration.shown()["Version"]))
        yield (
            "# HELP appmesh_build_info App Mesh build information\n# TYPE appmesh_build_info gauge\n",
            f'appmesh_build_info{{{host},version="{version}"}} 1\n',
        )
        if apps:
            yield from self._apps(apps, host)
        yield self._in_flight(host)
        yield self._durations(host)

    def _apps(self, apps: list[Application], host: str) -> Iterator[Iterable[str]]:
        def usage(app: Application) -> tuple[int, float, int]:
            return self._usage.get(app.name, (0, 0.0, 0)) if app.running else (0, 0.0, 0)

        families: tuple[tuple[str, str, list[float]], ...] = (
            ("process_id", "Application process ID, or zero while stopped", [_pid(app) for app in apps]),
            (
                "process_resident_memory_bytes",
                "Resident memory in the application process tree",
                [usage(app)[0] for app in apps],
            ),
            (
                "process_cpu_usage_cores",
                "CPU usage of the application process tree in CPU cores",
                [usage(app)[1] for app in apps],
            ),
            (
                "process_open_fds",
                "Open file descriptors in the application process tree",
                [usage(app)[2] for app in apps],
            ),
            ("enabled", "Whether the application is enabled", [app.status == ENABLED for app in apps]),
            ("running", "Whether the application process is running", [app.running for app in apps]),
            ("healthy", "Whether the application health check is passing", [app.health == HEALTHY for app in apps]),
        )
        for name, description, values in families:
            yield _by_app(f"appmesh_application_{name}", description, "gauge", host, zip(apps, values, strict=True))

    def _requests(self, host: str) -> Iterator[str]:
        counted = self._daemon.http_metrics.finished
        if counted:
            yield "# HELP appmesh_http_requests_total Total number of App Mesh HTTP requests\n"
            yield "# TYPE appmesh_http_requests_total counter\n"
        for (method, route, status_class, code), count in counted.items():
            yield (
                f'appmesh_http_requests_total{{{host},method="{method}",route="{route}",'
                f'status_class="{status_class}",status_code="{code}"}} {count}\n'
            )

    def _in_flight(self, host: str) -> Iterator[str]:
        counted = self._daemon.http_metrics.in_flight
        if counted:
            yield "# HELP appmesh_http_requests_in_flight Current App Mesh HTTP requests in flight\n"
            yield "# TYPE appmesh_http_requests_in_flight gauge\n"
        for (method, route), count in counted.items():
            yield f'appmesh_http_requests_in_flight{{{host},method="{method}",route="{route}"}} {count}\n'

    def _durations(self, host: str) -> Iterator[str]:
        counted = self._daemon.http_metrics.durations
        name = "appmesh_http_request_duration_seconds"
        if counted:
            yield f"# HELP {name} App Mesh HTTP request duration in seconds\n# TYPE {name} histogram\n"
        for (method, route), duration in counted.items():
            labels = f'{host},method="{method}",route="{route}"'
            yield f"{name}_count{{{labels}}} {duration.count}\n{name}_sum{{{labels}}} {duration.total:.9g}\n"
            for limit, count in zip(BUCKETS, duration.buckets, strict=True):
                yield f'{name}_bucket{{{labels},le="{limit:g}"}} {count}\n'
            yield f'{name}_bucket{{{labels},le="+Inf"}} {duration.count}\n'

    def _measure(self, apps: list[Application]) -> None:
        processes = procfs.Snapshot()
        self._open_fds = processes.usage(os.getpid()).open_fds
        self._usage = {}
        for app in apps:
            if app.process is not None and app.process.running:
                usage = processes.usage(app.process.pid)
                cores = cpu_percent(app, usage.cpu_seconds) / 100
                self._usage[app.name] = (usage.memory_bytes, cores, usage.open_fds)


class _Family:
    """Families of one series."""

    def __init__(self, host: str) -> None:
        self._host = host

    def of(self, name: str, description: str, kind: str, value: float) -> Iterable[str]:
        return (f"# HELP {name} {description}\n# TYPE {name} {kind}\n{name}{{{self._host}}} {_number(value)}\n",)


def _by_app(
    name: str, description: str, kind: str, host: str, values: Iterable[tuple[Application, float]]
) -> Iterator[str]:
    yield f"# HELP {name} {description}\n# TYPE {name} {kind}\n"
    for app, value in values:
        yield f'{name}{{application="{app.name}",{host}}} {_number(value)}\n'


def _pid(app: Application) -> int:
    return app.process.pid if app.process is not None and app.process.running else 0


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
