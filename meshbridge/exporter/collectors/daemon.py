"""The daemon's own metrics, sent on with the label ``daemon``."""

from collections import Counter

from meshbridge.exporter.collectors import Deadline, InvalidAnswerError
from meshbridge.exporter.exposition import Family
from meshbridge.exporter.relabel import relabel
from meshbridge.exporter.sources import DaemonSource

__all__ = ["DaemonCollector"]


class DaemonCollector:
    """``reserved``: families of our own, which a daemon can't give."""

    def __init__(self, source: DaemonSource, reserved: frozenset[str], max_series: int) -> None:
        self.dropped: Counter[str] = Counter()
        self._source = source
        self._reserved = reserved
        self._max_series = max_series

    def collect(self, deadline: Deadline) -> list[Family]:
        text = self._source.get_metrics(deadline.remaining_seconds)
        if not isinstance(text, bytes):
            raise InvalidAnswerError(f"the daemon's metrics are no bytes but {type(text).__name__}")
        result = relabel(text, self._source.name, reserved=self._reserved, max_series=self._max_series)
        self.dropped.update(result.dropped)
        return result.families
