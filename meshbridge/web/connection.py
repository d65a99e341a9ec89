"""One HTTP connection: heads are read whole, bodies and answers are handed on, and slow clients are given up on.

Looked at once a second by its server (:meth:`HttpConnection.look`), so that a thousand connections need no timers.
"""

import asyncio
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

import h11

from meshbridge import telemetry
from meshbridge.web import unix
from meshbridge.web.asgi import Application, scope_of
from meshbridge.web.exchange import HttpExchange
from meshbridge.web.head import BadRequestError, HeadReader
from meshbridge.web.limits import Limits

__all__ = ["HttpConnection", "Refusal", "plain_refusal"]

_USER_TIMEOUT_MILLISECONDS = 60_000  # tcp(7): data that is not acknowledged for so long has no reader any more

Refusal = Callable[[HTTPStatus, str], tuple[list[tuple[bytes, bytes]], bytes]]
"""Headers and body of an answer that the server gives itself."""


def plain_refusal(_status: HTTPStatus, detail: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return [(b"content-type", b"text/plain; charset=utf-8")], f"{detail}\n".encode()


class Host(Protocol):
    """What a connection needs of its server."""

    application: Application
    limits: Limits
    refusal: Refusal

    def opened(self, connection: "HttpConnection") -> None: ...
    def closed(self, connection: "HttpConnection") -> None: ...
    def serves(self, path: str) -> bool:
        """Whether a request may be answered now: at the bound on connections only vital ones are."""
        ...

    def cut(self, reason: str) -> None:
        """Counts a connection that is given up on."""
        ...


class HttpConnection(asyncio.Protocol):
    """For the event loop's thread alone."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._limits = host.limits
        self._loop = asyncio.get_running_loop()
        self._head = HeadReader(self._limits.head_bytes)
        self._conn: h11.Connection | None = None  # of the request that is under way
        self._exchange: HttpExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._next = bytearray()  # of the request after it
        self._since = self._loop.time()  # when the wait for a head began, or for the rest of a body after its answer
        self._served = False  # a request, so that the wait is for another one
        self._body = _Progress(self._limits)
        self._answer = _Progress(self._limits)
        self._unsent = 0
        self._may_write = True
        self._closing_since: float | None = None
        self._ending = False

    # --- the transport -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            self._client, self._server = unix.peer_of(sock), None
        else:
            self._client, self._server = transport.get_extra_info("peername")[:2], sock.getsockname()[:2]
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MILLISECONDS)
        self._scheme = "http" if transport.get_extra_info("sslcontext") is None else "https"
        self._host.opened(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._host.closed(self)
        if self._exchange is not None:
            self._exchange.leave()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._body.moved += len(data)
        if self._conn is None:
            if not self._head:
                self._since = self._loop.time()
            self._head.add(data)
            self._begin()
        elif self._conn.their_state is h11.SEND_BODY:
            self._take_body(data)
        else:
            self._next += data
            if len(self._next) > self._limits.head_bytes:  # the answer comes first
                self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._may_write = False
        if self._exchange is not None:
            self._exchange.may_write(False)

    def resume_writing(self) -> None:
        self._may_write = True
        self._answer.begin(self._loop.time())
        if self._exchange is not None:
            self._exchange.may_write(True)

    # --- a request -----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self._exchange is None or self._exchange.complete

    @property
    def idle_since(self) -> float:
        """When the present wait began, in seconds of the loop."""
        return self._since

    def _begin(self) -> None:
        """Begins an exchange, if a head is whole."""
        try:
            found = self._head.take()
            if found is None:
                return
            head, rest = found
            self._head = HeadReader(self._limits.head_bytes)
            self._conn = h11.Connection(h11.SERVER, self._limits.head_bytes)
            request = self._next_event(head)
            assert isinstance(request, h11.Request)
            scope = scope_of(request, scheme=self._scheme, client=self._client, server=self._server)
        except BadRequestError as error:
            self._host.cut("garbage")
            self._say(error.status, error.detail)
            return
        self._answer.begin(self._loop.time())
        self._body.begin(self._loop.time())
        if not self._host.serves(scope["path"]):
            self._host.cut("too_many")
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open: try again later")
            return
        self._exchange = HttpExchange(self._conn, self.transport, request)
        self._exchange.keep_alive = not self._ending
        self._exchange.may_write(self._may_write)
        self._task = self._loop.create_task(self._run(self._exchange, scope))
        self._take_body(rest)

    def _next_event(self, data: bytes) -> object:
        assert self._conn is not None
        try:
            if data:
                self._conn.receive_data(data)
            return self._conn.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequestError(HTTPStatus(error.error_status_hint), f"invalid HTTP request: {error}") from error

    def _take_body(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        try:
            event = self._next_event(data)
            while event is not h11.NEED_DATA and event is not h11.PAUSED:
                if isinstance(event, h11.Data):
                    exchange.body_came(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    exchange.body_ended()
                    self._next += self._trailing()
                    break
                event = self._next_event(b"")
        except BadRequestError as error:
            self._host.cut("garbage")
            self._say(error.status, error.detail)
            return
        self._end_if_done()

    def _trailing(self) -> bytes:
        assert self._conn is not None
        return bytes(self._conn.trailing_data[0])

    async def _run(self, exchange: HttpExchange, scope: object) -> None:
        try:
            await self._host.application(scope, exchange.receive, exchange.send)  # type: ignore[arg-type]  # made here
        except asyncio.CancelledError:
            if not exchange.started:
                self._say(HTTPStatus.SERVICE_UNAVAILABLE, "the bridge is stopping")
        except Exception as error:  # noqa: BLE001 one request must not cost the server
            telemetry.web_fault("request", error)
        if exchange.complete:
            self._since = self._loop.time()
            self._end_if_done()
        elif exchange.started:  # half an answer must not look like a whole one
            self.transport.abort()
        elif not exchange.gone:
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error: see the log")

    def _end_if_done(self) -> None:
        """Goes on to the next request, where both sides are done with this one."""
        conn, exchange = self._conn, self._exchange
        if conn is None or exchange is None or not exchange.complete:
            return
        if conn.our_state is h11.MUST_CLOSE or self._ending:
            self.transport.close()
        elif conn.their_state is h11.DONE:
            self._conn = self._exchange = self._task = None
            self._served = True
            self._since = self._loop.time()
            self.transport.resume_reading()
            if self._next:
                data, self._next = bytes(self._next), bytearray()
                self._loop.call_soon(self.data_received, data)  # not from here: a thousand of them would be nested
        else:
            self.transport.resume_reading()  # the rest of the body, which is left out

    # --- patience ------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Gives up on a client that is too slow."""
        limits, exchange = self._limits, self._exchange
        if self.transport.is_closing():  # waits for the last bytes of an answer to be taken
            self._closing_since = self._closing_since or now
            if now - self._closing_since > limits.stalled_seconds:
                self.transport.abort()
            return
        if exchange is None or exchange.complete:
            self._look_at_idle(now)
        elif not exchange.waits_for_body:
            self._body.begin(now)
        elif self._body.stalled(now):
            self._host.cut("slow_body")
            detail = f"less than {limits.least_bytes} bytes came in {limits.stalled_seconds:g} s"
            self._say(HTTPStatus.REQUEST_TIMEOUT, detail)
        unsent = self.transport.get_write_buffer_size()
        self._answer.moved += max(0, self._unsent - unsent)
        self._unsent = unsent
        if not unsent:
            self._answer.begin(now)
        elif self._answer.stalled(now):
            self._host.cut("slow_reader")
            self.transport.abort()

    def _look_at_idle(self, now: float) -> None:
        waited = now - self._since
        if self._exchange is None and self._served and not self._head:
            if waited > self._limits.keep_alive_seconds:
                self.transport.close()
        elif waited > self._limits.head_seconds:
            self._host.cut("slow_head")
            if self._head:
                self._say(HTTPStatus.REQUEST_TIMEOUT, f"no whole request within {self._limits.head_seconds:g} s")
            else:
                self.transport.close()

    def make_way(self) -> None:
        """Closes an idle connection for the sake of another."""
        self._host.cut("idle")
        self.transport.abort()

    def end(self) -> None:
        """The server ends: closes now, or after the answer that is under way."""
        self._ending = True
        if self.idle:
            self.transport.close()
        elif self._exchange is not None:
            self._exchange.keep_alive = False

    def cancel(self) -> None:
        """Ends an answer that is still under way; the application may say a last word."""
        if self._task is not None:
            self._task.cancel()
        else:
            self.transport.abort()

    def _say(self, status: HTTPStatus, detail: str) -> None:
        """Answers in place of the application, and closes."""
        exchange = self._exchange
        if exchange is None or not exchange.started:
            headers, body = self._host.refusal(status, detail)
            lines = [*headers, (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
            head = b"".join(b"%s: %s\r\n" % line for line in lines)
            self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, status.phrase.encode(), head, body))
        if exchange is not None:
            exchange.leave()
        self.transport.close()


class _Progress:
    """How much has moved in the present stretch of time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.moved = 0
        self._since: float | None = None

    def begin(self, now: float) -> None:
        self._since, self.moved = now, 0

    def stalled(self, now: float) -> bool:
        if self._since is None:
            self.begin(now)
        elif now - self._since > self._limits.stalled_seconds:
            if self.moved < self._limits.least_bytes:
                return True
            self.begin(now)
        return False
