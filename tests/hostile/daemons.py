"""Daemons that are broken or hostile: each follows the protocol until it does what its case says."""

import contextlib
import itertools
import json
import random
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import msgpack
import trustme

MAGIC = 0x07C707F8
SUBSCRIPTION = "s1"
NOW = 1_795_515_840

Answers = dict[str, bytes | Callable[[], bytes]]


def frame(body: bytes) -> bytes:
    return struct.pack("!II", MAGIC, len(body)) + body


def pushed(body: bytes) -> bytes:
    packed: bytes = msgpack.packb({"uuid": "e", "request_uri": "/appmesh/event", "http_status": 200, "body": body})
    return frame(packed)


def event(sequence: Any = 1, *, kind: str = "STDOUT", raw: bytes | None = None, **changed: Any) -> bytes:
    """A pushed event; ``raw``: the value of ``data`` as it is to be written."""
    data: Any = {"finished": False, "output": "x\n", "position": 0}
    if kind == "START":
        data = {"pid": 1, "process_uuid": "p"}
    fields = {"app_name": "web", "data": data, "event_type": kind, "sequence": sequence, "timestamp": NOW}
    body = json.dumps(fields | {"subscription_id": SUBSCRIPTION} | changed, separators=(",", ":")).encode()
    return pushed(body if raw is None else body.replace(json.dumps(data, separators=(",", ":")).encode(), raw))


@dataclass(frozen=True)
class Case:
    """What a daemon does: pushes after the subscribe, again and again where ``forever``, and odd answers by path."""

    pushes: Callable[[], Iterable[bytes]] = lambda: ()
    answers: Answers = field(default_factory=dict)
    forever: bool = False


def _holes() -> Iterator[bytes]:
    return (event(number * 2) for number in range(1, 400))


CASES: dict[str, Case] = {
    "sequence-2-63": Case(lambda: [event(2**63), event(-1), event("7"), event(1.5)]),
    "uuid-no-text": Case(lambda: [event(kind="START", data={"pid": 1, "process_uuid": [1]})]),
    "year-33658": Case(lambda: [event(1, timestamp=1e12), event(2, timestamp=-1e12), event(3, timestamp=1e300)]),
    "not-a-number": Case(lambda: [pushed(b'{"app_name":"a","timestamp":NaN}'), event(1, timestamp=float("inf"))]),
    "app-object": Case(lambda: [event(1, app_name={"a": 1}), event(2, app_name=None), event(3, app_name="@daemon")]),
    "app-70000": Case(lambda: [event(1, app_name="a" * 70_000), event(2, app_name="a\0b\uffff")]),
    "nested": Case(lambda: [event(1, kind="EXIT", raw=b'{"a":' * 900 + b"1" + b"}" * 900)]),
    "forged": Case(lambda: [event(1, raw=b'{"finished":false,"output":"x","position":0},"id":"honest/1/666"')]),
    "forged-source": Case(lambda: [event(1, id="honest/1/666", source="appmesh://honest")]),
    "line-feed": Case(lambda: [event(1, raw=b'{"finished":false,\n"output":"x","position":0}')]),
    "other-subscription": Case(lambda: [event(1, subscription_id="s2")]),
    "garbage": Case(lambda: [frame(b"\xc1" * 40)] * 50, forever=True),
    "extension-keys": Case(lambda: [frame(b"\x81" + msgpack.packb(msgpack.ExtType(5, b"x" * 8)) + b"\x01")]),
    "empty-maps": Case(lambda: [frame(b"\xdd" + struct.pack("!I", 2_000_000) + b"\x80" * 2_000_000)]),
    "huge-frame": Case(lambda: [struct.pack("!II", MAGIC, 2**31)]),
    "bad-magic": Case(lambda: [b"HTTP/1.1 200 OK\r\n\r\n"]),
    "holes": Case(_holes),
    "apps-no-json": Case(answers={"/appmesh/applications": b"[{"}),
    "apps-numbers": Case(answers={"/appmesh/applications": b'[1,{"name":"a","pid":1e308,"status":[]},{"name":{}}]'}),
    "apps-deep": Case(answers={"/appmesh/applications": b"[" * 5000}),
    "metrics-1e999": Case(answers={"/appmesh/metrics": b"big 1e999\nup 1\n__x 1\nmeshbridge_daemon_up 7\nfine 1\n"}),
    "resources-list": Case(answers={"/appmesh/resources": b"[]"}),
    "start-1e300": Case(answers={"/appmesh/resources": b'{"appmesh_start_time_unix_seconds":1e300}'}),
    "no-subscription": Case(answers={"/appmesh/subscribe": b"{}"}),
    "token-echo": Case(answers={"/appmesh/login": b'{"message":"no such password: hostile-password"}'}),
}

_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 2**64 - 1, 1e300, "", "\0", "\u202e", "x" * 5000, [], {}, [[]], {"a": {"a": []}}, "NaN",
)  # fmt: skip


def fuzzed(seed: int) -> Case:
    """A daemon whose every answer is mutated: values of wrong types, missing, huge, nested, no JSON at all."""
    chance = random.Random(seed)

    def mutated(value: Any) -> Any:
        if chance.random() < 0.15:
            return chance.choice(_ODD)
        if isinstance(value, dict):
            return {key: mutated(inner) for key, inner in value.items() if chance.random() > 0.05}
        return [mutated(inner) for inner in value] if isinstance(value, list) else value

    def answer(value: Any) -> Callable[[], bytes]:
        def made() -> bytes:
            text = json.dumps(mutated(value)).encode()
            return text[: chance.randrange(len(text))] if chance.random() < 0.05 else text

        return made

    def pushes() -> Iterator[bytes]:
        for number in range(200):
            kind = chance.choice(["START", "STDOUT", "EXIT", "HEALTH", "STATUS", "REMOVED"])
            fields: dict[str, Any] = {
                "app_name": "a",
                "data": {"pid": 1, "process_uuid": "p", "output": "x", "position": number},
            }
            fields |= {"event_type": kind, "sequence": number, "timestamp": NOW, "subscription_id": SUBSCRIPTION}
            yield pushed(json.dumps(mutated(fields)).encode())

    app = {"name": "a", "status": 1, "health": 0, "pid": 7, "starts": 1, "last_start_time": NOW, "owner": "admin"}
    return Case(
        pushes,
        {
            "/appmesh/applications": answer([app, app | {"name": "b"}]),
            "/appmesh/app/a": answer(app),
            "/appmesh/app/a/output": answer("text"),
            "/appmesh/user/permissions": answer(["app-view", "app-subscribe"]),
            "/appmesh/metrics": answer("a 1\n"),
            "/appmesh/resources": answer({"appmesh_start_time_unix_seconds": NOW, "host_name": "h", "cpu_cores": 2}),
            "/appmesh/subscribe": answer({"subscription_id": SUBSCRIPTION, "app_name": "*"}),
            "/appmesh/login": answer({"access_token": "a.e30.c", "expires_in": 86400}),
        },
    )


class HostileDaemon:
    """Serves TLS at a port of its own. ``asked`` counts requests by path."""

    def __init__(self, authority: trustme.CA, case: Case) -> None:
        self._case = case
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._connections: list[ssl.SSLSocket] = []
        self.pushed = threading.Event()
        self.asked: Counter[str] = Counter()
        self.answers: Answers = {
            "/appmesh/login": json.dumps({"access_token": "a.e30.c", "expires_in": 86400}).encode(),
            "/appmesh/resources": json.dumps({"appmesh_start_time_unix_seconds": NOW}).encode(),
            "/appmesh/subscribe": json.dumps({"subscription_id": SUBSCRIPTION, "app_name": "*"}).encode(),
            "/appmesh/applications": b"[]",
            "/appmesh/metrics": b"fine 1\n",
            **case.answers,
        }

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, plain)

    def _serve(self, plain: socket.socket) -> None:
        buffer = b""
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connection:
            self._connections.append(connection)
            while data := connection.recv(1 << 16):
                buffer += data
                while len(buffer) >= 8 and len(buffer) >= (end := 8 + struct.unpack_from("!I", buffer, 4)[0]):
                    request = msgpack.unpackb(buffer[8:end])
                    buffer = buffer[end:]
                    self._answer(connection, request)

    def _answer(self, connection: ssl.SSLSocket, request: dict[str, Any]) -> None:
        path = request["request_uri"]
        self.asked[path] += 1
        found = self.answers.get(path)
        body = found() if callable(found) else found
        fields = {
            "uuid": request["uuid"],
            "request_uri": path,
            "http_status": 404 if body is None else 200,
            "body_msg_type": "application/json",
            "body": b'{"message":"no"}' if body is None else body,
            "headers": {},
        }
        connection.sendall(frame(msgpack.packb(fields)))
        if path == "/appmesh/subscribe":
            for _ in itertools.count() if self._case.forever else range(1):
                for message in self._case.pushes():
                    connection.sendall(message)
                self.pushed.set()
                if self._ended.wait(0.01):
                    return
