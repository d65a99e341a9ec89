from datetime import datetime
from typing import Any

import pytest

from meshbridge.emulator import clock
from meshbridge.emulator.schedule import Cron, Interval, Schedule


def at(text: str) -> int:
    return clock.parse(text)


@pytest.mark.parametrize(
    ("expression", "after", "due"),
    [
        ("*/3 * * * * *", "2026-11-24T18:24:06", "2026-11-24T18:24:09"),
        ("0 * * * * *", "2026-11-24T18:24:00", "2026-11-24T18:25:00"),
        ("0 30 4 * * *", "2026-11-24T18:24:06", "2026-11-25T04:30:00"),
        ("0 0 0 1 1 *", "2026-11-24T18:24:06", "2027-01-01T00:00:00"),
        ("0 0 12 * * 0", "2026-11-24T18:24:06", "2026-11-29T12:00:00"),
        ("0 0 12 * * 7", "2026-11-24T18:24:06", "2026-11-29T12:00:00"),
        ("10-20/5,50 0 0 31 * ?", "2026-11-24T18:24:06", "2026-12-31T00:00:10"),
        ("0 0 0 29 2 *", "2026-11-24T18:24:06", "2028-02-29T00:00:00"),
        ("5/20 * * * * *", "2026-11-24T18:24:06", "2026-11-24T18:24:25"),
        ("0 0 0 * JAN MON", "2026-11-28T12:12:48", "2027-01-04T00:00:00"),
        ("0 0 0 1 1 ? 2028", "2026-11-28T12:12:48", "2028-01-01T00:00:00"),
    ],
)
def test_cron_gives_the_next_due_time_in_the_daemons_zone(expression: str, after: str, due: str) -> None:
    assert Cron.parse(expression).next(at(after)) == at(due)


@pytest.mark.parametrize(
    "expression", ["* * * * *", "61 * * * * *", "x * * * * *", "5-1 * * * * *", "", "*/0 * * * * *", "0 0 0 0 * *"]
)
def test_what_is_no_cron_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Cron.parse(expression)


def test_a_cron_expression_that_is_never_due_is_found_out() -> None:
    with pytest.raises(ValueError, match="never due"):
        Cron.parse("0 0 0 30 2 *").next(at("2026-11-24T18:24:06"))


def test_an_interval_counts_from_its_start_whatever_happens_meanwhile() -> None:
    interval = Interval(1000, 20)
    assert [interval.next(after) for after in (900, 999, 1000, 1019.9, 1020, 1100)] == [
        1000,
        1000,
        1020,
        1020,
        1040,
        1120,
    ]


def test_a_periodic_app_starts_a_second_after_its_registration_as_measured() -> None:
    schedule = Schedule.parse({"start_interval_seconds": 2}, registered=1795515855)
    assert (schedule.start_time, schedule.next(1795515855)) == (1795515856, 1795515856)
    cron = Schedule.parse({"start_interval_seconds": "*/3 * * * * *", "cron": True}, registered=1795515846)
    assert (cron.start_time, cron.next(1795515846)) == (1795515847, 1795515849)
    assert Schedule.parse({"start_interval_seconds": "PT1M"}, registered=0).next(1) == 61


def test_an_app_without_times_is_always_allowed_and_never_due_by_itself() -> None:
    schedule = Schedule.parse({"command": "true"}, registered=0)
    assert (schedule.next(0), schedule.allows(0), schedule.limited) == (None, True, False)


def test_start_and_end_bound_it() -> None:
    definition = {
        "start_time": at("2026-11-24T10:00:00"),
        "end_time": at("2026-11-24T12:00:00"),
        "start_interval_seconds": 3600,
    }
    schedule = Schedule.parse(definition, registered=0)
    assert [schedule.allows(at(f"2026-11-24T{hour}:00:00")) for hour in ("09", "10", "11", "12")] == [
        False,
        True,
        True,
        False,
    ]
    assert schedule.next(at("2026-11-24T11:30:00")) is None
    assert schedule.next(0) == at("2026-11-24T10:00:00")


@pytest.mark.parametrize(("start", "end", "allowed"), [(9, 17, [False, True, False]), (22, 10, [False, True, True])])
def test_the_time_of_day_bounds_it_also_over_midnight(start: int, end: int, allowed: list[bool]) -> None:
    day = datetime(2026, 11, 24, tzinfo=clock.ZONE)
    limits = {
        "daily_start": int(day.replace(hour=start).timestamp()),
        "daily_end": int(day.replace(hour=end).timestamp()),
    }
    schedule = Schedule.parse({"daily_limitation": limits}, registered=0)
    hours = (20, 9, 23)
    assert [schedule.allows(day.replace(hour=hour).timestamp()) for hour in hours] == allowed
    assert schedule.limited


@pytest.mark.parametrize(
    "definition",
    [
        {"start_time": 20, "end_time": 10},
        {"start_interval_seconds": "* *", "cron": True},
    ],
)
def test_impossible_times_are_refused(definition: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Schedule.parse(definition, registered=0)


def test_times_have_the_daemons_text() -> None:
    assert clock.text(1795515820) == "2026-11-24T18:23:40+08"
    assert clock.parse("2026-11-24T18:23:40+08:00") == clock.parse("1795515820") == 1795515820
