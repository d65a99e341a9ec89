"""The audit log: what stands in it, and what never does."""

import json
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshbridge.admin.audit import Audit, shown_query


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_call_is_a_line_for_the_owner_of_the_file(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.write({"who": "ops", "path": "/a"})
    audit.write({"who": "dash", "path": "/b\n"})
    audit.close()
    first, second = lines(tmp_path / "audit.jsonl")
    assert (first["who"], second["path"]) == ("ops", "/b\n")
    assert str(first["time"]).endswith("Z")
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.write({"number": 1})
    path.rename(tmp_path / "old")
    audit.write({"number": 2})
    path.unlink()
    audit.write({"number": 3})
    audit.close()
    assert [line["number"] for line in lines(path)] == [3]
    assert [line["number"] for line in lines(tmp_path / "old")] == [1]


def test_a_file_that_takes_nothing_fails_no_call_and_is_said_once(tmp_path: Path) -> None:
    directory = tmp_path / "away"
    audit = Audit(directory / "audit.jsonl")
    with capture_logs() as logs:
        audit.write({"number": 1})
        audit.write({"number": 2})
        directory.mkdir()
        audit.write({"number": 3})
    audit.close()
    assert [log["event"] for log in logs] == [
        "cannot write audit file",
        "admin call",
        "admin call",
        "audit file recovered",
    ]
    assert [line["number"] for line in lines(directory / "audit.jsonl")] == [3]


def test_without_a_file_calls_are_in_the_log() -> None:
    with capture_logs() as logs:
        Audit(None).write({"method": "POST", "status": 200})
        Audit(None).write({"method": "GET", "status": 200})
        Audit(None).write({"method": "GET", "status": 403})
    assert [log["log_level"] for log in logs] == ["info", "debug", "info"]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (b"", {}),
        (b"app=web-*&app=db&token=hunter2", {"app": ["web-*", "db"], "token": ["***"]}),
        (b"password=hunter2&path=/etc/x", {"password": ["***"], "path": ["/etc/x"]}),
        (b"hunter2", {"hunter2": ["***"]}),
        (b"app=" + b"x" * 9000, {"app": ["x" * 512]}),
        (b"app=%ff%00", {"app": ["\ufffd\0"]}),
    ],
)
def test_values_that_may_be_secret_are_left_out(query: bytes, shown: dict[str, list[str]]) -> None:
    assert shown_query(query) == shown


def test_a_query_without_end_is_not_shown() -> None:
    assert shown_query(b"&".join(b"a=1" for _ in range(200))) == {"…": ["more than 100 parameters"]}


def test_lines_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first, second = Audit(path), Audit(path)
    for number in range(50):
        (first if number % 2 else second).write({"number": number, "text": "x" * 5000})
    assert sorted(line["number"] for line in lines(path)) == list(range(50))  # type: ignore[type-var]
    first.close()
    second.close()
