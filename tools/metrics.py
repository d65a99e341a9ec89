"""``python -m tools.metrics`` writes the tables of ``metrics.md`` from what the exporter serves."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

import meshbridge.service.service  # noqa: F401  so that every part has registered what it counts
from meshbridge import telemetry
from meshbridge.exporter import ExporterOptions, Sources
from meshbridge.exporter.collectors import Deadline
from meshbridge.exporter.collectors.apps import app_families
from meshbridge.exporter.collectors.host import host_families
from meshbridge.exporter.collectors.own import registry_families
from meshbridge.exporter.exposition import Family
from meshbridge.exporter.handler import ScrapeHandler
from meshbridge.model.status import JournalStatus, LinkStatus, SinkStatus

__all__ = ["PAGE", "Metric", "catalogue", "updated"]

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

_TABLES = ("meshbridge_", "appmesh_app_", "appmesh_host_", "process_")
_UNITS = {
    "_timestamp_seconds": "Unix time, s",
    "_time_seconds": "Unix time, s",
    "_seconds": "s",
    "_seconds_total": "s",
    "_bytes": "bytes",
    "_cores": "cores",
    "_info": "always 1",
}


@dataclass(frozen=True)
class Metric:
    """One family, as it is served."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def unit(self) -> str:
        """By the end of the name, where units stand, or by how a yes or no is described."""
        if self.meaning.startswith("Whether "):
            return "0 or 1"
        ends = [end for end in _UNITS if self.name.endswith(end)]
        return _UNITS[max(ends, key=len)] if ends else ""


class _Specimen(dict[str, Any]):
    """An app, or the resources of a host, that has every field a collector asks for."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002 as a dictionary is asked
        known = {"name": "app", "enabled": True, "load": self, "fs": [self], "net": [self], "collector_errors": []}
        return known.get(key, 1)

    def __missing__(self, key: str) -> Any:
        return self.get(key)

    def __contains__(self, key: object) -> bool:
        return key != "enabled"  # which marks another dialect


class _SpecimenDaemon:
    name = "daemon"

    def get_metrics(self, timeout_seconds: float) -> bytes:  # noqa: ARG002 as a daemon is asked
        return b""

    def get_host_resources(self, timeout_seconds: float) -> dict[str, Any]:  # noqa: ARG002
        return _Specimen()

    def list_apps(self, timeout_seconds: float) -> list[dict[str, Any]]:  # noqa: ARG002
        return [_Specimen()]


def catalogue() -> list[Metric]:
    """Every family that is meshbridge's own.

    Raises:
        LookupError: there is one whose labels are unknown.

    """
    declared = [*registry_families(telemetry.REGISTRY), *app_families("", [])[0], *host_families("", {})]
    metrics = {metric.name: metric for metric in _served()}
    for family in declared:
        if family.name not in metrics:
            metrics[family.name] = Metric(family.name, family.type, _labels_of(family), family.help.decode())
    return sorted(metrics.values(), key=lambda metric: metric.name)


def _served() -> Iterator[Metric]:
    """What one scrape gives; a counter that has counted nothing has no series, and is not among it."""
    sources = Sources(
        daemons=lambda: [_SpecimenDaemon()],
        links=lambda: [LinkStatus("daemon", token_expires_at=1.0)],
        sinks=lambda: [SinkStatus("sink")],
        journal=lambda: JournalStatus("", max_bytes=1),
        ready=list,
    )
    handler = ScrapeHandler(ExporterOptions(), sources)
    text = b"".join(handler.scrape({}, {}, Deadline.after(10)).pieces).decode()
    handler.close()
    for name, help_text, kind, label_text in re.findall(
        r"^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)\n[^{ ]+(?:{(.*)})? ", text, re.MULTILINE
    ):
        labels = re.findall(r'(\w+)="', label_text)
        yield Metric(name, kind, tuple(label for label in labels if label not in ("le", "quantile")), help_text)


def _labels_of(family: Family) -> tuple[str, ...]:
    for value in vars(telemetry).values():
        if isinstance(value, MetricWrapperBase) and family.name.removesuffix("_total") == value._name:  # noqa: SLF001
            return tuple(value._labelnames)  # noqa: SLF001 no public way to ask what was not counted yet
    raise LookupError(f"{family.name} is served, and no specimen of it is known here")


def updated(page: str) -> str:
    """The page with new tables; each stands after a comment that names the prefix of its metrics."""
    metrics = catalogue()
    for prefix in _TABLES:
        before, begin, rest = page.partition(f"<!-- {prefix} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (begin and end):
            raise LookupError(f"the page has no place for {prefix}")
        page = before + begin + _table(metric for metric in metrics if metric.name.startswith(prefix)) + end + after
    return page


def _table(metrics: Iterable[Metric]) -> str:
    lines = ["| name | type | labels | unit | meaning |", "| --- | --- | --- | --- | --- |"]
    for metric in metrics:
        labels = " ".join(f"`{label}`" for label in metric.labels)
        meaning = metric.meaning.replace("|", r"\|")
        lines.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.unit} | {meaning} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
