"""Files of a daemon's host: streamed both ways, in memory that does not grow with them."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import Annotated

import anyio
import anyio.from_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from meshbridge import telemetry
from meshbridge.admin.api_model import ApiModel
from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.daemons.calls import Ask, DaemonCall
from meshbridge.admin.daemons.error_mapping import answers, answers_of
from meshbridge.admin.daemons.models import good, sdk
from meshbridge.admin.middleware import of_any_length
from meshbridge.admin.problems import Problem, ProblemKind
from meshbridge.admin.streams import STALLED_SECONDS, BrokenOffError, Streamed
from meshbridge.appmesh import AppMeshError
from meshbridge.appmesh.files import RemoteFile

__all__ = ["router"]

_CHUNK_BYTES = 256 * 1024  # from thread to loop at once: a hand-over costs more than copying so much
_MODE, _OWNER, _GROUP = "X-File-Mode", "X-File-User", "X-File-Group"
_BINARY = "application/octet-stream"

_Path = Annotated[
    str,
    Query(
        max_length=4096,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="absolute path on the daemon's host",
        examples=["/srv/app/web.log"],
    ),
]

router = APIRouter(
    prefix="/api/v1/daemons/{daemon}/files", tags=["files"], dependencies=[needs(Scope.ADMIN)], responses=answers()
)
_CONTENT = {
    "description": "the file; mode (octal), owner and group stand in headers",
    "content": {_BINARY: {"schema": {"type": "string", "format": "binary"}}},
    "headers": {name: {"schema": {"type": "string"}} for name in (_MODE, _OWNER, _GROUP)},
}
_PLACED = good("the file is there", {"path": "/srv/app/web.log", "bytes": 4096}, HTTPStatus.CREATED)
_UPLOADS = answers_of(HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.LENGTH_REQUIRED)
_BODY = {"requestBody": {"required": True, "content": {_BINARY: {"schema": {"type": "string", "format": "binary"}}}}}


class Placed(ApiModel):
    """Which file is there now."""

    path: str
    bytes: int
    attributes_kept: bool | None = Field(
        default=None,
        description="false where the daemon ignores mode, owner and group, as one of 2.x does over wss://: the file "
        "has mode 0644 and belongs to the daemon's user; else left out",
    )


class Attributes(BaseModel):
    """What a new file is to be like; what is not given, is as the daemon makes it."""

    mode: str | None = Field(default=None, pattern=r"^[0-7]{3,4}$", description="octal", examples=["0640"])
    owner: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$", description="a user's name, or number")
    group: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$", description="a group's name, or number")

    def headers(self) -> dict[str, str]:
        """As they go to a daemon."""
        mode = None if self.mode is None else str(int(self.mode, 8))
        given = {_MODE: mode, _OWNER: self.owner, _GROUP: self.group}
        return {name: value for name, value in given.items() if value is not None}


@router.get("", responses={200: _CONTENT}, response_class=Response, openapi_extra=sdk("download_file"))
async def download_file(ask: Ask, path: _Path) -> Response:
    """A file of the daemon's host. A connection that ends before the last chunk means that it is not whole."""
    async with contextlib.AsyncExitStack() as held:
        held.enter_context(ask.streaming())
        opened = _Download(ask, path)
        remote = await ask.in_thread(opened.open)
        held.push_async_callback(ask.in_thread, opened.close)
        headers = _shown(remote)
        return Streamed(_content(ask, path, opened), held.pop_all(), headers=headers, media_type=_BINARY)


@router.put(
    "",
    status_code=HTTPStatus.CREATED,
    response_model_exclude_none=True,
    dependencies=[of_any_length()],
    responses=_PLACED | _UPLOADS,
    openapi_extra=sdk("upload_file") | _BODY,
)
async def upload_file(ask: Ask, request: Request, path: _Path, attributes: Annotated[Attributes, Query()]) -> Placed:
    """Put a file on the daemon's host, where there is none of that name. Content-Length is needed."""
    size = _length(request)
    body = _Body(request.stream())
    wanted = attributes.headers()

    def send() -> bool:
        return ask.run(lambda client: client.upload_stream(body, path, size=size, attributes=wanted))

    with ask.streaming():
        try:
            kept = await ask.in_thread(send)
        except OSError as error:
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come to its end: {error}") from error
    return Placed(path=path, bytes=size, attributes_kept=None if kept else False)


class _Download:
    """A transfer, and what it holds: the client, and a connection. One thread at a time."""

    def __init__(self, ask: DaemonCall, path: str) -> None:
        self._ask = ask
        self._path = path
        self._held = contextlib.ExitStack()
        self._file: RemoteFile | None = None

    def open(self) -> RemoteFile:
        """Asks for the file. Raises Problem."""
        ask = self._ask
        with ask.told(), contextlib.ExitStack() as opening:
            client = opening.enter_context(ask.bridge.client(ask.daemon))
            with ask.settings(client):
                self._file = opening.enter_context(client.open_download(self._path))
            self._held = opening.pop_all()
        assert self._file is not None
        return self._file

    def read(self) -> bytes:
        """The next part; empty at the end. Raises AppMeshError."""
        assert self._file is not None
        part = bytearray()
        for chunk in self._file.chunks:
            part += chunk
            if len(part) >= _CHUNK_BYTES:
                break
        return bytes(part)

    def close(self) -> None:
        self._held.close()


async def _content(ask: DaemonCall, path: str, opened: _Download) -> AsyncGenerator[bytes]:
    try:
        while part := await ask.in_thread(opened.read):
            yield part
    except AppMeshError as error:
        telemetry.log.warning("download interrupted", daemon=ask.daemon, path=path, error=str(error))
        raise BrokenOffError from error


class _Body:
    """A request's body, for a thread that reads it while it comes in."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """The next bytes; waits for them. Raises OSError where the caller sends nothing any more, or has gone."""
        while not self._rest:
            chunk = anyio.from_thread.run(self._next)
            if chunk is None:
                return b""
            self._rest = chunk
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    async def _next(self) -> bytes | None:
        try:
            with anyio.fail_after(STALLED_SECONDS):
                return await anext(self._chunks, None)
        except TimeoutError:
            raise OSError(f"nothing came for {STALLED_SECONDS:.0f} s") from None
        except ClientDisconnect:
            raise OSError("the caller has gone") from None


def _length(request: Request) -> int:
    given = request.headers.get("Content-Length", "")
    if not given.isdecimal():
        raise Problem(
            HTTPStatus.LENGTH_REQUIRED, "a file is sent with its Content-Length", kind=ProblemKind.LENGTH_REQUIRED
        )
    return int(given)


def _shown(remote: RemoteFile) -> dict[str, str]:
    headers = {name: remote.attributes[name] for name in (_OWNER, _GROUP) if name in remote.attributes}
    mode = remote.attributes.get(_MODE, "")
    if mode.isdecimal():
        headers[_MODE] = f"{int(mode):04o}"
    if remote.size is not None:
        headers["Content-Length"] = str(remote.size)
    return headers
