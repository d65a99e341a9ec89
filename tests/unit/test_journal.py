"""The journal against a list and integers (a Hypothesis state machine), and what it does when things go wrong."""

import dataclasses
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshbridge.events import Event
from meshbridge.journal import Journal, JournalError, JournalInUseError, JournalOptions
from meshbridge.journal import journal as journal_module
from meshbridge.journal.store import Store
from tests.support import make_event, wait_for


def opened(directory: Path, **options: object) -> Journal:
    journal = Journal(JournalOptions(path=directory, **options))  # type: ignore[arg-type]
    journal.open()
    return journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    running = opened(tmp_path)
    yield running
    running.close()


def read_all(journal: Journal, after: int = 0, limit: int = 7) -> list[tuple[int, Event]]:
    found: list[tuple[int, Event]] = []
    while envelopes := journal.read(after, limit):
        found += [(envelope.offset, envelope.event) for envelope in envelopes]
        after = envelopes[-1].offset
    return found


class JournalModel(RuleBasedStateMachine):
    """Appends, reads, commits and reopens must agree with a list of events and a dictionary of cursors."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(prefix="journal-model-")
        self.events: list[Event] = []
        self.cursors: dict[str, int] = {}
        self.sequence = 0
        self._tail = journal_module._TAIL_EVENTS
        journal_module._TAIL_EVENTS = 8  # so that reads come from the tail and from the database

    @initialize()
    def open(self) -> None:
        self.journal = opened(Path(self._directory.name))

    def _events(self, count: int) -> list[Event]:
        self.sequence += count
        return [make_event(self.sequence - count + 1 + number) for number in range(count)]

    @rule(count=st.integers(min_value=1, max_value=20))
    def append(self, count: int) -> None:
        self.events += (new := self._events(count))
        assert self.journal.append(new) == len(self.events)

    @rule(counts=st.lists(st.integers(min_value=1, max_value=5), max_size=4))
    def submit_and_flush(self, counts: list[int]) -> None:
        for count in counts:
            self.events += (new := self._events(count))
            self.journal.submit(new)
        assert self.journal.flush(10)

    @rule(name=st.sampled_from("ab"), from_start=st.booleans())
    def ask_for_a_cursor(self, name: str, from_start: bool) -> None:
        expected = self.cursors.setdefault(name, 0 if from_start else len(self.events))
        assert self.journal.cursor(name, from_start=from_start) == expected

    @precondition(lambda self: self.cursors and self.events)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.cursors)))
        self.cursors[name] = data.draw(st.integers(min_value=self.cursors[name], max_value=len(self.events)))
        self.journal.commit(name, self.cursors[name])

    @rule(after=st.integers(min_value=0, max_value=60), limit=st.integers(min_value=1, max_value=30))
    def read(self, after: int, limit: int) -> None:
        envelopes = self.journal.read(after, limit)
        assert [envelope.event for envelope in envelopes] == self.events[after : after + limit]
        assert [envelope.offset for envelope in envelopes] == list(range(after + 1, after + 1 + len(envelopes)))

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = opened(Path(self._directory.name))

    @invariant()
    def counts_and_lag_agree(self) -> None:
        if not hasattr(self, "journal"):
            return
        status = self.journal.status()
        assert (status.events, status.last_offset, status.open) == (len(self.events), len(self.events), True)
        for name, offset in self.cursors.items():
            assert self.journal.cursor(name) == offset
            assert self.journal.lag(name)[0] == len(self.events) - offset
        last = self.journal.last_sequence("node-a")
        assert last == (("1", self.sequence) if self.events else None)

    def teardown(self) -> None:
        journal_module._TAIL_EVENTS = self._tail
        if hasattr(self, "journal"):
            self.journal.close()
        self._directory.cleanup()


JournalModel.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
test_the_journal_agrees_with_its_model = JournalModel.TestCase


def test_every_field_of_an_event_comes_back_from_the_disk(tmp_path: Path) -> None:
    start = make_event(1, "START", data={"pid": 1, "process_uuid": "p"})
    made = Event("node-a", "17", None, start.type, "web", 2.5, b"{}", "p", reconciled=True, received_at=3.5, key="r/x")
    with_journal = opened(tmp_path)
    with_journal.append([start, made])
    with_journal.close()
    again = opened(tmp_path)
    assert [event for _, event in read_all(again)] == [start, made]
    assert made.id == "node-a/r/x"
    again.close()


def test_an_event_is_on_the_disk_when_append_returns(tmp_path: Path, journal: Journal) -> None:
    journal.append([make_event(1)])
    with sqlite3.connect(f"file:{tmp_path}/journal.db?mode=ro", uri=True) as other:
        assert other.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_states_of_apps_are_kept_with_the_events_that_made_them(tmp_path: Path, journal: Journal) -> None:
    journal.submit([make_event(1)], {("node-a", "web"): "one", ("node-a", "db"): "x", ("node-b", "web"): "other"})
    assert journal.app_states("node-a") == {"web": "one", "db": "x"}
    journal.submit([make_event(2)], {("node-a", "web"): "two", ("node-a", "db"): None})
    assert journal.app_states("node-a") == {"web": "two"}
    journal.close()
    again = opened(tmp_path)
    assert again.app_states("node-a") == {"web": "two"}
    assert again.app_states("node-b") == {"web": "other"}
    again.close()


def test_a_second_owner_is_refused_and_told_who_has_it(tmp_path: Path, journal: Journal) -> None:
    with pytest.raises(JournalInUseError, match=r"in use by process \d+: one meshbridge per journal"):
        opened(tmp_path)
    journal.append([make_event(1)])


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"journal\.path: cannot use .*file"):
        opened(tmp_path / "file")


@pytest.mark.parametrize("damage", ["garbage", "foreign", "flipped header"])
def test_a_damaged_journal_is_set_aside_and_a_fresh_one_begun(tmp_path: Path, damage: str) -> None:
    first = opened(tmp_path)
    first.append([make_event(1)])
    first.close()
    file = tmp_path / "journal.db"
    if damage == "garbage":
        file.write_bytes(b"\x00\xff" * 5000)
    elif damage == "foreign":
        file.write_text("this is a shopping list\n" * 500)
    else:
        file.write_bytes(b"X" + file.read_bytes()[1:])
    again = opened(tmp_path)
    assert again.append([make_event(1)]) == 1
    again.close()
    assert len(list(tmp_path.glob("journal.db.damaged-*"))) == 1


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "journal.db") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="written by a newer meshbridge"):
        opened(tmp_path)
    assert not list(tmp_path.glob("*.damaged-*"))


def test_what_cannot_be_written_waits_and_is_written_later(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, full = Store.append, [True]

    def append_if_there_is_room(self: Store, *arguments: object) -> None:
        if full[0]:
            raise sqlite3.OperationalError("database or disk is full")
        append(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "append", append_if_there_is_room)
    monkeypatch.setattr(journal_module, "_RETRY_SECONDS", 0.01)
    journal.submit([make_event(number) for number in range(1, 6)])
    wait_for(lambda: journal.status().last_error, "the fault")
    assert journal.read(0, 10) == []
    assert not journal.flush(0.05)
    full[0] = False
    assert journal.flush(10)
    assert [event.sequence for _, event in read_all(journal)] == [1, 2, 3, 4, 5]
    assert journal.status().last_error is None


def test_held_events_are_bounded_and_stdout_is_dropped_first(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "append", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("full")))
    monkeypatch.setattr(journal_module, "_HELD_STDOUT_BYTES", 2000)
    monkeypatch.setattr(journal_module, "_HELD_BYTES", 4000)
    for number in range(1, 100):
        journal.submit([make_event(number)])
    held = journal._held_bytes
    assert 2000 < held < 2600
    journal.submit([make_event(100, "EXIT", data={"exit_code": 1})])
    assert held < journal._held_bytes
    for number in range(101, 200):
        journal.submit([make_event(number, "EXIT", data={"exit_code": 1})])
    assert journal._held_bytes < 4600


def test_what_is_too_old_is_deleted_and_offsets_are_not_given_twice(tmp_path: Path) -> None:
    journal = opened(tmp_path, max_age=60)
    old = [make_event(number) for number in range(1, 4)]
    journal.append([dataclasses.replace(event, received_at=1.0) for event in old])
    journal.prune()
    wait_for(lambda: journal.status().events == 0, "pruning")
    journal.close()
    journal = opened(tmp_path, max_age=60)
    assert journal.append([make_event(4)]) == 4
    assert [offset for offset, _ in read_all(journal)] == [4]
    journal.close()


def test_above_its_size_the_delivered_go_first_then_stdout_then_the_oldest(tmp_path: Path) -> None:
    journal = opened(tmp_path, max_bytes=2**20)
    journal.cursor("slow", from_start=True)
    big = "x" * 20_000
    events = [
        make_event(number, "STDOUT", data={"finished": False, "output": big, "position": 0})
        if number % 2
        else make_event(number, "EXIT", data={"exit_code": number, "last_error": big[:10], "pid": 1})
        for number in range(1, 201)
    ]
    journal.append(events)
    journal.commit("slow", 20)
    journal.flush(10)
    journal.prune()
    wait_for(lambda: journal.status().bytes <= 2**20, "pruning")
    kept = [event.sequence for _, event in read_all(journal)]
    assert all(number > 20 for number in kept if number is not None)
    assert [number for number in kept if number and number % 2 == 0] == list(range(22, 201, 2))
    assert journal.status().events == len(kept)
    journal.close()


def test_lag_tells_the_age_of_the_oldest_that_waits(journal: Journal) -> None:
    journal.cursor("sink")
    assert journal.lag("sink") == (0, 0.0)
    event = make_event(1)
    early = dataclasses.replace(event, received_at=time.time() - 100)
    journal.append([early, make_event(2)])
    events, seconds = journal.lag("sink")
    assert events == 2
    assert 99 < seconds < 130
    journal.commit("sink", 2)
    assert journal.lag("sink") == (0, 0.0)


def test_a_million_events_are_not_counted_one_by_one(journal: Journal) -> None:
    """Opening must not read all events: the count is kept, and the extent comes from the index."""
    assert journal._store is not None
    plan = journal._store._reader.execute("EXPLAIN QUERY PLAN SELECT (SELECT min(offset) FROM events)").fetchall()
    assert any("SEARCH events" in str(row) for row in plan)
