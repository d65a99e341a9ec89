"""``appmesh_app_*``: the state of every app, from the app list (docs/protocol.md, 'App JSON').

One-off runs get no series. An app without a process uses no memory, no
CPU and no descriptors, and its series are zero, so that its graphs come down instead of breaking off; other fields that
the daemon leaves out give no series.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meshbridge.appmesh.dialect import enabled_of, is_one_off, owner_of
from meshbridge.exporter.collectors import Deadline, InvalidAnswerError
from meshbridge.exporter.exposition import MALFORMED, Family, escape_help, escape_value, number
from meshbridge.exporter.sources import DaemonSource

__all__ = ["AppsCollector", "app_families"]

_App = Mapping[str, Any]

_HEALTHY = 0
_NUMBERS = (int, float)
_OTHER_LABELS = ("version", "description")


def _field(name: str) -> Callable[[_App], object]:
    return lambda app: app.get(name)


def _usage(name: str) -> Callable[[_App], object]:
    return lambda app: app.get(name, None if app.get("pid") else 0)


def _healthy(app: _App) -> bool | None:
    return app["health"] == _HEALTHY if "health" in app else None


def _cores(app: _App) -> float | None:
    percent = app.get("cpu", None if app.get("pid") else 0)
    return percent / 100 if isinstance(percent, _NUMBERS) else None


_GAUGES: dict[str, tuple[str, Callable[[_App], object]]] = {
    "enabled": ("Whether the app is enabled", enabled_of),
    "healthy": ("Whether the app is healthy: it runs, and its health check, if it has one, passes", _healthy),
    "running": ("Whether the app has a process", lambda app: bool(app.get("pid"))),
    "start_timestamp_seconds": ("When the present or last process of the app started", _field("last_start_time")),
    "last_exit_timestamp_seconds": ("When the last process of the app ended", _field("last_exit_time")),
    "exit_code": ("How the last process of the app ended", _field("return_code")),
    "starts": ("Starts of the app since the daemon started", _field("starts")),
    "memory_bytes": ("Resident memory of the app's process tree", _usage("memory")),
    "cpu_cores": ("CPU that the app's process tree uses, in cores", _cores),
    "open_fds": ("Open file descriptors of the app's process tree", _usage("fd")),
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


def app_families(daemon: str, apps: Iterable[_App]) -> tuple[list[Family], int]:
    """The families of a daemon's apps, and how many entries of the list were no apps.

    Where a name comes twice, the later one counts: a series can stand once only.
    """
    bad = 0
    by_name: dict[str, _App] = {}
    for app in apps:
        name = app.get("name") if isinstance(app, dict) else None
        if isinstance(name, str) and name:
            by_name[name] = app
        else:
            bad += 1
    head = f'{{daemon="{escape_value(daemon)}",app="'
    rows = [(f'{head}{escape_value(name)}"', app) for name, app in by_name.items() if not is_one_off(app, by_name)]
    info = Family("appmesh_app_info", "gauge", escape_help("What is known of the app that is no number"))
    info.add([f"appmesh_app_info{start}{_info(app)}}} 1" for start, app in rows])
    return [info, *(_gauge(name, rows) for name in _GAUGES)], bad


def _gauge(name: str, rows: list[tuple[str, _App]]) -> Family:
    """Of the apps that have a value. The inner loop of a scrape: it runs once for each app and family."""
    text, value = _GAUGES[name]
    full = f"appmesh_app_{name}"
    family = Family(full, "gauge", escape_help(text))
    family.add([f"{full}{start}}} {found}" for start, app in rows if (found := number(value(app))) is not None])
    return family


def _info(app: _App) -> str:
    others = "".join([f',{label}="{escape_value(app.get(label, ""))}"' for label in _OTHER_LABELS])
    return f',owner="{escape_value(owner_of(app))}"{others}'
