"""What sinks remember in the journal: it survives what events survive, and costs nothing that is faulty."""

import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest

from meshbridge.journal import Journal, JournalOptions
from meshbridge.journal.store import DATABASE, Group, Store
from tests.support import make_event, wait_for


def opened(directory: Path) -> Journal:
    journal = Journal(JournalOptions(path=directory))
    journal.open()
    return journal


def on_disk(directory: Path) -> dict[tuple[str, str, str], str]:
    with contextlib.closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        rows = connection.execute("SELECT sink, kind, key, text FROM sink_memory").fetchall()
    connection.close()
    return {(sink, kind, key): text for sink, kind, key, text in rows}


def test_what_is_saved_is_on_disk_on_return_and_there_after_a_restart(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    memory = journal.memory("broker")
    assert memory.save("topic", {"a": "", "b": "", "ä": "ö"}, 10.0)
    assert memory.save("topic", {"b": None}, 10.0)
    assert journal.memory("other").save("topic", {"a": "x"}, 10.0)
    assert memory.save("id", {"": "7"}, 10.0)
    assert len(on_disk(tmp_path)) == 4
    journal.close()
    journal = opened(tmp_path)
    assert journal.memory("broker").load("topic") == {"a": "", "ä": "ö"}
    assert journal.memory("broker").load("id") == {"": "7"}
    assert journal.memory("other").load("topic") == {"a": "x"}
    assert journal.memory("broker").load("nothing") == {}
    journal.close()


def test_what_is_saved_without_waiting_is_loaded_at_once_and_written_in_the_end(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    memory = journal.memory("broker")
    for number in range(100):
        memory.save("topic", {"a": str(number), str(number): None})
        assert memory.load("topic") == {"a": str(number)}
    journal.close()
    assert on_disk(tmp_path) == {("broker", "topic", "a"): "99"}


def test_memory_is_never_in_a_later_transaction_than_a_cursor_that_moves_after_it(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    seen: list[tuple[int, int]] = []
    append = Store.append

    def watched(store: Store, group: Group) -> None:
        seen.append((group.cursors.get("s", 0), int(group.memory.get(("s", "file", "")) or 0)))
        append(store, group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "append", watched)
        for offset in range(1, 200):
            journal.submit([make_event(offset)])
            journal.memory("s").save("file", {"": str(offset)})
            journal.commit("s", offset)
        journal.close()
    newest = 0
    for cursor, remembered in seen:
        newest = max(newest, remembered)
        assert cursor <= newest


def test_a_disk_that_cannot_be_written_does_not_hold_a_sink_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    append = Store.append

    def fail(_store: Store, _group: Group) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", fail)
        assert not journal.memory("s").save("topic", {"a": ""}, 60.0)
        assert journal.memory("s").load("topic") == {"a": ""}
    assert Store.append is append
    wait_for(lambda: on_disk(tmp_path) == {("s", "topic", "a"): ""}, "the memory on the disk")
    journal.close()


@pytest.mark.parametrize("changes", [{"\ud800": ""}, {"a": "\ud800"}])
def test_what_is_no_text_is_refused_and_costs_the_journal_nothing(tmp_path: Path, changes: dict[str, str]) -> None:
    journal = opened(tmp_path)
    with pytest.raises(UnicodeEncodeError):
        journal.memory("s").save("topic", changes, 1.0)
    assert journal.append([make_event(1)]) == 1
    journal.close()


def test_a_sink_that_waits_goes_on_when_the_journal_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    entered, proceed, append = threading.Event(), threading.Event(), Store.append

    def slow(store: Store, group: Group) -> None:
        entered.set()
        proceed.wait(30)
        append(store, group)

    monkeypatch.setattr(Store, "append", slow)
    waiting = threading.Thread(target=journal.memory("s").save, args=("topic", {"a": ""}, 60.0))
    waiting.start()
    assert entered.wait(30)
    proceed.set()
    journal.close()
    waiting.join(30)
    assert not waiting.is_alive()
    assert on_disk(tmp_path) == {("s", "topic", "a"): ""}


@pytest.mark.parametrize("running", [True, False])
def test_memory_outlives_damage_elsewhere_in_the_database(tmp_path: Path, running: bool) -> None:
    journal = opened(tmp_path)
    journal.cursor("s", from_start=True)
    journal.append([make_event(number) for number in range(1, 500)])
    assert journal.memory("s").save("topic", {"a": "", "b": ""}, 10.0)
    if running:
        journal.report_damage(sqlite3.DatabaseError("database disk image is malformed"))
        wait_for(lambda: list(tmp_path.glob("*.damaged-*")), "the replacement")
    journal.close()
    if not running:
        with (tmp_path / DATABASE).open("r+b") as file:  # the header, so that it is found when it is opened
            file.seek(18)
            file.write(b"\xff\xff")
    journal = opened(tmp_path)
    assert journal.memory("s").load("topic") in ({"a": "", "b": ""}, {} if not running else None)
    journal.close()


def test_damaged_rows_of_memory_are_left_out(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.memory("s").save("topic", {"a": "", "b": ""}, 10.0)
    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection, connection:
        connection.execute("UPDATE sink_memory SET text = x'00ff' WHERE key = 'a'")
    connection.close()
    journal = opened(tmp_path)
    assert journal.memory("s").load("topic") == {"b": ""}
    journal.close()
