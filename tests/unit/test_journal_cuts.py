"""Moments at which a power cut catches the journal's files, and what `journal verify` says of them."""

import contextlib
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from meshbridge import telemetry
from meshbridge.journal import Journal, JournalError, JournalOptions, Sync, verify_directory
from meshbridge.journal import store as store_module
from meshbridge.journal.store import DATABASE, Store
from meshbridge.system import disk
from tests.support import make_event, wait_for

UNFINISHED = f"{DATABASE}.creating"


def opened(directory: Path, **options: object) -> Journal:
    journal = Journal(JournalOptions.model_validate({"path": directory, **options}))
    journal.open()
    return journal


def faults() -> float:
    return telemetry.REGISTRY.get_sample_value("meshbridge_journal_faults_total", {"reason": "damaged"}) or 0.0


def test_a_database_has_its_name_only_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = disk.rename_durably

    def watched(source: Path, target: Path) -> None:
        assert not target.exists()
        assert [one.name for one in source.parent.glob(f"{UNFINISHED}*")] == [UNFINISHED]
        with contextlib.closing(sqlite3.connect(source)) as connection:
            assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
        rename(source, target)

    monkeypatch.setattr(store_module, "rename_durably", watched)
    opened(tmp_path).close()
    assert (tmp_path / DATABASE).exists()


@pytest.mark.parametrize("left", ["empty", "half", "with a rollback journal"])
def test_a_creation_that_was_cut_short_begins_again_without_an_error(tmp_path: Path, left: str) -> None:
    unfinished = tmp_path / UNFINISHED
    unfinished.write_bytes(b"" if left == "empty" else b"SQLite format 3\0" + bytes(500))
    if left == "with a rollback journal":
        unfinished.with_name(f"{UNFINISHED}-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))
    before = faults()
    with pytest.raises(JournalError, match="there is no journal in"):
        verify_directory(tmp_path)
    journal = opened(tmp_path)
    assert journal.append([make_event(1)]) == 1
    journal.close()
    assert faults() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == [DATABASE, "lock"]


def test_an_empty_file_of_an_older_version_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / DATABASE).touch()
    before = faults()
    journal = opened(tmp_path)
    assert journal.append([make_event(1)]) == 1
    journal.close()
    assert faults() == before
    assert len([*tmp_path.glob("*.damaged-*")]) == 1


def test_a_wal_without_its_database_is_not_taken_for_the_new_ones(tmp_path: Path) -> None:
    journal = opened(tmp_path / "old")
    journal.append([make_event(number) for number in range(1, 50)])
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "old" / f"{DATABASE}-wal", tmp_path / "new" / f"{DATABASE}-wal")
    journal.close()
    journal = opened(tmp_path / "new")
    assert journal.append([make_event(1)]) == 1
    assert [envelope.offset for envelope in journal.read(0, 10)] == [1]
    journal.close()


def test_an_incomplete_replacement_is_deleted(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / f"{DATABASE}.new").write_bytes(b"half")
    opened(tmp_path).close()
    assert not (tmp_path / f"{DATABASE}.new").exists()


def test_verify_reads_a_replacement_that_was_cut_at_its_last_step(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([make_event(1)])
    journal.close()
    (tmp_path / DATABASE).rename(tmp_path / f"{DATABASE}.new")
    found = verify_directory(tmp_path)
    assert (found.events, found.problems) == (1, ())


def test_verify_reads_what_is_in_the_wal_alone(tmp_path: Path) -> None:
    journal = opened(tmp_path / "running")
    journal.append([make_event(number) for number in range(1, 101)])
    (tmp_path / "cut").mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / "running" / f"{DATABASE}{suffix}", tmp_path / "cut" / f"{DATABASE}{suffix}")
    journal.close()
    found = verify_directory(tmp_path / "cut")
    assert (found.events, found.problems) == (100, ())


def test_verify_reads_through_a_hot_rollback_journal_and_changes_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path / "journal")
    journal.append([make_event(number) for number in range(1, 101)])
    journal.close()
    running, cut = tmp_path / "journal" / DATABASE, tmp_path / "cut"
    cut.mkdir()
    with contextlib.closing(sqlite3.connect(running, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_size = 1")  # so that pages are written before the commit
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE events SET body = zeroblob(3000)")
        for suffix in ("", "-journal"):
            shutil.copy(running.with_name(f"{DATABASE}{suffix}"), cut / f"{DATABASE}{suffix}")
        connection.execute("ROLLBACK")
    before = {file.name: file.read_bytes() for file in cut.iterdir()}
    found = verify_directory(cut)
    assert (found.events, found.damaged, found.problems) == (100, 0, ())
    assert {file.name: file.read_bytes() for file in cut.iterdir() if file.name != "lock"} == before


# --- journal.sync --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [("group", Sync.GROUP), ("none", Sync.NONE), ("100ms", 0.1), ("1s", 1.0), (0.5, 0.5), ("PT1M", 60.0)],
)
def test_sync_is_a_word_or_a_time(written: object, meant: object) -> None:
    options = JournalOptions.model_validate({"sync": written})
    assert options.sync == meant
    assert JournalOptions.model_validate(options.model_dump()).sync == meant


@pytest.mark.parametrize("written", ["always", "", 0, "0s", "2h", -1, None, True, "off", []])
def test_another_sync_is_refused_with_what_is_allowed(written: object) -> None:
    with pytest.raises(ValidationError, match=r"use group, none, or a time from 1ms to 60s"):
        JournalOptions.model_validate({"sync": written})


def test_with_a_time_events_are_readable_at_once_and_synced_in_that_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[float] = []
    sync = Store.sync

    def watched(store: Store) -> None:
        sync(store)
        synced.append(time.monotonic())

    monkeypatch.setattr(Store, "sync", watched)
    journal = opened(tmp_path, sync="60s")
    journal.append([make_event(1)])
    assert [envelope.offset for envelope in journal.read(0, 10)] == [1]
    assert not synced
    journal.close()
    journal = opened(tmp_path, sync="1ms")
    assert [envelope.offset for envelope in journal.read(0, 10)] == [1]
    journal.append([make_event(2)])
    wait_for(lambda: synced, "the first sync")
    count = len(synced)
    journal.append([make_event(3)])
    wait_for(lambda: len(synced) > count, "the next sync")
    journal.close()


def test_a_sync_that_fails_is_a_fault_and_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path, sync="1ms")
    sync = Store.sync
    with monkeypatch.context() as patch:
        patch.setattr(Store, "sync", lambda _store: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        journal.append([make_event(1)])
        wait_for(lambda: journal.status().last_error, "the fault")
    assert Store.sync is sync
    journal.submit([make_event(2)])
    wait_for(lambda: journal.status().last_error is None, "the recovery")
    journal.close()
