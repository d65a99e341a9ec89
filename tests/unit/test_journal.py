"""The journal against a list and integers (a Hypothesis state machine), and what it does when things go wrong."""

import contextlib
import dataclasses
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshbridge import telemetry
from meshbridge.journal import Journal, JournalError, JournalInUseError, JournalOptions, inspection, verify_directory
from meshbridge.journal import ledger as ledger_module
from meshbridge.journal import writer as writer_module
from meshbridge.journal.errors import DamageError
from meshbridge.journal.store import DATABASE, Group, Store
from meshbridge.model.events import Event, EventType
from tests.support import make_event, wait_for

APPEND = Store.append


def opened(directory: Path, **options: object) -> Journal:
    journal = Journal(JournalOptions(path=directory, **options))  # type: ignore[arg-type]
    journal.open()
    return journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    running = opened(tmp_path)
    yield running
    running.close()


def dropped(sink: str, reason: str) -> float:
    labels = {"sink": sink, "reason": reason}
    return telemetry.REGISTRY.get_sample_value("meshbridge_events_dropped_total", labels) or 0.0


def read_all(journal: Journal, after: int = 0, limit: int = 7) -> list[tuple[int, Event]]:
    found: list[tuple[int, Event]] = []
    while envelopes := journal.read(after, limit):
        found += [(envelope.offset, envelope.event) for envelope in envelopes]
        after = envelopes[-1].offset
    return found


class JournalModel(RuleBasedStateMachine):
    """What the journal gives must agree with a list of events and a dictionary of cursors, whatever befalls the disk.

    ``floor`` is the offset up to which a damaged database may have taken events with it: what every sink has had.
    """

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory(prefix="journal-model-")
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(ledger_module, "_TAIL_EVENTS", 8)  # so that reads come from memory and from the database
        self._patch.setattr(writer_module, "_RETRY_SECONDS", 0.001)
        self.events: list[Event] = []
        self.cursors: dict[str, int] = {}
        self.sequence = 0
        self.floor = 0
        self.lives = 0
        self.disk_is_full = False
        self.journal = opened(self.directory)

    @property
    def directory(self) -> Path:
        return Path(self._temporary.name) / str(self.lives)

    def _events(self, count: int) -> list[Event]:
        self.sequence += count
        return [make_event(self.sequence - count + 1 + number) for number in range(count)]

    @precondition(lambda self: not self.disk_is_full)
    @rule(count=st.integers(min_value=1, max_value=20))
    def append(self, count: int) -> None:
        self.events += (new := self._events(count))
        assert self.journal.append(new) == len(self.events)

    @rule(counts=st.lists(st.integers(min_value=1, max_value=5), max_size=4))
    def submit(self, counts: list[int]) -> None:
        for count in counts:
            self.events += (new := self._events(count))
            self.journal.submit(new)
        if self.disk_is_full:
            wait_for(lambda: self.journal.extent[1] == len(self.events), "the events in memory")
        else:
            assert self.journal.flush(10)

    @rule(name=st.sampled_from("ab"), from_start=st.booleans())
    def ask_for_a_cursor(self, name: str, from_start: bool) -> None:
        expected = self.cursors.setdefault(name, self.floor if from_start else len(self.events))
        assert self.journal.cursor(name, from_start=from_start) == expected

    @precondition(lambda self: self.cursors and self.events)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.cursors)))
        self.cursors[name] = data.draw(st.integers(min_value=self.cursors[name], max_value=len(self.events)))
        self.journal.commit(name, self.cursors[name])

    @rule(behind_the_floor=st.integers(min_value=0, max_value=60), limit=st.integers(min_value=1, max_value=30))
    def read(self, behind_the_floor: int, limit: int) -> None:
        after = self.floor + behind_the_floor
        envelopes = self.journal.read(after, limit)
        wanted = self.events[after : after + limit]
        assert [envelope.event for envelope in envelopes] == wanted[: len(envelopes)]
        assert bool(envelopes) == bool(wanted)
        assert [envelope.offset for envelope in envelopes] == list(range(after + 1, after + 1 + len(envelopes)))

    @precondition(lambda self: not self.disk_is_full)
    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = opened(self.directory)

    @precondition(lambda self: not self.disk_is_full)
    @rule()
    def crash(self) -> None:
        """What the disk has at this moment is what the next start finds: every event, and no cursor ahead."""
        before = self.directory
        self.lives += 1
        shutil.copytree(before, self.directory)
        self.journal.close()
        self.journal = opened(self.directory)
        for name, offset in self.cursors.items():
            assert self.journal.cursor(name, from_start=True) <= offset
            self.journal.commit(name, offset)

    @precondition(lambda self: not self.disk_is_full)
    @rule()
    def fill_the_disk(self) -> None:
        def fail(_store: Store, _group: Group) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        assert self.journal.flush(10)
        self._patch.setattr(Store, "append", fail)
        self.disk_is_full = True

    @precondition(lambda self: self.disk_is_full)
    @rule()
    def make_room(self) -> None:
        self._patch.setattr(Store, "append", APPEND)
        self.disk_is_full = False
        assert self.journal.flush(10)

    @precondition(lambda self: not self.disk_is_full)
    @rule()
    def damage_shows(self) -> None:
        """A fresh database takes over, with every event that some sink has not had yet."""
        before = self.journal._writer.store
        self.journal.report_damage(DamageError("invented"))
        wait_for(lambda: self.journal._writer.store not in {None, before}, "a fresh database")
        self.floor = max(self.floor, min(self.cursors.values(), default=len(self.events)))

    @invariant()
    def counts_and_lag_agree(self) -> None:
        status = self.journal.status()
        assert (status.last_offset, status.open) == (len(self.events), True)
        assert status.events == len(self.events) - self.floor
        for name, offset in self.cursors.items():
            assert self.journal.cursor(name) == offset
            assert self.journal.lag(name)[0] == len(self.events) - offset
        last = self.journal.last_sequence("node-a")
        assert last == (("1", self.sequence) if self.events else None)

    def teardown(self) -> None:
        self._patch.undo()
        self.journal.close()
        self._temporary.cleanup()


JournalModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
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
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/journal.db?mode=ro", uri=True)) as other, other:
        assert other.execute("SELECT count(*) FROM events").fetchone() == (1,)


def modes(directory: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}


def test_cursors_go_to_the_disk_with_the_next_events_or_when_somebody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An fsync for each of them would make events wait."""
    monkeypatch.setattr(writer_module, "_CURSORS_SECONDS", 3600.0)
    groups: list[tuple[int, dict[str, int]]] = []

    def note(store: Store, group: Group) -> None:
        groups.append((len(group.rows), dict(group.cursors)))
        APPEND(store, group)

    journal = opened(tmp_path)
    journal.append([make_event(1)])
    monkeypatch.setattr(Store, "append", note)
    journal.commit("sink", 1)
    assert journal.cursor("sink") == 1
    journal.submit([make_event(2)])
    wait_for(lambda: journal.extent[1] == 2, "the event")
    journal.commit("sink", 2)
    assert journal.flush(10)
    assert groups == [(1, {"sink": 1}), (0, {"sink": 2})]
    journal.append([make_event(3)])
    journal.commit("sink", 3)
    journal.close()
    again = opened(tmp_path)
    assert again.cursor("sink") == 3
    again.close()


def test_only_its_user_may_read_a_journal(tmp_path: Path) -> None:
    """Whatever the directory allows, also where an older version was less strict, and after a repair."""
    opened(tmp_path).close()
    (tmp_path / DATABASE).chmod(0o644)
    tmp_path.chmod(0o755)
    journal = opened(tmp_path)
    journal.append([make_event(1)])
    before = journal._writer.store
    assert modes(tmp_path) == dict.fromkeys([DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", "lock"], 0o600)
    journal.report_damage(DamageError("invented"))
    wait_for(lambda: journal._writer.store not in {None, before}, "a fresh database")
    journal.append([make_event(2)])
    assert set(modes(tmp_path).values()) == {0o600}
    journal.close()


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


# --- damage --------------------------------------------------------------------------------------------------------


def flip_bits(file: Path, share: float) -> None:
    """Inverts 200 bytes at a place of the file."""
    content = bytearray(file.read_bytes())
    start = int(len(content) * share)
    for place in range(start, min(start + 200, len(content))):
        content[place] ^= 0xFF
    file.write_bytes(content)


def foreign_database(file: Path) -> None:
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE shopping (item TEXT)")
        database.commit()


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "garbage": lambda file: file.write_bytes(b"\x00\xff" * 5000),
    "another file": lambda file: file.write_text("this is a shopping list\n" * 500),
    "another database": foreign_database,
    "flipped header": lambda file: flip_bits(file, 0),
    "empty": lambda file: file.write_bytes(b""),
}
HURT: dict[str, Callable[[Path], object]] = {
    "cut to half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "cut by a byte": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    **{f"flipped at {share}": lambda file, share=share: flip_bits(file, share) for share in (0.2, 0.5, 0.8, 0.98)},  # type: ignore[misc]
}


def set_aside(directory: Path) -> list[Path]:
    return [file for file in directory.glob(f"{DATABASE}.damaged-*") if not file.name.endswith(("-wal", "-shm"))]


@pytest.mark.parametrize("damage", UNREADABLE)
def test_a_file_that_is_no_journal_is_set_aside_and_a_fresh_one_begun(tmp_path: Path, damage: str) -> None:
    first = opened(tmp_path)
    first.append([make_event(1)])
    first.close()
    UNREADABLE[damage](tmp_path / DATABASE)
    again = opened(tmp_path)
    assert again.append([make_event(1)]) == 1
    assert [event.sequence for _, event in read_all(again)] == [1]
    again.close()
    assert len(set_aside(tmp_path)) == 1


@pytest.mark.parametrize("damage", HURT)
def test_what_can_be_read_of_a_damaged_journal_goes_on(tmp_path: Path, damage: str) -> None:
    """Whenever the damage shows, at the start or while reading: no wrong event, nothing twice, and service goes on."""
    events = [make_event(number, data={"output": f"{number}" * 50, "position": number}) for number in range(1, 3001)]
    first = opened(tmp_path)
    first.cursor("sink", from_start=True)
    first.append(events)
    first.commit("sink", 100)
    first.close()
    HURT[damage](tmp_path / DATABASE)
    journal = opened(tmp_path)
    try:
        seen: list[Event] = []
        after = journal.cursor("sink", from_start=True)
        first_new = journal.append([make_event(5000)])
        while after < first_new:
            envelopes = wait_for(lambda after=after: journal.read(after, 100), "events")  # type: ignore[misc]
            seen += [envelope.event for envelope in envelopes]
            after = envelopes[-1].offset
        assert seen.pop() == read_all(journal, first_new - 1)[0][1]
        saved = {event.sequence for event in seen}
        assert seen == [event for event in events if event.sequence in saved]
        assert len(seen) > (2860 if "flipped" in damage else 1000)
        assert journal.append([make_event(5001)]) == first_new + 1
    finally:
        journal.close()


def test_damage_that_shows_while_in_use_loses_nothing_that_memory_has(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.cursor("sink", from_start=True)
    journal.submit([make_event(number) for number in range(1, 101)], {("node-a", "web"): "state"})
    journal.add_dead_letter("sink", journal.read(0, 1)[0] if journal.flush(10) else None, "refused", "no")  # type: ignore[arg-type]
    journal.commit("sink", 40)
    assert journal.flush(10)
    assert journal._writer.store is not None
    journal._writer.store.checkpoint()
    (tmp_path / DATABASE).write_bytes(b"\xff" * 50_000)
    for number in range(101, 131):
        journal.append([make_event(number)])
    journal.prune()  # looks at much of the file
    wait_for(lambda: set_aside(tmp_path), "the damaged one")
    assert journal.append([make_event(131)]) == 131
    assert [event.sequence for _, event in read_all(journal, 40)] == list(range(41, 132))
    journal.close()
    again = opened(tmp_path)
    assert again.cursor("sink") == 40
    assert [event.sequence for _, event in read_all(again, 40)] == list(range(41, 132))
    again.close()


def test_a_changed_event_is_never_delivered(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.cursor("sink", from_start=True)
    first.append([make_event(number) for number in range(1, 21)])
    first.close()
    content = (tmp_path / DATABASE).read_bytes()
    (tmp_path / DATABASE).write_bytes(content.replace(b'"line 7\\n"', b'"line 8\\n"'))
    journal = opened(tmp_path)
    assert journal.read(0, 100) == []
    wait_for(lambda: set_aside(tmp_path), "the damaged one")
    found = wait_for(lambda: journal.read(0, 100), "what is left")
    assert [envelope.event.sequence for envelope in found] == [*range(1, 7), *range(8, 21)]
    journal.close()


def test_a_journal_without_its_wal_goes_on_from_what_the_file_has(tmp_path: Path) -> None:
    running = opened(tmp_path / "running")
    running.append([make_event(1)])
    assert running._writer.store is not None
    running._writer.store.checkpoint()
    running.append([make_event(2)])
    (tmp_path / "after").mkdir()
    shutil.copy(tmp_path / "running" / DATABASE, tmp_path / "after" / DATABASE)
    running.close()
    journal = opened(tmp_path / "after")
    assert journal.last_sequence("node-a") == ("1", 1)
    assert [event.sequence for _, event in read_all(journal)] == [1]
    journal.close()


def test_a_file_deleted_while_in_use_is_noticed(tmp_path: Path, journal: Journal) -> None:
    journal.cursor("sink", from_start=True)
    journal.append([make_event(number) for number in range(1, 11)])
    (tmp_path / DATABASE).unlink()
    journal.prune()
    wait_for((tmp_path / DATABASE).exists, "a fresh one")
    assert journal.append([make_event(11)]) == 11
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/{DATABASE}?mode=ro", uri=True)) as other:
        assert other.execute("SELECT count(*) FROM events").fetchone() == (11,)


def test_only_the_last_three_damaged_ones_are_kept(tmp_path: Path) -> None:
    for _ in range(6):
        opened(tmp_path).close()
        (tmp_path / DATABASE).write_text("no journal")
    opened(tmp_path).close()
    assert len(set_aside(tmp_path)) == 3


def test_a_journal_of_the_first_version_is_upgraded_in_place(tmp_path: Path) -> None:
    event = make_event(7)
    columns = (
        "offset INTEGER {}, received_at REAL NOT NULL, type INTEGER NOT NULL, daemon TEXT NOT NULL, run TEXT NOT NULL,"
        "sequence INTEGER, app TEXT NOT NULL, timestamp REAL NOT NULL, process_uuid TEXT, key TEXT,"
        "reconciled INTEGER NOT NULL, body BLOB NOT NULL"
    )
    row = (3, event.received_at, 3, "node-a", "1", 7, "web", event.timestamp, None, None, 0, event.body)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as old:
        old.executescript(
            f"CREATE TABLE events ({columns.format('PRIMARY KEY')});"
            "CREATE TABLE cursors (name TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE runs (daemon TEXT PRIMARY KEY, run TEXT NOT NULL, sequence INTEGER) WITHOUT ROWID;"
            "CREATE TABLE dead_letters (id INTEGER PRIMARY KEY, sink TEXT NOT NULL, refused_at REAL NOT NULL,"
            f"reason TEXT NOT NULL, error TEXT NOT NULL, {columns.format('')});"
            "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
            "INSERT INTO counters VALUES ('events', 1), ('last_offset', 3);"
            "INSERT INTO cursors VALUES ('sink', 2); INSERT INTO runs VALUES ('node-a', '1', 7);"
            "PRAGMA user_version = 1;"
        )
        old.execute(f"INSERT INTO events VALUES ({','.join('?' * 12)})", row)
        old.execute(f"INSERT INTO dead_letters VALUES ({','.join('?' * 17)})", (1, "sink", 5.0, "refused", "no", *row))
        old.commit()
    journal = opened(tmp_path)
    assert read_all(journal) == [(3, event)]
    assert (journal.cursor("sink"), journal.dead_letters("sink")) == (2, 1)
    assert [letter.envelope.event for letter in journal.letters.find("sink")] == [event]
    assert journal.append([make_event(8)]) == 4
    journal.close()
    assert not set_aside(tmp_path)
    again = opened(tmp_path)
    assert [offset for offset, _ in read_all(again)] == [3, 4]
    again.close()


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as database, database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="written by a newer meshbridge"):
        opened(tmp_path)
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_repair_that_was_cut_short_when_the_damaged_one_was_set_aside_is_ended_at_the_next_start(
    tmp_path: Path,
) -> None:
    journal = opened(tmp_path)
    journal.cursor("sink", from_start=True)
    journal.append([make_event(1), make_event(2)])
    journal.close()
    (tmp_path / DATABASE).rename(tmp_path / f"{DATABASE}.new")
    (tmp_path / f"{DATABASE}-wal").write_bytes(b"of the damaged one")
    again = opened(tmp_path)
    assert [event.sequence for _, event in read_all(again)] == [1, 2]
    assert again.cursor("sink") == 0
    again.close()
    assert not (tmp_path / f"{DATABASE}.new").exists()


# --- a look into it ------------------------------------------------------------------------------------------------


def test_verify_counts_what_is_there_and_names_what_is_wrong(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.cursor("sink", from_start=True)
    journal.append([make_event(number) for number in range(1, 1201)])
    found = journal.verify()
    assert (found.events, found.damaged, found.problems) == (1200, 0, ())
    assert found.bytes == (tmp_path / DATABASE).stat().st_size
    journal.close()
    content = (tmp_path / DATABASE).read_bytes()
    (tmp_path / DATABASE).write_bytes(content.replace(b'"line 700\\n"', b'"line 70x\\n"'))
    found = verify_directory(tmp_path)
    assert (found.events, found.damaged) == (1200, 1)
    assert found.problems == ("the event at offset 700 is not the one that was written: its checksum differs",)
    assert not set_aside(tmp_path)  # a look changes nothing
    again = opened(tmp_path)
    assert again.verify().damaged == 1
    wait_for(lambda: again.status().events == 1199, "the repair that verify asks for")
    assert len(set_aside(tmp_path)) == 1
    again.close()


@pytest.mark.parametrize("damage", UNREADABLE)
def test_verify_says_so_of_a_file_that_is_no_journal(tmp_path: Path, damage: str) -> None:
    opened(tmp_path).close()
    UNREADABLE[damage](tmp_path / DATABASE)
    assert verify_directory(tmp_path).problems


def test_verify_directory_leaves_alone_what_is_missing_or_in_use(tmp_path: Path, journal: Journal) -> None:
    with pytest.raises(JournalInUseError, match="is in use by process"):
        verify_directory(tmp_path)
    with pytest.raises(JournalError, match="there is no journal in"):
        verify_directory(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    journal.append([make_event(1)])


def test_a_database_that_cannot_be_read_now_is_not_taken_for_damaged(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_path: Path) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        raise sqlite3.OperationalError("database is locked")

    journal.append([make_event(1)])
    monkeypatch.setattr(inspection, "connected", busy)
    with pytest.raises(JournalError, match="cannot be read: database is locked"):
        journal.verify()
    with pytest.raises(JournalError, match="cannot be read: database is locked"):
        journal.find("node-a/1/1")
    assert not set_aside(tmp_path)


def test_an_event_is_found_by_its_id(journal: Journal) -> None:
    live = make_event(7)
    gap = Event("node-a", "1", None, EventType.GAP, "@daemon", 2.5, b"{}", key="1/gap/3-4")
    state = Event("node-a", "1", None, live.type, "web", 2.5, b"{}", reconciled=True, key="r/web/start/17.2")
    journal.append([live, gap, state])
    for event in (live, gap, state):
        found = journal.find(event.id)
        assert found is not None
        assert found.event == event
    for unknown in ("node-a/1/8", "node-b/1/7", "node-a/7", "node-a", "", "/", "node-a/1/seven", "node-a/1/gap/3"):
        assert journal.find(unknown) is None


def test_stats_tell_a_person_what_is_there_and_how_far_each_sink_is(tmp_path: Path, journal: Journal) -> None:
    assert journal.stats()["oldest_received_at"] is None
    journal.cursor("ahead", from_start=True)
    journal.cursor("behind", from_start=True)
    events = [make_event(number) for number in range(1, 11)]
    journal.append(events)
    journal.commit("ahead", 10)
    journal.commit("behind", 4)
    journal.add_dead_letter("behind", journal.read(0, 1)[0], "refused", "no")
    assert journal.flush(10)
    stats = journal.stats()
    assert (stats["path"], stats["events"], stats["first_offset"], stats["last_offset"]) == (str(tmp_path), 10, 1, 10)
    assert stats["oldest_received_at"] == events[0].received_at
    assert stats["max_age_seconds"] == 7 * 86400
    assert stats["bytes"] > 0
    assert stats["sinks"]["ahead"] == {"offset": 10, "lag_events": 0, "lag_seconds": 0.0, "dead_letters": 0}
    assert (stats["sinks"]["behind"]["lag_events"], stats["sinks"]["behind"]["dead_letters"]) == (6, 1)


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_a_full_disk_is_ridden_out_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Really full: the database may have no page more."""
    monkeypatch.setattr(writer_module, "_RETRY_SECONDS", 0.01)
    journal = opened(tmp_path)
    journal.cursor("sink", from_start=True)
    journal.append([make_event(1)])
    assert journal._writer.store is not None
    journal._writer.store._writer.execute("PRAGMA max_page_count = 1")  # no more than it has
    number = 1
    while journal.status().last_error is None:
        number += 1
        journal.submit([make_event(number)])
        journal.flush(0.05)
    wait_for(lambda: journal.extent[1] == number, "the events in memory")
    assert [event.sequence for _, event in read_all(journal)] == list(range(1, number + 1))
    journal.commit("sink", number - 1)
    assert not journal.flush(0.05)
    assert journal.status().held_events > 0
    journal._writer.store._writer.execute("PRAGMA max_page_count = 1000000")
    assert journal.flush(10)
    assert journal.status().last_error is None
    assert journal.status().held_events == 0
    journal.close()
    again = opened(tmp_path)
    assert [event.sequence for _, event in read_all(again)] == list(range(1, number + 1))
    assert again.cursor("sink") == number - 1
    again.close()


def test_memory_forgets_first_what_every_sink_has_had(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "append", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("full")))
    monkeypatch.setattr(ledger_module, "_HELD_STDOUT_BYTES", 10_000)
    journal.cursor("sink", from_start=True)
    for number in range(1, 81):
        journal.submit([make_event(number)])
        wait_for(lambda number=number: journal.extent[1] == number, "the event in memory")  # type: ignore[misc]
        journal.commit("sink", number)
    assert journal._ledger.held_bytes < 11_000


def test_what_every_sink_has_had_can_still_be_read_where_the_disk_has_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a replay, say: memory that was freed is not the end of what is kept."""
    journal.cursor("sink", from_start=True)
    journal.append([make_event(number) for number in range(1, 6)])
    monkeypatch.setattr(ledger_module, "_HELD_STDOUT_BYTES", 0)
    monkeypatch.setattr(Store, "append", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("full")))
    for number in range(6, 9):
        journal.submit([make_event(number, "EXIT", data={"exit_code": 1})])
        wait_for(lambda number=number: journal.extent[1] == number, "the event in memory")  # type: ignore[misc]
        journal.commit("sink", number)
    assert [offset for offset, _ in read_all(journal)] == [1, 2, 3, 4, 5, 8]
    assert not journal.wait(8, 0)


def test_what_a_stop_takes_with_it_since_the_disk_is_full_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path)
    for name, offset in (("slow", 0), ("quick", 2)):
        journal.cursor(name, from_start=True)
        journal.append([make_event(1), make_event(2)] if name == "slow" else [])
        journal.commit(name, offset)
    assert journal.flush(10)
    before = {name: dropped(name, "not_written") for name in ("slow", "quick")}
    monkeypatch.setattr(Store, "append", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("full")))
    journal.submit([make_event(number) for number in range(3, 8)])
    wait_for(lambda: journal.extent[1] == 7, "the events in memory")
    journal.commit("quick", 6)
    journal.close()
    assert dropped("slow", "not_written") - before["slow"] == 5
    assert dropped("quick", "not_written") - before["quick"] == 1


def test_the_log_has_a_line_now_and_then_while_events_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    drops = telemetry._Drops()
    told = []
    for second in range(25):
        now = 1000.0 + second
        told.append(drops.add("sink", "size", 10))
    assert {second: count for second, count in enumerate(told) if count} == {0: 10, 10: 100, 20: 100}
    assert drops.add("other", "size", 3) == 3


def test_held_events_are_bounded_and_stdout_is_dropped_first(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "append", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("full")))
    journal.cursor("sink", from_start=True)
    monkeypatch.setattr(ledger_module, "_HELD_STDOUT_BYTES", 2000)
    monkeypatch.setattr(ledger_module, "_HELD_BYTES", 4000)
    for number in range(1, 100):
        journal.submit([make_event(number)])
    held = journal._ledger.held_bytes
    assert 2000 < held < 2600
    journal.submit([make_event(100, "EXIT", data={"exit_code": 1})])
    assert held < journal._ledger.held_bytes
    for number in range(101, 200):
        journal.submit([make_event(number, "EXIT", data={"exit_code": 1})])
    assert journal._ledger.held_bytes < 4600


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


def test_nobody_waits_for_events_that_are_deleted(tmp_path: Path) -> None:
    """A sink that was away for too long has nothing to read, and must not ask again and again."""
    journal = opened(tmp_path, max_age=60)
    journal.cursor("away", from_start=True)
    journal.append([dataclasses.replace(make_event(number), received_at=1.0) for number in range(1, 4)])
    assert journal.wait(0, 0)
    before = dropped("away", "age")
    journal.prune()
    wait_for(lambda: journal.status().events == 0, "pruning")
    assert not journal.wait(0, 0)
    assert journal.lag("away") == (0, 0.0)
    assert dropped("away", "age") - before == 3
    journal.close()
    again = opened(tmp_path, max_age=60)
    assert not again.wait(again.cursor("away"), 0)
    again.append([make_event(4)])
    assert again.wait(again.cursor("away"), 0)
    assert again.lag("away")[0] == 1
    again.close()


def test_nobody_waits_for_output_that_is_deleted_behind_older_events(tmp_path: Path) -> None:
    journal = opened(tmp_path, max_bytes=2**20)
    journal.cursor("slow", from_start=True)
    journal.append([make_event(1, "EXIT", data={"exit_code": 1})])
    data = {"finished": False, "output": "x" * 1_100_000, "position": 0}
    journal.append([make_event(2, data=data)])
    assert journal.flush(10)
    journal.prune()
    wait_for(lambda: journal.status().events == 1, "pruning")
    assert [event.sequence for _, event in read_all(journal)] == [1]
    assert not journal.wait(1, 0)
    journal.commit("slow", 1)
    assert journal.lag("slow") == (0, 0.0)
    assert journal.append([make_event(3)]) == 3
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
    assert journal._writer.store is not None
    plan = journal._writer.store._reader.execute(
        "EXPLAIN QUERY PLAN SELECT (SELECT min(offset) FROM events)"
    ).fetchall()
    assert any("SEARCH events" in str(row) for row in plan)


def test_a_clock_that_steps_forward_makes_nothing_old(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append([make_event(1)])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 50 * 365 * 86400)
    journal.prune()
    assert journal.append([make_event(2)]) == 2
    wait_for(lambda: not journal._writer._prune_wanted and journal._writer._pruning is None, "pruning")
    assert journal.status().events == 2


# --- dead letters --------------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_marked_and_dropped(tmp_path: Path, journal: Journal) -> None:
    journal.append([make_event(number) for number in range(1, 6)])
    for envelope in journal.read(0, 5):
        journal.add_dead_letter("a" if envelope.offset % 2 else "b", envelope, "refused", f"no {envelope.offset}")
    assert journal.flush(10)
    letters = journal.letters
    assert [(letter.sink, letter.error, letter.envelope.offset) for letter in letters.find()] == [
        ("a", "no 1", 1), ("b", "no 2", 2), ("a", "no 3", 3), ("b", "no 4", 4), ("a", "no 5", 5),
    ]  # fmt: skip
    page = letters.find("a", limit=2)
    assert [letter.envelope.offset for letter in letters.find("a", after=page[-1].id)] == [5]
    assert letters.retry("b", []) == 2
    assert [letter.retry for letter in letters.find("b")] == [True, True]
    assert letters.drop(None, [page[0].id]) == 1
    assert (letters.count("a"), letters.count("b")) == (2, 2)
    assert letters.drop("a", []) == 2
    journal.close()
    again = opened(tmp_path)
    assert (again.dead_letters("a"), again.dead_letters("b")) == (0, 2)
    assert [letter.envelope.event.sequence for letter in again.letters.find("b", retry_only=True)] == [2, 4]
    again.close()


def test_letters_that_there_cannot_be_cost_the_journal_nothing(journal: Journal) -> None:
    assert journal.letters.drop(None, [10**30, -(10**30), *range(100, 60_000)]) == 0
    with pytest.raises(UnicodeEncodeError):
        journal.letters.retry("\ud800", [])
    assert journal.append([make_event(1)]) == 1
    assert journal.status().last_error is None


def test_dead_letters_grow_old_and_never_push_events_out(tmp_path: Path) -> None:
    journal = opened(tmp_path, max_bytes=2**20, max_age=3600)
    journal.append([make_event(1, data={"finished": False, "output": "x" * 20_000, "position": 0})])
    (envelope,) = journal.read(0, 1)
    for _ in range(40):
        journal.add_dead_letter("sink", envelope, "refused", "no")
    assert journal.flush(10)
    journal.prune()
    wait_for(lambda: journal.dead_letters("sink") < 14, "pruning")
    assert journal.status().events == 1
    journal.close()


# --- what no database can hold ---------------------------------------------------------------------------------------

UNWRITABLE = {
    "sequence of 2^63": {"sequence": 2**63},
    "process_uuid no text": {"process_uuid": ["x"]},
    "half a surrogate pair": {"app": "\ud800"},
    "app no text": {"app": {"a": 1}},
}


@pytest.mark.parametrize("changed", UNWRITABLE.values(), ids=UNWRITABLE.keys())
@pytest.mark.parametrize("place", [0, 3, 499])
def test_an_event_that_cannot_be_written_is_left_out_alone(
    journal: Journal, tmp_path: Path, changed: dict[str, object], place: int
) -> None:
    before = dropped("journal", "unwritable")
    events = [make_event(number) for number in range(500)]
    events[place] = dataclasses.replace(events[place], **changed)  # type: ignore[arg-type]
    good = [event for number, event in enumerate(events) if number != place]
    journal.commit("sink", 0)
    journal.append(events)
    assert [event for _, event in read_all(journal)] == good
    assert dropped("journal", "unwritable") == before + 1
    assert journal.status().last_error is None
    later = make_event(500)
    assert journal.append([later]) == 501
    journal.close()
    again = opened(tmp_path)
    try:
        assert [event for _, event in read_all(again)] == [*good, later]
        assert again.extent == (2 if place == 0 else 1, 501)
        assert again.status().events == 500
    finally:
        again.close()


def test_many_events_that_cannot_be_written_cost_themselves_alone(journal: Journal) -> None:
    events = [make_event(number) for number in range(400)]
    mixed = [
        dataclasses.replace(event, sequence=2**63 + 1) if number % 3 else event for number, event in enumerate(events)
    ]
    journal.append(mixed)
    assert [event for _, event in read_all(journal)] == events[::3]


def test_a_state_and_a_dead_letter_that_cannot_be_written_hold_up_nothing(journal: Journal) -> None:
    event = make_event(1)
    journal.submit([event], {("node-a", "web"): "\ud800", ("node-a", "ok"): "{}"})
    assert journal.flush(10)
    envelope = journal.read(0, 1)[0]
    journal.add_dead_letter("sink", envelope, "refused", "\ud800 said the destination")
    journal.add_dead_letter("sink", envelope, "refused", "no")
    assert journal.flush(10)
    assert [letter.error for letter in journal.letters.find("sink")] == ["no"]
    assert journal.app_states("node-a") == {"ok": "{}"}
