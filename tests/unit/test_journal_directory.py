"""The journal's directory belongs to its user alone: what others could put there is refused before it is opened."""

import os
from pathlib import Path

import pytest

from meshbridge.journal import Journal, JournalError, JournalOptions


def refused(directory: Path, match: str) -> None:
    with pytest.raises(JournalError, match=match):
        Journal(JournalOptions(path=directory)).open()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_directory_that_others_may_write_to(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    refused(tmp_path, "other users may write to .* chmod go-w")


@pytest.mark.parametrize("name", ["lock", "journal.db", "journal.db-wal"])
def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path, name: str) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    directory = tmp_path / "journal"
    directory.mkdir(0o700)
    (directory / name).symlink_to(target)
    refused(directory, "not a regular file|symbolic link")
    assert target.read_text() == "kept"


def test_a_hard_link_to_another_file_is_not_written_to(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    directory = tmp_path / "journal"
    directory.mkdir(0o700)
    (directory / "lock").hardlink_to(target)
    refused(directory, "hard link")
    assert target.read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_directory_or_a_file_of_another_user(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    directory.mkdir(0o700)
    (directory / "lock").touch()
    os.chown(directory / "lock", 12345, 12345)
    refused(directory, "belongs to user 12345")
    os.chown(directory, 12345, 12345)
    refused(directory, "belongs to user 12345")
