"""One HTTP connection: uvicorn's, which in addition gives up on who keeps it waiting.

Looked at once a second by the server (:meth:`Connection.look`), so that a thousand connections need no timers:

- a head (request line, headers) is whole within ``HEAD_SECONDS`` of its first byte, or of the connection's beginning;
- of a body that the application waits for, and of an answer that is to be taken, at least ``LEAST_BYTES`` move in each
  ``STALLED_SECONDS``, or all that is left;
- above the bound on connections one gets 503, above twice the bound it is closed without a word.

What uvicorn would say as plain text is said as ``application/problem+json``.
"""

import asyncio
import logging
import socket
import struct
from http import HTTPStatus
from typing import Any

import h11
import orjson
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from meshbridge import telemetry
from meshbridge.admin.problems import MEDIA_TYPE, SECURITY_HEADERS, Problem, problem_content

__all__ = ["Connection"]

HEAD_SECONDS = 30.0
STALLED_SECONDS = 30.0
LEAST_BYTES = 16 * 1024
_USER_TIMEOUT_MILLISECONDS = 60_000  # tcp(7): what nobody acknowledges for so long has no reader any more
_PEER = struct.Struct("3i")  # unix(7), SO_PEERCRED: process, user, group

_QUIET = logging.getLogger("uvicorn.error.admin")  # what strangers send is counted; bugs are told by the door
_QUIET.setLevel(logging.CRITICAL)


class Connection(H11Protocol):
    """For the event loop's thread alone."""

    def __init__(self, config: uvicorn.Config, state: ServerState, most: int) -> None:
        super().__init__(config, state, {})
        self._most = most
        self.logger = _QUIET
        self._head_since: float | None = None  # None while there is nothing of one
        self._body = _Progress()
        self._answer = _Progress()
        self._closing_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            process, user, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            self.client = (f"user {user}", process)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MILLISECONDS)
        self._head_since = self.loop.time()
        if len(self.connections) > 2 * self._most:
            self._cut("too_many")
        elif len(self.connections) > self._most:
            telemetry.admin_connection_cut("too_many")
            self.app = _busy

    def data_received(self, data: bytes) -> None:
        if self._head_since is None and self._idle:
            self._head_since = self.loop.time()
        self._body.moved += len(data)
        super().data_received(data)
        if not self._idle:
            self._head_since = None

    @property
    def _idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn says it is never None
        return cycle is None or cycle.response_complete

    def resume_writing(self) -> None:
        self._answer.begin(self.loop.time())
        super().resume_writing()

    def on_response_complete(self) -> None:
        # Its body may still be under way: what is left of it may take no longer than a head.
        self._head_since = self.loop.time() if self.conn.their_state is h11.SEND_BODY else None
        super().on_response_complete()

    def look(self, now: float) -> None:
        """Gives up on who keeps it waiting."""
        if self.transport.is_closing():  # waits for an answer's last bytes to be taken
            self._closing_since = self._closing_since or now
            if now - self._closing_since > STALLED_SECONDS:
                self.transport.abort()
        elif self._head_since is not None:
            if now - self._head_since > HEAD_SECONDS:
                self._refuse("slow_head", f"no whole request within {HEAD_SECONDS:.0f} s")
        elif self._waits_for_body():
            if self._body.stalled(now):
                self._refuse("slow_body", f"less than {LEAST_BYTES} bytes came in {STALLED_SECONDS:.0f} s")
        else:
            self._body.begin(now)
        unsent = self.transport.get_write_buffer_size()
        self._answer.moved += max(0, self._answer.left - unsent)
        self._answer.left = unsent
        if not self.flow.write_paused:
            self._answer.begin(now)
        elif self._answer.stalled(now):
            self._cut("slow_reader")

    def _waits_for_body(self) -> bool:
        return (
            not self._idle
            and self.cycle.more_body
            and not self.cycle.waiting_for_100_continue
            and not self.flow.read_paused  # else it is the application that is behind
        )

    def _refuse(self, reason: str, detail: str) -> None:
        began = self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]
        if began and self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._say(Problem(HTTPStatus.REQUEST_TIMEOUT, detail))
        telemetry.admin_connection_cut(reason)
        self.transport.close()

    def _cut(self, reason: str) -> None:
        telemetry.admin_connection_cut(reason)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP."""
        telemetry.admin_connection_cut("garbage")
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._say(Problem(HTTPStatus.BAD_REQUEST, msg))
        self.transport.close()

    def _say(self, problem: Problem) -> None:
        body = orjson.dumps(problem_content(problem))
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *SECURITY_HEADERS,
        ]
        reason = problem.status.phrase.encode()
        for event in (
            h11.Response(status_code=int(problem.status), headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if not self._idle:
            self.cycle.disconnected = True  # whoever works on the request need not answer any more
            self.cycle.message_event.set()


class _Progress:
    """How much has moved in the present stretch of time."""

    def __init__(self) -> None:
        self.moved = 0
        self.left = 0
        self._since: float | None = None

    def begin(self, now: float) -> None:
        self._since, self.moved = now, 0

    def stalled(self, now: float) -> bool:
        if self._since is None:
            self.begin(now)
        elif now - self._since > STALLED_SECONDS:
            if self.moved < LEAST_BYTES:
                return True
            self.begin(now)
        return False


async def _busy(_scope: Any, _receive: Any, send: Any) -> None:
    problem = Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open: try again later")
    body = orjson.dumps(problem_content(problem))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"retry-after", b"5"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": int(problem.status), "headers": [*headers, *SECURITY_HEADERS]})
    await send({"type": "http.response.body", "body": body})
