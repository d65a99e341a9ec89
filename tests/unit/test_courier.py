"""The courier's table of endings (meshbridge.sinks.base), against a scripted sink and a real journal."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from meshbridge.delivery import Courier
from meshbridge.events import Envelope
from meshbridge.journal import Journal, JournalOptions
from meshbridge.options import Batch, When
from meshbridge.options import Retry as Waits
from meshbridge.sinks.base import Gone, NotConnected, Refused, Retry, SinkError
from meshbridge.sinks.options import SinkOptions
from meshbridge.status import SinkState
from tests.support import make_event, wait_for

FAST = Waits(initial=0.001, max=0.01)


class ScriptedSink:
    """Takes what is offered, unless the next step of its script raises; remembers every call."""

    def __init__(self) -> None:
        self.script: list[SinkError | Exception | None] = []
        self.offers: list[list[int]] = []
        self.accepted: list[int] = []
        self.connects: list[SinkError | None] = []
        self.calls: list[str] = []
        self.poison: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def connect(self, timeout_seconds: float) -> None:
        self.calls.append("connect")
        if self.connects and (error := self.connects.pop(0)) is not None:
            raise error

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        self.gate.wait(10)
        sequences = [envelope.event.sequence or 0 for envelope in batch]
        self.calls.append("write")
        self.offers.append(sequences)
        if self.script and (error := self.script.pop(0)) is not None:
            self.accepted += sequences[: getattr(error, "acknowledged", 0)]
            raise error
        for place, sequence in enumerate(sequences):
            if sequence in self.poison:
                raise Refused(f"no {sequence}", acknowledged=place)
            self.accepted.append(sequence)

    def idle(self) -> None:
        self.calls.append("idle")

    def close(self, timeout_seconds: float) -> None:
        self.calls.append("close")


Build = Callable[..., Courier]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(JournalOptions(path=tmp_path))
    journal.open()
    yield journal
    journal.close()


@pytest.fixture
def sink() -> ScriptedSink:
    return ScriptedSink()


@pytest.fixture
def build(journal: Journal, sink: ScriptedSink) -> Iterator[Build]:
    couriers: list[Courier] = []

    def build_one(**options: object) -> Courier:
        settings = SinkOptions.model_validate({"from": "start", "retry": FAST, "batch": Batch(max_events=10)} | options)
        couriers.append(Courier("s", sink, journal, settings))
        couriers[-1].start()
        return couriers[-1]

    yield build_one
    for courier in couriers:
        assert courier.stop(10)


def append(journal: Journal, count: int, first: int = 1) -> None:
    journal.append([make_event(number) for number in range(first, first + count)])


def at_the_end(journal: Journal, offset: int) -> None:
    wait_for(lambda: journal.cursor("s") == offset, f"cursor {offset}, not {journal.cursor('s')}")


def test_everything_is_offered_in_order_in_batches(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    append(journal, 25)
    courier = build()
    at_the_end(journal, 25)
    append(journal, 1, 26)
    at_the_end(journal, 26)
    assert sink.accepted == list(range(1, 27))
    assert [len(offer) for offer in sink.offers] == [10, 10, 5, 1]
    assert courier.status().state is SinkState.UP
    assert courier.status().delivered == 26
    assert sink.calls[0] == "connect"
    assert sink.calls.count("connect") == 1


@pytest.mark.parametrize("ending", [Retry, NotConnected])
def test_the_rest_behind_the_acknowledged_front_is_offered_again(
    journal: Journal, sink: ScriptedSink, build: Build, ending: type[SinkError]
) -> None:
    sink.script = [ending("not now", acknowledged=4), ending("still not"), None]
    append(journal, 10)
    courier = build()
    at_the_end(journal, 10)
    assert sink.offers == [list(range(1, 11)), list(range(5, 11)), list(range(5, 11))]
    assert sink.accepted == list(range(1, 11))
    assert sink.calls.count("connect") == (3 if ending is NotConnected else 1)
    assert courier.status().failed == 2
    assert courier.status().last_error == "still not"


def test_a_servers_wish_wins_over_the_back_off(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    sink.script = [Retry("slow down", after_seconds=0.0), None]
    append(journal, 1)
    build(retry=Waits(initial=1000, max=1000))
    at_the_end(journal, 1)


def test_a_sink_that_cannot_connect_is_tried_again(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    sink.connects = [NotConnected("no route"), NotConnected("no route"), None]
    append(journal, 3)
    build()
    at_the_end(journal, 3)
    assert sink.accepted == [1, 2, 3]


def test_the_waits_grow_while_a_sink_connects_and_then_fails(journal: Journal, sink: ScriptedSink) -> None:
    """A connection alone is no success: what failed must go through."""
    attempts: list[int] = []

    def note_attempt() -> float:
        attempts.append(courier._attempts)
        return 0.0

    sink.script = [NotConnected("lost")] * 4
    append(journal, 1)
    options = SinkOptions.model_validate({"from": "start", "retry": FAST})
    courier = Courier("s", sink, journal, options, chance=note_attempt)
    courier.start()
    at_the_end(journal, 1)
    assert courier.stop(10)
    assert attempts == [1, 2, 3, 4]


@pytest.mark.parametrize("poison", [{1}, {6}, {10}, {2, 3}, {1, 10}])
def test_a_refused_event_alone_becomes_a_dead_letter(
    journal: Journal, sink: ScriptedSink, build: Build, poison: set[int]
) -> None:
    sink.poison = poison
    append(journal, 10)
    courier = build()
    at_the_end(journal, 10)
    assert sink.accepted == [number for number in range(1, 11) if number not in poison]
    assert courier.status().dead_letters == journal.dead_letters("s") == len(poison)


def test_a_sink_that_cannot_tell_which_is_offered_halves(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    append(journal, 8)

    def write(batch: Sequence[Envelope], timeout_seconds: float) -> None:
        sequences = [envelope.event.sequence or 0 for envelope in batch]
        sink.offers.append(sequences)
        if 6 in sequences:
            raise Refused("one of these", acknowledged=0)
        sink.accepted.extend(sequences)

    sink.write = write  # type: ignore[method-assign]
    build()
    at_the_end(journal, 8)
    assert sink.accepted == [1, 2, 3, 4, 5, 7, 8]
    assert journal.dead_letters("s") == 1


def test_a_far_end_that_wants_no_more_turns_the_sink_off(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    sink.script = [Gone("410", acknowledged=2)]
    append(journal, 5)
    courier = build()
    wait_for(lambda: courier.status().state is SinkState.GONE, "the end")
    append(journal, 5, 6)
    assert journal.cursor("s") == 2
    assert len(sink.offers) == 1
    assert courier.status().lag_events == 8


def test_a_bug_in_a_sink_is_survived(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    sink.script = [ZeroDivisionError("oops"), None]
    append(journal, 2)
    courier = build()
    at_the_end(journal, 2)
    assert sink.accepted == [1, 2]
    assert courier.status().failed == 1


def test_what_when_leaves_out_moves_the_cursor_all_the_same(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    journal.append([make_event(1), make_event(2, "EXIT", data={"exit_code": 1}), make_event(3), make_event(4)])
    build(when=When(events=("exit",)))
    at_the_end(journal, 4)
    assert sink.accepted == [2]
    append(journal, 30, 5)
    at_the_end(journal, 34)
    assert sink.accepted == [2]


def test_a_new_sink_starts_at_the_tail_unless_told_otherwise(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    append(journal, 5)
    build(**{"from": "end"})
    wait_for(lambda: "idle" in sink.calls, "idle")
    append(journal, 1, 6)
    at_the_end(journal, 6)
    assert sink.accepted == [6]


def test_a_batch_fills_for_as_long_as_it_may(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    build(batch=Batch(max_events=4, max_wait=60))
    for number in range(1, 9):
        append(journal, 1, number)
    at_the_end(journal, 8)
    assert sink.offers == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_events_too_old_are_given_up_as_dead_letters(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    sink.script = [Retry("no")] * 1000
    append(journal, 3)
    build(retry=Waits(initial=0.001, max=0.01, give_up_after=0.05))
    at_the_end(journal, 3)
    assert journal.dead_letters("s") == 3


def test_a_stop_ends_after_the_write_at_hand_and_the_rest_comes_after_the_next_start(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    sink.gate.clear()
    append(journal, 15)
    courier = build()
    wait_for(lambda: "connect" in sink.calls)
    courier.request_stop()
    assert not courier.stop(0.05)
    sink.gate.set()
    assert courier.stop(10)
    assert sink.calls[-1] == "close"
    assert len(sink.accepted) in {0, 10}
    build()
    at_the_end(journal, 15)
    assert sink.accepted == list(range(1, 16))
