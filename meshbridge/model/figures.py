"""Figures of the last hour and day, in memory: what the status page draws.

One ring holds the last hour in steps of ten seconds, the other the last day in steps of five minutes. Their size is
fixed by the number of daemons and sinks. They begin empty at each start: for longer, use Prometheus.
"""

import math
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from meshbridge.model.status import JournalStatus, LinkStatus, SinkStatus

__all__ = ["SAMPLE_SECONDS", "DaemonFigures", "FigureRing", "Figures", "JournalFigures", "Range", "SinkFigures"]

SAMPLE_SECONDS = 10

_Key = tuple[str, str]
"""(figure, name of its daemon or sink)"""
_Values = list[float | None]
_DIGITS = 3


class Range(StrEnum):
    """How far back."""

    HOUR = "1h"
    DAY = "1d"


_STEP_SECONDS = {Range.HOUR: SAMPLE_SECONDS, Range.DAY: 300}
_SLOTS = {Range.HOUR: 360, Range.DAY: 288}


@dataclass(frozen=True, slots=True)
class DaemonFigures:
    """Of one daemon; each list has a value for each time, null where there is none."""

    events_per_second: _Values


@dataclass(frozen=True, slots=True)
class SinkFigures:
    """Of one sink, in the same way."""

    events_per_second: _Values
    lag_events: _Values
    lag_seconds: _Values
    dead_letters: _Values


@dataclass(frozen=True, slots=True)
class JournalFigures:
    """Of the journal, in the same way."""

    bytes: _Values


@dataclass(frozen=True, slots=True)
class Figures:
    """``times`` are unix seconds. Rates are means over a step, all others the largest value in it."""

    range: Range
    step_seconds: int
    times: list[float]
    daemons: dict[str, DaemonFigures]
    sinks: dict[str, SinkFigures]
    journal: JournalFigures


class FigureRing:
    """For any thread; one calls :meth:`sample` each :data:`SAMPLE_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: monotonic seconds, so that a clock that is set moves no figure."""
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._hour = _Ring(_SLOTS[Range.HOUR])
        self._day = _Ring(_SLOTS[Range.DAY])
        self._totals: dict[_Key, float] = {}  # of the last sample
        self._sampled_at: float | None = None
        self._step = _Step()
        self._step_ends = -math.inf

    def sample(self, links: Sequence[LinkStatus], sinks: Sequence[SinkStatus], journal: JournalStatus) -> None:
        """Takes the present figures; a part that is no longer there loses its figures."""
        now = self._clock()
        totals = {("received", link.daemon): float(link.events_received) for link in links}
        totals |= {("delivered", sink.sink): float(sink.delivered) for sink in sinks}
        levels = {("journal", ""): float(journal.bytes)}
        for sink in sinks:
            levels["lag_events", sink.sink] = float(sink.lag_events)
            levels["lag_seconds", sink.sink] = sink.lag_seconds
            levels["dead_letters", sink.sink] = float(sink.dead_letters)
        with self._lock:
            rates = self._rates(totals, now)
            self._totals, self._sampled_at = totals, now
            self._hour.add(now, rates | levels)
            self._step.add(rates, levels)
            if now >= self._step_ends:
                self._day.add(now, self._step.end())
                self._step_ends = now + _STEP_SECONDS[Range.DAY]

    def _rates(self, totals: Mapping[_Key, float], now: float) -> dict[_Key, float]:
        """Events per second since the last sample; a count that went back began again at 0."""
        if self._sampled_at is None or now <= self._sampled_at:
            return dict.fromkeys(totals, math.nan)
        seconds = now - self._sampled_at
        rates = {}
        for key, total in totals.items():
            before = self._totals.get(key)
            rates[key] = math.nan if before is None else (total - before if total >= before else total) / seconds
        return rates

    def figures(self, span: Range, now: float) -> Figures:
        """What was kept; ``now`` is unix seconds."""
        ring = self._hour if span is Range.HOUR else self._day
        with self._lock:
            behind = now - self._clock()
            times = [round(moment + behind, 1) for moment in ring.times()]
            of = {key: ring.values(key) for key in ring.columns}
        none: _Values = [None] * len(times)
        daemons = [name for figure, name in of if figure == "received"]
        sinks = [name for figure, name in of if figure == "delivered"]
        return Figures(
            span,
            _STEP_SECONDS[span],
            times,
            {name: DaemonFigures(of["received", name]) for name in daemons},
            {
                name: SinkFigures(
                    of["delivered", name],
                    *(of[figure, name] for figure in ("lag_events", "lag_seconds", "dead_letters")),
                )
                for name in sinks
            },
            JournalFigures(of.get(("journal", ""), none)),
        )


@dataclass(slots=True)
class _Step:
    """What came together in one step of the day: the mean of rates, the largest of levels."""

    sums: dict[_Key, tuple[float, int]] = field(default_factory=dict)
    largest: dict[_Key, float] = field(default_factory=dict)

    def add(self, rates: Mapping[_Key, float], levels: Mapping[_Key, float]) -> None:
        for key, rate in rates.items():
            total, count = self.sums.get(key, (0.0, 0))
            self.sums[key] = (total, count) if math.isnan(rate) else (total + rate, count + 1)
        for key, level in levels.items():
            self.largest[key] = max(level, self.largest.get(key, level))

    def end(self) -> dict[_Key, float]:
        found = {key: total / count if count else math.nan for key, (total, count) in self.sums.items()}
        found |= self.largest
        self.sums, self.largest = {}, {}
        return found


class _Ring:
    """The last samples: a column of times, and one of values for each key. NaN where there is none."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._at = 0  # where the next sample goes
        self._count = 0
        self._times = array("d", bytes(8 * slots))
        self.columns: dict[_Key, array[float]] = {}

    def add(self, moment: float, sample: Mapping[_Key, float]) -> None:
        self._times[self._at] = moment
        self.columns = {key: self.columns.get(key) or array("f", [math.nan]) * self._slots for key in sample}
        for key, value in sample.items():
            self.columns[key][self._at] = value
        self._at = (self._at + 1) % self._slots
        self._count = min(self._count + 1, self._slots)

    def times(self) -> Iterator[float]:
        return self._in_order(self._times)

    def values(self, key: _Key) -> _Values:
        return [None if math.isnan(value) else round(value, _DIGITS) for value in self._in_order(self.columns[key])]

    def _in_order(self, column: "array[float]") -> Iterator[float]:
        first = self._at - self._count
        return (column[(first + place) % self._slots] for place in range(self._count))
