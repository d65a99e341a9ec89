"""HTTPS and WSS as one ASGI application: the REST paths on both ports, messages on the WSS port only."""

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from email.utils import formatdate
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import orjson

from meshbridge.appmesh.tcp_messages import MessageError, RequestMessage
from meshbridge.emulator.connection import Connection
from meshbridge.emulator.daemon import Daemon
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.issuer_web import AUTH_PATH, IssuerApplication
from meshbridge.emulator.messages import (
    BINARY,
    JSON,
    Call,
    EmulatedAnswer,
    encode_json,
    json_answer,
    message_answer,
    read_request,
    readable_uuid,
)
from meshbridge.emulator.operations.files import (
    BLOCK_BYTES,
    TicketRefused,
    apply_attributes,
    attributes,
    is_there,
    path_by_ticket,
    path_for_https,
)
from meshbridge.emulator.settings import EmulatorOptions

log = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SUBPROTOCOL = "appmesh-ws"
TRY_AGAIN_LATER, GOING_AWAY = 1013, 1001
CLOSE_SECONDS = 5.0
"""How long a cut-off WSS client has to read up to the close frame; then the connection is dropped."""

TOKEN_COOKIE = "appmesh_auth_token"  # noqa: S105 a name
CSRF_COOKIE = "appmesh_csrf_token"
FILE_PATH = "x-file-path"
LOGOFF_PATH = "/appmesh/self/logoff"
TOKEN_ON_REQUEST = frozenset({"/appmesh/login", "/appmesh/auth", "/appmesh/totp/validate"})
TOKEN_ALWAYS = frozenset({"/appmesh/token/renew", "/appmesh/totp/setup"})

HEADERS = (
    ("Access-Control-Allow-Headers", "Authorization, Content-Type"),
    ("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS"),
    ("Access-Control-Allow-Origin", "*"),
    ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),
    ("X-Content-Type-Options", "nosniff"),
    ("uWebSockets", "20"),
)
"""What the daemon adds to every answer (``golden/https.jsonl``)."""

RAW_HEADERS = (
    ("uWebSockets", "20"),
    ("Access-Control-Allow-Headers", "Authorization, Content-Type, X-File-Path"),
    ("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS"),
    ("Access-Control-Allow-Origin", "*"),
)
"""What it adds to the second step of a transfer; to a refusal of it only the first."""

METHODS = frozenset({"GET", "POST", "PUT", "DELETE"})
MOST_HEADER_BYTES = 4096
BAD_REQUEST = b"<h1>Bad Request</h1><hr><i>uWebSockets/20 Server</i>"
LOST_AT_END = bytes(range(0x80, 0x100)) + b" \t"
_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9._ -]")


class WebApplication:
    """The ASGI application of one port. ``abort(client)`` drops the connection of that peer address."""

    def __init__(
        self, daemon: Daemon, options: EmulatorOptions, *, messages: bool, abort: Callable[[tuple[str, int]], None]
    ) -> None:
        self._daemon = daemon
        self._options = options
        self._messages = messages
        self._abort = abort
        at_agent = not messages and daemon.issuer is not None
        self._issuer = IssuerApplication(daemon.issuer) if at_agent and daemon.issuer else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._http(scope, receive, send)
            except _NoAnswer:
                self._abort(tuple(scope["client"]))
            except (_Disconnected, OSError):
                return
            except Exception as error:  # noqa: BLE001 one line: what a client sends must not fill the log
                log.error("request failed: %s %s: %r", scope["method"], scope["path"], error)  # noqa: TRY400 as above
                self._abort(tuple(scope["client"]))
        elif scope["type"] == "websocket" and self._messages:
            await self._websocket(scope, receive, send)

    # --- WSS ----------------------------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the connect
        client: tuple[str, int] = tuple(scope["client"])
        connection = Connection("wss", peer=client[0], max_bytes=self._options.wss_queue_bytes)
        offered = scope.get("subprotocols") or ()
        refused = self._refused_upgrade(scope, connection, offered)
        if refused is not None:
            await _refuse_upgrade(send, *refused)
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL if SUBPROTOCOL in offered else None})
        sender = _WssSender(connection, send, lambda: self._abort(client))
        connection.sender = sender
        writer = asyncio.create_task(sender.run())
        requests: set[asyncio.Task[None]] = set()
        try:
            while (message := await self._next_message(receive))["type"] == "websocket.receive":
                body = message.get("bytes") or b""
                try:
                    request = read_request(body)
                except MessageError as error:  # ignored by 2.x
                    if self._daemon.dialect.answers_bad_messages and (uuid := readable_uuid(body)):
                        connection.push(message_answer(400, f"bad message: {error}").packed(RequestMessage(uuid)))
                    continue
                task = asyncio.create_task(self._serve(request, connection))
                requests.add(task)
                task.add_done_callback(requests.discard)
        except TimeoutError:
            await send({"type": "websocket.close", "code": GOING_AWAY})
        finally:
            connection.close()
            writer.cancel()
            for task in requests:
                task.cancel()
            await asyncio.gather(writer, *requests, return_exceptions=True)
            await sender.stop()

    async def _next_message(self, receive: Receive) -> dict[str, Any]:
        """Raises TimeoutError: nothing has come in for too long, and this daemon sends no pings itself."""
        seconds = None if self._daemon.dialect.pings else self._options.wss_idle_seconds
        return await asyncio.wait_for(receive(), seconds)

    def _refused_upgrade(self, scope: Scope, connection: Connection, offered: Sequence[str]) -> tuple[int, str] | None:
        """Status and plain words, where a daemon of 3.x does not open it; else its principal is kept."""
        bearers = self._daemon.bearers
        if bearers is None:
            return None
        if offered and SUBPROTOCOL not in offered:
            return 400, "unsupported subprotocol"
        headers = self._headers(scope) or {}
        if "authorization" in headers:
            try:
                connection.principal_id = bearers.principal_of(headers["authorization"]).principal_id
            except RequestRefused:
                return 401, "Authentication failed"
        else:
            connection.workers_only = self._daemon.dialect.workers_without_upgrade_token_only
        return None

    async def _serve(self, request: RequestMessage, connection: Connection) -> None:
        answer = await self._daemon.handle(request, connection)
        connection.push(answer.packed(request))
        if answer.then is not None:
            await answer.then()

    # --- HTTPS --------------------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        path: str = scope["raw_path"].decode("latin-1")
        if self._issuer is not None and path.startswith(f"{AUTH_PATH}/"):
            await self._issuer(scope, receive, send)
            return
        headers = self._headers(scope)
        if headers is None:
            await _start_with(send, 400, [("Connection", "close"), ("Content-Length", str(len(BAD_REQUEST)))])
            await send({"type": "http.response.body", "body": BAD_REQUEST})
            return
        if method not in METHODS:
            known = method == "OPTIONS"
            await _reply(send, EmulatedAnswer(200) if known else json_answer({"error": "Route not found"}, 404))
            return
        cookies = _cookies(headers.get("cookie", ""))
        refused = self._check_csrf_token(method, headers, cookies)
        if refused is not None:
            await _reply(send, refused)
            return
        if "authorization" not in headers and TOKEN_COOKIE in cookies and not self._daemon.dialect.has_issuer:
            headers["authorization"] = f"Bearer {cookies[TOKEN_COOKIE]}"
        request = RequestMessage(
            uuid=self._daemon.identifiers.next(),
            request_uri=path,
            http_method=method,
            client_addr=scope["client"][0] if scope.get("client") else "",
            headers=headers,
            query=_query(scope["query_string"].decode("latin-1")),
        )
        peer = scope["client"][0] if scope.get("client") else ""
        connection = Connection("wss-https" if self._messages else "https", peer=peer)
        served = await self._file(request, connection, receive, send)
        if served:
            return
        request.body = b"".join([part async for part in _parts(receive)])
        answer = await self._until_gone(self._daemon.handle(request, connection), receive)
        if answer is not None:
            await _reply(send, answer, self._cookies(path, headers, cookies, answer))

    def _headers(self, scope: Scope) -> dict[str, str] | None:
        """By names in lower case; None for more than the daemon reads. Its WSS port loses what ends a value."""
        given: list[tuple[bytes, bytes]] = scope["headers"]
        size = (
            len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in given)
        )
        if size > MOST_HEADER_BYTES:
            return None
        if self._messages:
            given = [(name, value.rstrip(LOST_AT_END)) for name, value in given]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in given}
        if FILE_PATH in headers:  # no more than bytes to the daemon's host
            headers[FILE_PATH] = headers[FILE_PATH].encode("latin-1").decode(errors="surrogateescape")
        return headers

    async def _until_gone(self, operation: Awaitable[EmulatedAnswer], receive: Receive) -> EmulatedAnswer | None:
        """The operation's answer; None if the client hung up before there was one."""
        task = asyncio.ensure_future(operation)
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for unfinished in (task, gone):
                unfinished.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    def _check_csrf_token(self, method: str, headers: dict[str, str], cookies: dict[str, str]) -> EmulatedAnswer | None:
        """Older daemons want the cookie ``appmesh_csrf_token`` repeated in ``X-CSRF-Token`` of a write by cookie.

        What others look at instead, ``Origin``, they look at over each transport.
        """
        if method == "GET" or "authorization" in headers or TOKEN_COOKIE not in cookies or not self._options.csrf_token:
            return None
        valid = bool(cookies.get(CSRF_COOKIE)) and headers.get("x-csrf-token") == cookies[CSRF_COOKIE]
        return None if valid else message_answer(403, "CSRF token validation failed")

    def _cookies(
        self, path: str, headers: dict[str, str], cookies: dict[str, str], answer: EmulatedAnswer
    ) -> list[str]:
        """The cookies that an answer sets: the session of a new token, or its end."""
        wanted = (path in TOKEN_ON_REQUEST and headers.get("x-set-cookie", "").lower() in {"true", "1"}) or (
            path in TOKEN_ALWAYS and TOKEN_COOKIE in cookies
        )
        if answer.status != 200:  # noqa: PLR2004 an HTTP status
            return []
        if path == LOGOFF_PATH and TOKEN_COOKIE in cookies:
            return [f"{TOKEN_COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0; Secure"]
        if not wanted:
            return []
        body = orjson.loads(answer.body)
        age = f"Max-Age={body['expires_in']}"
        set_cookies = [f"{TOKEN_COOKIE}={body['access_token']}; Path=/; HttpOnly; SameSite=Strict; Secure; {age}"]
        if self._options.csrf_token:
            set_cookies.append(
                f"{CSRF_COOKIE}={self._daemon.identifiers.next()}; Path=/; SameSite=Strict; Secure; {age}"
            )
        return set_cookies

    # --- files --------------------------------------------------------------------------------------------------------

    async def _file(self, request: RequestMessage, connection: Connection, receive: Receive, send: Send) -> bool:
        """Serves the four requests that carry a file's bytes themselves; False for any other."""
        by_ticket = {
            ("POST", "/appmesh/file/upload/ws"): (self._receive_raw, "file-upload"),
            ("GET", "/appmesh/file/download/ws"): (self._send_raw, "file-download"),
        }.get((request.http_method, request.request_uri))
        call = Call(request, connection, request.headers)
        if by_ticket is not None:
            serve_raw, permission = by_ticket
            try:
                await serve_raw(call, path_by_ticket(self._daemon, call, permission), receive, send)
            except TicketRefused as refused:
                headers = [("Content-Length", str(len(refused.words)))]
                await _start_with(send, refused.status, [*RAW_HEADERS[:1], *headers])
                await send({"type": "http.response.body", "body": refused.words.encode()})
            return True
        direct = {
            ("POST", "/appmesh/file/upload"): (
                self._receive_body if self._daemon.dialect.has_issuer else self._receive_multipart,
                "file-upload",
            ),
            ("GET", "/appmesh/file/download"): (self._send_file, "file-download"),
        }.get((request.http_method, request.request_uri))
        if direct is None or self._messages:
            return False
        serve, permission = direct
        try:
            answer = await serve(call, path_for_https(self._daemon, call, permission), receive, send)
        except RequestRefused as refused:
            answer = refused.answer
        if answer is not None:
            await _reply(send, answer)
        return True

    async def _receive_body(self, call: Call, path: Path, receive: Receive, _send: Send) -> EmulatedAnswer:
        """3.x: the body is the file."""
        size = 0
        with _new_file(path) as file:
            async for part in _parts(receive):
                size += file.write(part)
        apply_attributes(path, call)
        return json_answer({"file": path.name, "size": size, "status": "success"}, 201)

    async def _receive_raw(self, _call: Call, path: Path, receive: Receive, send: Send) -> None:
        _check_new(path)
        size = 0
        with _new_file(path) as file:
            os.fchmod(file.fileno(), 0o644)  # whatever the request says (measured)
            async for part in _parts(receive):
                size += len(part)
                file.write(part)
        body = encode_json({"file": path.name, "size": size, "status": "success"})
        headers = [*RAW_HEADERS, ("Content-Type", JSON), ("Content-Length", str(len(body)))]
        await _start_with(send, 201, headers)
        await send({"type": "http.response.body", "body": body})

    async def _send_raw(self, _call: Call, path: Path, _receive: Receive, send: Send) -> None:
        """An empty file has no answer of a daemon of 2.x: it closes the connection (measured)."""
        size = _size_to_send(path)
        if not size and not self._daemon.dialect.has_issuer:
            raise _NoAnswer
        headers = [*RAW_HEADERS, ("Content-Disposition", _disposition(path)), ("Content-Type", BINARY)]
        if self._daemon.dialect.has_issuer:
            headers += attributes(path).items()
        await _start_with(send, 200, [*headers, ("Content-Length", str(size))])
        await _send_blocks(path, send)

    async def _receive_multipart(self, call: Call, path: Path, receive: Receive, _send: Send) -> EmulatedAnswer:
        from meshbridge.emulator.multipart import FilePart  # noqa: PLC0415 its library is in the extra `demo`

        parser = FilePart(call.header("Content-Type"))
        with _new_file(path) as file:
            async for part in _parts(receive):
                file.write(parser.feed(part))
            if not parser.complete:
                raise RequestRefused(400, "no file in the request")
        apply_attributes(path, call)
        return EmulatedAnswer(200, b'{"message":""}', JSON)

    async def _send_file(self, _call: Call, path: Path, _receive: Receive, send: Send) -> None:
        headers = _file_headers(path)
        if self._daemon.dialect.has_issuer:
            headers["Content-Disposition"] = _disposition(path)
        await _start(send, 200, BINARY, headers)
        await _send_blocks(path, send)


class _WssSender:
    """Writes a connection's messages one by one, as the client takes them; one that does not is closed with 1013."""

    def __init__(self, connection: Connection, send: Send, abort: Callable[[], None]) -> None:
        self._connection = connection
        self._send = send
        self._abort = abort
        self._due = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    def wake(self) -> None:
        self._due.set()
        if self._connection.overrun and self._closing is None:
            self._closing = asyncio.create_task(self._cut_off())

    def abort(self) -> None:
        self._abort()

    async def run(self) -> None:
        connection = self._connection
        try:
            while not connection.closed:
                await self._due.wait()
                self._due.clear()
                while connection.queue:
                    await self._send({"type": "websocket.send", "bytes": connection.take()})
        except OSError:  # the client has gone meanwhile
            return

    async def stop(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            await asyncio.gather(self._closing, return_exceptions=True)

    async def _cut_off(self) -> None:
        self._connection.close()
        try:
            await asyncio.wait_for(self._send({"type": "websocket.close", "code": TRY_AGAIN_LATER}), CLOSE_SECONDS)
        except TimeoutError:
            self._abort()


def _cookies(header: str) -> dict[str, str]:
    """The cookies of a request; none where the header cannot be read."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


class _NoAnswer(Exception):  # noqa: N818 an outcome
    """The daemon closes the connection without a byte."""


class _Disconnected(Exception):  # noqa: N818 an outcome
    """The client went while it sent a body."""


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    """The body of a request as it comes in.

    Raises:
        _Disconnected: the client went before its end.

    """
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _start(
    send: Send, status: int, content_type: str, headers: dict[str, str], cookies: list[str] | None = None
) -> None:
    shown = [
        *HEADERS,
        ("Date", formatdate(usegmt=True)),
        *headers.items(),
        *(("Set-Cookie", cookie) for cookie in cookies or ()),
    ]
    if content_type:
        shown.append(("Content-Type", content_type))
    await _start_with(send, status, shown)


async def _start_with(send: Send, status: int, headers: Iterable[tuple[str, str]]) -> None:
    encoded = [(name.encode("latin-1"), value.encode("utf-8", "surrogateescape")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _send_blocks(path: Path, send: Send) -> None:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _check_new(path: Path) -> None:
    """Raises TicketRefused: there is something."""
    if path.is_symlink():
        raise TicketRefused(400, "Symlinks not allowed")
    if is_there(path) or path.is_dir():
        raise TicketRefused(409, "File already exists")


def _size_to_send(path: Path) -> int:
    """Raises TicketRefused: there is no such file."""
    if not is_there(path) and not path.is_dir():
        raise TicketRefused(404, "File not found")
    if not path.is_file():
        raise TicketRefused(400, "Path is not a regular file")
    return path.stat().st_size


def _query(text: str) -> dict[str, str]:
    """A plus stays a plus, a bad escape stays as it is, and of a name given twice the first counts (measured)."""
    found: dict[str, str] = {}
    for part in text.split("&"):
        name, equals, value = part.partition("=")
        if name or equals:
            found.setdefault(unquote(name), unquote(value))
    return found


def _disposition(path: Path) -> str:
    return f'attachment; filename="{_NO_FILE_NAME.sub("_", path.name)}"'


async def _refuse_upgrade(send: Send, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(words)).encode())]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": words.encode()})


async def _reply(send: Send, answer: EmulatedAnswer, cookies: list[str] | None = None) -> None:
    headers = {**answer.headers, "Content-Length": str(len(answer.body))}
    await _start(send, answer.status, answer.content_type, headers, cookies)
    await send({"type": "http.response.body", "body": answer.body})


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, of which nothing stays where its end does not come."""
    if path.exists():
        raise RequestRefused(403, "file already exist")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as file:
            yield file
    except BaseException:
        path.unlink()
        raise


def _file_headers(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise RequestRefused(406, "file not found")
    return {**attributes(path), "Content-Length": str(path.stat().st_size)}
