"""A small App Mesh client for the emulator's tests: it shows what is on the wire, and hides nothing."""

import base64
import itertools
import json
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import websocket

from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.wire.framing import FrameDecoder, encode_frame
from tests.support import DEADLINE_SECONDS

Event = dict[str, Any]
Address = tuple[str, int]


class Closed(Exception):  # noqa: N818 an outcome
    """The daemon has ended the connection."""


class WireClient:
    """One connection. Events that come in meanwhile are kept in order, each with its message, until asked for."""

    def __init__(self) -> None:
        self.token = ""
        self.events: list[Event] = []
        self.event_messages: list[ResponseMessage] = []
        self._numbers = itertools.count(1)

    def login(self, user: str = "admin", password: str = "admin123", **headers: str) -> ResponseMessage:
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        answer = self.request("POST", "/appmesh/login", headers={"Authorization": f"Basic {basic}", **headers})
        if answer.http_status == 200:
            self.token = json.loads(answer.body)["access_token"]
        return answer

    def request(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> ResponseMessage:
        """Sends a request and waits for its answer; dicts and lists go as JSON."""
        uuid = self.ask(method, path, body, query=query, headers=headers)
        while True:
            message = self.receive()
            if message.uuid == uuid:
                return message
            self._keep(message)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> str:
        """Sends a request; gives its uuid."""
        given = {"Authorization": self.token} if self.token else {}
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        uuid = f"request-{next(self._numbers)}"
        message = RequestMessage(uuid, path, method, "", body, given | (headers or {}), query or {})
        self.send(message.serialize())
        return uuid

    def json(self, method: str, path: str, body: Any = b"", **query: str) -> Any:
        """As :meth:`request`, for an answer that must be 200 and JSON."""
        answer = self.request(method, path, body, query=query)
        assert answer.http_status == 200, (answer.http_status, answer.body)
        return json.loads(answer.body)

    def add_app(self, name: str, command: str, **fields: Any) -> dict[str, Any]:
        shown = self.json("PUT", f"/appmesh/app/{name}", {"name": name, "command": command, **fields})
        assert isinstance(shown, dict)
        return shown

    def subscribe(self, events: str = "", app: str | None = None) -> str:
        path = "/appmesh/subscribe" if app is None else f"/appmesh/app/{app}/subscribe"
        return str(self.json("POST", path, events=events)["subscription_id"])

    def wait_event(self, wanted: Callable[[Event], bool], seconds: float = DEADLINE_SECONDS) -> Event:
        """The first wanted event, of those that are here or come in."""
        deadline = time.monotonic() + seconds
        for number in itertools.count():
            while number >= len(self.events):
                self._keep(self.receive(deadline))
            if wanted(self.events[number]):
                return self.events[number]
        raise AssertionError

    def wait_type(self, app: str, event_type: str, count: int = 1) -> Event:
        """The ``count``-th event of that type of an app."""
        self.wait_event(lambda _event: len(self.of(app, event_type)) >= count)
        return self.of(app, event_type)[count - 1]

    def of(self, app: str, event_type: str | None = None) -> list[Event]:
        return [
            event for event in self.events if event["app_name"] == app and event_type in (None, event["event_type"])
        ]

    def send(self, body: bytes) -> None:
        raise NotImplementedError

    def receive_body(self, deadline: float) -> bytes:
        raise NotImplementedError

    def receive(self, deadline: float | None = None) -> ResponseMessage:
        return ResponseMessage.from_bytes(self.receive_body(deadline or time.monotonic() + DEADLINE_SECONDS))

    def close(self) -> None:
        raise NotImplementedError

    def _keep(self, message: ResponseMessage) -> None:
        assert message.request_uri == "/appmesh/event", message
        self.event_messages.append(message)
        self.events.append(json.loads(message.body))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TcpClient(WireClient):
    def __init__(self, address: Address | None, ca_file: Path, certificate: tuple[Path, Path] | None = None) -> None:
        super().__init__()
        assert address is not None
        context = ssl.create_default_context(cafile=str(ca_file))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        raw = socket.create_connection(address, timeout=DEADLINE_SECONDS)
        self.socket = context.wrap_socket(raw, server_hostname=address[0])
        self._decoder = FrameDecoder()
        self._bodies: deque[bytes] = deque()

    def send(self, body: bytes) -> None:
        self.socket.sendall(encode_frame(body))

    def receive_body(self, deadline: float) -> bytes:
        while not self._bodies:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.socket.recv(1 << 18)
            except (ConnectionError, ssl.SSLError) as error:
                raise Closed from error
            if not data:
                raise Closed
            self._decoder.feed(data)
            self._bodies.extend(self._decoder.frames())
        return self._bodies.popleft()

    def close(self) -> None:
        self.socket.close()


class WssClient(WireClient):
    def __init__(self, address: Address | None, ca_file: Path) -> None:
        super().__init__()
        assert address is not None
        self.socket = websocket.create_connection(
            f"wss://{address[0]}:{address[1]}/",
            sslopt={"ca_certs": str(ca_file)},
            subprotocols=["appmesh-ws"],
            timeout=DEADLINE_SECONDS,
        )
        self.close_code: int | None = None

    def send(self, body: bytes) -> None:
        self.socket.send_binary(body)

    def receive_body(self, deadline: float) -> bytes:
        self.socket.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            opcode, data = self.socket.recv_data()
        except (websocket.WebSocketConnectionClosedException, ConnectionError, ssl.SSLError) as error:
            raise Closed from error
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            self.close_code = int.from_bytes(data[:2], "big")
            raise Closed
        assert isinstance(data, bytes)
        return data

    def close(self) -> None:
        self.socket.shutdown()  # type: ignore[no-untyped-call]  # closes it, whatever its state
