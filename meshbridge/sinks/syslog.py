"""Sends events to a syslog server: RFC 5424 over TCP with octet counting (RFC 6587), TLS (RFC 5425), or UDP (RFC 5426).

What a message holds is the text of :mod:`meshbridge.sinks.syslog_message`.

**Acknowledged.** Syslog has no acknowledgement. Over TCP and TLS an event counts as acknowledged when the server's host
has confirmed its bytes (TCP): a server that is killed before it reads them loses them, as with QoS 0 of MQTT. An event
counts when it was handed to the network with UDP, and may be lost on the way, without notice.
"""

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from meshbridge.fields import Format, Size, Tls
from meshbridge.model.events import Envelope, Event
from meshbridge.sinks.base import Found, NotConnected, Preview, Refused, SinkError
from meshbridge.sinks.options import SinkOptions
from meshbridge.sinks.syslog_message import Messages

__all__ = ["SyslogOptions", "SyslogSink"]

_FINISH_SECONDS = 1.0  # for the server to read what a connection that is replaced has brought
_PORTS = {"tcp": 514, "tls": 6514, "udp": 514}
_CHUNK_BYTES = 128 * 1024  # sent before the server's host has confirmed what went before
_LONGEST_LOOK_SECONDS = 0.02
_DRAINED_BYTES = 64 * 1024  # of what a server says, which means nothing here

Facility = Literal[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip


class SyslogOptions(SinkOptions):
    """A syslog server: rsyslog, syslog-ng, or another receiver of RFC 5424."""

    type: Literal["syslog"]
    url: str = Field(description="tcp://host[:514], tls://host[:6514] or udp://host[:514]")
    tls: Tls = Field(default=Tls(), description="for tls://")
    facility: Facility = Field(default="daemon", description="facility of every message")
    format: Format = Field(
        default=Format.BINARY,
        description="binary: lines of output, other events' data as JSON; cloudevents, raw: whole events as JSON",
    )
    structured_data_id: str = Field(
        default="cloudevents@32473",
        pattern=r"^[!#-<>-\\^-~]{1,32}$",
        description="SD-ID of the event's attributes; 32473 is the enterprise number reserved for examples",
    )
    max_message_bytes: Size = Field(
        default=8 * 1024, ge=2048, le=1024 * 1024, description="what the server takes; longer lines are divided"
    )

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        with contextlib.suppress(ValueError):  # a port that is no number
            parts = urlsplit(value)
            plain = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
            if parts.scheme in _PORTS and parts.hostname and plain and parts.port != 0:
                return value
        raise ValueError("not the address of a syslog server: use tcp://host[:port], tls://host[:port] or udp://…")

    def probe(self, timeout_seconds: float) -> Found:
        """Connects, and makes the TLS handshake; sends no message.

        Raises:
            NotConnected: the server cannot be reached or is not trusted.

        """
        sink = SyslogSink(self)
        try:
            sink.connect(timeout_seconds)
            sink.idle()
        finally:
            sink.close(timeout_seconds)
        place = urlsplit(self.url).netloc
        if self.url.startswith("udp:"):
            return Found(f"{place} is known", "UDP: whether a server listens is not known", "use tcp:// or tls://")
        return Found(f"{place} accepts the connection")

    def build(self, _name: str, _state_directory: Path) -> "SyslogSink":
        return SyslogSink(self)


class SyslogSink:
    """See the module's text."""

    def __init__(self, options: SyslogOptions) -> None:
        self._options = options
        parts = urlsplit(options.url)
        self._scheme, self._host, self._port = parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]
        self._place = f"{parts.scheme}://{parts.netloc}"
        self._socket: socket.socket | None = None
        limit = min(options.max_message_bytes, 65_000) if self._scheme == "udp" else options.max_message_bytes
        self._messages = Messages(options.facility, options.format, options.structured_data_id, limit)

    def connect(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds * 0.95
        self._let_server_finish(min(deadline, time.monotonic() + _FINISH_SECONDS))
        self.close(0)
        try:
            self._socket = self._connected_socket(deadline)
        except ssl.SSLCertVerificationError as error:
            text = f"certificate of {self._place} not trusted: {error.verify_message}; set tls.ca_file to the PEM file"
            raise NotConnected(f"{text} of its authority", reason="tls") from error
        except ssl.SSLError as error:
            raise NotConnected(f"no TLS with {self._place}: {error.reason or 'broken off'}", reason="tls") from error
        except OSError as error:
            why = error.strerror or "no answer in time"
            raise NotConnected(f"cannot connect to {self._place}: {why}", reason="unreachable") from error

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds * 0.95
        sock = self._open()
        acknowledged, waiting = 0, bytearray()
        try:
            for place, envelope in enumerate(batch):
                messages = self._messages.of(envelope.event)
                if self._scheme == "udp":
                    for message in messages:
                        self._send(sock, message, deadline)
                    acknowledged = place + 1
                    continue
                for message in messages:
                    waiting += b"%d %b" % (len(message), message)
                if len(waiting) >= _CHUNK_BYTES:
                    self._deliver(sock, waiting, deadline)
                    acknowledged, waiting = place + 1, bytearray()
            self._deliver(sock, waiting, deadline)
        except Refused as refused:
            self._finish(sock, waiting, deadline, acknowledged)
            refused.acknowledged = place
            raise
        except SinkError as error:
            error.acknowledged = acknowledged
            raise
        except OSError as error:
            # Part of a message may be on its way: a new connection begins with a whole one.
            self.close(0)
            text = f"connection to {self._place} lost: {error.strerror or error}"
            # An error of UDP belongs to a datagram that was sent before.
            safe = 0 if self._scheme == "udp" else acknowledged
            raise NotConnected(text, acknowledged=safe, reason="connection_lost") from error

    def idle(self) -> None:
        self._open()

    def close(self, timeout_seconds: float) -> None:  # noqa: ARG002 what was acknowledged has been sent
        sock, self._socket = self._socket, None
        if sock is not None:
            if isinstance(sock, ssl.SSLSocket):
                with contextlib.suppress(OSError, ValueError):
                    sock.unwrap()  # RFC 5425, 4.4: close_notify; the answer is not waited for
            sock.close()

    def preview(self, event: Event) -> list[Preview]:
        return [Preview(self._place, {}, message) for message in self._messages.of(event)]

    # --- the connection ------------------------------------------------------------------------------------------

    def _let_server_finish(self, deadline: float) -> None:
        """Ends a TCP connection and waits until the server has read it to its end, so that it is not still reading
        there when the next connection brings newer messages.
        """
        if self._socket is None or self._scheme != "tcp":
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(4096):
                    return

    def _connected_socket(self, deadline: float) -> socket.socket:
        if self._scheme == "udp":
            family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
            sock = socket.socket(family, kind, protocol)
            try:
                sock.connect(address)
            except OSError:
                sock.close()
                raise
            sock.setblocking(False)
            return sock
        context = self._options.tls.context() if self._scheme == "tls" else None
        sock = socket.create_connection((self._host, self._port), max(0.01, deadline - time.monotonic()))
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname=self._host, do_handshake_on_connect=False)
                _handshake(sock, deadline)
        except BaseException:
            sock.close()
            raise
        return sock

    def _open(self) -> socket.socket:
        """The socket, where the server has not ended the connection.

        Raises:
            NotConnected: it has, or there was none.

        """
        sock = self._socket
        if sock is None:
            raise NotConnected(f"not connected to {self._place}")
        try:
            _look(sock)
        except OSError as error:
            self.close(0)
            text = f"connection to {self._place} lost: {error.strerror or error}"
            raise NotConnected(text, reason="connection_lost") from error
        return sock

    def _finish(self, sock: socket.socket, waiting: bytearray, deadline: float, acknowledged: int) -> None:
        """Delivers what stands before an event that is refused."""
        try:
            self._deliver(sock, waiting, deadline)
        except OSError as error:
            self.close(0)
            text = f"connection to {self._place} lost: {error.strerror or error}"
            raise NotConnected(text, acknowledged=acknowledged, reason="connection_lost") from error

    def _deliver(self, sock: socket.socket, data: bytearray, deadline: float) -> None:
        """Sends, and returns when the server's host has confirmed all of it.

        Raises:
            OSError: the connection is lost, or the time is up.

        """
        if not data:
            return
        self._send(sock, data, deadline)
        pause = 0.0001
        while _unconfirmed(sock):
            _wait(sock, deadline, pause, writing=False)
            _look(sock)
            pause = min(pause * 2, _LONGEST_LOOK_SECONDS)
        _look(sock)

    @staticmethod
    def _send(sock: socket.socket, data: bytes | bytearray, deadline: float) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[sock.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                _wait(sock, deadline, writing=True)
            except ssl.SSLWantReadError:
                _wait(sock, deadline, writing=False)


def _handshake(sock: ssl.SSLSocket, deadline: float) -> None:
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            _wait(sock, deadline, writing=False)
        except ssl.SSLWantWriteError:
            _wait(sock, deadline, writing=True)
        else:
            return


def _wait(sock: socket.socket, deadline: float, longest: float = 60.0, *, writing: bool) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(None, "the server does not read in time")
    poll = select.poll()
    poll.register(sock, select.POLLOUT if writing else select.POLLIN)
    poll.poll(max(1, min(left, longest) * 1000) if longest >= 0.001 else longest * 1000)  # noqa: PLR2004 poll counts milliseconds


def _look(sock: socket.socket) -> None:
    """Takes what the server sent, without waiting.

    Raises:
        OSError: the connection has ended.

    """
    left = _DRAINED_BYTES
    with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        while left > 0:
            said = sock.recv(8192)
            if not said and sock.type != socket.SOCK_DGRAM:
                raise ConnectionResetError(None, "ended by the server")
            left -= max(1, len(said))


def _unconfirmed(sock: socket.socket) -> int:
    """Bytes that the other host has not confirmed; 0 where this system cannot say."""
    answer = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, answer)
    return int(struct.unpack("i", answer)[0])
