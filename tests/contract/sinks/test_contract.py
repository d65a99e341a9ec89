"""The contract kit: one set of tests that every sink passes. A new sink gets them by being listed in ``FAR_ENDS``.

What each test holds a sink to is the text of ``meshbridge.sinks.base``.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from meshbridge.model.events import Envelope
from meshbridge.sinks.base import Gone, NotConnected, Refused, Retry, Sink, SinkError
from tests.contract.sinks.driver import CALL_SECONDS, assert_arrived, assert_complete, assert_no_secret, deliver, write
from tests.contract.sinks.far_amqp import AmqpFarEnd
from tests.contract.sinks.far_end import FarEnd, Say
from tests.contract.sinks.far_file import FileFarEnd, RotatedFileFarEnd
from tests.contract.sinks.far_kafka import KafkaFarEnd
from tests.contract.sinks.far_lines import LinesFarEnd
from tests.contract.sinks.far_loki import LokiFarEnd
from tests.contract.sinks.far_mqtt import MqttFarEnd
from tests.contract.sinks.far_nats import NatsFarEnd
from tests.contract.sinks.far_notify import NotifyFarEnd
from tests.contract.sinks.far_otlp import OtlpFarEnd
from tests.contract.sinks.far_redis import RedisFarEnd
from tests.contract.sinks.far_syslog import SyslogFarEnd
from tests.contract.sinks.far_webhook import BatchWebhookFarEnd, WebhookFarEnd
from tests.support import envelopes, make_event, returns_in_time

FAR_ENDS: dict[str, type[FarEnd]] = {
    "amqp": AmqpFarEnd,
    "webhook": WebhookFarEnd,
    "webhook-batch": BatchWebhookFarEnd,
    "file": FileFarEnd,
    "file-rotated": RotatedFileFarEnd,
    "kafka": KafkaFarEnd,
    "loki": LokiFarEnd,
    "mqtt": MqttFarEnd,
    "nats": NatsFarEnd,
    "notify": NotifyFarEnd,
    "otlp": OtlpFarEnd,
    "redis": RedisFarEnd,
    "syslog": SyslogFarEnd,
    "the guide's": LinesFarEnd,
}

Test = TypeVar("Test", bound=Callable[..., Any])
APPS = ("web", "db", "cache", "queue", "mail")


def meets(say: Say) -> Callable[[Test], Test]:
    """Leaves a test to the destinations that can answer so."""

    def mark(test: Test) -> Test:
        test.meets = say  # type: ignore[attr-defined]
        return test

    return mark


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "far" in metafunc.fixturenames:
        say: Say = getattr(metafunc.function, "meets", Say.OK)
        names = [name for name, kind in FAR_ENDS.items() if say in kind.says]
        metafunc.parametrize("far", names, indirect=True)


@pytest.fixture
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FarEnd]:
    made = FAR_ENDS[request.param](tmp_path)
    made.start()
    yield made
    made.stop()
    made.close()


@pytest.fixture
def sink(far: FarEnd) -> Iterator[Sink]:
    made = far.sink()
    made.connect(CALL_SECONDS)
    yield made
    made.close(CALL_SECONDS)


def some(count: int, first: int = 1) -> list[Envelope]:
    """Events of five apps that take turns."""
    return envelopes([make_event(first + n, app=APPS[n % len(APPS)]) for n in range(count)], first)


def test_write_returns_when_all_of_the_batch_is_there(far: FarEnd, sink: Sink) -> None:
    batch = some(50)
    write(sink, batch)
    assert_complete(far, batch)
    assert len(far.arrived()) == len(batch)


def test_writes_follow_one_another_in_order(far: FarEnd, sink: Sink) -> None:
    for first in range(1, 61, 20):
        write(sink, some(20, first))
    assert_complete(far, some(60))


def test_a_batch_of_one_is_a_batch(far: FarEnd, sink: Sink) -> None:
    write(sink, some(1))
    assert_complete(far, some(1))


def test_connect_again_starts_afresh(far: FarEnd, sink: Sink) -> None:
    write(sink, some(5))
    sink.connect(CALL_SECONDS)
    write(sink, some(5, 6))
    assert_complete(far, some(10))


def test_write_before_connect_and_after_close_is_not_connected(far: FarEnd) -> None:
    made = far.sink()
    for _ in range(2):
        with pytest.raises(NotConnected) as caught:
            made.write(some(3), CALL_SECONDS)
        assert caught.value.acknowledged == 0
        made.close(CALL_SECONDS)
    assert far.arrived() == []


def test_close_may_come_at_any_time_and_again(far: FarEnd) -> None:
    made = far.sink()
    made.close(CALL_SECONDS)
    made.connect(CALL_SECONDS)
    for _ in range(3):
        with returns_in_time(CALL_SECONDS):
            made.close(CALL_SECONDS)
    made.connect(CALL_SECONDS)
    write(made, some(2))
    made.close(CALL_SECONDS)


def test_connect_says_when_the_far_end_is_down(far: FarEnd) -> None:
    far.stop()
    made = far.sink()
    with returns_in_time(CALL_SECONDS), pytest.raises(NotConnected) as caught:
        made.connect(CALL_SECONDS)
    assert_no_secret(caught.value)
    made.close(CALL_SECONDS)


def test_idle_never_blocks(far: FarEnd, sink: Sink) -> None:
    took = []
    for _ in range(5):
        began = time.monotonic()
        sink.idle()
        took.append(time.monotonic() - began)
    assert min(took) < 0.5
    write(sink, some(3))
    sink.idle()
    assert_complete(far, some(3))


@meets(Say.BUSY)
@pytest.mark.parametrize("place", [0, 7, 19])
def test_busy_is_retry_and_nothing_is_lost(far: FarEnd, sink: Sink, place: int) -> None:
    batch = some(20)
    far.script.plan(batch[place].event, Say.BUSY, Say.OK)
    with pytest.raises(Retry) as caught:
        write(sink, batch)
    assert caught.value.acknowledged <= place
    assert_arrived(far, batch[: caught.value.acknowledged])
    deliver(sink, far, batch[caught.value.acknowledged :])
    assert_complete(far, batch)


@meets(Say.REFUSE)
@pytest.mark.parametrize("place", [0, 7, 19])
def test_a_refused_event_is_the_only_one_that_is_missing(far: FarEnd, sink: Sink, place: int) -> None:
    batch = some(20)
    far.script.plan(batch[place].event, Say.REFUSE)
    course = deliver(sink, far, batch)
    assert course.dead == [batch[place].event]
    assert all(isinstance(error, Refused) for error in course.errors)
    assert_complete(far, batch, course.dead)


@meets(Say.REFUSE)
def test_a_refused_event_and_a_busy_one_in_one_batch(far: FarEnd, sink: Sink) -> None:
    batch = some(20)
    far.script.plan(batch[5].event, Say.REFUSE)
    far.script.plan(batch[3].event, Say.BUSY, Say.OK)
    far.script.plan(batch[11].event, Say.BUSY, Say.OK)
    course = deliver(sink, far, batch)
    assert course.dead == [batch[5].event]
    assert_complete(far, batch, course.dead)


@meets(Say.REFUSE)
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_refused_for_good_costs_nothing_else(far: FarEnd, sink: Sink, count: int) -> None:
    """Of many apps and of one: what stands behind a refused event arrives, and so does what is written later."""
    batch = some(30)
    refused = [envelope.event for envelope in batch if envelope.event.app == "web"][:count]
    for event in refused:
        far.script.plan(event, Say.REFUSE)
    course = deliver(sink, far, batch)
    assert course.dead == refused
    later = some(10, 31)
    write(sink, later)
    assert_complete(far, [*batch, *later], course.dead)


@meets(Say.DENY)
@pytest.mark.parametrize("count", [1, 20])
def test_a_place_that_refuses_for_a_while_costs_no_event(far: FarEnd, sink: Sink, count: int) -> None:
    batch = some(20)
    for envelope in batch[:count]:
        far.script.plan(envelope.event, *[Say.DENY] * 3, Say.OK)
    course = deliver(sink, far, batch)
    assert course.dead == []
    assert course.errors
    assert all(isinstance(error, Retry | NotConnected) for error in course.errors)
    assert_complete(far, batch)


@meets(Say.INTERIM)
def test_an_interim_answer_is_not_taken_for_the_answer(far: FarEnd, sink: Sink) -> None:
    batch = some(20)
    for envelope in batch[::3]:
        far.script.plan(envelope.event, Say.INTERIM)
    write(sink, batch)
    assert_complete(far, batch)
    assert len(far.arrived()) == len(batch)


@meets(Say.GONE)
def test_gone_is_gone(far: FarEnd, sink: Sink) -> None:
    batch = some(20)
    far.script.plan(batch[9].event, Say.GONE)
    with pytest.raises(Gone) as caught:
        write(sink, batch)
    assert_arrived(far, batch[: caught.value.acknowledged])
    assert caught.value.acknowledged <= 9


@meets(Say.SILENT)
def test_silence_ends_with_the_time_given(far: FarEnd, sink: Sink) -> None:
    batch = some(20)
    far.script.plan(batch[4].event, Say.SILENT, Say.OK)
    with returns_in_time(1.0), pytest.raises(SinkError) as caught:
        write(sink, batch, 1.0)
    assert caught.value.acknowledged <= 4
    assert_arrived(far, batch[: caught.value.acknowledged])
    if isinstance(caught.value, NotConnected):
        sink.connect(CALL_SECONDS)
    deliver(sink, far, batch[caught.value.acknowledged :])
    assert_complete(far, batch)


@meets(Say.CUT)
def test_a_cut_connection_loses_nothing(far: FarEnd, sink: Sink) -> None:
    batch = some(30)
    for place in (0, 8, 21):
        far.script.plan(batch[place].event, Say.CUT, Say.OK)
    course = deliver(sink, far, batch)
    assert course.errors
    assert course.dead == []
    assert_complete(far, batch)


def test_a_restart_of_the_far_end_loses_nothing(far: FarEnd, sink: Sink) -> None:
    deliver(sink, far, some(10))
    far.stop()
    with pytest.raises(SinkError) as caught:
        write(sink, some(10, 11))
    assert caught.value.acknowledged == 0
    assert_no_secret(caught.value)
    far.start()
    sink.connect(CALL_SECONDS)
    deliver(sink, far, some(10, 11))
    assert_complete(far, some(20))
