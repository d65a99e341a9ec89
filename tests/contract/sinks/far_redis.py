"""A Redis server, as much of it as a producer meets, that does as the script says."""

import socket
import threading
from pathlib import Path
from typing import BinaryIO

from meshbridge.sinks.base import Sink
from meshbridge.sinks.redis import RedisOptions
from tests.contract.sinks.far_end import SECRETS, Say, Script
from tests.contract.sinks.socket_server import SocketServer

_ERRORS = {
    Say.BUSY: b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    Say.REFUSE: b"-ERR Protocol error: invalid bulk length\r\n",
    Say.DENY: b"-NOPERM this user has no permissions to run the 'xadd' command\r\n",
}


class RedisFarEnd:
    says = frozenset({Say.OK, Say.BUSY, Say.REFUSE, Say.DENY, Say.SILENT, Say.CUT})
    keeps_first_order = False

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

    def close(self) -> None:
        pass

    def sink(self) -> Sink:
        settings = {"type": "redis", "url": f"redis://127.0.0.1:{self._server.port}", "password": SECRETS[1]}
        return RedisOptions.model_validate(settings).build("redis", self._directory)

    def arrived(self) -> list[str]:
        with self._lock:
            return list(self._taken)

    def _serve(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            while command := _command(stream):
                word = command[0].upper()
                if word == b"HELLO":
                    sock.sendall(b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n")
                elif word == b"PING":
                    sock.sendall(b"+PONG\r\n")
                elif word == b"XADD":
                    self._add(sock, command)
                else:
                    sock.sendall(b"+OK\r\n")

    def _add(self, sock: socket.socket, command: list[bytes]) -> None:
        event_id = command[command.index(b"id") + 1].decode()
        say = self.script.answer([event_id])
        if say is Say.CUT:
            raise EOFError
        if say is Say.OK:
            with self._lock:
                self._taken.append(event_id)
            sock.sendall(b"$3\r\n1-1\r\n")
        elif say in _ERRORS:
            sock.sendall(_ERRORS[say])


def _command(stream: BinaryIO) -> list[bytes]:
    head = stream.readline()
    if not head:
        return []
    parts = []
    for _ in range(int(head[1:])):
        size = int(stream.readline()[1:])
        parts.append(stream.read(size + 2)[:size])
    return parts
