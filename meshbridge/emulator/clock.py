"""The daemon's times: unix seconds, each with a text twin in its own time zone (docs/protocol.md, 'App JSON')."""

import time
from datetime import UTC, datetime, timedelta, timezone

ZONE = timezone(timedelta(hours=8))
"""``PosixTimezone`` of the daemon's default configuration, whatever zone the host is in."""


def now() -> int:
    return int(time.time())


def text(unix_seconds: float) -> str:
    """``2026-11-24T18:23:40+08``."""
    return datetime.fromtimestamp(int(unix_seconds), ZONE).strftime("%Y-%m-%dT%H:%M:%S+08")


def parse(value: object) -> int:
    """Unix seconds of a number or an ISO 8601 time (the daemon's zone where it names none).

    Raises:
        ValueError: it is neither.

    """
    if isinstance(value, int | float):
        return int(value)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return int(str(value))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZONE)
    return int(moment.astimezone(UTC).timestamp())
