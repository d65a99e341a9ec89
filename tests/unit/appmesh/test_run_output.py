"""A run's output from events and reads: each byte once, in order, whole characters."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshbridge.appmesh.exceptions import AppMeshRequestError
from meshbridge.appmesh.run_output import RunOutput
from meshbridge.appmesh.tcp_messages import ResponseMessage
from tests.unit.appmesh.fakes import answer


class Process:
    """What a process has written so far, and its exit code."""

    def __init__(self, written: bytes = b"", exit_code: int | None = None) -> None:
        self.written = written
        self.exit_code = exit_code
        self.piece = 1 << 20
        self.reads = 0
        self.pieces: list[tuple[str, int]] = []

    def fetch(self, position: int, _wait_seconds: int) -> ResponseMessage:
        self.reads += 1
        data = self.written[position : position + self.piece]
        return answer(data) if self.exit_code is None else answer(data, X_Exit_Code=str(self.exit_code))

    def output(self) -> RunOutput:
        return RunOutput(self.fetch, lambda text, position: self.pieces.append((text, position)))


def test_events_in_order_are_delivered_without_a_read() -> None:
    process = Process()
    output = process.output()
    assert output.push(0, "ab")
    assert output.push(2, "é")
    assert output.push(4, "c")
    assert process.pieces == [("ab", 0), ("é", 2), ("c", 4)]
    assert process.reads == 0
    assert output.position == 5


def test_what_was_delivered_already_is_left_out() -> None:
    process = Process(b"abc")
    output = process.output()
    output.pull()
    assert output.push(0, "ab")
    assert output.push(1, "bcde")
    assert process.pieces == [("abc", 0), ("de", 3)]


def test_a_hole_is_read() -> None:
    process = Process(b"abcdef")
    output = process.output()
    assert not output.push(3, "def")
    output.pull()
    assert process.pieces == [("abcdef", 0)]


def test_text_that_lost_its_bytes_is_read() -> None:
    process = Process(b"a\xffb")
    output = process.output()
    assert not output.push(0, "a\ufffdb")
    output.pull()
    assert process.pieces == [("a\ufffdb", 0)]
    assert output.position == 3


def test_a_character_cut_in_two_is_put_together() -> None:
    process = Process("aé".encode()[:2])
    output = process.output()
    output.pull()
    assert (process.pieces, output.position) == ([("a", 0)], 1)
    process.written = "aéz".encode()
    output.pull()
    assert process.pieces == [("a", 0), ("éz", 1)]


def test_what_never_becomes_a_character_is_delivered_at_the_end() -> None:
    process = Process(b"a\xf0\x9f")
    output = process.output()
    output.pull()
    process.exit_code = 0
    output.pull()
    assert process.pieces == [("a", 0), ("\ufffd", 1)]
    assert output.exit_code == 0


def test_bytes_that_are_no_utf_8_do_not_wait() -> None:
    process = Process(b"\xff\x80\x80\x80\xc3\x28")
    output = process.output()
    output.pull()
    assert output.position == 6


def test_all_of_a_finished_run_is_read() -> None:
    process = Process(b"x" * 10_000, exit_code=-9)
    process.piece = 3_000
    output = process.output()
    output.pull()
    assert "".join(text for text, _ in process.pieces) == "x" * 10_000
    assert output.exit_code == -9


def test_a_full_read_is_followed_by_another() -> None:
    process = Process(b"x" * (3 << 20))
    output = process.output()
    output.pull()
    assert output.position == 3 << 20
    assert output.exit_code is None


def test_a_refusal_is_an_error() -> None:
    output = RunOutput(lambda _position, _wait: answer(b"", 417), None)
    with pytest.raises(AppMeshRequestError) as caught:
        output.pull()
    assert caught.value.status == 417


def test_without_a_handler_it_only_counts() -> None:
    process = Process(b"abc")
    output = RunOutput(process.fetch, None)
    output.pull()
    assert output.position == 3


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 2**32))
def test_any_bytes_by_any_mixture_of_events_and_reads_arrive_once_and_in_order(written: bytes, seed: int) -> None:
    chance = random.Random(seed)
    process = Process(b"")
    output = process.output()
    while len(process.written) < len(written):
        start = len(process.written)
        process.written = written[: start + chance.randint(1, 8)]
        process.piece = chance.choice([1, 2, 3, 5, 100])
        kind = chance.random()
        if kind < 0.6:
            first = max(0, start - chance.choice([0, 0, 0, 1, 4]))
            text = process.written[first:].decode("utf-8", "replace")
            if not output.push(first, text):
                output.pull()
        elif kind < 0.8:
            output.pull()
    process.exit_code = 0
    output.pull()
    assert output.position == len(written)
    starts = [position for _text, position in process.pieces]
    assert starts[:1] in ([], [0])
    for (text, position), end in zip(process.pieces, [*starts[1:], len(written)], strict=False):
        assert text == written[position:end].decode("utf-8", "replace")
