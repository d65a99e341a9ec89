"""The stream of events: what it brings, from where, and what it leaves behind when it ends."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.samples import Sample

from meshbridge import telemetry
from meshbridge.admin import events as events_area
from meshbridge.admin.options import Scope
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.events import cloudevent
from meshbridge.web.limits import DEFAULT_LIMITS
from tests.integration.admin_access import SECRETS, TOKENS, Door, doors
from tests.support import make_event, wait_for


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    with doors(tmp_path) as open_door:
        yield open_door


@pytest.fixture
def door(opened: Callable[..., Door]) -> Door:
    return opened()


def open_streams() -> float:
    (metric,) = (one for one in telemetry.REGISTRY.collect() if one.name == "meshbridge_admin_event_streams")
    samples: list[Sample] = metric.samples
    return samples[0].value


def appended(journal: Journal, first: int, last: int, **fields: str) -> int:
    return journal.append([make_event(number, **fields) for number in range(first, last + 1)])


def test_new_events_come_as_cloudevents_with_their_offsets(door: Door) -> None:
    appended(door.journal, 1, 5)
    with door.events() as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-store"
        stream.until_line(b"id: 5")
        door.journal.append([make_event(6), make_event(7, "EXIT", data={"exit_code": 0})])
        first, second = stream.take(2)
    assert (first.id, first.event) == ("6", "stdout")
    assert (second.id, second.event) == ("7", "exit")
    (envelope,) = door.journal.read(5, 1)
    assert first.data.encode() == cloudevent(envelope.event)
    assert json.loads(second.data)["id"] == "node-a/1/7"


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_a_stream_is_resumed_behind_the_last_event(door: Door, how: str) -> None:
    appended(door.journal, 1, 1000)
    last = None if how == "query" else "400"
    query = {"header": "", "query": "?last_event_id=400", "both": "?last_event_id=7"}[how]
    with door.events(query, last=last) as stream:
        assert [sent.id for sent in stream.take(600)] == [str(offset) for offset in range(401, 1001)]


def test_a_stream_goes_on_when_the_bridge_has_restarted(tmp_path: Path) -> None:
    for run in range(3):
        with doors(tmp_path) as open_door:
            door = open_door()
            appended(door.journal, run * 10 + 1, run * 10 + 10)
            last = str(run * 10 - 5) if run else None
            with door.events("" if run else "?since=1h", last=last) as stream:
                expected = range(max(1, run * 10 - 4), run * 10 + 11)
                assert [sent.id for sent in stream.take(len(expected))] == [str(offset) for offset in expected]


def test_a_stream_that_has_had_no_event_yet_can_be_resumed(door: Door) -> None:
    appended(door.journal, 1, 3)
    with door.events() as stream:
        stream.until_line(b"id: 3")
    appended(door.journal, 4, 4)
    with door.events(last="3") as stream:
        assert stream.next().id == "4"


def test_filters(door: Door) -> None:
    kept = [
        make_event(1, app="web-1"),
        make_event(2, app="db"),
        make_event(3, "START", app="web-2", data={"process_uuid": "u"}),
        make_event(4, "REMOVED", app="db", data={}),
        make_event(5, app="web-2"),
    ]
    door.journal.append(kept)
    for query, expected in {
        "app=web-*": "1 3 5",
        "app=web-1&app=db": "1 2 4",
        "event=stdout": "1 2 5",
        "event=START&event=removed": "3 4",
        "daemon=node-a&app=db": "2 4",
        "daemon=node-*&event=stdout&app=web-*": "1 5",
    }.items():
        with door.events(f"?since=1h&{query}") as stream:
            wanted = expected.split()
            assert [sent.id for sent in stream.take(len(wanted))] == wanted, query
    with door.events("?since=1h&daemon=node-b") as stream:
        assert [line for line in stream.lines if line.startswith(b"event")] == []


def test_what_a_filter_leaves_out_moves_the_position(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_area, "HEARTBEAT_SECONDS", 0.05)
    with door.events("?app=nothing") as stream:
        stream.until_line(b"id: 0")
        stream.until_line(b":")
        appended(door.journal, 1, 700)
        stream.until_line(b"id: 700")
        assert not any(line.startswith(b"event") for line in stream.lines)


def test_since_is_a_time_or_a_duration(door: Door) -> None:
    appended(door.journal, 1, 20)
    cut = time.time()
    wait_for(lambda: time.time() > cut, "the clock")
    appended(door.journal, 21, 40)
    for query, first in {f"since={cut:f}": "21", "since=1h": "1", "since=0": "1"}.items():
        with door.events(f"?{query}") as stream:
            assert stream.next().id == first, query


def test_what_was_deleted_is_said(tmp_path: Path) -> None:
    journal = Journal(JournalOptions(path=tmp_path / "journal", max_bytes=2 * 2**20))
    with contextlib.ExitStack() as stack:
        journal.open()
        stack.callback(journal.close)
        appended(journal, 1, 20_000)
        journal.prune()
        wait_for(lambda: journal.extent[0] > 1000, "the first events to be deleted")
        journal.flush(10)
        door = Door(journal, DEFAULT_LIMITS)
        door.listener.start()
        stack.callback(door.listener.stop, 10)
        with door.events(last="10") as stream:
            lost, first = stream.take(2)
            assert lost.event == "lost"
            facts = json.loads(lost.data)
            assert facts == {"first": 11, "last": int(first.id or 0) - 1, "events": int(first.id or 0) - 11}
            assert lost.id == str(facts["last"])
        with door.events(last=str(10**17)) as stream:
            unknown = stream.next()
            assert (unknown.event, unknown.id) == ("lost", "20000")
            assert json.loads(unknown.data) == {"first": None, "last": None, "events": None}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?event=nope", "unknown event"),
        ("?since=soon", "not a duration"),
        ("?since=-1", "not a time"),
        ("?since=nan", "not a time"),
        ("?last_event_id=x", "last_event_id"),
    ],
)
def test_what_makes_no_sense_is_refused(door: Door, query: str, said: str) -> None:
    response, body = door.ask("GET", f"/api/v1/events{query}", SECRETS[Scope.READ])
    assert (response.status, body["type"]) == (422, "/problems/invalid")
    assert said in body["detail"]


def test_heartbeats_come_while_nothing_happens(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    assert events_area.HEARTBEAT_SECONDS == 15
    monkeypatch.setattr(events_area, "HEARTBEAT_SECONDS", 0.02)
    with door.events() as stream:
        for _ in range(5):
            stream.until_line(b":")


def test_a_token_that_is_taken_away_ends_its_streams(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_area, "HEARTBEAT_SECONDS", 0.02)
    with door.events() as stream, door.events(token=SECRETS[Scope.ADMIN]) as other:
        stream.until_line(b":")
        door.tokens = TOKENS[1:]
        while stream.response.readline():
            pass
        other.until_line(b":")


def test_streams_have_a_bound_and_leave_nothing_behind(opened: Callable[..., Door]) -> None:
    door = opened(max_streams=3)
    threads, tasks = threading.active_count(), len(door.journal.append_listeners)
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(door.events()).until_line(b"id:")
            assert open_streams() == 3
            response, body = door.ask("GET", "/api/v1/events", SECRETS[Scope.READ])
            assert (response.status, body["type"], response.headers["retry-after"]) == (503, "/problems/busy", "10")
        wait_for(lambda: open_streams() == 0, "the streams to end")
    assert len(door.journal.append_listeners) == tasks
    assert threading.active_count() <= threads + 2 + 1  # those that read for all streams; one that runs what waits


def test_a_client_that_breaks_off_frees_its_place(opened: Callable[..., Door]) -> None:
    door = opened(max_streams=1)
    with door.connect() as plain:
        plain.sendall(
            b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
            + SECRETS[Scope.READ].encode()
            + b"\r\n\r\n"
        )
        plain.recv(1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
    wait_for(lambda: open_streams() == 0, "the stream to end")
    appended(door.journal, 1, 10)
    with door.events("?since=1h") as stream:
        assert stream.next().id == "1"


def test_the_end_of_the_listener_ends_its_streams(door: Door) -> None:
    with door.events() as stream:
        stream.until_line(b"id:")
        door.listener.stop(10)
        while stream.response.readline():
            pass
    assert open_streams() == 0


def test_many_streams_bring_everything_while_the_journal_is_written(door: Door) -> None:
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(door.events()) for _ in range(4)]
        for stream in streams:
            stream.until_line(b"id: 0")
        for first in range(1, 1000, 50):
            appended(door.journal, first, first + 49)
        for stream in streams:
            assert [sent.id for sent in stream.take(1000)] == [str(offset) for offset in range(1, 1001)]
