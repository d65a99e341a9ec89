"""The acceptance scenarios of docs/protocol.md, S1 to S9, and what a subscription promises besides.

S5 is in test_subscribe.py.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshbridge.appmesh.app import App
from meshbridge.appmesh.app_run import AppRun
from meshbridge.appmesh.channel import Channel
from meshbridge.appmesh.exceptions import (
    AppMeshConnectionError,
    AppMeshRequestError,
    AppMeshTimeoutError,
)
from meshbridge.appmesh.subscribe import AppEvent
from meshbridge.appmesh.tcp_messages import RequestMessage
from tests.unit.appmesh.fakes import FakeDaemon, FakeTransport, eventually, no_thread_left
from tests.unit.appmesh.memory_client import MemoryClient

SUBSCRIBED = {"subscription_id": "w", "app_name": "n", "events": ["STDOUT", "EXIT", "REMOVED"]}


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[MemoryClient]:
    with no_thread_left(), MemoryClient(daemon) as made:
        yield made


class RunningDaemon:
    """Answers what a wait asks: the subscription, the output so far; then ``then`` happens, once."""

    def __init__(self, written: bytes = b"", exit_code: int | None = None) -> None:
        self.written = written
        self.exit_code = exit_code
        self.then: Callable[[FakeTransport], None] = lambda _transport: None

    def __call__(self, transport: FakeTransport, request: dict[str, Any]) -> None:
        uri, method = request["request_uri"], request["http_method"]
        if uri.endswith("/output"):
            position = int(request["query"].get("stdout_position", 0))
            headers: dict[str, str] = {} if self.exit_code is None else {"X_Exit_Code": str(self.exit_code)}
            transport.answer(request, self.written[position:], 200, **headers)
            then, self.then = self.then, lambda _transport: None
            then(transport)
        elif method == "POST" and uri.endswith("/subscribe"):
            transport.answer(request, SUBSCRIBED)
        else:
            transport.answer(request)


def wait(client: MemoryClient, timeout: int = 0) -> tuple[int | None, list[tuple[str, int]]]:
    pieces: list[tuple[str, int]] = []
    code = AppRun(client, "n", "p").wait(lambda text, position: pieces.append((text, position)), timeout)
    return code, pieces


def test_s1_a_request_slower_than_any_receive_timeout_completes(daemon: FakeDaemon, client: MemoryClient) -> None:
    """The reader waits for ever, and a request for as long as it may itself, however long nothing is received."""
    waiting: list[dict[str, Any]] = []
    daemon.respond = lambda _transport, request: waiting.append(request)
    results: list[tuple[int | None, str]] = []
    thread = threading.Thread(target=lambda: results.append(client.run_app_sync("sleep 100", "P1D")))
    thread.start()
    eventually(lambda: waiting)
    channel = client._events.current()._channel
    assert channel._transport.receive_messages.__self__ is daemon.connection  # type: ignore[attr-defined]
    daemon.connection.answer(waiting[0], b"done", X_Exit_Code="0")
    thread.join(10)
    assert results == [(0, "done")]


def test_s1_a_request_that_is_given_up_leaves_the_connection_to_the_others(daemon: FakeDaemon) -> None:
    waiting: list[dict[str, Any]] = []
    daemon.respond = lambda _transport, request: waiting.append(request)
    with no_thread_left():
        channel = Channel(daemon.transport())
        channel.open()
        with pytest.raises(AppMeshTimeoutError):
            channel.request(RequestMessage(), 0.01)
        daemon.respond = lambda transport, request: transport.answer(request, {"late": False})
        daemon.connection.answer(waiting[0], {"late": True})
        assert channel.request(RequestMessage(), 10).body == b'{"late":false}'
        channel.close()


def test_s2_a_connection_lost_while_waiting_ends_the_wait_at_once(daemon: FakeDaemon, client: MemoryClient) -> None:
    running = RunningDaemon(b"abc")
    running.then = lambda transport: transport.drop()
    daemon.respond = running
    with pytest.raises(AppMeshConnectionError, match="lost"):
        wait(client)


def test_s3_a_timeout_while_waiting_is_none_and_ends_the_subscription(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = RunningDaemon(b"abc")
    assert wait(client, timeout=1) == (None, [("abc", 0)])
    assert daemon.uris()[-1] == "DELETE /appmesh/subscribe"
    assert daemon.requests[-1]["query"] == {"subscription_id": "w"}
    assert "DELETE /appmesh/app/n" not in daemon.uris()


def test_s4_events_before_the_callback_are_delivered_first_and_none_is_lost(
    daemon: FakeDaemon, client: MemoryClient
) -> None:
    def respond(transport: FakeTransport, request: dict[str, Any]) -> None:
        transport.event("s", "START", sequence=1)
        transport.event("s", "EXIT", sequence=2)
        transport.answer(request, {"name": "n", "subscription_id": "s"})
        transport.event("s", "STATUS", sequence=3)

    daemon.respond = respond
    events: list[AppEvent] = []
    app = client.add_app(App({"name": "n", "command": "true"}), ["START", "EXIT"], events.append)
    assert app.subscription_id == "s"
    assert daemon.requests[0]["query"] == {"subscribe_events": "START,EXIT"}
    eventually(lambda: len(events) == 3)
    assert [event.sequence for event in events] == [1, 2, 3]


@pytest.mark.parametrize("code", [-9, 0, 137, 255])
def test_s6_the_code_of_a_killed_process_comes_back(daemon: FakeDaemon, client: MemoryClient, code: int) -> None:
    running = RunningDaemon(b"abc")
    running.then = lambda transport: transport.event("w", "EXIT", "n", data={"pid": 1, "exit_code": code})
    daemon.respond = running
    assert wait(client)[0] == code
    assert daemon.uris()[-2:] == ["DELETE /appmesh/app/n", "DELETE /appmesh/subscribe"]


def test_s7_an_answer_before_send_returns_is_not_lost(daemon: FakeDaemon) -> None:
    """The daemon here answers within ``send_message``, and the reader has the answer before that returns."""
    taken = threading.Event()

    def respond(transport: FakeTransport, request: dict[str, Any]) -> None:
        transport.answer(request, {"n": 1})
        eventually(transport._incoming.empty)
        taken.set()

    daemon.respond = respond
    with no_thread_left():
        channel = Channel(daemon.transport())
        channel.open()
        for _ in range(100):
            assert channel.request(RequestMessage(), 10).body == b'{"n":1}'
        assert taken.is_set()
        channel.close()


def test_s8_an_app_removed_while_waited_for_is_an_outcome_of_its_own(daemon: FakeDaemon, client: MemoryClient) -> None:
    running = RunningDaemon(b"abc")
    running.then = lambda transport: transport.event("w", "REMOVED", "n")
    daemon.respond = running
    assert wait(client) == (-1, [("abc", 0)])
    assert "DELETE /appmesh/app/n" not in daemon.uris()
    assert daemon.uris()[-1] == "DELETE /appmesh/subscribe"


def test_s8_so_is_one_removed_before_its_output_was_read(daemon: FakeDaemon, client: MemoryClient) -> None:
    def respond(transport: FakeTransport, request: dict[str, Any]) -> None:
        if request["http_method"] == "POST":
            transport.answer(request, SUBSCRIBED)
        elif request["request_uri"].endswith("/output"):
            transport.answer(request, {"message": "No such application"}, 404)
            transport.event("w", "REMOVED", "n")
        else:
            transport.answer(request)

    daemon.respond = respond
    assert wait(client)[0] == -1


class Shuffling:
    """Answers requests in the opposite order to that in which they came, four at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[tuple[FakeTransport, dict[str, Any]]] = []
        self._renewals = 0

    def __call__(self, transport: FakeTransport, request: dict[str, Any]) -> None:
        with self._lock:
            self._held.append((transport, request))
            if len(self._held) < 4:
                return
        self.let_go()

    def let_go(self) -> None:
        with self._lock:
            held, self._held = self._held[::-1], []
            for transport, request in held:
                if request["request_uri"] == "/appmesh/token/renew":
                    self._renewals += 1
                    transport.answer(request, {"access_token": f"a.e30.{self._renewals}"})
                else:
                    transport.answer(request, {"name": request["request_uri"].rsplit("/", 1)[1]})


def until(done: threading.Event, work: Callable[[], object], pause_seconds: float = 0) -> threading.Thread:
    def run() -> None:
        while not done.wait(pause_seconds):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_s9_a_renewal_amid_other_traffic_crosses_nothing(daemon: FakeDaemon, client: MemoryClient) -> None:
    shuffling = Shuffling()
    daemon.respond = shuffling
    wrong: list[str] = []

    def ask(number: int) -> None:
        for count in range(40):
            name = f"app-{number}-{count}"
            if client.get_app(name).name != name:
                wrong.append(name)

    asked, renewed = threading.Event(), threading.Event()
    renewing = until(asked, client.renew_token)
    flushing = until(renewed, shuffling.let_go, 0.005)  # of four held, some may be the last that come
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    asked.set()
    renewing.join(10)
    renewed.set()
    flushing.join(10)
    assert wrong == []
    assert shuffling._renewals > 0
    assert client._tokens.get() == f"a.e30.{shuffling._renewals}"


# --- waiting --------------------------------------------------------------------------------------------------------


def test_output_of_events_and_of_the_first_read_comes_once(daemon: FakeDaemon, client: MemoryClient) -> None:
    running = RunningDaemon(b"abc")

    def then(transport: FakeTransport) -> None:
        transport.event("w", "STDOUT", "n", data={"output": "bcde", "position": 1})
        transport.event("w", "STDOUT", "n", data={"output": "ab", "position": 0})
        running.written = b"abcdefghi"
        transport.event("w", "STDOUT", "n", data={"output": "ghi", "position": 6})
        transport.event("w", "EXIT", "n", data={"exit_code": 3})

    running.then = then
    daemon.respond = running
    code, pieces = wait(client)
    assert code == 3
    assert "".join(text for text, _position in pieces) == "abcdefghi"
    assert [position for _text, position in pieces] == sorted({position for _text, position in pieces})


def test_a_run_that_has_ended_already_needs_no_event(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = RunningDaemon(b"all", exit_code=4)
    assert wait(client) == (4, [("all", 0)])
    assert "DELETE /appmesh/app/n" in daemon.uris()


def test_a_slow_handler_loses_no_output(
    daemon: FakeDaemon, client: MemoryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshbridge.appmesh import run_watch

    monkeypatch.setattr(run_watch, "_MAX_PIECES", 10)
    running = RunningDaemon(b"start\n")
    lines = [f"line {number}\n" for number in range(500)]

    def then(transport: FakeTransport) -> None:
        for line in lines:
            transport.event("w", "STDOUT", "n", data={"output": line, "position": len(running.written)})
            running.written += line.encode()
        transport.event("w", "EXIT", "n", data={"exit_code": 0})

    running.then = then
    daemon.respond = running
    code, pieces = wait(client)
    assert code == 0
    assert "".join(text for text, _position in pieces) == "start\n" + "".join(lines)


def test_events_without_a_position_or_a_code_do_not_break_the_wait(daemon: FakeDaemon, client: MemoryClient) -> None:
    running = RunningDaemon(b"abc")

    def then(transport: FakeTransport) -> None:
        running.written = b"abcd"
        transport.event("w", "STDOUT", "n", data={"output": None})
        transport.event("w", "HEALTH", "n", data={})
        transport.event("w", "EXIT", "n", data={"exit_code": None})

    running.then = then
    daemon.respond = running
    code, pieces = wait(client)
    assert code == 0
    assert "".join(text for text, _position in pieces) == "abcd"


def test_a_run_that_is_not_known_is_none(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = lambda transport, request: transport.answer(request, {"message": "No such application"}, 404)
    assert wait(client) == (None, [])


def test_without_the_permission_to_subscribe_it_asks_again_and_again(daemon: FakeDaemon, client: MemoryClient) -> None:
    running = RunningDaemon(b"abc", exit_code=2)

    def respond(transport: FakeTransport, request: dict[str, Any]) -> None:
        if request["http_method"] == "POST":
            transport.answer(request, {"message": "Permission denied: user 'x' lacks 'app-subscribe'"}, 400)
        else:
            running(transport, request)

    daemon.respond = respond
    assert wait(client) == (2, [("abc", 0)])


def test_a_run_on_another_node_is_asked_for_there(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = RunningDaemon(b"abc", exit_code=2)
    client.forward_to = "node-b"
    run = AppRun(client, "n", "p")
    client.forward_to = ""
    assert run.wait() == 2
    assert {request["headers"].get("X-Target-Host") for request in daemon.requests} == {"node-b"}
    assert not any("subscribe" in uri for uri in daemon.uris())


# --- subscriptions --------------------------------------------------------------------------------------------------


def test_subscribing_to_one_or_to_all(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = lambda transport, request: transport.answer(
        request, {"subscription_id": "s", "app_name": "*", "events": ["EXIT", "START"]}
    )
    result = client.subscribe("*", ["START", "EXIT"])
    assert (result.subscription_id, result.app_name, result.events) == ("s", "*", ["EXIT", "START"])
    client.subscribe("app")
    assert daemon.uris() == ["POST /appmesh/subscribe", "POST /appmesh/app/app/subscribe"]
    assert [request["query"] for request in daemon.requests] == [{"events": "START,EXIT"}, {}]


def test_the_loss_of_the_connection_is_heard_and_the_client_goes_on(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = lambda transport, request: transport.answer(request, {"subscription_id": "s"})
    events: list[AppEvent] = []
    client.subscribe("*", None, events.append)
    daemon.connection.drop()
    eventually(lambda: events)
    assert events == [AppEvent("s", "__disconnected__")]
    client.subscribe("*", None, events.append)
    daemon.connection.event("s", "START")
    eventually(lambda: len(events) == 2)
    assert len(daemon.transports) == 2


def test_a_connection_lost_right_after_the_subscription_is_heard(daemon: FakeDaemon, client: MemoryClient) -> None:
    def respond(transport: FakeTransport, request: dict[str, Any]) -> None:
        transport.answer(request, {"subscription_id": "s"})
        transport.drop()

    daemon.respond = respond
    events: list[AppEvent] = []
    client.subscribe("*", None, events.append)
    eventually(lambda: events)
    assert events == [AppEvent("s", "__disconnected__")]


def test_everyone_who_waits_for_an_answer_wakes_when_the_connection_is_lost(
    daemon: FakeDaemon, client: MemoryClient
) -> None:
    daemon.respond = lambda _transport, _request: None
    errors: list[AppMeshConnectionError] = []

    def ask() -> None:
        try:
            client.list_labels()
        except AppMeshConnectionError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(daemon.requests) == 8)
    daemon.connection.drop()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 8


def test_unsubscribing_ends_it_here_and_there(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = lambda transport, request: transport.answer(request, {"subscription_id": "s"})
    events: list[AppEvent] = []
    client.subscribe("*", None, events.append)
    client.unsubscribe("s")
    assert daemon.requests[-1]["query"] == {"subscription_id": "s"}
    daemon.connection.event("s", "START")
    client.list_labels()
    assert events == []


def test_unsubscribing_what_is_not_there_is_an_error(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = lambda transport, request: transport.answer(request, {"message": "not found"}, 404)
    with pytest.raises(AppMeshRequestError):
        client.unsubscribe("s")


def test_a_registration_without_events_subscribes_to_nothing(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = lambda transport, request: transport.answer(request, {"name": "n"})
    assert client.add_app(App({"name": "n"})).subscription_id is None
    assert daemon.requests[0]["query"] == {}


def test_the_events_and_the_answers_of_a_client_after_logout(daemon: FakeDaemon, client: MemoryClient) -> None:
    daemon.respond = lambda transport, request: transport.answer(request, {"subscription_id": "s"})
    events: list[AppEvent] = []
    client.subscribe("*", None, events.append)
    assert client.logout()
    daemon.connection.event("s", "START")
    eventually(lambda: events)


def test_close_leaves_nothing_behind_and_tells_the_callbacks(daemon: FakeDaemon) -> None:
    daemon.respond = lambda transport, request: transport.answer(request, {"subscription_id": "s"})
    with no_thread_left():
        client = MemoryClient(daemon)
        events: list[AppEvent] = []
        client.subscribe("*", None, events.append)
        client.close()
        assert events == [AppEvent("s", "__disconnected__")]
        assert daemon.connection.closed
    with pytest.raises(AppMeshConnectionError):
        client.list_labels()
