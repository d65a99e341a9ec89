"""meshbridge's own metrics: the counters of ``telemetry``, and gauges from what its parts say of themselves."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from meshbridge import telemetry
from meshbridge.exporter.exposition import Family, escape_help, labels, number
from meshbridge.exporter.sources import Sources

__all__ = ["gauge", "own_families", "registry_families"]

_TYPES = {"unknown": "untyped", "info": "gauge", "stateset": "gauge"}


def own_families(sources: Sources, registry: CollectorRegistry = telemetry.REGISTRY) -> tuple[list[Family], bool]:
    """All of them, and whether every part could be asked. A part that can't costs its own families only."""
    families: list[Family] = []
    whole = True
    parts: tuple[Callable[[], Iterator[Family]], ...] = (
        lambda: registry_families(registry),
        lambda: _links(sources),
        lambda: _sinks(sources),
        lambda: _journal(sources),
    )
    for part in parts:
        try:
            families += list(part())
        except Exception:  # noqa: BLE001 whatever a part raises must not cost the others' series
            telemetry.own_metrics_incomplete()
            whole = False
    return families, whole


def registry_families(registry: CollectorRegistry) -> Iterator[Family]:
    """The families of a registry of ``prometheus_client``. Without ``_created``, which would double the series."""
    for metric in registry.collect():
        yield _family(metric)


def _family(metric: Metric) -> Family:
    name = metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")
    family = Family(name, _TYPES.get(metric.type, metric.type), escape_help(metric.documentation))
    family.add(
        f"{sample.name}{labels(sample.labels)} {number(sample.value)}"
        for sample in metric.samples
        if not sample.name.endswith("_created")
    )
    return family


def gauge(name: str, text: str, samples: Iterator[tuple[dict[str, str], float | None]]) -> Family:
    """``samples``: labels and value; no series where there is no value."""
    family = Family(name, "gauge", escape_help(text))
    family.add(f"{name}{labels(pairs)} {number(value)}" for pairs, value in samples if value is not None)
    return family


def _links(sources: Sources) -> Iterator[Family]:
    links = list(sources.links())
    yield gauge(
        "meshbridge_daemon_up",
        "Whether events come from the daemon or, where its url is https://, whether it answers",
        (({"daemon": link.daemon}, int(link.up)) for link in links),
    )
    yield gauge(
        "meshbridge_token_expiry_timestamp_seconds",
        "When the token that is used for the daemon expires",
        (({"daemon": link.daemon}, link.token_expires_at) for link in links),
    )


def _sinks(sources: Sources) -> Iterator[Family]:
    sinks = list(sources.sinks())
    for name, text, attribute in (
        ("sink_up", "Whether the sink's destination accepted the last batch", "up"),
        ("sink_lag_events", "Events in the journal that the sink has not acknowledged", "lag_events"),
        ("sink_lag_seconds", "Age of the oldest event that the sink has not acknowledged", "lag_seconds"),
        ("dead_letters", "Events kept as dead letters of the sink", "dead_letters"),
    ):
        yield gauge(f"meshbridge_{name}", text, (({"sink": sink.sink}, getattr(sink, attribute)) for sink in sinks))


def _journal(sources: Sources) -> Iterator[Family]:
    journal = sources.journal()
    for name, text, value in (
        ("up", "Whether the journal is open and takes events", int(journal.open and journal.last_error is None)),
        ("bytes", "Size of the journal", journal.bytes),
        ("max_bytes", "Size at which the journal begins to drop events", journal.max_bytes or None),
        ("events", "Events in the journal", journal.events),
    ):
        yield gauge(f"meshbridge_journal_{name}", text, iter([({}, value)]))
