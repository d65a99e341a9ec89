"""What a power cut leaves at the end of a file of JSON lines, and in the middle of a rotation."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshbridge.sinks.file import FileOptions, FileSink
from meshbridge.sinks.file_tail import KnownLength, good_length
from meshbridge.sinks.memory import VolatileMemory
from tests.support import envelopes, make_event, wait_for

SECTOR = 512


def sink_of(path: Path, memory: VolatileMemory, **rotate: object) -> FileSink:
    settings = {"type": "file", "path": str(path)} | ({"rotate": rotate} if rotate else {})
    sink = FileSink(FileOptions.model_validate(settings))
    sink.use_memory(memory)
    sink.connect(5)
    return sink


def write(sink: FileSink, numbers: Sequence[int]) -> None:
    sink.write(envelopes([make_event(number) for number in numbers]), 5)


def sequences(path: Path) -> list[int]:
    lines = path.read_bytes().splitlines()
    return [int(orjson.loads(line)["sequence"]) for line in lines]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_sectors_of_the_last_write_are_lost_only_whole_lines_stay(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, memory = tmp_path_factory.mktemp("file") / "events.jsonl", VolatileMemory()
    sink = sink_of(path, memory)
    write(sink, range(1, 6))
    kept = VolatileMemory()  # as the journal has it: the next write is not committed yet
    kept.save("file-length", memory.load("file-length"))
    safe = path.stat().st_size
    write(sink, range(6, 16))
    sink.close(5)
    content = bytearray(path.read_bytes())
    end = data.draw(st.integers(safe, len(content)), label="length")
    for sector in range(safe // SECTOR, end // SECTOR + 1):
        if data.draw(st.booleans(), label="lost"):
            first, last = max(safe, sector * SECTOR), min(end, (sector + 1) * SECTOR)
            content[first:last] = bytes(max(0, last - first))
    path.write_bytes(content[:end])
    sink = sink_of(path, kept)
    found = sequences(path)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= 5
    write(sink, range(len(found) + 1, 20))
    sink.close(5)
    assert sequences(path) == list(range(1, 20))


@pytest.mark.parametrize("torn", [bytes(100) + b"\n", b'{"a": 1}\n' + bytes(512) + b'"b"}\n{"c": 2}\n', bytes(2000)])
def test_nuls_at_the_end_of_an_unknown_file_are_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"a line of somebody else\n" * 100 + torn)
    sink_of(path, VolatileMemory()).close(5)
    content = path.read_bytes()
    assert content.startswith(b"a line of somebody else\n" * 100)
    assert b"\0" not in content
    assert content.endswith(b"\n")


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", "[1, 2, -3]", "[1, 2, true]", '["1", 2, 3]', "[" * 5000, "\0"])
def test_a_damaged_known_length_is_not_believed(tmp_path: Path, text: str) -> None:
    assert KnownLength.from_text(text) is None
    memory = VolatileMemory()
    memory.save("file-length", {"": text})
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"one\ntwo\nhal")
    sink_of(path, memory).close(5)
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("change", ["shorter", "another file", "not at a line"])
def test_a_known_length_of_something_else_cuts_nothing_whole(tmp_path: Path, change: str) -> None:
    path, memory = tmp_path / "events.jsonl", VolatileMemory()
    sink = sink_of(path, memory)
    write(sink, range(1, 50))
    sink.close(5)
    match change:
        case "shorter":  # logrotate's copytruncate
            path.write_bytes(b"one\ntwo\n")
        case "another file":
            other = tmp_path / "other"
            other.write_bytes(path.read_bytes() + b"one\ntwo\n")
            other.replace(path)
        case "not at a line":
            path.write_bytes(b"x" * path.stat().st_size + b"yz\ntwo\n")
    before = path.read_bytes()
    sink_of(path, memory).close(5)
    assert path.read_bytes() == before


@given(st.binary(max_size=400), st.integers(0, 400))
def test_any_content_has_a_good_length(tmp_path_factory: pytest.TempPathFactory, content: bytes, known: int) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    facts = path.stat()
    with path.open("rb") as file:
        for one in (None, KnownLength(facts.st_dev, facts.st_ino, known)):
            good = good_length(file, one)
            assert 0 <= good <= len(content)
            assert content[:good].endswith(b"\n") or not good


def test_a_rotation_cut_in_the_middle_is_done_again_and_counts_once(tmp_path: Path) -> None:
    path, memory = tmp_path / "events.jsonl", VolatileMemory()
    sink = sink_of(path, memory, max_bytes=1, keep=2)
    for number in (1, 2, 3):
        write(sink, [number])
    sink.close(5)
    first, second = sorted(file for file in tmp_path.iterdir() if file != path)
    first.with_name(f"{first.name}.gz").write_bytes(b"")  # renamed, and the file was not deleted yet
    second.with_name(f"{second.name}.gz.part").write_bytes(b"half")
    sink = sink_of(path, memory, max_bytes=1, keep=2, gzip=True)
    wanted = {path, *(file.with_name(f"{file.name}.gz") for file in (first, second))}
    wait_for(lambda: {*tmp_path.iterdir()} == wanted, "the compression")
    sink.close(5)
    for number, file in enumerate((first, second), 1):
        line = gzip.decompress(file.with_name(f"{file.name}.gz").read_bytes())
        assert int(orjson.loads(line)["sequence"]) == number


def test_what_a_cut_compression_left_goes_also_where_nothing_is_compressed_any_more(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    (tmp_path / "events.jsonl.20260101T000000Z").write_bytes(b"{}\n")
    (tmp_path / "events.jsonl.20260101T000000Z.gz.part").write_bytes(b"half")
    sink_of(path, VolatileMemory(), max_bytes=1000).close(5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["events.jsonl", "events.jsonl.20260101T000000Z"]
