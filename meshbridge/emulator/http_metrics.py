"""Counts of the requests that the daemon has served, for its own metrics families."""

import time
from collections import defaultdict
from dataclasses import dataclass, field

BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)


@dataclass(slots=True)
class _Duration:
    count: int = 0
    total: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))

    def observe(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        for index, limit in enumerate(BUCKETS):
            if seconds <= limit:
                self.buckets[index] += 1


class HttpMetrics:
    """By method and route (``/appmesh/app/:param``); requests for the metrics themselves are left out."""

    def __init__(self) -> None:
        self.in_flight: dict[tuple[str, str], int] = defaultdict(int)
        self.finished: dict[tuple[str, str, str, str], int] = defaultdict(int)
        self.durations: dict[tuple[str, str], _Duration] = defaultdict(_Duration)

    def started(self, method: str, route: str) -> float:
        self.in_flight[method, route] += 1
        return time.perf_counter()

    def ended(self, method: str, route: str, status: int | None, started: float) -> None:
        """``status`` None: the client went before it had an answer."""
        self.in_flight[method, route] -= 1
        code, status_class = ("unreplied", "unreplied") if status is None else (str(status), f"{status // 100}xx")
        self.finished[method, route, status_class, code] += 1
        self.durations[method, route].observe(time.perf_counter() - started)
