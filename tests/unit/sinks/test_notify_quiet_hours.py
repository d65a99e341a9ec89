"""The quiet hours of the notify sink."""

from datetime import UTC, datetime

import pytest

from meshbridge.sinks.notify.options import quiet_until


@pytest.mark.parametrize(
    ("hours", "now", "seconds"),
    [
        (None, "23:00", None),
        ("22:00-07:00", "21:59", None),
        ("22:00-07:00", "22:00", 9 * 3600),
        ("22:00-07:00", "00:30", 6.5 * 3600),
        ("22:00-07:00", "06:59", 60),
        ("22:00-07:00", "07:00", None),
        ("12:00-13:30", "12:30", 3600),
        ("12:00-13:30", "13:30", None),
        ("12:00-13:30", "11:59", None),
    ],
)
def test_the_end_of_the_quiet_hours(hours: str | None, now: str, seconds: float | None) -> None:
    hour, minute = map(int, now.split(":"))
    assert quiet_until(hours, datetime(2026, 11, 28, hour, minute, tzinfo=UTC)) == seconds
