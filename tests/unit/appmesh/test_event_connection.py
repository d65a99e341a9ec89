"""Lines: callbacks on their thread, bounds for slow ones, and what is heard of the end."""

import threading
from collections.abc import Iterator

import pytest

from meshbridge.appmesh import event_connection as module
from meshbridge.appmesh.event_connection import EventConnection, ReopeningConnection
from meshbridge.appmesh.exceptions import AppMeshConnectionError
from meshbridge.appmesh.subscribe import AppEvent
from meshbridge.appmesh.tcp_messages import RequestMessage
from tests.unit.appmesh.fakes import FakeDaemon, FakeTransport, event_message, eventually, no_thread_left


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def line(daemon: FakeDaemon) -> Iterator[EventConnection]:
    with no_thread_left():
        opened = EventConnection(daemon.transport(), name="test")
        opened.open()
        yield opened
        opened.close()


def types(events: list[AppEvent]) -> list[str]:
    return [event.event_type for event in events]


def test_events_reach_their_callback_in_order(daemon: FakeDaemon, line: EventConnection) -> None:
    events: list[AppEvent] = []
    line.listen("s", events.append)
    daemon.connection.push(*[event_message("s", "STDOUT", sequence=number) for number in range(2000)])
    eventually(lambda: len(events) == 2000)
    assert [event.sequence for event in events] == list(range(2000))


def test_events_that_came_before_the_callback_are_delivered_first(daemon: FakeDaemon, line: EventConnection) -> None:
    for number in range(10):
        daemon.connection.event("s", "STDOUT", sequence=number)
    line.request(RequestMessage(), 10)  # whose answer comes after them
    events: list[AppEvent] = []
    line.listen("s", events.append)
    daemon.connection.event("s", "EXIT", sequence=10)
    eventually(lambda: len(events) == 11)
    assert [event.sequence for event in events] == list(range(11))


def test_a_callback_may_make_requests_and_end_its_subscription(daemon: FakeDaemon, line: EventConnection) -> None:
    answered: list[int] = []

    def callback(event: AppEvent) -> None:
        answered.append(line.request(RequestMessage(http_method="GET", request_uri="/x"), 10).http_status)
        line.forget("s")

    line.listen("s", callback)
    daemon.connection.push(event_message("s", "START"), event_message("s", "EXIT"))
    eventually(lambda: answered)
    line.request(RequestMessage(), 10)
    assert answered == [200]


def test_a_callback_that_fails_gets_the_next_event_all_the_same(
    daemon: FakeDaemon, line: EventConnection, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[AppEvent] = []

    def callback(event: AppEvent) -> None:
        events.append(event)
        if len(events) < 4:
            raise RuntimeError("a bug of the caller's")

    line.listen("s", callback)
    for _ in range(5):
        daemon.connection.event("s", "STDOUT")
    eventually(lambda: len(events) == 5)
    assert caplog.text.count("an event callback failed") == 1, "told once, not for each event of a flood"


def test_no_event_is_delivered_after_the_end_of_the_subscription(daemon: FakeDaemon, line: EventConnection) -> None:
    begun, go = threading.Event(), threading.Event()
    events: list[AppEvent] = []

    def callback(event: AppEvent) -> None:
        events.append(event)
        begun.set()
        assert go.wait(10)

    line.listen("s", callback)
    daemon.connection.push(*[event_message("s", "STDOUT")] * 5)
    assert begun.wait(10)
    line.forget("s")
    go.set()
    others: list[AppEvent] = []
    line.listen("t", others.append)
    daemon.connection.event("t", "EXIT")
    eventually(lambda: others)
    assert len(events) == 1


def test_a_slow_callback_holds_up_neither_answers_nor_the_reader_and_hears_what_it_missed(
    daemon: FakeDaemon, line: EventConnection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_EVENTS", 100)
    begun, go = threading.Event(), threading.Event()
    events: list[AppEvent] = []

    def callback(event: AppEvent) -> None:
        events.append(event)
        begun.set()
        assert go.wait(10)

    line.listen("s", callback)
    daemon.connection.event("s", "START")
    assert begun.wait(10)
    for number in range(500):
        daemon.connection.event("s", "STDOUT", sequence=number)
    assert line.request(RequestMessage(), 10).http_status == 200, "the reader goes on"
    assert len(line._queue) == 100
    go.set()
    eventually(lambda: len(events) == 102)
    assert types(events[:2]) == ["START", "__missed__"]
    assert events[1].data == {"missed": 400}
    assert events[1].subscription_id == "s"
    assert [event.sequence for event in events[2:]] == list(range(400, 500)), "the oldest are dropped"
    assert caplog.text.count("too slow") == 1


def test_the_queue_is_bounded_in_bytes_too(
    daemon: FakeDaemon, line: EventConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 100_000)
    begun, go = threading.Event(), threading.Event()

    def callback(_event: AppEvent) -> None:
        begun.set()
        assert go.wait(10)

    line.listen("s", callback)
    daemon.connection.event("s", "START")
    assert begun.wait(10)
    for _ in range(20):
        daemon.connection.event("s", "STDOUT", data={"output": "x" * 20_000})
    line.request(RequestMessage(), 10)
    assert len(line._queue) == 4
    assert line._queued_bytes <= 100_000
    go.set()


def test_each_callback_hears_once_of_the_end_of_the_connection(daemon: FakeDaemon, line: EventConnection) -> None:
    one: list[AppEvent] = []
    two: list[AppEvent] = []
    line.listen("s1", one.append)
    line.listen("s2", two.append)
    daemon.connection.event("s1", "START")
    daemon.connection.drop()
    eventually(lambda: len(one) == 2 and len(two) == 1)
    assert types(one) == ["START", "__disconnected__"]
    assert two == [AppEvent("s2", "__disconnected__")]
    eventually(lambda: line.is_finished)


def test_who_listens_to_a_line_that_has_ended_hears_so_at_once(daemon: FakeDaemon, line: EventConnection) -> None:
    before: list[AppEvent] = []
    line.listen("s1", before.append)
    daemon.connection.drop()
    eventually(lambda: line.is_finished)
    late: list[AppEvent] = []
    line.listen("s2", late.append)
    eventually(lambda: late)
    assert types(late) == ["__disconnected__"]
    assert len(before) == 1


def test_closing_tells_the_callbacks_and_drops_what_is_queued(daemon: FakeDaemon) -> None:
    with no_thread_left():
        line = EventConnection(daemon.transport())
        line.open()
        begun, go = threading.Event(), threading.Event()
        events: list[AppEvent] = []

        def callback(event: AppEvent) -> None:
            events.append(event)
            begun.set()
            assert go.wait(10)

        line.listen("s", callback)
        daemon.connection.push(*[event_message("s", "STDOUT")])
        assert begun.wait(10)
        daemon.connection.push(*[event_message("s", "STDOUT")] * 50)
        line.request(RequestMessage(), 10)
        closing = threading.Thread(target=line.close)
        closing.start()
        eventually(lambda: not line.is_open)
        go.set()
        closing.join(10)
        assert types(events) == ["STDOUT", "__disconnected__"]


def test_a_callback_may_close_the_line(daemon: FakeDaemon) -> None:
    with no_thread_left():
        line = EventConnection(daemon.transport())
        line.open()
        line.listen("s", lambda _event: line.close())
        daemon.connection.event("s", "START")
        eventually(lambda: line.is_finished)


def test_a_callback_that_never_returns_does_not_keep_close_for_ever(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_JOIN_SECONDS", 0.05)
    line = EventConnection(daemon.transport())
    line.open()
    begun, go = threading.Event(), threading.Event()

    def callback(_event: AppEvent) -> None:
        begun.set()
        go.wait(10)

    line.listen("s", callback)
    daemon.connection.event("s", "START")
    assert begun.wait(10)
    line.close()
    assert "does not return" in caplog.text
    go.set()
    eventually(lambda: line.is_finished)


def test_an_event_that_cannot_be_read_is_left_out(
    daemon: FakeDaemon, line: EventConnection, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[AppEvent] = []
    line.listen("s", events.append)
    broken = event_message("s", "START").replace(b'{"subscription_id"', b'["subscription_id"')
    daemon.connection.push(broken, event_message("s", "EXIT"))
    eventually(lambda: events)
    assert types(events) == ["EXIT"]
    assert "could not be read" in caplog.text


# --- reopening ------------------------------------------------------------------------------------------------------


def test_a_line_is_opened_at_first_need_and_again_after_a_loss(daemon: FakeDaemon) -> None:
    with no_thread_left():
        reopening = ReopeningConnection(daemon.transport)
        assert daemon.transports == []
        assert reopening.present is None
        reopening.request(RequestMessage(), 10)
        reopening.request(RequestMessage(), 10)
        assert len(daemon.transports) == 1
        events: list[AppEvent] = []
        reopening.current().listen("s", events.append)
        daemon.connection.drop()
        eventually(lambda: events)
        reopening.request(RequestMessage(), 10)
        assert len(daemon.transports) == 2
        assert types(events) == ["__disconnected__"]
        reopening.close()


def test_closing_waits_for_nobody_who_connects_and_leaves_no_connection(daemon: FakeDaemon) -> None:
    connecting, go = threading.Event(), threading.Event()
    said: list[str] = []

    class Slow(FakeTransport):
        def connect(self, timeout_seconds: float | None = None) -> None:
            connecting.set()
            assert go.wait(10)

    transport = Slow(daemon)

    def ask() -> None:
        with pytest.raises(AppMeshConnectionError) as caught:
            reopening.request(RequestMessage(), 10)
        said.append(str(caught.value))

    with no_thread_left():
        reopening = ReopeningConnection(lambda: transport)
        asking = threading.Thread(target=ask)
        asking.start()
        assert connecting.wait(10)
        closing = threading.Thread(target=reopening.close)
        closing.start()
        closing.join(5)
        waits = closing.is_alive()
        go.set()
        asking.join(10)
        closing.join(10)
    assert not waits
    assert said == ["the client is closed"]
    assert transport.closed


def test_many_threads_open_one_line(daemon: FakeDaemon) -> None:
    with no_thread_left():
        reopening = ReopeningConnection(daemon.transport)
        threads = [threading.Thread(target=reopening.request, args=(RequestMessage(), 10)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(daemon.transports) == 1
        assert len(daemon.requests) == 16
        reopening.close()


def test_a_daemon_that_is_away_is_an_error_and_asked_again_next_time(daemon: FakeDaemon) -> None:
    with no_thread_left():
        reopening = ReopeningConnection(daemon.transport)
        daemon.refuse_connections = True
        with pytest.raises(AppMeshConnectionError, match="refused"):
            reopening.request(RequestMessage(), 10)
        daemon.refuse_connections = False
        assert reopening.request(RequestMessage(), 10).http_status == 200
        reopening.close()


def test_threads_that_waited_for_an_attempt_that_failed_don_t_try_one_after_the_other(daemon: FakeDaemon) -> None:
    trying, go = threading.Event(), threading.Event()
    attempts: list[float | None] = []

    class Unreachable:
        must_be_read = False

        def connect(self, timeout_seconds: float | None = None) -> None:
            attempts.append(timeout_seconds)
            trying.set()
            assert go.wait(10)
            raise AppMeshConnectionError("not there")

        def close(self) -> None: ...
        def interrupt(self) -> None: ...

    class Counting:
        """A lock that tells how many have come for it."""

        def __init__(self) -> None:
            self.lock, self.came = threading.Lock(), 0

        def __enter__(self) -> None:
            self.came += 1
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    line = ReopeningConnection(Unreachable, connect_timeout_seconds=3)  # type: ignore[arg-type]
    line._lock = lock = Counting()  # type: ignore[assignment]
    said: list[str] = []

    def ask() -> None:
        with pytest.raises(AppMeshConnectionError) as caught:
            line.current()
        said.append(str(caught.value))

    first = threading.Thread(target=ask)
    first.start()
    assert trying.wait(10)
    others = [threading.Thread(target=ask) for _ in range(5)]
    for thread in others:
        thread.start()
    eventually(lambda: lock.came == 6)
    go.set()
    for thread in (first, *others):
        thread.join(10)
    assert said == ["not there"] * 6
    assert attempts == [3]
    line.close()


def test_a_closed_one_stays_closed(daemon: FakeDaemon) -> None:
    reopening = ReopeningConnection(daemon.transport)
    reopening.close()
    with pytest.raises(AppMeshConnectionError, match="closed"):
        reopening.request(RequestMessage(), 10)


def test_closing_ends_lines_that_were_lost_before(daemon: FakeDaemon) -> None:
    with no_thread_left():
        reopening = ReopeningConnection(daemon.transport)
        begun, go = threading.Event(), threading.Event()

        def callback(_event: AppEvent) -> None:
            begun.set()
            assert go.wait(10)

        reopening.current().listen("s", callback)
        daemon.connection.event("s", "START")
        assert begun.wait(10)
        daemon.connection.drop()
        eventually(lambda: not reopening.current().is_open or len(daemon.transports) == 2)
        go.set()
        reopening.close()
