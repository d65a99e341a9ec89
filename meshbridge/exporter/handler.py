"""The scrape path: parameters, deadline, collectors, families, answer."""

import math
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from meshbridge.exporter.collectors import Collector, Deadline
from meshbridge.exporter.collectors.apps import AppsCollector
from meshbridge.exporter.collectors.daemon import DaemonCollector
from meshbridge.exporter.collectors.host import HostCollector
from meshbridge.exporter.collectors.own import gauge, own_families
from meshbridge.exporter.exposition import (
    CLASH,
    CONFLICT,
    LIMIT,
    MALFORMED,
    Family,
    cut,
    escape_help,
    labels,
    merge,
    render_openmetrics,
    render_text,
)
from meshbridge.exporter.gathering import CollectorRun, Gathering, Task
from meshbridge.exporter.negotiation import accepts_gzip, choose_format
from meshbridge.exporter.options import ExporterOptions
from meshbridge.exporter.sources import DaemonSource, Sources

__all__ = ["BadScrapeError", "ScrapeAnswer", "ScrapeHandler", "time_allowed"]

_OWN = "own"
_DEFAULT_TIMEOUT_SECONDS = 10.0  # Prometheus's own default, for who sends no header
_LONGEST_TIMEOUT_SECONDS = 300.0  # a thread is kept for as long
_OFFSET_SECONDS = 0.5  # for writing, compressing and sending, as blackbox_exporter allows
_PIECE_BYTES = 256 * 1024
_GZIP_LEVEL = 1  # level 6 takes more than twice the time, and saves a twentieth of what is left


class BadScrapeError(Exception):
    """The parameters can't be met; the text is one line for the client."""


@dataclass(frozen=True, slots=True)
class ScrapeAnswer:
    """The body is in pieces, to be sent one after the other."""

    pieces: tuple[bytes, ...]
    headers: tuple[tuple[str, str], ...]


class ScrapeHandler:
    """Answers ``/metrics``. :meth:`scrape` may be called by many threads at once."""

    def __init__(self, options: ExporterOptions, sources: Sources) -> None:
        self._options = options
        self._sources = sources
        self._gathering = Gathering()
        self._lock = threading.Lock()  # guards _dropped
        self._dropped: Counter[tuple[str, str]] = Counter()

    def scrape(
        self, query: Mapping[str, Sequence[str]], headers: Mapping[str, str], deadline: Deadline
    ) -> ScrapeAnswer:
        """Raises: BadScrapeError, for an unknown collector."""
        collectors = self._chosen(query.get("collect[]", ()), query.get("exclude[]", ()))
        own, whole = own_families(self._sources)
        reserved = frozenset(family.name for family in own)
        daemons = list(self._sources.daemons())
        tasks = [self._task(source, name, reserved) for source in daemons for name in collectors if name != _OWN]
        outcomes = self._gathering.gather(tasks, deadline)
        groups, dropped = self._within_limits(daemons, outcomes)
        families, conflicts = merge(groups)
        self._count(dropped + Counter({(daemon, CONFLICT): count for daemon, count in conflicts.items()}))
        families += own if _OWN in collectors else []
        families += [*_collector_families(outcomes, whole), *self._dropped_families(daemons)]
        if names := frozenset(query.get("name[]", ())):
            families = [family for family in families if family.answers_to(names)]
        return _answer(sorted(families, key=lambda family: family.name), headers)

    def close(self) -> None:
        self._gathering.close()

    def _chosen(self, collect: Sequence[str], exclude: Sequence[str]) -> list[str]:
        on = [*self._options.collectors.names(), _OWN]
        if collect and exclude:
            raise BadScrapeError("collect[] and exclude[] can't be combined")
        for name in (*collect, *exclude):
            if name not in on:
                known = name in type(self._options.collectors).model_fields
                raise BadScrapeError(f"{'disabled' if known else 'unknown'} collector {name!r}: use {', '.join(on)}")
        return [name for name in on if (name in collect if collect else name not in exclude)]

    def _task(self, source: DaemonSource, collector: str, reserved: frozenset[str]) -> Task:
        def make() -> Collector:
            if collector == "daemon":
                return DaemonCollector(source, reserved, self._options.max_series)
            return AppsCollector(source) if collector == "apps" else HostCollector(source)

        return Task(source.name, collector, make)

    def _within_limits(
        self, daemons: Iterable[DaemonSource], outcomes: Iterable[CollectorRun]
    ) -> tuple[list[tuple[str, list[Family]]], Counter[tuple[str, str]]]:
        """The families of each daemon, cut at ``max_series``: what the daemon says of itself goes first."""
        order = ("host", "apps", "daemon")
        dropped: Counter[tuple[str, str]] = Counter()
        by_daemon: dict[str, list[CollectorRun]] = {source.name: [] for source in daemons}
        for outcome in outcomes:
            by_daemon[outcome.daemon].append(outcome)
            dropped.update({(outcome.daemon, reason): count for reason, count in outcome.dropped.items()})
        groups = []
        for daemon, parts in by_daemon.items():
            parts.sort(key=lambda outcome: order.index(outcome.collector))
            kept, lost = cut((family for part in parts for family in part.families), self._options.max_series)
            dropped[daemon, LIMIT] += lost
            groups.append((daemon, kept))
        return groups, dropped

    def _count(self, dropped: Counter[tuple[str, str]]) -> None:
        with self._lock:
            self._dropped.update(dropped)

    def _dropped_families(self, daemons: Iterable[DaemonSource]) -> Iterator[Family]:
        name = "meshbridge_scrape_series_dropped_total"
        family = Family(name, "counter", escape_help("Lines of the daemon that were not served"))
        with self._lock:
            counts = {
                (source.name, reason): self._dropped[source.name, reason]
                for source in daemons
                for reason in (CLASH, CONFLICT, LIMIT, MALFORMED)
            }
            self._dropped = Counter(counts)  # a daemon that left the configuration leaves no series
        family.add(
            f"{name}{labels({'daemon': daemon, 'reason': reason})} {count}"
            for (daemon, reason), count in counts.items()
        )
        yield family


def time_allowed(header: str | None) -> float:
    """Seconds for the collectors, from ``X-Prometheus-Scrape-Timeout-Seconds``."""
    try:
        timeout = float(header) if header else _DEFAULT_TIMEOUT_SECONDS
    except ValueError:
        timeout = _DEFAULT_TIMEOUT_SECONDS
    if not (math.isfinite(timeout) and timeout > 0):
        timeout = _DEFAULT_TIMEOUT_SECONDS
    timeout = min(timeout, _LONGEST_TIMEOUT_SECONDS)
    return max(timeout - _OFFSET_SECONDS, timeout / 2)


def _collector_families(outcomes: Sequence[CollectorRun], own_whole: bool) -> Iterator[Family]:
    yield gauge(
        "meshbridge_collector_success",
        "Whether the collector got what it asked the daemon for",
        (({"daemon": o.daemon, "collector": o.collector}, int(o.success)) for o in outcomes),
    )
    yield gauge(
        "meshbridge_collector_duration_seconds",
        "How long the collector took",
        (({"daemon": o.daemon, "collector": o.collector}, round(o.duration_seconds, 6)) for o in outcomes),
    )
    yield gauge(
        "meshbridge_own_metrics_complete",
        "Whether every part of the bridge could be asked for its state",
        iter([({}, int(own_whole))]),
    )


def _answer(families: list[Family], headers: Mapping[str, str]) -> ScrapeAnswer:
    families = [family for family in families if family.chunks]
    content_type = choose_format(headers.get("accept", ""))
    parts = render_openmetrics(families) if content_type.openmetrics else render_text(families)
    out = [("content-type", str(content_type)), ("vary", "Accept, Accept-Encoding")]
    if accepts_gzip(headers.get("accept-encoding", "")):
        parts = _zipped(parts)
        out.append(("content-encoding", "gzip"))
    return ScrapeAnswer(tuple(_in_pieces(parts)), tuple(out))


def _zipped(parts: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(_GZIP_LEVEL, wbits=16 + zlib.MAX_WBITS)
    for part in parts:
        yield packer.compress(part)
    yield packer.flush()


def _in_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Small parts put together, so that each piece is worth a write."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= _PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)
