"""Who reads from a channel: a thread that waits for an answer, or one of the channel's own once events are expected."""

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from meshbridge.appmesh.channel import Channel
from meshbridge.appmesh.event_connection import ReopeningConnection
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshTimeoutError
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from tests.unit.appmesh.fakes import FakeDaemon, FakeTransport, eventually, no_thread_left


class Silent(list[dict[str, Any]]):
    """A daemon that keeps its requests, to be answered later."""

    def __call__(self, _transport: FakeTransport, request: dict[str, Any]) -> None:
        self.append(request)


class Asked(threading.Thread):
    """A request on a thread of its own, and what came of it."""

    def __init__(self, channel: Channel, timeout_seconds: float = 60) -> None:
        super().__init__(daemon=True)
        self.channel, self.timeout_seconds = channel, timeout_seconds
        self.answer: ResponseMessage | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.channel.request(RequestMessage(), self.timeout_seconds)
        except BaseException as error:  # noqa: BLE001 to be looked at by the test
            self.error = error

    def result(self) -> ResponseMessage | BaseException | None:
        self.join(30)
        assert not self.is_alive()
        return self.answer or self.error


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def channel(daemon: FakeDaemon) -> Iterator[Channel]:
    with no_thread_left(), closing(Channel(daemon.transport(), attended=False)) as opened:
        opened.open()
        yield opened


def both_asked(daemon: FakeDaemon, channel: Channel, first_seconds: float = 60) -> tuple[Silent, Asked, Asked]:
    """Two requests in flight, of which the first one's thread reads."""
    asked = daemon.respond = Silent()
    first = Asked(channel, first_seconds)
    eventually(lambda: channel._turn_of == first.ident)
    second = Asked(channel)
    eventually(lambda: len(asked) == 2)
    return asked, first, second


def test_requests_alone_need_no_thread(daemon: FakeDaemon, channel: Channel) -> None:
    before = threading.active_count()
    for _ in range(10):
        assert channel.request(RequestMessage(), 10).http_status == 200
    assert threading.active_count() == before


def test_the_thread_that_reads_hands_answers_to_the_others(daemon: FakeDaemon, channel: Channel) -> None:
    asked, first, second = both_asked(daemon, channel)
    daemon.connection.answer(asked[1], {"n": 2})
    assert second.result().body == b'{"n":2}'  # type: ignore[union-attr]
    daemon.connection.answer(asked[0], {"n": 1})
    assert first.result().body == b'{"n":1}'  # type: ignore[union-attr]


def test_the_thread_that_has_its_answer_passes_the_turn_on(daemon: FakeDaemon, channel: Channel) -> None:
    asked, first, second = both_asked(daemon, channel)
    daemon.connection.answer(asked[0], {"n": 1})
    assert first.result().body == b'{"n":1}'  # type: ignore[union-attr]
    daemon.connection.answer(asked[1], {"n": 2})
    assert second.result().body == b'{"n":2}'  # type: ignore[union-attr]


def test_a_thread_that_gives_up_passes_the_turn_on(daemon: FakeDaemon, channel: Channel) -> None:
    asked, first, second = both_asked(daemon, channel, first_seconds=0.1)
    assert isinstance(first.result(), AppMeshTimeoutError)
    daemon.connection.answer(asked[0], {"late": True})
    daemon.connection.answer(asked[1], {"n": 2})
    assert second.result().body == b'{"n":2}'  # type: ignore[union-attr]


def test_a_lost_connection_is_told_to_every_thread_that_waits(daemon: FakeDaemon, channel: Channel) -> None:
    _asked, first, second = both_asked(daemon, channel)
    daemon.connection.drop()
    for result in (first.result(), second.result()):
        assert isinstance(result, AppMeshConnectionError)
        assert "closed the connection" in str(result)


def test_closing_ends_the_requests_that_wait(daemon: FakeDaemon, channel: Channel) -> None:
    _asked, first, second = both_asked(daemon, channel)
    channel.close()
    for result in (first.result(), second.result()):
        assert isinstance(result, AppMeshConnectionError)


def test_an_exception_from_a_signal_ends_the_connection(daemon: FakeDaemon, channel: Channel) -> None:
    """What was being read is lost, so the next frame could not be found."""
    receive = daemon.connection.receive_messages
    go = threading.Event()

    def interrupted(until: float | None = None) -> list[bytes]:
        assert go.wait(10)
        daemon.connection.receive_messages = receive  # type: ignore[method-assign]
        raise KeyboardInterrupt

    daemon.connection.receive_messages = interrupted  # type: ignore[method-assign]
    _asked, first, second = both_asked(daemon, channel)
    go.set()
    assert isinstance(first.result(), KeyboardInterrupt)
    assert isinstance(second.result(), AppMeshConnectionError)
    assert not channel.is_open


def test_from_attend_on_a_thread_reads_what_was_not_asked_for(daemon: FakeDaemon) -> None:
    pushed: list[bytes] = []
    with no_thread_left(), closing(Channel(daemon.transport(), attended=False, on_pushes=pushed.extend)) as channel:
        channel.open()
        daemon.connection.event("s", "START")
        assert channel.request(RequestMessage(), 10).http_status == 200
        assert len(pushed) == 1  # it stood before the answer
        channel.attend()
        daemon.connection.event("s", "EXIT")
        eventually(lambda: len(pushed) == 2)


def test_attend_waits_for_the_thread_that_reads(daemon: FakeDaemon, channel: Channel) -> None:
    asked, first, second = both_asked(daemon, channel)
    channel.attend()
    daemon.connection.answer(asked[0], {"n": 1})
    assert first.result().body == b'{"n":1}'  # type: ignore[union-attr]
    eventually(lambda: channel._reader is not None and channel._turn_of == channel._reader.ident)
    daemon.connection.answer(asked[1], {"n": 2})
    assert second.result().body == b'{"n":2}'  # type: ignore[union-attr]


@pytest.mark.parametrize("late_answers", [0, 1, 3])
def test_a_connection_that_ended_while_idle_is_opened_again(daemon: FakeDaemon, late_answers: int) -> None:
    """No request fails for it, though no thread was there to see it."""
    with no_thread_left(), closing(ReopeningConnection(daemon.transport)) as connection:
        assert connection.request(RequestMessage(), 10).http_status == 200
        for _ in range(late_answers):
            daemon.connection.answer({"uuid": "given up", "request_uri": "/appmesh/labels"})
        daemon.connection.drop()
        assert connection.request(RequestMessage(), 10).http_status == 200
        assert len(daemon.transports) == 2


class Shuffling:
    """Answers a few requests at a time, in an order of chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._held: list[dict[str, Any]] = []

    def __call__(self, transport: FakeTransport, request: dict[str, Any]) -> None:
        with self._lock:
            self._held.append(request)
            enough = len(self._held) >= self._chance.randint(1, 6)
        if enough:
            self.let_go(transport)

    def let_go(self, transport: FakeTransport) -> None:
        with self._lock:
            held, self._held = self._held, []
            self._chance.shuffle(held)
        for request in held:
            transport.answer(request, {"path": request["request_uri"]})


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_get_their_own_answers_in_any_order(daemon: FakeDaemon, channel: Channel, seed: int) -> None:
    daemon.respond = shuffling = Shuffling(seed)
    wrong: list[object] = []

    def ask(number: int) -> None:
        for turn in range(50):
            path = f"/{number}/{turn}"
            answer = channel.request(RequestMessage(request_uri=path), 60)
            if path.encode() not in answer.body:
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.02)
        shuffling.let_go(daemon.connection)  # of the last threads, fewer ask than are answered together
    assert wrong == []
