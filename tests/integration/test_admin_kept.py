"""Kept events: pages back through the journal, one by its id, all of them as a file, and the output of a run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from meshbridge.journal import search as search_module
from meshbridge.model.events import cloudevent
from tests.integration.admin_access import Door, doors
from tests.support import make_event


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with doors(tmp_path) as open_door:
        yield open_door()


def asked(door: Door, path: str, status: int = 200) -> Any:
    response, body = door.ask("GET", path, door.secret)
    assert response.status == status, body
    return body


def pages(door: Door, **query: object) -> list[list[int]]:
    """The offsets of each page, to the last."""
    found, before = [], None
    while True:
        given = {**query, **({} if before is None else {"before": before})}
        page = asked(door, f"/api/v1/events/kept?{urlencode(given, doseq=True)}")
        found.append([one["offset"] for one in page["events"]])
        before = page["before"]
        if before is None:
            return found


def append(door: Door, count: int, **fields: Any) -> None:
    last = door.journal.extent[1]
    door.journal.append([make_event(last + number, **fields) for number in range(1, count + 1)])


def test_pages_go_back_from_the_newest(door: Door) -> None:
    assert pages(door) == [[]]
    append(door, 7)
    assert pages(door, limit=3) == [[7, 6, 5], [4, 3, 2], [1]]
    assert pages(door, limit=7) == [[7, 6, 5, 4, 3, 2, 1]]
    (envelope,) = door.journal.read(6, 1)
    newest = asked(door, "/api/v1/events/kept?limit=1")["events"][0]
    assert newest == {"offset": 7, "event": json.loads(cloudevent(envelope.event))}


def test_events_are_chosen_by_daemon_app_kind_and_text(door: Door) -> None:
    append(door, 3)
    append(door, 2, event_type="EXIT", data={"pid": 1, "exit_code": 1, "last_error": "Line of its own"})
    append(door, 1, app="other", data={"finished": False, "output": 'gr\u00fc\u00dfe "x"\n', "position": 0})
    assert pages(door, event="exit") == [[5, 4]]
    assert pages(door, app="oth*") == [[6]]
    assert pages(door, app="other", daemon="node-a") == [[6]]
    assert pages(door, daemon="node-b") == [[]]
    assert pages(door, text="line") == [[5, 4, 3, 2, 1]]
    assert pages(door, text="LINE 2") == [[2]]
    assert pages(door, text='GR\u00dcSSE "x"') == [[6]]
    assert pages(door, text="exit_code") == [[]]
    assert pages(door, since="1h") == [[6, 5, 4, 3, 2, 1]]
    assert pages(door, until="1h") == [[]]


def test_a_look_is_bounded_and_goes_on_where_it_ended(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "_WINDOW_OFFSETS", 10)
    monkeypatch.setattr(search_module, "_MOST_SECONDS", 0.0)
    append(door, 1, app="rare")
    append(door, 34)
    assert pages(door, app="rare") == [[], [], [], [1]]


def test_an_event_is_found_by_its_id(door: Door) -> None:
    append(door, 5)
    for offset in ("", "&offset=3", "&offset=4", "&offset=99"):
        found = asked(door, f"/api/v1/events/one?id=node-a/1/3{offset}")
        assert (found["offset"], found["event"]["id"]) == (3, "node-a/1/3")
    assert asked(door, "/api/v1/events/one?id=node-a/1/99", 404)["found"] == "node-a/1/99"
    assert asked(door, f"/api/v1/events/one?id={quote('%_')}", 404)


def test_events_are_downloaded_as_json_lines(door: Door) -> None:
    append(door, 1200)
    append(door, 1, app="other")
    for query, expected in {"": range(1, 1202), "?app=other": [1201], "?limit=3": [1, 2, 3]}.items():
        response, body = door.ask("GET", f"/api/v1/events/download{query}", door.secret)
        assert response.headers["content-type"].startswith("application/x-ndjson")
        assert "attachment" in response.headers["content-disposition"]
        ids = [json.loads(line)["id"] for line in body.decode().splitlines()]
        assert ids == [f"node-a/1/{number}" for number in expected]


@pytest.mark.parametrize(
    "path",
    [
        "kept?event=nothing",
        "kept?limit=0",
        "kept?before=-1",
        "kept?since=x",
        "one",
        "download?limit=0",
        "kept?before=x",
    ],
)
def test_what_makes_no_sense_is_refused(door: Door, path: str) -> None:
    asked(door, f"/api/v1/events/{path}", 422)


def lines(first: int, count: int) -> dict[str, Any]:
    text = "".join(f"line {number}\n" for number in range(first, first + count))
    return {"finished": False, "output": text, "position": first * 100}


def test_the_output_of_each_run_is_its_own(door: Door) -> None:
    start, end = {"pid": 1, "process_uuid": "p"}, {"pid": 1, "exit_code": 1, "last_error": ""}
    door.journal.append(
        [
            make_event(1, "START", data=start),
            make_event(2, data=lines(1, 3)),
            make_event(3, app="other", data=lines(50, 3)),
            make_event(4, "EXIT", data=end),
            make_event(5, data=lines(4, 2)),  # output that came after the end
            make_event(6, "START", data=start),
            make_event(7, data=lines(8, 2)),
            make_event(8, data=lines(6, 2)),  # what was missing before, later
        ]
    )

    def output(offset: int, count: int = 20, app: str = "web") -> tuple[str, bool, bool]:
        query = urlencode({"daemon": "node-a", "app": app, "offset": offset, "lines": count})
        found = asked(door, f"/api/v1/bridge/history/output?{query}")
        return found["output"], found["whole"], found["kept"]

    assert output(1) == ("line 1\nline 2\nline 3\nline 4\nline 5\n", True, True)
    assert output(1, 2) == ("line 4\nline 5\n", False, True)
    assert output(6) == ("line 6\nline 7\nline 8\nline 9\n", True, True)
    assert output(0, app="nothing") == ("", False, True)
    asked(door, "/api/v1/bridge/history/output?daemon=node-a&app=web", 422)
