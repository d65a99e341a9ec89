"""Stand-ins for what a client talks through: an exchange with answers given beforehand, a transport in memory."""

import queue
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import orjson

from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshTimeoutError
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

Answer = ResponseMessage | Exception | Callable[[RequestMessage], ResponseMessage]


def answer(body: Any = None, status: int = 200, **headers: str) -> ResponseMessage:
    """An answer; ``body`` as it is if bytes, else its JSON. ``X_Exit_Code="3"`` gives the header ``X-Exit-Code``."""
    data = body if isinstance(body, bytes) else orjson.dumps({} if body is None else body)
    return ResponseMessage(
        http_status=status, body=data, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def refusal(status: int, message: str = "no") -> ResponseMessage:
    return answer({"message": message}, status)


def jwt(expires: float | None, **claims: Any) -> str:
    payload = {**({} if expires is None else {"exp": expires}), **claims}
    return f"e30.{urlsafe_b64encode(orjson.dumps(payload)).decode().rstrip('=')}.c2ln"


class FakeExchange:
    """Gives ``answers`` in order, then ``{}`` for ever; keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[RequestMessage] = []
        self.timeouts: list[float] = []
        self.closed = False

    def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        self.requests.append(message)
        self.timeouts.append(timeout_seconds)
        given = self.answers.pop(0) if self.answers else answer()
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, ResponseMessage) else given(message)

    def close(self) -> None:
        self.closed = True


class FakeDaemon:
    """A transport in memory, and the daemon at its other end: ``respond`` answers what is sent.

    One instance is one daemon; :meth:`transport` gives a connection to it, which replaces the one before.
    """

    def __init__(self, respond: Callable[["FakeTransport", dict[str, Any]], None] | None = None) -> None:
        self.respond = respond or (lambda transport, request: transport.answer(request))
        self.transports: list[FakeTransport] = []
        self.requests: list[dict[str, Any]] = []
        self.refuse_connections = False

    def transport(self) -> "FakeTransport":
        made = FakeTransport(self)
        self.transports.append(made)
        return made

    @property
    def connection(self) -> "FakeTransport":
        return self.transports[-1]

    def uris(self) -> list[str]:
        return [f"{request['http_method']} {request['request_uri']}" for request in self.requests]


class FakeTransport:
    must_be_read = False

    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon
        self._incoming: queue.Queue[list[bytes]] = queue.Queue()
        self.closed = False

    def connect(self, timeout_seconds: float | None = None) -> None:
        if self._daemon.refuse_connections:
            raise AppMeshConnectionError("connection refused")

    def has_arrived(self) -> bool:
        return not self._incoming.empty()

    def receive_messages(self, until: float | None = None) -> list[bytes]:
        try:
            return self._incoming.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise AppMeshTimeoutError("nothing received in time") from None

    def send_message(self, data: bytes | bytearray | list[object]) -> None:
        if self.closed:
            raise AppMeshConnectionError("connection lost while sending")
        request = msgpack.unpackb(bytes(data))  # type: ignore[arg-type]
        self._daemon.requests.append(request)
        self._daemon.respond(self, request)

    def settimeout(self, timeout_seconds: float | None) -> None: ...

    def interrupt(self) -> None:
        self.drop()

    def close(self) -> None:
        self.closed = True

    # --- the daemon's end ----------------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any], body: Any = None, status: int = 200, **headers: str) -> None:
        response = answer(body, status, **headers)
        response.uuid, response.request_uri = request["uuid"], request["request_uri"]
        self.push(response.serialize())

    def event(self, subscription: str, event_type: str, app: str = "app", sequence: int = 0, data: Any = None) -> None:
        self.push(event_message(subscription, event_type, app, sequence, data))

    def push(self, *messages: bytes) -> None:
        self._incoming.put(list(messages))

    def drop(self) -> None:
        """Ends the connection, as the reader sees it."""
        self._incoming.put([])


def event_message(subscription: str, event_type: str, app: str = "app", sequence: int = 0, data: Any = None) -> bytes:
    body = {
        "subscription_id": subscription,
        "event_type": event_type,
        "app_name": app,
        "timestamp": 1795515804,
        "sequence": sequence,
        "data": data,
    }
    return ResponseMessage("e", "/appmesh/event", 200, "application/json", orjson.dumps(body), {}).serialize()


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits until ``condition`` holds; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold"
        threading.Event().wait(0.002)


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Fails when a thread is left that was not there before."""
    before = set(threading.enumerate())
    yield
    eventually(lambda: set(threading.enumerate()) <= before)
