"""One request and its answer: between the application, which runs as a task, and the connection."""

import asyncio
import http
from email.utils import formatdate

import h11

from meshbridge.web.asgi import Message

__all__ = ["HttpExchange"]

_READ_AHEAD_BYTES = 64 * 1024
_SMALL_BYTES = 16 * 1024  # one packet more costs more than a copy of so much
_PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}


class HttpExchange:
    """For the event loop's thread alone. The connection feeds it what comes, and sends what it gives."""

    def __init__(self, conn: h11.Connection, transport: asyncio.Transport, request: h11.Request) -> None:
        self._conn = conn
        self._transport = transport
        self._no_body = request.method == b"HEAD"
        self._head: bytes | None = None  # of the answer, kept to go out together with the first of its body
        self._body = bytearray()  # of the request, what the application has not taken yet
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.more_body = True  # of the request
        self.keep_alive = True
        self.gone = False  # the client, or the server's patience
        self.started = False  # the answer
        self.complete = False

    # --- what the connection says --------------------------------------------------------------------------------

    def body_came(self, data: bytes) -> None:
        if not self.complete:
            self._body += data
            self._arrived.set()
            if len(self._body) > _READ_AHEAD_BYTES:
                self._transport.pause_reading()

    def body_ended(self) -> None:
        self.more_body = False
        self._arrived.set()

    def leave(self) -> None:
        """No answer can be sent any more."""
        self.gone = True
        self._arrived.set()
        self._writable.set()

    def may_write(self, may: bool) -> None:
        (self._writable.set if may or self.gone else self._writable.clear)()

    @property
    def waits_for_body(self) -> bool:
        """Whether the client is behind, and not the application."""
        return self.more_body and len(self._body) <= _READ_AHEAD_BYTES and not self._waits_for_continue

    @property
    def _waits_for_continue(self) -> bool:
        return self._conn.they_are_waiting_for_100_continue

    # --- what the application calls ------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """ASGI's."""
        if self._waits_for_continue and not self.gone and not self.started:
            self._write(self._conn.send(h11.InformationalResponse(status_code=100, headers=[])))
        if not self.gone and not self.complete:
            self._transport.resume_reading()
            await self._arrived.wait()
            self._arrived.clear()
        if self.gone or self.complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """ASGI's. What is sent after the client has gone is dropped."""
        if not self._writable.is_set():
            await self._writable.wait()
        if self.gone:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], [(name.lower(), value) for name, value in message.get("headers", ())])
        elif message["type"] == "http.response.body":
            body = b"" if self._no_body else message.get("body", b"")
            data = self._conn.send(h11.Data(data=body)) if body else b""
            if not message.get("more_body", False):
                data = (data or b"") + (self._conn.send(h11.EndOfMessage()) or b"")
                self.complete = True
            self._write(data)
        else:
            raise RuntimeError(f"unexpected ASGI message {message['type']!r}")

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        headers = [(b"date", formatdate(usegmt=True).encode()), *headers]
        if not self.keep_alive:
            headers = [header for header in headers if header[0] != b"connection"]
            headers.append((b"connection", b"close"))
        response = h11.Response(status_code=status, headers=headers, reason=_PHRASES.get(status, b""))
        self._head = self._conn.send(response)
        self.started = True

    def _write(self, data: bytes | None) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            if data and len(data) <= _SMALL_BYTES:
                data = head + data
            else:
                self._transport.write(head)
        if data:
            self._transport.write(data)
