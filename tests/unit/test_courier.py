"""The courier's table of endings (meshbridge.sinks.base), against a scripted sink and a real journal."""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from meshbridge import telemetry
from meshbridge.delivery import Courier
from meshbridge.delivery import courier as courier_module
from meshbridge.delivery.breaker import Breaker
from meshbridge.delivery.routing import Route
from meshbridge.fields import Batch, When
from meshbridge.fields import RetryWaits as Waits
from meshbridge.journal import Journal, JournalOptions
from meshbridge.journal import journal as journal_module
from meshbridge.journal.ledger import Tail
from meshbridge.model.events import Envelope, Event
from meshbridge.model.status import BreakerState, PassState, ReplayStatus, SinkState
from meshbridge.sinks.base import Gone, Later, NotConnected, Refused, Retry, SinkError
from meshbridge.sinks.options import SinkOptions
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


def counted(name: str, **labels: str) -> float:
    return telemetry.REGISTRY.get_sample_value(f"meshbridge_{name}_total", {"sink": "s", **labels}) or 0.0


def append(journal: Journal, count: int, first: int = 1) -> None:
    journal.append([make_event(number) for number in range(first, first + count)])


def at_the_end(journal: Journal, offset: int) -> None:
    wait_for(lambda: journal.cursor("s") == offset, f"cursor {offset}, not {journal.cursor('s')}")


def test_connections_that_are_lost_at_once_make_the_waits_grow(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    """As where two clients take each other's session: each connect and each write succeeds, and then it is lost."""
    append(journal, 40)
    sink.script = [None if number % 2 else NotConnected("taken over", acknowledged=1) for number in range(16)]
    courier = build(batch=Batch(max_events=1))
    wait_for(lambda: courier.status().breaker is not BreakerState.CLOSED, "the breaker to open")
    at_the_end(journal, 40)
    assert sink.accepted == sorted(sink.accepted)


def test_a_sink_that_holds_a_batch_gets_it_again_with_what_has_come_in(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    append(journal, 4)
    sink.script = [Later("not due", after_seconds=0.0, acknowledged=1), Later("not due", after_seconds=3600.0)]
    courier = build(when=When(events=("stdout",)))
    wait_for(lambda: len(sink.offers) >= 2, "the second offer")
    append(journal, 9, 5)
    at_the_end(journal, 13)
    assert sink.offers[:2] == [[1, 2, 3, 4], [2, 3, 4]]
    assert sink.offers[2][:3] == [2, 3, 4]
    assert max(map(len, sink.offers)) <= 10
    assert sink.accepted == list(range(1, 14))
    status = courier.status()
    assert (status.failed, status.last_error, status.state) == (0, None, SinkState.UP)


def test_a_held_batch_is_not_waited_for_by_a_stop(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    append(journal, 3)
    sink.script = [Later("not due", after_seconds=3600.0)] * 1000
    courier = build()
    wait_for(lambda: courier.status().held, "the hold")
    assert courier.status().state is SinkState.UP
    assert courier.stop(10)
    assert journal.cursor("s") == 0


def test_the_status_has_the_last_errors_and_since_when_it_fails(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    append(journal, 1)
    sink.script = [Retry("answers 503"), Retry("answers 503"), NotConnected("reset")]
    courier = build()
    at_the_end(journal, 1)
    wait_for(lambda: courier.status().failing_since is None, "the end of the fault")
    status = courier.status()
    assert [(one.error, one.count) for one in status.errors] == [("answers 503", 2), ("reset", 1)]
    first, last = status.errors
    assert first.first_at <= first.last_at <= last.first_at == last.last_at == status.last_error_at
    sink.script = [Retry(f"error {number}") for number in range(12)] + [Gone("no more")]
    append(journal, 1, 2)
    wait_for(lambda: courier.status().state is SinkState.GONE, "the end of delivery")
    status = courier.status()
    assert [one.error for one in status.errors] == [*(f"error {number}" for number in range(3, 12)), "no more"]
    assert status.failing_since is not None
    assert last.last_at <= status.failing_since <= status.errors[0].first_at


def test_the_status_says_since_when_a_sink_is_paused(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    courier = build()
    courier.pause()
    since = courier.status().paused_since
    courier.pause()
    assert courier.status().paused_since == since is not None
    courier.resume()
    assert courier.status().paused_since is None


def test_one_connection_that_is_lost_at_once_is_forgiven(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    append(journal, 5)
    sink.script = [NotConnected("restart")]
    courier = build()
    at_the_end(journal, 5)
    assert courier.status().breaker is BreakerState.CLOSED
    append(journal, 5, 6)
    at_the_end(journal, 10)


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


def test_a_wish_for_no_wait_at_all_makes_no_hot_loop(
    journal: Journal, sink: ScriptedSink, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "_LEAST_SECONDS", 3600.0)
    sink.script = [Retry("slow down", after_seconds=0.0)]
    append(journal, 1)
    courier = build()
    wait_for(lambda: courier.status().state is SinkState.WAITING, "the wait")
    courier.resume()
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
        attempts.append(courier._breaker.failures)
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


def test_a_bug_in_a_sink_is_survived(
    journal: Journal, sink: ScriptedSink, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted each time, told once."""
    before = counted("sink_failed", reason="bug")
    told: list[str] = []
    monkeypatch.setattr(telemetry, "sink_bug", told.append)
    sink.script = [ZeroDivisionError("oops"), ZeroDivisionError("oops"), KeyError("other"), None]
    append(journal, 2)
    courier = build()
    at_the_end(journal, 2)
    assert sink.accepted == [1, 2]
    assert courier.status().failed == counted("sink_failed", reason="bug") - before == 3
    assert told == ["s", "s"]


@pytest.mark.parametrize("place", [1, 5, 8])
def test_an_event_on_which_a_sink_always_fails_becomes_a_dead_letter(
    journal: Journal, sink: ScriptedSink, build: Build, place: int
) -> None:
    write = sink.write

    def fails_on_one(batch: Sequence[Envelope], timeout_seconds: float) -> None:
        if any(envelope.event.sequence == place for envelope in batch):
            raise UnicodeError(f"'{'x' * 100_000}' is too long")
        write(batch, timeout_seconds)

    sink.write = fails_on_one  # type: ignore[method-assign]
    append(journal, 8)
    courier = build()
    at_the_end(journal, 8)
    assert sink.accepted == [number for number in range(1, 9) if number != place]
    wait_for(lambda: courier.status().dead_letters == 1, "the dead letter")
    assert journal.flush(10)
    (letter,) = journal.letters.find("s")
    assert (letter.envelope.event.sequence, letter.reason) == (place, "bug")
    assert letter.error.startswith("unexpected UnicodeError")
    assert len(letter.error) < 1000


def test_bugs_before_an_event_was_delivered_do_not_count_when_it_is_replayed(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    sink.script = [ZeroDivisionError("oops"), ZeroDivisionError("oops"), None]
    append(journal, 1)
    courier = build()
    at_the_end(journal, 1)
    sink.script = [ZeroDivisionError("oops"), None]
    courier.replay()
    done = replay_ended(courier)
    assert (done.sent, done.refused) == (1, 0)
    assert courier.status().dead_letters == 0


def test_an_event_on_which_the_rules_of_a_sink_fail_becomes_a_dead_letter(
    journal: Journal, sink: ScriptedSink, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(_route: Route, event: Event) -> Event:
        if event.sequence == 2:
            raise ValueError("year 33658 is out of range")
        return event

    monkeypatch.setattr(Route, "take", take)
    append(journal, 3)
    courier = build()
    at_the_end(journal, 3)
    assert sink.accepted == [1, 3]
    wait_for(lambda: courier.status().dead_letters == 1, "the dead letter")


def test_what_when_leaves_out_moves_the_cursor_all_the_same(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    journal.append([make_event(1), make_event(2, "EXIT", data={"exit_code": 1}), make_event(3), make_event(4)])
    build(when=When(events=("exit",)))
    at_the_end(journal, 4)
    assert sink.accepted == [2]
    append(journal, 30, 5)
    at_the_end(journal, 34)
    assert sink.accepted == [2]


@pytest.mark.parametrize(
    "rule",
    [
        {"sample": 0},
        {"rate_limit": 0.0001},
        {"when": When(exit_codes=("!0",), events=("exit",))},
        {"when": When(owners=("ops",))},
    ],
)
def test_every_rule_that_leaves_events_out_moves_the_cursor_and_counts_them(
    journal: Journal, sink: ScriptedSink, build: Build, rule: dict[str, object]
) -> None:
    before = counted("events_filtered")
    append(journal, 20)
    journal.append([make_event(21, "EXIT", data={"exit_code": 0})])
    build(**rule)
    at_the_end(journal, 21)
    wait_for(lambda: "idle" in sink.calls, "idle")
    assert counted("events_filtered") - before == 21 - len(sink.accepted)
    assert len(sink.accepted) == (2 if "rate_limit" in rule else 1 if "sample" in rule else 0)
    assert journal.lag("s") == (0, 0.0)


def test_a_sink_idles_while_much_is_left_out_and_while_a_batch_fills(
    journal: Journal, sink: ScriptedSink, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its connection would starve."""
    monkeypatch.setattr(courier_module, "_IDLE_SECONDS", 0.0)
    append(journal, 100)
    build(when=When(events=("exit",)), batch=Batch(max_events=10, max_wait=3600))
    at_the_end(journal, 100)
    assert sink.calls.count("idle") >= 10
    journal.append([make_event(101, "EXIT", data={"exit_code": 0})])
    idled = sink.calls.count("idle")
    wait_for(lambda: sink.calls.count("idle") > idled + 2, "idle")
    assert journal.cursor("s") == 100
    journal.append([make_event(number, "EXIT", data={"exit_code": 0}) for number in range(102, 111)])
    at_the_end(journal, 110)
    assert sink.offers == [list(range(101, 111))]


def test_a_batch_that_does_not_fill_goes_out_when_its_time_is_over(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    append(journal, 3)
    build(batch=Batch(max_events=4, max_wait=0.05))
    at_the_end(journal, 3)
    assert sink.offers == [[1, 2, 3]]


def test_a_batch_whose_events_are_too_large_for_one_read_does_not_wait_for_more(
    journal: Journal, sink: ScriptedSink, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_READ_BYTES", 1)
    append(journal, 3)
    monkeypatch.setattr(journal._ledger, "tail", Tail(3))  # so that they are read from the disk
    build(batch=Batch(max_events=4, max_wait=3600))
    wait_for(lambda: sink.accepted == [1, 2], "the two behind which there are more")
    append(journal, 1, 4)
    wait_for(lambda: sink.accepted == [1, 2, 3], "the third")


def test_a_pause_and_a_stop_do_not_wait_for_a_batch_to_fill(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    append(journal, 3)
    courier = build(batch=Batch(max_events=4, max_wait=3600))
    wait_for(lambda: sink.calls.count("idle") > 0, "idle")
    courier.pause()
    wait_for(lambda: courier.status().state is SinkState.PAUSED, "the pause")
    assert sink.offers == []
    courier.resume()
    assert courier.stop(5)


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


def test_only_what_is_too_old_is_given_up(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    old = [dataclasses.replace(make_event(number), received_at=1.0) for number in (1, 2, 3)]
    journal.append([*old, make_event(4), make_event(5)])
    sink.script = [Retry("no")]
    courier = build(retry=Waits(initial=0.001, max=0.01, give_up_after=3600))
    at_the_end(journal, 5)
    assert sink.accepted == [4, 5]
    assert journal.flush(10)
    letters = journal.letters.find("s")
    assert [(letter.envelope.event.sequence, letter.reason, letter.error) for letter in letters] == [
        (number, "gave_up", "no") for number in (1, 2, 3)
    ]
    assert courier.status().dead_letters == 3


def test_what_is_too_old_is_delivered_all_the_same_where_the_far_end_takes_it(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    journal.append([dataclasses.replace(make_event(1), received_at=1.0)])
    build(retry=Waits(give_up_after=3600))
    at_the_end(journal, 1)
    assert sink.accepted == [1]


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


# --- the operator's hand ---------------------------------------------------------------------------------------------


def test_a_paused_sink_is_offered_nothing_and_keeps_its_connection(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    append(journal, 3)
    courier = build()
    at_the_end(journal, 3)
    courier.pause()
    wait_for(lambda: courier.status().state is SinkState.PAUSED, "the pause")
    append(journal, 3, 4)
    idled = sink.calls.count("idle")
    wait_for(lambda: sink.calls.count("idle") > idled, "idle")
    assert sink.accepted == [1, 2, 3]
    assert courier.status().lag_events == 3
    courier.resume()
    at_the_end(journal, 6)
    assert sink.accepted == [1, 2, 3, 4, 5, 6]
    assert sink.calls.count("connect") == 1


def test_a_sink_paused_between_attempts_goes_on_with_the_same_batch(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    sink.script = [Retry("busy")]
    append(journal, 5)
    courier = build(retry=Waits(initial=1000, max=1000))
    wait_for(lambda: courier.status().state is SinkState.WAITING, "the wait")
    courier.pause()
    wait_for(lambda: courier.status().state is SinkState.PAUSED, "the pause")
    append(journal, 5, 6)
    courier.resume()
    at_the_end(journal, 10)
    assert sink.offers == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


def test_a_resume_ends_a_wait_and_takes_up_a_sink_that_was_turned_off(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    sink.script = [Retry("busy", after_seconds=3600), Gone("410"), None]
    append(journal, 2)
    courier = build()
    wait_for(lambda: courier.status().state is SinkState.WAITING, "the wait")
    courier.resume()
    wait_for(lambda: courier.status().state is SinkState.GONE, "the end")
    assert sink.calls[-1] == "close"
    courier.resume()
    at_the_end(journal, 2)
    assert sink.accepted == [1, 2]
    assert courier.status().state is SinkState.UP


def test_a_stop_does_not_wait_for_a_servers_wish(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    sink.script = [Retry("busy", after_seconds=3600)]
    append(journal, 1)
    courier = build()
    wait_for(lambda: courier.status().state is SinkState.WAITING, "the wait")
    assert courier.stop(5)


# --- the breaker -----------------------------------------------------------------------------------------------------


def test_after_some_failures_each_trial_begins_with_a_connection(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    sink.script = [Retry("busy")] * 7
    append(journal, 12)
    courier = build()
    at_the_end(journal, 12)
    assert sink.offers[:8] == [list(range(1, 11))] * 8  # the batch stays the same
    writes_and_connects = [call for call in sink.calls if call != "idle"]
    assert writes_and_connects[:9] == ["connect", *["write"] * 5, "close", "connect", "write"]
    assert courier.status().breaker is BreakerState.CLOSED


def test_the_breaker_is_open_between_trials_and_closed_by_one_that_comes_through() -> None:
    breaker = Breaker()
    assert [breaker.failed() for _ in range(5)] == [False] * 4 + [True]
    states = [breaker.state]
    breaker.try_again()
    states.append(breaker.state)
    assert not breaker.failed()
    states.append(breaker.state)
    breaker.try_again()
    assert states == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.OPEN]
    assert breaker.succeeded()
    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 0)
    assert not breaker.succeeded()


def test_half_open_means_one_trial_of_the_batch_at_hand_over_a_new_connection(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    sink.script = [Retry("busy")] * 6
    append(journal, 15)
    courier = build(retry=Waits(initial=3600, max=3600))
    for attempt in range(1, 6):
        wait_for(lambda attempt=attempt: len(sink.offers) == attempt, f"attempt {attempt}")  # type: ignore[misc]
        wait_for(lambda: courier.status().state is SinkState.WAITING, "the wait")
        if attempt < 5:
            assert courier.status().breaker is BreakerState.CLOSED
            courier.resume()
    wait_for(lambda: courier.status().breaker is BreakerState.OPEN, "the breaker")
    wait_for(lambda: sink.calls[-1] == "close", "the connection let go")
    states: list[BreakerState] = []
    connect = sink.connect

    def note(timeout_seconds: float) -> None:
        states.append(courier.status().breaker)
        connect(timeout_seconds)

    sink.connect = note  # type: ignore[method-assign]
    courier.resume()
    wait_for(lambda: len(sink.offers) == 6, "the first trial")
    wait_for(lambda: courier.status().breaker is BreakerState.OPEN, "the breaker, open again")
    assert courier.status().state is SinkState.WAITING
    courier.resume()
    at_the_end(journal, 15)
    assert states == [BreakerState.HALF_OPEN] * 2
    assert sink.offers == [list(range(1, 11))] * 7 + [list(range(11, 16))]
    assert courier.status().breaker is BreakerState.CLOSED


def test_a_sink_that_is_down_delays_no_other(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    other = ScriptedSink()
    sink.connects = [NotConnected("no route")] * 1000
    build()
    courier = Courier("other", other, journal, SinkOptions.model_validate({"from": "start"}))
    courier.start()
    append(journal, 50)
    wait_for(lambda: journal.cursor("other") == 50, "the other sink's end")
    assert courier.stop(5)
    assert sink.accepted == []


# --- replays ---------------------------------------------------------------------------------------------------------


def replay_ended(courier: Courier) -> ReplayStatus:
    over = {PassState.DONE, PassState.CANCELLED}
    return wait_for(lambda: [one for one in courier.replays() if one.state in over], "the end of the replay")[0]


def test_a_replay_passes_beside_the_cursor_and_is_marked(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    journal.append([make_event(1), make_event(2, "EXIT", data={"exit_code": 1}), make_event(3, app="db")])
    courier = build()
    at_the_end(journal, 3)
    marked: list[bool] = []
    write = sink.write

    def note(batch: Sequence[Envelope], timeout_seconds: float) -> None:
        marked.extend(envelope.event.replayed for envelope in batch)
        write(batch, timeout_seconds)

    sink.write = note  # type: ignore[method-assign]
    courier.replay(when=When(apps=("web",)))
    done = replay_ended(courier)
    assert (done.sent, done.looked_at, done.total, done.state) == (2, 3, 3, PassState.DONE)
    assert sink.accepted == [1, 2, 3, 1, 2]
    append(journal, 1, 4)
    at_the_end(journal, 4)
    assert marked == [True, True, False]
    assert journal.cursor("s") == 4


def test_a_replay_keeps_to_its_times_and_to_the_sinks_own_rules(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    journal.append([dataclasses.replace(make_event(number), received_at=float(number)) for number in range(1, 10)])
    journal.append([dataclasses.replace(make_event(10, "EXIT", data={"exit_code": 0}), received_at=5.0)])
    courier = build(when=When(events=("stdout",)))
    at_the_end(journal, 10)
    sink.accepted.clear()
    courier.replay(since=3.0, until=7.0)
    assert replay_ended(courier).sent == 4
    assert sink.accepted == [3, 4, 5, 6]


def test_new_events_and_a_replay_take_turns(journal: Journal, sink: ScriptedSink, build: Build) -> None:
    append(journal, 100)
    courier = build(**{"from": "end"})
    wait_for(lambda: courier.status().state is SinkState.UP, "the sink")
    sink.gate.clear()
    courier.replay()
    wait_for(lambda: courier.replays()[0].state is PassState.RUNNING, "the replay")
    append(journal, 50, 101)
    sink.gate.set()
    replay_ended(courier)
    at_the_end(journal, 150)
    first_live = sink.accepted.index(101)
    assert 0 < first_live < 40
    assert [number for number in sink.accepted if number > 100] == list(range(101, 151))
    assert [number for number in sink.accepted if number <= 100] == list(range(1, 101))


def test_a_replay_can_be_cancelled_and_what_is_refused_in_it_is_counted(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    append(journal, 40)
    courier = build(**{"from": "end"})
    wait_for(lambda: courier.status().state is SinkState.UP, "the sink")
    sink.poison = {5}
    sink.script = [*[None] * 5, Retry("busy", after_seconds=3600)]
    replay = courier.replay()
    wait_for(lambda: courier.status().state is SinkState.WAITING, "the wait")
    assert courier.cancel_replay(replay.id)
    courier.resume()
    done = replay_ended(courier)
    assert done.state is PassState.CANCELLED
    assert done.refused == 1
    assert journal.dead_letters("s") == 0
    assert not courier.cancel_replay(replay.id)


def test_a_replay_ends_where_what_was_left_of_it_has_been_deleted(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    journal.append([dataclasses.replace(make_event(number), received_at=1.0) for number in range(1, 31)])
    courier = build(**{"from": "end"})
    sink.gate.clear()
    courier.replay()
    wait_for(lambda: courier.replays()[0].state is PassState.RUNNING, "the replay")
    journal.prune()
    wait_for(lambda: journal.status().events == 0, "pruning")
    sink.gate.set()
    done = replay_ended(courier)
    assert (done.state, done.sent, done.looked_at, done.total) == (PassState.DONE, 10, 30, 30)


def test_a_replay_goes_on_after_the_journal_was_mended(
    journal: Journal, sink: ScriptedSink, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(journal, 30)
    courier = build(**{"from": "end"})
    read, empty = journal.read, [True, True, False]
    monkeypatch.setattr(journal, "read", lambda *a: [] if empty and empty.pop(0) else read(*a))
    courier.replay()
    assert replay_ended(courier).sent == 30
    assert sink.accepted == list(range(1, 31))


# --- dead letters ----------------------------------------------------------------------------------------------------


def test_dead_letters_are_offered_again_when_an_operator_wants_it(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    sink.poison = {3, 7}
    append(journal, 10)
    courier = build()
    at_the_end(journal, 10)
    assert journal.flush(10)
    sink.poison = {7}
    assert journal.letters.retry("s", []) == 2
    courier.retry_letters()
    wait_for(lambda: journal.dead_letters("s") == 1, "one letter less")
    assert sink.accepted[-1] == 3
    (left,) = wait_for(lambda: [one for one in journal.letters.find("s") if not one.retry], "the letter that stays")
    assert (left.envelope.event.sequence, left.error) == (7, "no 7")
    sink.poison = set()
    journal.letters.retry("s", [left.id])
    courier.retry_letters()
    wait_for(lambda: journal.dead_letters("s") == 0, "no letter left")
    assert sink.accepted[-1] == 7


def test_letters_marked_while_nothing_ran_are_offered_at_the_next_start(
    journal: Journal, sink: ScriptedSink, build: Build
) -> None:
    append(journal, 1)
    journal.add_dead_letter("s", journal.read(0, 1)[0], "refused", "no")
    assert journal.flush(10)
    journal.letters.retry("s", [])
    build(**{"from": "end"})
    wait_for(lambda: sink.accepted == [1], "the letter")
    wait_for(lambda: journal.dead_letters("s") == 0, "no letter left")
