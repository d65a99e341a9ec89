"""What the API says about the past: lanes, runs and restarts."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from meshbridge.model.events import Event, decode_push
from tests.integration.admin_access import Door, doors

NOW = time.time()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with doors(tmp_path) as open_door:
        yield open_door()


def told(sequence: int, seconds_ago: float, kind: str, app: str = "web", **data: Any) -> Event:
    at = int(NOW - seconds_ago)
    fields = {"app_name": app, "data": data, "event_type": kind, "sequence": sequence, "timestamp": at}
    return decode_push("node-a", "1", orjson.dumps(fields), at, {})


def crash_loop(times: int, app: str = "web") -> list[Event]:
    """That began so many minutes ago, and still runs."""
    events = []
    for number in range(times):
        ago = (times - number) * 60
        events += [
            told(10 * number + 1, ago, "START", app, pid=number, process_uuid=f"p{number}"),
            told(10 * number + 2, ago, "STDOUT", app, finished=False, output=f"run {number}\n", position=0),
            told(10 * number + 3, ago - 30, "EXIT", app, pid=number, exit_code=7, last_error="boom"),
        ]
    return events[:-1]


def asked(door: Door, path: str, status: int = 200) -> Any:
    response, body = door.ask("GET", path, door.secret)
    assert response.status == status, body
    return body


def remember(door: Door, **apps: bool) -> None:
    door.journal.submit(
        [], {("node-a", app): orjson.dumps({"app": app, "running": up}).decode() for app, up in apps.items()}
    )
    door.journal.append([told(999, 0, "STDOUT", "quiet", finished=False, output="", position=0)])  # states go with it


def test_a_timeline_tells_of_each_app_what_it_did(door: Door) -> None:
    door.journal.append(crash_loop(13))
    remember(door, web=True, idle=False)
    found = asked(door, "/api/v1/bridge/timeline?since=1h")
    assert [(lane["app"], lane["state"]) for lane in found["lanes"]] == [("idle", "stopped"), ("web", "running")]
    web = found["lanes"][1]
    assert (web["restarts_last_hour"], web["crash_loop"], web["removed"]) == (12, True, False)
    assert [segment["state"] for segment in web["segments"]][:4] == ["unknown", "running", "stopped", "running"]
    first = web["segments"][1]["run"]
    assert (first["exit_code"], first["offset"], first["process_uuid"], first["restarts"]) == (7, 1, "p0", 0)
    assert web["segments"][-1]["run"]["end"] is None
    assert web["segments"][-1]["run"]["restarts"] == 12
    assert (found["total"], found["next"], found["gaps"], found["complete"]) == (2, None, [], True)


def test_a_timeline_comes_in_pages(door: Door) -> None:
    remember(door, a=False, b=False, c=True)
    first = asked(door, "/api/v1/bridge/timeline?limit=2")
    assert [lane["app"] for lane in first["lanes"]] == ["a", "b"]
    second = asked(door, f"/api/v1/bridge/timeline?limit=2&after={first['next']}")
    assert ([lane["app"] for lane in second["lanes"]], second["next"]) == (["c"], None)


def test_many_short_runs_are_merged(door: Door) -> None:
    events = []
    for number in range(300):
        ago = 3000 - number * 10
        events += [
            told(2 * number + 1, ago, "START", pid=number, process_uuid="p"),
            told(2 * number + 2, ago - 5, "EXIT", pid=number, exit_code=1, last_error=""),
        ]
    door.journal.append(events)
    remember(door, web=False)
    (lane,) = asked(door, "/api/v1/bridge/timeline?since=1h&segments=20")["lanes"]
    assert len(lane["segments"]) <= 42
    assert sum(segment["runs"] for segment in lane["segments"]) >= 300
    assert max(segment["runs"] for segment in lane["segments"]) > 10


def test_restarts_name_the_apps_that_crash_the_most_first(door: Door) -> None:
    assert asked(door, "/api/v1/bridge/restarts") == []
    door.journal.append([*crash_loop(2, "some"), *crash_loop(5, "more")])
    found = asked(door, "/api/v1/bridge/restarts")
    assert [(one["app"], one["restarts_last_hour"], one["crash_loop"]) for one in found] == [
        ("more", 4, True),
        ("some", 1, False),
    ]


@pytest.mark.parametrize(
    "query",
    ["since=1h&until=2h", "since=yesterday", "until=-1", "limit=0", "limit=1001", "segments=0", "since=nan", "since="],
)
def test_a_time_that_makes_no_sense_is_refused(door: Door, query: str) -> None:
    problem = asked(door, f"/api/v1/bridge/timeline?{query}", 422)
    assert problem["type"] == "/problems/invalid"


def test_a_place_that_is_no_lane_is_the_end(door: Door) -> None:
    remember(door, a=False)
    assert asked(door, "/api/v1/bridge/timeline?after=nothing")["lanes"] == []
