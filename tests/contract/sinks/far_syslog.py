"""A syslog receiver (RFC 6587, octet counting) that takes everything: the protocol has no answers."""

import contextlib
import fcntl
import re
import select
import socket
import struct
import termios
import threading
from pathlib import Path
from typing import Any

from meshbridge.sinks.base import Sink
from meshbridge.sinks.syslog import SyslogOptions
from tests.contract.sinks.far_end import Say, Script
from tests.contract.sinks.socket_server import SocketServer
from tests.support import wait_for

_ID = re.compile(rb' id="([^"]+)"')


class SyslogFarEnd:
    says = frozenset({Say.OK})
    keeps_first_order = True

    def __init__(self, directory: Path) -> None:
        self.script = Script()
        self._directory = directory
        self._server = SocketServer(self._serve)
        self._lock = threading.Lock()  # guards _taken, and held while data is read
        self._taken: list[str] = []

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def close(self) -> None:
        pass

    def sink(self) -> Sink:
        settings = {"type": "syslog", "url": f"tcp://127.0.0.1:{self._server.port}"}
        return SyslogOptions.model_validate(settings).build("syslog", self._directory)

    def arrived(self) -> list[str]:
        """All that is in the kernel's buffers has been read by then: that is what the sink's acknowledgement means."""
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", self._server.port)) as last,
        ):
            name = last.getsockname()
            wait_for(lambda: name in map(_peer, self._server.connections()), "the connections before to be accepted")
        wait_for(self._has_read_all, "the receiver to read")
        with self._lock:
            return list(self._taken)

    def _has_read_all(self) -> bool:
        with self._lock:
            return not any(map(_unread, self._server.connections()))

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        while True:
            select.select([sock], [], [])
            with self._lock:
                more = sock.recv(65536)
                if not more:
                    return
                data = self._take(data + more)

    def _take(self, data: bytes) -> bytes:
        while True:
            size, space, rest = data.partition(b" ")
            if not space or len(rest) < int(size):
                return data
            message, data = rest[: int(size)], rest[int(size) :]
            match = _ID.search(message)
            assert match is not None
            self._taken.append(match[1].decode())


def _unread(sock: socket.socket) -> int:
    answer = bytearray(4)
    with contextlib.suppress(OSError, ValueError):  # it has ended
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, answer)
    return int(struct.unpack("i", answer)[0])


def _peer(sock: socket.socket) -> Any:
    with contextlib.suppress(OSError):
        return sock.getpeername()
    return None
