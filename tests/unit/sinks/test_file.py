"""The file sink: rotation, and that no torn line stays."""

import errno
import gzip
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from meshbridge.sinks.base import NotConnected, Retry
from meshbridge.sinks.file import FileOptions, FileSink
from tests.support import envelopes, make_event, wait_for

DAY = 86_400
SECONDS = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(directory: Path, clock: Clock, **rotate: Any) -> FileSink:
    settings: dict[str, Any] = {"type": "file", "path": str(directory / "events.jsonl")}
    sink = FileSink(FileOptions.model_validate(settings | ({"rotate": rotate} if rotate else {})), clock)
    sink.connect(SECONDS)
    return sink


def write(sink: FileSink, *numbers: int) -> None:
    sink.write(envelopes([make_event(number) for number in numbers]), SECONDS)


def files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def numbers_in(file: Path) -> list[int]:
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    assert text == b"" or text.endswith(b"\n")
    return [int(orjson.loads(line)["id"].rpartition("/")[2]) for line in text.splitlines()]


def test_a_file_ends_before_the_line_that_would_make_it_too_large(tmp_path: Path, clock: Clock) -> None:
    sink = make(tmp_path, clock, max_bytes=1000, keep=100)
    for first in range(1, 31, 6):
        write(sink, *range(first, first + 6))
        clock.now += 1
    sink.close(SECONDS)
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())
    numbers = [number for name in files(tmp_path) for number in numbers_in(tmp_path / name)]
    assert sorted(numbers) == list(range(1, 31))
    assert len(files(tmp_path)) > 5


def test_a_line_larger_than_the_limit_has_a_file_to_itself(tmp_path: Path, clock: Clock) -> None:
    sink = make(tmp_path, clock, max_bytes=10)
    for number in (1, 2, 3):
        write(sink, number)
        clock.now += 1
    sink.close(SECONDS)
    assert [numbers_in(tmp_path / name) for name in files(tmp_path)] == [[3], [1], [2]]


def test_only_so_many_old_files_are_kept(tmp_path: Path, clock: Clock) -> None:
    sink = make(tmp_path, clock, max_bytes=10, keep=2)
    for number in range(1, 21):
        write(sink, number)  # many within a second: -1, -2, … -10 …
    sink.close(SECONDS)
    kept = [numbers_in(tmp_path / name)[0] for name in files(tmp_path)]
    assert sorted(kept) == [18, 19, 20]


def test_names_grow_also_when_the_clock_is_set_back(tmp_path: Path, clock: Clock) -> None:
    sink = make(tmp_path, clock, max_bytes=10, keep=1)
    for number in range(1, 6):
        write(sink, number)
        clock.now -= 3600
    sink.close(SECONDS)
    assert sorted(numbers_in(tmp_path / name)[0] for name in files(tmp_path)) == [4, 5]


def test_a_period_that_is_over_ends_the_file(tmp_path: Path, clock: Clock) -> None:
    sink = make(tmp_path, clock, max_age="1d")
    write(sink, 1)
    os.utime(tmp_path / "events.jsonl", (clock.now, clock.now))
    write(sink, 2)
    os.utime(tmp_path / "events.jsonl", (clock.now, clock.now))
    clock.now += DAY
    write(sink, 3)
    os.utime(tmp_path / "events.jsonl", (clock.now, clock.now))
    assert [numbers_in(tmp_path / name) for name in files(tmp_path)] == [[3], [1, 2]]
    clock.now += DAY
    sink.idle()
    assert [numbers_in(tmp_path / name) for name in files(tmp_path)] == [[], [1, 2], [3]]
    clock.now += DAY
    sink.idle()
    assert len(files(tmp_path)) == 3, "an empty file is no old file"
    sink.close(SECONDS)


def test_a_restart_does_not_forget_the_period(tmp_path: Path, clock: Clock) -> None:
    sink = make(tmp_path, clock, max_age="1d")
    write(sink, 1)
    sink.close(SECONDS)
    os.utime(tmp_path / "events.jsonl", (clock.now - DAY, clock.now - DAY))
    sink = make(tmp_path, clock, max_age="1d")
    write(sink, 2)
    sink.close(SECONDS)
    assert [numbers_in(tmp_path / name) for name in files(tmp_path)] == [[2], [1]]


def test_old_files_are_compressed(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "events.jsonl.20200101T000000Z").write_bytes(b"")
    (tmp_path / "events.jsonl.20200101T000000Z.gz.part").write_bytes(b"left over")
    (tmp_path / "events.jsonl.bak").write_bytes(b"not ours")
    sink = make(tmp_path, clock, max_bytes=10, gzip=True)
    for number in (1, 2, 3):
        write(sink, number)
        clock.now += 1

    def done() -> bool:
        sink.connect(SECONDS)
        return not [name for name in files(tmp_path) if name.endswith(("Z", ".part"))]

    wait_for(done, "the old files to be compressed")
    sink.close(SECONDS)
    packed = [name for name in files(tmp_path) if name.endswith(".gz")]
    assert [numbers_in(tmp_path / name) for name in packed] == [[], [1], [2]]
    assert (tmp_path / "events.jsonl.bak").read_bytes() == b"not ours"
    assert (tmp_path / packed[1]).stat().st_mode & 0o777 == (tmp_path / "events.jsonl").stat().st_mode & 0o777


@pytest.mark.parametrize("torn", [b'{"half', b"x" * 200_000])
@pytest.mark.parametrize("before", [b"", b'{"whole": 1}\n'])
def test_half_a_line_of_a_killed_bridge_is_taken_back(tmp_path: Path, clock: Clock, before: bytes, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(before + torn)
    sink = make(tmp_path, clock)
    write(sink, 1)
    sink.close(SECONDS)
    assert path.read_bytes().startswith(before + b'{"specversion"')
    assert [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def file_limit() -> Iterator[int]:
    """The disk is full behind this many bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("rotated", [False, True])
def test_a_full_disk_leaves_whole_lines_and_says_how_many(
    tmp_path: Path, clock: Clock, file_limit: int, rotated: bool
) -> None:
    sink = make(tmp_path, clock, **({"max_bytes": 10_000} if rotated else {}))
    write(sink, 1)
    with pytest.raises(Retry) as caught:
        write(sink, 2, 3, 4, 5, 6)
    assert caught.value.acknowledged == 0
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert numbers_in(tmp_path / "events.jsonl") == [1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    write(sink, 2, 3, 4, 5, 6)
    assert numbers_in(tmp_path / "events.jsonl") == [1, 2, 3, 4, 5, 6]
    sink.close(SECONDS)


def test_what_is_in_full_files_is_acknowledged(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = make(tmp_path, clock, max_bytes=10)
    real = os.fsync

    def fsync(descriptor: Any) -> None:
        real(descriptor)
        if tmp_path.exists():
            tmp_path.rename(tmp_path.with_name("away"))  # the directory goes once the first line is safe

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(NotConnected, match="cannot rotate") as caught:
        write(sink, 1, 2)
    assert caught.value.acknowledged == 1
    sink.close(SECONDS)


def test_a_bridge_that_is_killed_leaves_whole_lines(tmp_path: Path, clock: Clock) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.unit.sinks.test_file import *\n"
        f"sink = make(Path({str(tmp_path)!r}), Clock(), max_bytes=20000, keep=10**6)\n"
        "for n in range(1, 10**6, 50): write(sink, *range(n, n + 50)); print(n + 49, flush=True)\n"
    )
    seen = 0
    for _ in range(3):
        for file in tmp_path.iterdir():
            file.unlink()
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(20):
                seen = int(child.stdout.readline())
            child.kill()
            seen = max([seen, *(int(line) for line in child.stdout.read().split() if line)])
        make(tmp_path, clock, max_bytes=20_000, keep=10**6).close(SECONDS)
        numbers = sorted(number for file in tmp_path.iterdir() for number in numbers_in(file))
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= seen


@pytest.mark.parametrize("created", [True, False])
@pytest.mark.parametrize("by_idle", [True, False])
def test_a_file_that_logrotate_moves_away_is_no_fault(
    tmp_path: Path, clock: Clock, created: bool, by_idle: bool
) -> None:
    sink = make(tmp_path, clock)
    path = tmp_path / "events.jsonl"
    for number in (1, 2, 3):
        write(sink, number)
        path.rename(tmp_path / f"events.jsonl.{number}")
        if created:
            path.touch(mode=0o600)
        if by_idle:
            sink.idle()
            assert path.exists()
    write(sink, 4)
    sink.close(SECONDS)
    assert [numbers_in(tmp_path / f"events.jsonl.{number}") for number in (1, 2, 3)] == [[1], [2], [3]]
    assert numbers_in(path) == [4]


def test_a_file_that_was_deleted_or_copied_and_truncated_goes_on(tmp_path: Path, clock: Clock) -> None:
    sink = make(tmp_path, clock)
    path = tmp_path / "events.jsonl"
    write(sink, 1)
    path.unlink()
    write(sink, 2)
    assert numbers_in(path) == [2]
    os.truncate(path, 0)
    write(sink, 3)
    assert numbers_in(path) == [3]
    sink.close(SECONDS)


def test_a_directory_that_has_gone_is_said(tmp_path: Path, clock: Clock) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    sink = make(directory, clock)
    write(sink, 1)
    directory.rename(tmp_path / "away")
    for call in (sink.idle, lambda: write(sink, 2)):
        with pytest.raises(NotConnected, match=r"cannot open .*: No such file|not open"):
            call()
    sink.close(SECONDS)


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="needs logrotate")
def test_the_real_logrotate_is_no_fault(tmp_path: Path, clock: Clock) -> None:
    sink = make(tmp_path, clock)
    path, rules = tmp_path / "events.jsonl", tmp_path / "rules"
    rules.write_text(f"{path} {{\n rotate 5\n create 0640\n}}\n")
    rules.chmod(0o644)
    for number in (1, 2):
        write(sink, number)
        subprocess.run(["logrotate", "-f", "-s", tmp_path / "state", rules], check=True)
    write(sink, 3)
    sink.close(SECONDS)
    assert [numbers_in(tmp_path / name) for name in ("events.jsonl.2", "events.jsonl.1", "events.jsonl")] == [
        [1],
        [2],
        [3],
    ]


def test_what_cannot_be_rotated_is_said(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(ValidationError, match="standard output cannot be rotated"):
        FileOptions.model_validate({"type": "file", "path": "-", "rotate": {"max_bytes": 10}})
    with pytest.raises(ValidationError, match="set max_bytes, max_age or both"):
        FileOptions.model_validate({"type": "file", "path": "x", "rotate": {"keep": 3}})
    sink = FileSink(FileOptions.model_validate({"type": "file", "path": "/dev/null", "rotate": {"max_bytes": 10}}))
    with pytest.raises(NotConnected, match="no file that can be rotated"):
        sink.connect(SECONDS)
    sink.close(SECONDS)
