"""A NATS server with JetStream, as much of it as a publisher meets, that does as the script says."""

import socket
import threading
from pathlib import Path
from typing import BinaryIO

import orjson

from meshbridge.sinks.base import Sink
from meshbridge.sinks.nats import NatsOptions
from tests.contract.sinks.far_end import SECRETS, Say, Script
from tests.contract.sinks.socket_server import SocketServer

_INFO = {"server_id": "S", "version": "2.10.0", "proto": 1, "headers": True, "max_payload": 1024 * 1024}
_ERRORS = {
    Say.BUSY: {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"},
    Say.REFUSE: {"code": 400, "err_code": 10054, "description": "message size exceeds maximum allowed"},
}


class NatsFarEnd:
    says = frozenset({Say.OK, Say.BUSY, Say.REFUSE, Say.SILENT, Say.CUT})
    keeps_first_order = True

    def __init__(self, directory: Path) -> None:
        self.script = Script()
        self._directory = directory
        self._server = SocketServer(self._serve)
        self._taken: list[str] = []
        self._lock = threading.Lock()  # guards _taken

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def sink(self) -> Sink:
        settings = {"url": f"nats://127.0.0.1:{self._server.port}", "username": "u", "password": SECRETS[1]}
        return NatsOptions.model_validate({"type": "nats", **settings}).build("jetstream", self._directory)

    def close(self) -> None:
        pass

    def arrived(self) -> list[str]:
        with self._lock:
            return list(self._taken)

    def _serve(self, sock: socket.socket) -> None:
        sock.sendall(b"INFO " + orjson.dumps(_INFO) + b"\r\n")
        inbox = b"0"
        with sock.makefile("rb") as stream:
            while line := stream.readline():
                word, *rest = line.split()
                if word == b"PING":
                    sock.sendall(b"PONG\r\n")
                elif word == b"SUB":
                    inbox = rest[-1]
                elif word in {b"PUB", b"HPUB"}:
                    self._publish(sock, stream, rest, inbox)

    def _publish(self, sock: socket.socket, stream: BinaryIO, rest: list[bytes], inbox: bytes) -> None:
        reply = rest[1]
        data = stream.read(int(rest[-1]) + 2)
        answer: dict[str, object] = {"stream": "EVENTS", "seq": 1}
        if b"Nats-Msg-Id: " in data:
            message_id = data.partition(b"Nats-Msg-Id: ")[2].partition(b"\r\n")[0].decode()
            say = self.script.answer([message_id])
            if say is Say.CUT:
                raise EOFError
            if say is Say.SILENT:
                return
            if say is Say.OK:
                with self._lock:
                    self._taken.append(message_id)
            else:
                answer = {"error": _ERRORS[say], "stream": "EVENTS", "seq": 0}
        body = orjson.dumps(answer)
        sock.sendall(b"MSG %b %b %d\r\n%b\r\n" % (reply, inbox, len(body), body))
