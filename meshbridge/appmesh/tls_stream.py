"""A TLS connection that one thread may read while others write.

OpenSSL forbids two threads in one connection at a time, and CPython before 3.13 does not hold a lock for it. So the
socket is non-blocking, each call into OpenSSL is made under a lock, and waiting happens outside of it, in ``poll``.
"""

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshTimeoutError

__all__ = ["ClientCert", "SslVerify", "TlsStream", "client_context"]

SslVerify = bool | str
"""True: the system's authorities; False: no verification; a path: a CA bundle or a directory."""

ClientCert = str | tuple[str, str] | Callable[[ssl.SSLContext], None] | None
"""One PEM file with certificate and key, or the two files; or what loads them into a context, where the key needs a
password. Such a function raises ``OSError`` or ``ValueError``.
"""

_READ_BYTES = 16 * 1024  # a TLS record: OpenSSL gives no more at once, and Python allocates what is asked for

# A half-open connection is noticed by the kernel after 10 + 3 x 5 s; docs/design.md allows 30 s.
_KEEPALIVE_IDLE_SECONDS = 10
_KEEPALIVE_INTERVAL_SECONDS = 5
_KEEPALIVE_PROBES = 3
_USER_TIMEOUT_MILLISECONDS = 25_000


_MAX_POLL_SECONDS = 24 * 3600.0  # poll takes milliseconds in a C int
_NOTHING = "nothing received in time"


def client_context(ssl_verify: SslVerify, ssl_client_cert: ClientCert = None) -> ssl.SSLContext:
    """A client's TLS context, TLS 1.2 or newer.

    Raises:
        AppMeshConnectionError: a certificate file is missing or unreadable.

    """
    try:
        if isinstance(ssl_verify, str):
            directory = os.path.isdir(ssl_verify)  # noqa: PTH112 the reference takes strings
            context = ssl.create_default_context(
                cafile=None if directory else ssl_verify, capath=ssl_verify if directory else None
            )
        else:
            context = ssl.create_default_context()
            if not ssl_verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_certificate(context, ssl_client_cert)
    except (OSError, ValueError) as error:
        files = "" if callable(ssl_client_cert) else f", ssl_client_cert={ssl_client_cert!r}"
        raise AppMeshConnectionError(f"cannot load TLS files (ssl_verify={ssl_verify!r}{files}): {error}") from error
    return context


def _load_certificate(context: ssl.SSLContext, client_cert: ClientCert) -> None:
    if callable(client_cert):
        client_cert(context)
    elif client_cert:
        files = (client_cert, None) if isinstance(client_cert, str) else client_cert
        context.load_cert_chain(files[0], files[1], _refuse_password)


def _refuse_password() -> str:
    """In place of OpenSSL's prompt on the terminal."""
    raise ValueError("the private key of the client certificate is encrypted, and no password for it is set")


def explain_tls_error(error: OSError | UnicodeError, address: tuple[str, int]) -> str:
    """One line a person can act on, for what went wrong while connecting to ``address``."""
    host, port = address
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message or error.reason
        return f"certificate of {host}:{port} not trusted: {why}"
    if isinstance(error, ssl.SSLError):
        return f"TLS with {host}:{port} failed: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return f"no connection to {host}:{port} in time"
    if isinstance(error, UnicodeError):  # so Python calls a label that is empty or too long
        return f"host name {host!r} cannot be one"
    if isinstance(error, socket.gaierror):
        return f"host name {host!r} not found: {error.strerror}"
    return f"cannot connect to {host}:{port}: {error.strerror or error}"


def _connected(address: tuple[str, int], deadline: float) -> socket.socket:
    """A plain connection to the first of the host's addresses that answers; each gets its share of the time.

    Raises:
        OSError: none did; of the last one.

    """
    places = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    for number, (*_, (host, *_)) in enumerate(places, 1):
        share = (deadline - time.monotonic()) / (len(places) - number + 1)
        try:
            return socket.create_connection((str(host), address[1]), timeout=max(0.001, share))
        except OSError:
            if number == len(places):
                raise
    raise AssertionError("a host name has at least one address")


def _poll(poller: select.poll, deadline: float | None, what: str) -> None:
    """Waits, up to a day; raises ``what`` once ``deadline`` has passed."""
    if deadline is None:
        poller.poll()
        return
    left = min(deadline - time.monotonic(), _MAX_POLL_SECONDS)
    if not poller.poll(int(left * 1000) + 1 if left > 0 else 0) and time.monotonic() >= deadline:
        raise AppMeshTimeoutError(what)


class TlsStream:
    """A connected TLS socket. One thread reads; any thread may send or shut down.

    It also has what ``websocket-client`` asks of a socket (``recv``, ``send``, ``gettimeout``, …), with a read buffer,
    so that the many small reads of its frame parser don't each go to OpenSSL.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        self._lock = threading.Lock()  # guards each call into OpenSSL
        self._send_lock = threading.Lock()  # keeps one message's bytes together
        self._arrival = select.poll()  # of the thread that reads
        self._arrival.register(sock, select.POLLIN)
        self._full = False  # the last read gave all that was asked for: OpenSSL may hold more; of that thread, too
        self._buffer = b""  # the reader's: received, of which everything before _position was taken
        self._position = 0
        self._timeout: float | None = None
        self._until: float | None = None  # monotonic seconds
        self._closed = False

    @classmethod
    def connect(cls, address: tuple[str, int], context: ssl.SSLContext, timeout_seconds: float) -> "TlsStream":
        """Connects, over IPv4 or IPv6, and shakes hands, all within ``timeout_seconds``.

        Raises:
            AppMeshConnectionError: it could not; the message says why, and how to trust a certificate.

        """
        deadline = time.monotonic() + timeout_seconds
        try:
            plain = _connected(address, deadline)
        except (OSError, UnicodeError) as error:
            raise AppMeshConnectionError(explain_tls_error(error, address)) from error
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MILLISECONDS)
            plain.settimeout(max(0.001, deadline - time.monotonic()))
            secured = context.wrap_socket(plain, server_hostname=address[0])
        except OSError as error:
            plain.close()
            raise AppMeshConnectionError(explain_tls_error(error, address)) from error
        secured.setblocking(False)
        return cls(secured)

    # --- reading: one thread -------------------------------------------------------------------------------------

    def read_some(self, until: float | None = None) -> bytes:
        """Waits for bytes and gives what is there; ``b""`` at the end of the stream. ``until``: in monotonic seconds.

        Raises:
            AppMeshTimeoutError: nothing within the timeout set by :meth:`settimeout`, or ``until`` then.
            AppMeshConnectionError: the connection is lost.

        """
        if data := self.buffered:
            self._buffer, self._position = b"", 0
            return data
        deadline = self._deadline(until)
        # Mostly there is nothing yet. To find that out by OpenSSL costs an exception, and the lock that writers need.
        if not self._full and not self._closed:
            _poll(self._arrival, deadline, _NOTHING)
        while True:
            with self._lock:
                if self._closed:
                    return b""
                try:
                    data = self._socket.recv(_READ_BYTES)
                    self._full = len(data) == _READ_BYTES
                    return data
                except ssl.SSLWantReadError:
                    events = select.POLLIN
                except ssl.SSLWantWriteError:
                    events = select.POLLOUT
                except ssl.SSLEOFError:
                    return b""
                except OSError as error:
                    raise AppMeshConnectionError(f"connection lost while reading: {error}") from error
            self._wait(events, deadline, _NOTHING)

    def has_arrived(self) -> bool:
        """Whether a read would not wait: for bytes, the end of the stream, or what only TLS itself needs."""
        return self._full or bool(self.buffered) or bool(self._arrival.poll(0))

    def recv(self, size: int) -> bytes:
        """At most ``size`` bytes, as a socket gives them."""
        if self._position == len(self._buffer):
            self._buffer, self._position = self.read_some(), 0
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data

    @property
    def buffered(self) -> bytes:
        """What was received and not yet taken by :meth:`recv`."""
        return self._buffer[self._position :]

    # --- writing: any thread -------------------------------------------------------------------------------------

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of ``data``, not mixed with what other threads send.

        Raises:
            AppMeshTimeoutError: the peer does not take it within the timeout.
            AppMeshConnectionError: the connection is lost.

        """
        with self._send_lock:
            sent = self._send(data)
            while sent < len(data):
                sent += self._send(memoryview(data)[sent:])

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Sends all of ``data``, which a socket's ``send`` may do."""
        self.sendall(data)
        return len(data)

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        deadline = self._deadline()
        while True:
            with self._lock:
                if self._closed:
                    raise AppMeshConnectionError("the connection is closed")
                try:
                    return self._socket.send(data)
                except ssl.SSLWantReadError:
                    events = select.POLLIN
                except ssl.SSLWantWriteError:
                    events = select.POLLOUT
                except OSError as error:
                    raise AppMeshConnectionError(f"connection lost while sending: {error}") from error
            self._wait(events, deadline, "the peer reads nothing")

    def _deadline(self, until: float | None = None) -> float | None:
        """When a read or send that begins now must have ended."""
        if self._timeout is None and self._until is None:
            return until
        within = None if self._timeout is None else time.monotonic() + self._timeout
        return min((at for at in (within, self._until, until) if at is not None), default=None)

    def _wait(self, events: int, deadline: float | None, what: str) -> None:
        poller = select.poll()
        try:
            poller.register(self._socket, events)
        except ValueError:
            raise AppMeshConnectionError("the connection is closed") from None
        _poll(poller, deadline, what)

    # --- the rest ------------------------------------------------------------------------------------------------

    def peer_certificate(self) -> Mapping[str, Any]:
        """What ``ssl.SSLSocket.getpeercert`` tells; empty where the certificate was not verified."""
        with self._lock:
            return self._socket.getpeercert() or {}

    def settimeout(self, timeout_seconds: float | None) -> None:
        """How long one read or send may wait; None: for ever."""
        self._timeout = timeout_seconds

    def set_deadline(self, at: float | None) -> None:
        """When all reads and sends must have ended, together, in monotonic seconds; None: they need not."""
        self._until = at

    def gettimeout(self) -> float | None:
        return self._timeout

    def fileno(self) -> int:
        return self._socket.fileno()

    def setsockopt(self, *option: object) -> None:
        """Takes what ``websocket-client`` sets: it is set already."""

    def shutdown(self, how: int = socket.SHUT_RDWR) -> None:
        """Wakes a thread that reads, which then sees the end of the stream. The file descriptor stays open."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, how)

    def close(self) -> None:
        """Ends the connection at once, without waiting for the peer."""
        self.shutdown()
        with self._lock:
            self._closed = True
            self._socket.close()
