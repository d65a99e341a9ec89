"""The figures of the last hour and day: what each ring keeps, and how much memory that takes."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from meshbridge.model.figures import SAMPLE_SECONDS, FigureRing, Range
from meshbridge.model.status import JournalStatus, LinkStatus, SinkStatus

UNIX = 1_795_600_000.0


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


def sample(ring: FigureRing, received: int = 0, delivered: int = 0, **more: float) -> None:
    """Of one daemon and one sink; ``size`` is the journal's."""
    size = int(more.pop("size", 0))
    sink = SinkStatus("hook", delivered=delivered, lag_events=int(more.pop("lag_events", 0)), **more)  # type: ignore[arg-type]
    ring.sample([LinkStatus("node-a", events_received=received)], [sink], JournalStatus("", bytes=size))


def test_an_empty_ring_has_no_times() -> None:
    found = FigureRing().figures(Range.HOUR, UNIX)
    assert (found.times, found.daemons, found.sinks, found.journal.bytes) == ([], {}, {}, [])


def test_rates_are_between_two_samples_and_levels_as_they_are() -> None:
    clock = Clock()
    ring = FigureRing(clock)
    sample(ring, received=1000, delivered=900, lag_events=100, lag_seconds=2.5, dead_letters=1, size=4096)
    clock.now += 10
    sample(ring, received=1500, delivered=900, lag_events=600, lag_seconds=12.25, dead_letters=2, size=8192)
    clock.now += 4
    found = ring.figures(Range.HOUR, UNIX)
    assert found.times == [UNIX - 14, UNIX - 4]
    assert found.step_seconds == SAMPLE_SECONDS
    assert found.daemons["node-a"].events_per_second == [None, 50.0]
    hook = found.sinks["hook"]
    assert (hook.events_per_second, hook.lag_events, hook.lag_seconds, hook.dead_letters) == (
        [None, 0.0], [100.0, 600.0], [2.5, 12.25], [1.0, 2.0],
    )  # fmt: skip
    assert found.journal.bytes == [4096.0, 8192.0]


def test_a_late_sample_is_a_longer_step_and_no_peak() -> None:
    clock = Clock()
    ring = FigureRing(clock)
    sample(ring, received=0)
    clock.now += 50
    sample(ring, received=500)
    assert ring.figures(Range.HOUR, UNIX).daemons["node-a"].events_per_second == [None, 10.0]


def test_a_count_that_begins_again_at_zero_is_no_negative_rate() -> None:
    clock = Clock()
    ring = FigureRing(clock)
    sample(ring, delivered=5000)
    clock.now += 10
    sample(ring, delivered=20)
    assert ring.figures(Range.HOUR, UNIX).sinks["hook"].events_per_second == [None, 2.0]


def test_parts_come_and_go_with_the_configuration() -> None:
    clock = Clock()
    ring = FigureRing(clock)
    sample(ring)
    clock.now += 10
    ring.sample([LinkStatus("node-b", events_received=7)], [], JournalStatus(""))
    found = ring.figures(Range.HOUR, UNIX)
    assert {name: of.events_per_second for name, of in found.daemons.items()} == {"node-b": [None, None]}
    assert found.sinks == {}
    assert found.journal.bytes == [0.0, 0.0]


def test_the_day_has_the_mean_of_rates_and_the_largest_of_levels() -> None:
    clock = Clock()
    ring = FigureRing(clock)
    received = 0
    for step in range(61):
        received += 100 if step % 2 else 300
        sample(ring, received=received, lag_events=77 if step == 13 else 1)
        clock.now += SAMPLE_SECONDS
    found = ring.figures(Range.DAY, UNIX)
    assert found.step_seconds == 300
    assert found.daemons["node-a"].events_per_second == [None, 20.0, 20.0]
    assert found.sinks["hook"].lag_events == [1.0, 77.0, 1.0]


@given(st.integers(0, 1000))
def test_the_hour_holds_the_last_hour_in_order(samples: int) -> None:
    clock = Clock()
    ring = FigureRing(clock)
    for number in range(samples):
        clock.now = 500.0 + SAMPLE_SECONDS * number
        sample(ring, lag_events=number)
    found = ring.figures(Range.HOUR, UNIX)
    kept = range(max(0, samples - 360), samples)
    assert found.times == [UNIX - SAMPLE_SECONDS * (samples - 1 - number) for number in kept]
    assert found.sinks == {} if not samples else found.sinks["hook"].lag_events == [float(number) for number in kept]


def test_ten_daemons_and_five_sinks_take_less_than_128_kib_however_long() -> None:
    clock = Clock()
    links = [LinkStatus(f"node-{number}", events_received=number) for number in range(10)]
    sinks = [SinkStatus(f"sink-{number}") for number in range(5)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ring = FigureRing(clock)
        sizes = []
        for _ in range(2):
            for _ in range(400):
                ring.sample(links, sinks, JournalStatus(""))
                clock.now += SAMPLE_SECONDS
            sizes.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert sizes[1] < 128 * 1024
    assert sizes[1] <= sizes[0] * 1.05
