"""When an app is due: cron, intervals, and the times of day in which it may run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshbridge.emulator import clock
from meshbridge.emulator.durations import duration

_CRON_FIELDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7), (1970, 2099))
"""Least and most of second, minute, hour, day, month, weekday and, where it is given, year."""
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_NAMES = {name: str(number) for number, name in [*enumerate(_MONTHS, 1), *enumerate(_WEEKDAYS)]}
_WITHOUT_YEAR = 6
_HORIZON_YEARS = 5
DAY_SECONDS = 86_400


class NeverDueError(ValueError):
    """A cron expression without a time."""


class CronError(ValueError):
    """A cron expression that cannot be read, in the daemon's words."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of six fields, or seven with a year: seconds first, in the daemon's time zone."""

    expression: str

    @classmethod
    def parse(cls, expression: str) -> "Cron":
        """The expression, checked as the daemon checks it.

        Raises:
            CronError: it is no such expression.

        """
        fields = expression.split()
        if len(fields) not in {_WITHOUT_YEAR, len(_CRON_FIELDS)}:
            raise CronError("cron expression must have six or seven fields")
        return cls(" ".join(_field(text, *span) for text, span in zip(fields, _CRON_FIELDS, strict=False)))

    def next(self, after: float) -> int:
        """Unix seconds of the first due time later than ``after``.

        Raises:
            NeverDueError: there is none.

        """
        from croniter import CroniterBadDateError, croniter  # noqa: PLC0415 only the extra `demo` has it

        moment = datetime.fromtimestamp(int(after), clock.ZONE)
        times = croniter(
            self.expression,
            moment,
            ret_type=datetime,
            day_or=False,
            second_at_beginning=True,
            max_years_between_matches=_HORIZON_YEARS,
        )
        try:
            return int(times.get_next(datetime).timestamp())
        except CroniterBadDateError as error:
            raise NeverDueError("cron expression that is never due") from error


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
        interval = str(definition.get("start_interval_seconds", ""))
        start_time, end_time = definition.get("start_time"), definition.get("end_time")
        periodic: Cron | Interval | None = None
        if interval:
            start_time = registered + 1 if start_time is None else start_time
            if definition.get("cron"):
                periodic = Cron.parse(interval)
            else:
                periodic = Interval(start_time, max(1, duration(interval)))
        if start_time is not None and end_time is not None and start_time > end_time:
            raise ValueError("end_time should greater than the start_time")
        daily = definition.get("daily_limitation")
        limits = None
        if daily:
            limits = (int(daily["daily_start"]) % DAY_SECONDS, int(daily["daily_end"]) % DAY_SECONDS)
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
        try:
            due = self.periodic.next(max(after, (self.start_time or 0) - 1))
        except NeverDueError:
            return None
        return None if self.end_time is not None and due >= self.end_time else due


def _field(text: str, low: int, high: int) -> str:
    """A field with numbers for names.

    Raises:
        CronError: in the daemon's words.

    """
    plain = re.sub("[A-Za-z]+", lambda name: _NAMES.get(name[0].upper(), name[0]), text.replace("?", "*"))
    if not re.fullmatch(r"[0-9*,/-]+", plain):
        raise CronError(f"Invalid character in cron field: {text}")
    for part in plain.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span != "*" and not (first.isdigit() and (not dash or last.isdigit())):
            raise CronError(f"Invalid character in cron field: {text}")
        numbers = [int(number) for number in (first, last) if number.isdigit()]
        if any(number > high for number in numbers):
            raise CronError("Specified range exceeds maximum")
        if any(number < low for number in numbers):
            raise CronError("Specified range is less than minimum")
        if numbers != sorted(numbers) or (step and not int(step or 0)):
            raise CronError("Specified range start exceeds range end")
    return plain
