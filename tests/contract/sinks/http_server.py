"""An HTTP server with every habit, good or bad, that a test asks for."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Self

from tests.support import DEADLINE_SECONDS


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int  # which one of the server's it came on


@dataclass
class Exchange:
    """A request at hand, and the connection to answer it on."""

    request: Request
    sock: socket.socket
    ended: threading.Event = field(default_factory=threading.Event)  # set when the server stops
    is_cut: bool = False

    def answer(self, status: int = 204, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, seconds: float = 0.1) -> None:
        """A byte at a time, until the data, the server or the client's patience ends."""
        for byte in data:
            if self.ended.wait(seconds):
                return
            self.send(bytes([byte]))

    def hold(self) -> None:
        """Says nothing until the client goes or the server stops."""
        self.sock.settimeout(0.05)
        while not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.sock.recv(1):
                    return

    def cut(self) -> None:
        self.is_cut = True
        self.sock.shutdown(socket.SHUT_RDWR)


class HttpServer:
    """``answer`` is called in a thread for each connection; what it raises of ``OSError`` is a client that has gone."""

    def __init__(self, answer: Callable[[Exchange], None], context: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.connections = 0
        self._context = context
        self._listener: socket.socket | None = None
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._socks: set[socket.socket] = set()
        self._lock = threading.Lock()  # guards the four lists and sets
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        """Listens; after a stop at the same port again."""
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._threads = []
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        self._ended.set()
        listener, self._listener = self._listener, None
        if listener is not None:
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

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="http-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._spawn(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._socks.add(sock)
        served = sock
        try:
            if self._context is not None:
                with self._lock:
                    self._socks.discard(sock)
                served = self._context.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._socks.add(served)
            with served.makefile("rb") as stream:
                while (request := _read(stream, number)) is not None:
                    with self._lock:
                        self.requests.append(request)
                    exchange = Exchange(request, served, self._ended)
                    self.answer(exchange)
                    if exchange.is_cut:
                        return
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._socks -= {sock, served}
            served.close()
            sock.close()


def _read(stream: BinaryIO, number: int) -> Request | None:
    first = stream.readline().decode("latin-1").split()
    if len(first) < 3:
        return None
    headers: dict[str, str] = {}
    while line := stream.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", "0")))
    return Request(first[0], first[1], headers, body, number)
