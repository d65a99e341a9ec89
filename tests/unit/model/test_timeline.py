"""What an app did, told from rows: cases a person can check, and properties of any history."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshbridge.model.events import EventType
from meshbridge.model.history import AppChange, lane_id
from meshbridge.model.timeline import HOUR_SECONDS, Lane, PresentState, Segment, Window, lane_of

PLACE = ("node-a", "web")
LANE = lane_id(*PLACE)
RUNNING = PresentState(enabled=True, running=True)
STOPPED = PresentState(enabled=True)


def row(at: float, kind: str, value: int | None = None, offset: int = 0, **more: Any) -> AppChange:
    pid, process, reconciled = more.get("pid"), more.get("process"), int(more.get("reconciled", 0))
    return (offset or int(at), LANE, float(at), int(EventType[kind]), value, pid, reconciled, process, None)


def lane(
    *rows: AppChange,
    present: PresentState | None = STOPPED,
    since: float = 0,
    until: float = 100,
    resolution: float = 0,
) -> Lane:
    return lane_of(PLACE, rows, present, Window(since, until, resolution))


def shown(segments: Sequence[Segment]) -> list[tuple[str, float, float]]:
    return [(segment.state.value, segment.start, segment.end) for segment in segments]


def runs(found: Lane) -> list[tuple[float | None, float | None, int | None]]:
    return [(run.start, run.end, run.exit_code) for run in found.runs]


def test_an_app_that_starts_fails_and_starts_again() -> None:
    found = lane(row(10, "START"), row(20, "EXIT", 3), row(25, "START"), present=RUNNING)
    assert shown(found.segments) == [
        ("unknown", 0, 10), ("running", 10, 20), ("stopped", 20, 25), ("running", 25, 100),
    ]  # fmt: skip
    assert runs(found) == [(10, 20, 3), (25, None, None)]
    assert [run.restarts for run in found.runs] == [0, 1]
    assert found.restarts_since(0) == 1


def test_health_and_status_are_states_of_their_own() -> None:
    found = lane(
        row(10, "START"), row(20, "HEALTH", 1), row(30, "HEALTH", 0), row(40, "STATUS", 0), row(41, "EXIT", 9),
        row(60, "STATUS", 1), row(62, "START"), present=RUNNING,
    )  # fmt: skip
    assert shown(found.segments) == [
        ("unknown", 0, 10), ("running", 10, 20), ("unhealthy", 20, 30), ("running", 30, 41),
        ("disabled", 41, 60), ("stopped", 60, 62), ("running", 62, 100),
    ]  # fmt: skip
    assert found.restarts_since(0) == 0, "an operator asked for that start"


def test_an_app_that_is_removed_is_unknown_after_that() -> None:
    found = lane(row(10, "START"), row(20, "REMOVED"), present=None)
    assert shown(found.segments) == [("unknown", 0, 10), ("running", 10, 20), ("unknown", 20, 100)]
    assert found.removed


def test_a_run_whose_start_is_no_longer_kept_runs_from_the_beginning() -> None:
    found = lane(row(20, "EXIT", 0))
    assert shown(found.segments) == [("running", 0, 20), ("stopped", 20, 100)]
    assert runs(found) == [(None, 20, 0)]


def test_rows_before_the_time_say_how_it_begins() -> None:
    found = lane(row(10, "START"), row(30, "HEALTH", 1), present=PresentState(running=True, healthy=False), since=50)
    assert shown(found.segments) == [("unhealthy", 50, 100)]
    assert found.segments[0].run is found.runs[0]
    assert found.runs[0].start == 10


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (PresentState(enabled=True, running=True, started_at=40), [("unknown", 0, 40), ("running", 40, 100)]),
        (PresentState(enabled=True, running=True), [("running", 0, 100)]),
        (PresentState(enabled=False), [("disabled", 0, 100)]),
        (PresentState(enabled=True), [("stopped", 0, 100)]),
        (
            PresentState(enabled=False, started_at=10, exited_at=30, exit_code=1),
            [("unknown", 0, 10), ("running", 10, 30), ("disabled", 30, 100)],
        ),
        (None, [("unknown", 0, 100)]),
    ],
)
def test_an_app_without_events_is_shown_as_it_was_found(present: PresentState | None, expected: object) -> None:
    found = lane(present=present)
    assert shown(found.segments) == expected
    assert all(run.reconciled for run in found.runs)


def test_a_missed_end_that_is_found_later_stands_in_its_place() -> None:
    """The next START came in first; the comparison gives the end that lies before it."""
    found = lane(
        row(10, "START", offset=1, pid=1),
        row(40, "START", offset=2, pid=2),
        row(30, "EXIT", 7, offset=3, pid=1, reconciled=True),
        present=RUNNING,
    )
    assert runs(found) == [(10, 30, 7), (40, None, None)]
    assert shown(found.segments) == [("unknown", 0, 10), ("running", 10, 30), ("stopped", 30, 40), ("running", 40, 100)]


def test_an_end_at_an_unknown_time_is_not_after_the_next_start() -> None:
    found = lane(
        row(10, "START", offset=1, pid=1),
        row(50, "EXIT", None, offset=2, pid=1, reconciled=True),  # the time of the comparison
        row(30, "START", offset=3, pid=2, reconciled=True),
        present=RUNNING,
    )
    assert runs(found) == [(10, 30, None), (30, None, None)]
    assert [run.reconciled for run in found.runs] == [1, 1]


def test_the_exit_of_a_process_before_does_not_end_the_present_one() -> None:
    found = lane(row(10, "START", pid=1), row(20, "START", pid=2), row(21, "EXIT", 9, pid=1), present=RUNNING)
    assert runs(found) == [(10, 20, 9), (20, None, None)]


def test_many_runs_within_a_second_keep_their_order() -> None:
    rows = [row(10, kind, 1 if kind == "EXIT" else None, offset=n) for n, kind in enumerate(["START", "EXIT"] * 3, 1)]
    found = lane(*rows)
    assert runs(found) == [(10, 10, 1)] * 3
    assert [(s.state, s.start, s.end) for s in found.segments if s.run] == [("running", 10, 10)] * 3
    assert found.segments[-1].state == "stopped"


def test_short_parts_are_merged_and_counted() -> None:
    rows = []
    for number in range(12):
        rows += [row(20 + 2 * number, "START"), row(21 + 2 * number, "EXIT", 1)]
    found = lane(*rows, resolution=30)
    assert len(found.segments) <= 4
    assert sum(segment.runs for segment in found.segments) == 12
    assert found.restarts_since(0) == 11
    assert found.runs[-1].restarts == 11


def test_restarts_are_of_the_hour_before() -> None:
    rows = []
    for number in range(4):
        rows += [row(1 + number * 2000, "START"), row(11 + number * 2000, "EXIT", 1)]
    found = lane(*rows, until=10_000)
    assert [run.restarts for run in found.runs] == [0, 1, 2, 2]
    assert found.restarts_since(6001 - HOUR_SECONDS) == 2


def test_a_start_after_a_clean_end_is_no_restart() -> None:
    found = lane(row(10, "START"), row(20, "EXIT", 0), row(30, "START"), present=RUNNING)
    assert found.restarts_since(0) == 0


def test_a_state_that_cannot_be_read_counts_as_not_known() -> None:
    for text in ("", "[]", "{", '{"running": 1, "health": "x", "started_at": [], "status": 5, "exit_code": true}'):
        found = PresentState.from_text(text)
        assert (found.running, found.enabled, found.started_at, found.exit_code) == (False, None, None, None)


KINDS = st.sampled_from(["START", "EXIT", "HEALTH", "STATUS", "REMOVED"])
ROWS = st.lists(
    st.tuples(st.integers(-(10**11), 10**11) | st.integers(0, 200), KINDS, st.integers(0, 1) | st.none(), st.booleans())
)
PRESENT = st.none() | st.builds(
    PresentState,
    enabled=st.none() | st.booleans(),
    running=st.booleans(),
    started_at=st.none() | st.floats(0, 200),
    exited_at=st.none() | st.floats(0, 200),
    exit_code=st.none() | st.integers(0, 255),
)


@given(ROWS, PRESENT, st.sampled_from([0.0, 7.0, 50.0]))
def test_a_lane_fills_its_time_without_overlaps_whatever_the_history(
    told: list[tuple[int, str, int | None, bool]], present: PresentState | None, resolution: float
) -> None:
    rows = [
        row(at, kind, value, offset=number, reconciled=reconciled, pid=number % 3 or None)
        for number, (at, kind, value, reconciled) in enumerate(told, 1)
    ]
    found = lane(*rows, present=present, since=20, until=100, resolution=resolution)
    assert found.segments
    assert found.segments[0].start == 20
    assert found.segments[-1].end == 100
    for one, other in zip(found.segments, found.segments[1:], strict=False):
        assert one.start <= one.end == other.start
    for run in found.runs:
        assert run.start is None or run.end is None or run.start <= run.end
    if resolution:
        assert len(found.segments) <= 2 * (80 / resolution + 1)
    if present is not None:
        assert (found.runs[-1].end is None) == present.running if found.runs else not present.running
