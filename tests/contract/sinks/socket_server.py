"""A server that can be stopped and started at the same port, a thread for each connection."""

import contextlib
import socket
import threading
from collections.abc import Callable

from tests.support import DEADLINE_SECONDS


class SocketServer:
    """``serve`` is called with each connection; ``OSError`` and ``EOFError`` end that one alone."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.port = 0
        self._serve = serve
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()  # guards _socks
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._threads = []
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._lock:
            for sock in self._socks:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive()

    def connections(self) -> list[socket.socket]:
        """Those that are accepted and not ended."""
        with self._lock:
            return list(self._socks)

    def _spawn(self, target: Callable[[socket.socket], None], sock: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(sock,), name="far-end", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._socks.add(sock)
            self._spawn(self._connection, sock)

    def _connection(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, EOFError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve(sock)
        with self._lock:
            self._socks.discard(sock)


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
