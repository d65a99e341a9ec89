"""When an app is due: cron, intervals, and the times of day in which it may run."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from meshbridge.emulator import clock
from meshbridge.fields import parse_duration

_CRON_FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 7),
)
_HORIZON_YEARS = 5
DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of six fields, seconds first, in the daemon's time zone."""

    second: frozenset[int]
    minute: frozenset[int]
    hour: frozenset[int]
    day: frozenset[int]
    month: frozenset[int]
    weekday: frozenset[int]

    @classmethod
    def parse(cls, expression: str) -> "Cron":
        """The expression's sets of values.

        Raises:
            ValueError: it is no such expression.

        """
        fields = expression.split()
        if len(fields) != len(_CRON_FIELDS):
            raise ValueError(f"cron expression of {len(fields)} fields, not {len(_CRON_FIELDS)}: {expression}")
        sets = [_field(text, low, high) for text, (_, low, high) in zip(fields, _CRON_FIELDS, strict=True)]
        sets[5] = frozenset(day % 7 for day in sets[5])  # Sunday is 0 and 7
        return cls(*sets)

    def next(self, after: float) -> int:
        """Unix seconds of the first due time later than ``after``.

        Raises:
            ValueError: it is never due.

        """
        moment = datetime.fromtimestamp(int(after) + 1, clock.ZONE)
        limit = moment.year + _HORIZON_YEARS
        while moment.year < limit:
            if moment.month not in self.month:
                moment = (moment.replace(day=1, hour=0, minute=0, second=0) + timedelta(days=32)).replace(day=1)
            elif moment.day not in self.day or moment.isoweekday() % 7 not in self.weekday:
                moment = moment.replace(hour=0, minute=0, second=0) + timedelta(days=1)
            elif moment.hour not in self.hour:
                moment = moment.replace(minute=0, second=0) + timedelta(hours=1)
            elif moment.minute not in self.minute:
                moment = moment.replace(second=0) + timedelta(minutes=1)
            elif moment.second not in self.second:
                moment += timedelta(seconds=1)
            else:
                return int(moment.timestamp())
        raise ValueError("cron expression that is never due")


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so many seconds from ``start``, which is itself the first time."""

    start: int
    seconds: int

    def next(self, after: float) -> int:
        if after < self.start:
            return self.start
        passed = int(after) - self.start
        return self.start + (passed // self.seconds + 1) * self.seconds


@dataclass(frozen=True, slots=True)
class Schedule:
    """What an app's definition says of its times."""

    periodic: Cron | Interval | None = None
    start_time: int | None = None
    end_time: int | None = None
    daily: tuple[int, int] | None = None
    """Seconds of the UTC day between which it may run; the second may be the smaller (over midnight)."""

    @classmethod
    def parse(cls, definition: Mapping[str, Any], registered: int) -> "Schedule":
        """The times in an app's definition.

        Raises:
            ValueError: a time, duration or cron expression is none, or the end is not after the start.

        """
        interval = str(definition.get("start_interval_seconds") or "")
        start_time = clock.parse(definition["start_time"]) if "start_time" in definition else None
        end_time = clock.parse(definition["end_time"]) if "end_time" in definition else None
        periodic: Cron | Interval | None = None
        if interval:
            start_time = registered + 1 if start_time is None else start_time
            if definition.get("cron"):
                periodic = Cron.parse(interval)
            else:
                periodic = Interval(start_time, max(1, int(parse_duration(interval))))
        if start_time is not None and end_time is not None and start_time > end_time:
            raise ValueError("end_time should greater than the start_time")
        daily = definition.get("daily_limitation")
        limits = None
        if daily and daily.get("daily_start") is not None and daily.get("daily_end") is not None:
            limits = (clock.parse(daily["daily_start"]) % DAY_SECONDS, clock.parse(daily["daily_end"]) % DAY_SECONDS)
        return cls(periodic, start_time, end_time, limits)

    @property
    def limited(self) -> bool:
        """Whether the mere passing of time can forbid a running app."""
        return self.end_time is not None or self.daily is not None

    def allows(self, moment: float) -> bool:
        """Whether the app may run at ``moment``."""
        if self.start_time is not None and moment < self.start_time:
            return False
        if self.end_time is not None and moment >= self.end_time:
            return False
        if self.daily is None:
            return True
        start, end = self.daily
        of_day = int(moment) % DAY_SECONDS
        return start <= of_day < end if start <= end else of_day >= start or of_day < end

    def next(self, after: float) -> int | None:
        """The next due time of a periodic app; None where there is none."""
        if self.periodic is None:
            return None
        due = self.periodic.next(max(after, (self.start_time or 0) - 1))
        return None if self.end_time is not None and due >= self.end_time else due


def _field(text: str, low: int, high: int) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span in {"*", "?"}:
            first, last = low, high
        else:
            first_text, dash, last_text = span.partition("-")
            first = int(first_text)
            last = int(last_text) if dash else (high if step else first)
        if not low <= first <= last <= high:
            raise ValueError(f"cron field out of {low} to {high}: {part}")
        values.update(range(first, last + 1, int(step or 1)))
    return frozenset(values)
