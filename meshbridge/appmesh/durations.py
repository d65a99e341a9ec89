"""How long things last, as callers say it."""

import re
from datetime import timedelta

__all__ = ["seconds_of"]

_DURATION = re.compile(
    r"P(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?"
)
_DAYS_OF_YEAR, _DAYS_OF_MONTH = 365, 30  # as the official SDK counts them


def seconds_of(duration: int | str | timedelta) -> int:
    """Whole seconds of a number or an ISO 8601 duration (a year has 365 days, a month 30).

    Raises:
        ValueError: a text that is no duration.
        TypeError: neither a text nor a whole number.

    """
    if isinstance(duration, int):
        return int(duration)
    if not isinstance(duration, str):
        raise TypeError(f"a duration is a whole number of seconds or an ISO 8601 text, not {duration!r}")
    match = _DURATION.fullmatch(duration)
    if match is None or duration.endswith(("P", "T")):
        raise ValueError(f"{duration!r} is no ISO 8601 duration, such as P1W, P2DT12H or PT30S")
    parts = {name: int(number) for name, number in match.groupdict().items() if number}
    parts["days"] = (
        parts.get("days", 0) + parts.pop("years", 0) * _DAYS_OF_YEAR + parts.pop("months", 0) * _DAYS_OF_MONTH
    )
    return int(timedelta(**parts).total_seconds())
