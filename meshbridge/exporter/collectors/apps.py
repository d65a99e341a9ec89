"""``appmesh_app_*``: the state of every app, from the app list (PROTOCOL.md, 'App JSON').

One-off runs get no series: they have ``status`` 2, which no other app has. An app without a process uses no memory, no
CPU and no descriptors, and says so by zeros, so that its graphs come down instead of breaking off; other fields that
the daemon leaves out give no series.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from meshbridge.exporter.collectors import Deadline, InvalidAnswerError
from meshbridge.exporter.exposition import MALFORMED, Family, escape_help, escape_value, number
from meshbridge.exporter.sources import DaemonSource

__all__ = ["AppsCollector", "app_families"]

_ENABLED, _ONE_OFF = 1, 2
_HEALTHY = 0
_INFO_LABELS = ("owner", "version", "description")

_FAMILIES = {
    "info": "What is known of the app that is no number",
    "enabled": "Whether the app is enabled",
    "healthy": "Whether the app is healthy: it runs, and its health check, if it has one, passes",
    "running": "Whether the app has a process",
    "start_timestamp_seconds": "When the present or last process of the app started",
    "last_exit_timestamp_seconds": "When the last process of the app ended",
    "exit_code": "How the last process of the app ended",
    "starts": "Starts of the app since the daemon started",
    "memory_bytes": "Resident memory of the app's process tree",
    "cpu_cores": "CPU that the app's process tree uses, in cores",
    "open_fds": "Open file descriptors of the app's process tree",
}


class AppsCollector:
    def __init__(self, source: DaemonSource) -> None:
        self.dropped: Counter[str] = Counter()
        self._source = source

    def collect(self, deadline: Deadline) -> list[Family]:
        apps = self._source.list_apps(deadline.remaining_seconds)
        if not isinstance(apps, list):
            raise InvalidAnswerError(f"the daemon's app list is no list but {type(apps).__name__}")
        families, bad = app_families(self._source.name, apps)
        self.dropped[MALFORMED] += bad
        return families


def app_families(daemon: str, apps: Iterable[Mapping[str, Any]]) -> tuple[list[Family], int]:
    """The families of a daemon's apps, and how many entries of the list were no apps.

    Where a name comes twice, the later one counts: a series can stand once only.
    """
    lines: dict[str, list[str]] = {name: [] for name in _FAMILIES}
    bad = 0
    by_name: dict[str, Mapping[str, Any]] = {}
    for app in apps:
        name = app.get("name") if isinstance(app, dict) else None
        if isinstance(name, str) and name:
            by_name[name] = app
        else:
            bad += 1
    prefix = f'{{daemon="{escape_value(daemon)}",app="'
    for name, app in by_name.items():
        if app.get("status") != _ONE_OFF:
            _add_app(lines, f"{prefix}{escape_value(name)}", app)
    return [_family(name, lines[name]) for name in _FAMILIES], bad


def _add_app(lines: dict[str, list[str]], head: str, app: Mapping[str, Any]) -> None:
    get = app.get
    info = "".join(f',{label}="{escape_value(get(label, ""))}"' for label in _INFO_LABELS)
    lines["info"].append(f'appmesh_app_info{head}"{info}}} 1')
    at = head + '"} '
    running = bool(get("pid"))
    lines["enabled"].append(f"appmesh_app_enabled{at}{int(get('status') == _ENABLED)}")
    lines["running"].append(f"appmesh_app_running{at}{int(running)}")
    if (health := get("health")) is not None:
        lines["healthy"].append(f"appmesh_app_healthy{at}{int(health == _HEALTHY)}")
    for field, family in (
        ("last_start_time", "start_timestamp_seconds"),
        ("last_exit_time", "last_exit_timestamp_seconds"),
        ("return_code", "exit_code"),
        ("starts", "starts"),
    ):
        if (text := number(get(field))) is not None:
            lines[family].append(f"appmesh_app_{family}{at}{text}")
    unused = None if running else 0
    if (text := number(get("memory", unused))) is not None:
        lines["memory_bytes"].append(f"appmesh_app_memory_bytes{at}{text}")
    if (text := number(get("fd", unused))) is not None:
        lines["open_fds"].append(f"appmesh_app_open_fds{at}{text}")
    percent = get("cpu", unused)
    if isinstance(percent, int | float):
        lines["cpu_cores"].append(f"appmesh_app_cpu_cores{at}{number(percent / 100)}")


def _family(name: str, lines: list[str]) -> Family:
    family = Family(f"appmesh_app_{name}", "gauge", escape_help(_FAMILIES[name]))
    family.add(lines)
    return family
