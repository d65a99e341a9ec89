"""The table of what happened: written with the events, kept longer than they are, made for journals that lack it."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshbridge.journal import Journal, JournalError, JournalOptions
from meshbridge.journal.history import Timeline, TimelineQuery
from meshbridge.model.events import Event, decode_push, gap
from meshbridge.model.timeline import Window
from tests.support import push_body, wait_for

NOW = 1_795_515_820.0
STATE = '{"app":"web","running":%s,"status":"enabled"}'


def event(sequence: int, kind: str, data: dict[str, Any], app: str = "web", at: float | None = None) -> Event:
    """At ``NOW`` and a second later for each number."""
    moment = NOW + sequence if at is None else at
    body = push_body(sequence, kind, app, data).replace(b'"timestamp":1795515820', b'"timestamp":%d' % moment)
    assert b"%d" % moment in body
    return decode_push("node-a", "1", body, moment, {})


def start(sequence: int, app: str = "web") -> Event:
    return event(sequence, "START", {"pid": sequence, "process_uuid": f"p{sequence}"}, app)


def exits(sequence: int, code: int, pid: int, app: str = "web") -> Event:
    return event(sequence, "EXIT", {"pid": pid, "exit_code": code, "last_error": ""}, app)


def output(sequence: int, app: str = "web") -> Event:
    return event(sequence, "STDOUT", {"finished": False, "output": "x" * 500, "position": 0}, app)


def opened(directory: Path, **options: object) -> Journal:
    journal = Journal(JournalOptions.model_validate({"path": directory, "max_age": "10000d", **options}))
    journal.open()
    return journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    running = opened(tmp_path)
    yield running
    running.close()


def timeline(journal: Journal, since: float = NOW, until: float = NOW + 100, **more: Any) -> Timeline:
    return journal.history.timeline(TimelineQuery(Window(since, until), **more))


def runs(journal: Journal, app: str = "web") -> list[tuple[float | None, float | None, int | None]]:
    (lane,) = timeline(journal, apps=(app,)).lanes
    return [(run.start and run.start - NOW, run.end and run.end - NOW, run.exit_code) for run in lane.runs]


def test_what_is_appended_is_told(journal: Journal) -> None:
    journal.append([start(1), output(2), exits(5, 3, 1), start(8)])
    journal.submit([], {("node-a", "web"): STATE % "true"})
    journal.append([output(99)])  # states are written with it
    found = timeline(journal)
    (lane,) = found.lanes
    assert runs(journal) == [(1, 5, 3), (8, None, None)]
    assert [(segment.state.value, segment.start - NOW) for segment in lane.segments] == [
        ("unknown", 0),
        ("running", 1),
        ("stopped", 5),
        ("running", 8),
    ]
    assert (lane.runs[0].process, lane.runs[0].first, lane.runs[0].last) == ("p1", 1, 3)
    assert (found.offset, found.total, found.next, found.complete) == (4, 1, None, True)
    assert journal.history.restarts(NOW) == {("node-a", "web"): 1}
    assert journal.history.restarts(NOW + 9) == {}


def test_lanes_come_in_pages_and_by_pattern(journal: Journal) -> None:
    apps = [f"app-{number}" for number in range(7)]
    journal.append([start(number, app) for number, app in enumerate(apps, 1)])
    journal.submit([], {("node-a", app): STATE % "true" for app in apps[:5]})  # the last two are gone
    journal.append([output(99)])
    found, after = list[str](), None
    for _ in range(4):
        page = timeline(journal, after=after, limit=2)
        found += [lane.app for lane in page.lanes]
        assert page.total == 7
        after = page.next
    assert after is None
    assert found == apps
    assert [lane.removed for lane in timeline(journal).lanes] == [False] * 5 + [True] * 2
    assert [lane.app for lane in timeline(journal, apps=("*-3", "x")).lanes] == ["app-3"]
    assert timeline(journal, daemons=("other",)).lanes == []


def test_one_off_runs_have_no_lanes(journal: Journal) -> None:
    journal.append([start(1), start(2, "8yJmRcYk2ZN"), start(3, "web_1"), start(4, "run")])
    journal.submit([], {("node-a", "web"): STATE % "true", ("node-a", "run"): '{"running":true,"one_off":true}'})
    journal.append([output(99)])  # states are written with it
    assert [lane.app for lane in timeline(journal).lanes] == ["web"]


def test_a_gap_begins_with_the_last_event_before_it(journal: Journal) -> None:
    journal.append([start(3), output(4), output(20), gap("node-a", "1", 5, 19, NOW + 21, reconciled=0)])
    journal.submit([], {("node-a", "web"): STATE % "true"})
    journal.append([output(99)])  # states are written with it
    (found,) = timeline(journal).gaps
    assert (found.start - NOW, found.end - NOW, found.missed) == (4, 21, 15)
    assert timeline(journal, since=NOW + 30).gaps == []


def test_the_same_question_is_answered_from_memory_until_the_next_event(journal: Journal) -> None:
    journal.append([start(1)])
    first = timeline(journal)
    assert timeline(journal) is first
    journal.append([exits(2, 0, 1)])
    assert timeline(journal) is not first


def test_rows_outlive_their_events_and_end_with_their_age(tmp_path: Path) -> None:
    with contextlib.closing(opened(tmp_path, max_bytes="1MiB", sync="none")) as journal:
        journal.append([start(1), exits(5, 3, 1)])
        for number in range(10, 4010):
            journal.submit([output(number)])
        journal.prune()
        wait_for(lambda: journal.extent[0] > 2, "the first events to be deleted")
        assert runs(journal) == [(1, 5, 3)]
    with contextlib.closing(opened(tmp_path, max_age="1h")) as journal:
        journal.prune()
        wait_for(lambda: timeline(journal).lanes == [], "the rows to be deleted")


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path / "journal.db")) as database:
        return database.execute("SELECT * FROM app_history ORDER BY offset").fetchall()


def as_of_version_3(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path / "journal.db")) as database, database:
        database.executescript(
            "DROP TABLE app_history; DROP TABLE app_lanes; DELETE FROM counters WHERE name = 'history_from';"
            "PRAGMA user_version = 3"
        )


def test_an_older_journal_gets_its_history_while_it_is_used(tmp_path: Path) -> None:
    with contextlib.closing(opened(tmp_path, sync="none")) as journal:
        told: list[Event] = []
        for number in range(3000):
            told += [start(4 * number + 1), output(4 * number + 2), exits(4 * number + 3, number % 3, 4 * number + 1)]
        told.append(gap("node-a", "1", 12_004, 12_009, NOW + 12_010, reconciled=0))
        journal.append(told)
    expected = rows_of(tmp_path)
    assert len(expected) == 6001
    as_of_version_3(tmp_path)
    with contextlib.closing(opened(tmp_path)) as journal:
        journal.append([start(20_000)])  # it can be used at once
        wait_for(lambda: timeline(journal).complete, "all events to be read")
    assert rows_of(tmp_path)[:-1] == expected


def test_a_fill_that_a_full_disk_stops_is_tried_again_without_haste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshbridge.journal import store as store_module

    with contextlib.closing(opened(tmp_path)) as journal:
        journal.append([start(1)])
    as_of_version_3(tmp_path)
    attempts = 0
    fill = store_module.Store.fill_history

    def full(store: store_module.Store) -> bool:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise sqlite3.OperationalError("database or disk is full")
        return fill(store)

    monkeypatch.setattr(store_module.Store, "fill_history", full)
    monkeypatch.setattr("meshbridge.journal.writer._RETRY_SECONDS", 0.01)
    with contextlib.closing(opened(tmp_path)) as journal:
        wait_for(lambda: len(timeline(journal).lanes) == 1, "the history")
        monkeypatch.setattr("meshbridge.journal.writer._RETRY_SECONDS", 3600.0)
        before = time.process_time()
        wait_for(lambda: attempts >= 3, "three attempts")
        assert journal.append([start(2)]) == 2
        assert journal.status().last_error is None
        assert time.process_time() - before < 5


def test_damage_takes_no_history_that_can_be_read(tmp_path: Path) -> None:
    with contextlib.closing(opened(tmp_path)) as journal:
        journal.cursor("sink", from_start=True)
        journal.append([start(1), exits(5, 3, 1), output(6)])
        journal.commit("sink", 3)  # so that no event has to be kept
        assert journal.flush(10)
        expected = runs(journal)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as database, database:
        database.execute("UPDATE events SET body = x'00' WHERE offset = 3")
    with contextlib.closing(opened(tmp_path)) as journal:
        assert journal.verify().problems
        wait_for(lambda: list(tmp_path.glob("*.damaged-*")), "the replacement")
        wait_for(lambda: journal.status().open, "the new database")
        assert runs(journal) == expected


def test_a_database_that_is_not_there_is_said(tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "journal.db").rename(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="cannot be read"):
        timeline(journal)


def test_more_than_one_question_looks_at_is_cut_and_says_so(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append([start(1), exits(2, 1, 1), start(3), exits(4, 1, 3), start(5)])
    assert not timeline(journal).cut
    monkeypatch.setattr("meshbridge.journal.history._MOST_ROWS", 2)
    found = timeline(journal, until=NOW + 90)
    assert found.cut
    assert [(run.start and run.start - NOW, run.exit_code) for run in found.lanes[0].runs][-2:] == [(3, 1), (5, None)]
