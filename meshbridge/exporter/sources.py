"""What the exporter asks of the rest of the service, as callables: it knows neither links nor couriers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from meshbridge.model.status import JournalStatus, LinkStatus, SinkStatus

__all__ = ["DaemonSource", "Sources"]


class DaemonSource(Protocol):
    """One App Mesh daemon, over its request connection.

    Each call MAY raise anything, and MUST end within ``timeout_seconds``. Different calls of one source MAY be made at
    once from several threads; the same call of one daemon never is: while it has not come back, no other is made.
    """

    @property
    def name(self) -> str:
        """The daemon's name in the configuration: the value of the label ``daemon``."""
        ...

    def get_metrics(self, timeout_seconds: float) -> bytes:
        """The daemon's own metrics, in text format 0.0.4."""
        ...

    def get_host_resources(self, timeout_seconds: float) -> dict[str, Any]:
        """The JSON of ``GET /appmesh/resources``."""
        ...

    def list_apps(self, timeout_seconds: float) -> list[dict[str, Any]]:
        """The JSON of ``GET /appmesh/applications``."""
        ...


@dataclass(frozen=True)
class Sources:
    """Asked at each scrape; all but the calls of a daemon answer from memory."""

    daemons: Callable[[], Sequence[DaemonSource]]
    links: Callable[[], Sequence[LinkStatus]]
    sinks: Callable[[], Sequence[SinkStatus]]
    journal: Callable[[], JournalStatus]
    ready: Callable[[], Sequence[str]]
    """Reasons why the service is not ready; empty when it is."""
