"""Files to and from a daemon's host (docs/protocol.md, 'Files')."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import orjson

from meshbridge.appmesh import paths
from meshbridge.appmesh.answers import answer_error
from meshbridge.appmesh.client_login import LoginOperations
from meshbridge.appmesh.exceptions import (
    AppMeshConnectionError,
    AppMeshError,
    AppMeshRequestError,
)
from meshbridge.appmesh.files import (
    MultipartFile,
    RemoteFile,
    SizedSource,
    Source,
    Upload,
    file_attributes,
    open_local,
    replacing,
)
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

if TYPE_CHECKING:
    import requests

    from meshbridge.appmesh.http_session import HttpSession

__all__ = ["FileOperations"]

T = TypeVar("T")

_FILE_PATH = "X-File-Path"
_CHUNK_BYTES = 64 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EMPTY_FILE_ATTEMPTS = 2
_WSS_PORT = 6058  # there the paths for files only hand out a token


class FileOperations(LoginOperations):
    """The operations on files, over HTTPS; a client over TCP has a way of its own for the transfer itself."""

    def download_file(self, remote_file: str, local_file: str | None = None, preserve_permissions: bool = True) -> None:
        """Copies a file from the daemon's host; it is in its place only once all of it is there.

        Without ``local_file``, into the present directory, under its own name.

        With ``preserve_permissions`` it gets mode, owner and group of the original, as far as this host allows.

        Raises:
            AppMeshRequestError: 406 where there is no such file.

        """
        with (
            self.open_download(remote_file) as remote,
            replacing(
                local_file or remote_file.rpartition("/")[2], remote.attributes if preserve_permissions else {}
            ) as file,
        ):
            for chunk in remote.chunks:
                file.write(chunk)

    def upload_file(self, local_file: str, remote_file: str | None = None, preserve_permissions: bool = True) -> None:
        """Copies a file to the daemon's host, with its mode, owner and group where ``preserve_permissions``.

        Without ``remote_file``, to the same path.

        Over WSS a daemon of 2.x ignores them: the file has mode 0644 and belongs to the daemon's user.

        Raises:
            FileNotFoundError: there is no such local file.
            AppMeshRequestError: 403 where the remote file exists already.

        """
        with open_local(local_file) as file:
            attributes = file_attributes(local_file) if preserve_permissions else {}
            name = os.path.basename(local_file)  # noqa: PTH119 the reference takes strings
            self._send_file(remote_file or local_file, Upload(file, os.fstat(file.fileno()).st_size, name, attributes))

    @contextlib.contextmanager
    def open_download(self, remote_file: str) -> Iterator[RemoteFile]:
        """A file of the daemon's host, to be read as it comes, for as long as the context lasts; for one thread.

        Raises:
            AppMeshError: as :meth:`download_file`, also while it is read: then the file is not whole.

        """
        with contextlib.ExitStack() as opened:
            yield self._authorized(lambda token: opened.enter_context(self._download(remote_file, token)))

    def upload_stream(
        self, source: Source, remote_file: str, *, size: int | None = None, attributes: Mapping[str, str] | None = None
    ) -> bool:
        """Sends what ``source`` gives as a file to the daemon's host; on return it is there.

        ``size`` is how many bytes that are; without it, as many as there are, which only TCP can carry.
        ``attributes`` are those of a :class:`~meshbridge.appmesh.files.RemoteFile`. Gives whether the daemon applies
        them: over WSS one of 2.x ignores them.

        Raises:
            ValueError: the transport needs a size.
            AppMeshRequestError: 403 where the remote file exists already.
            OSError: ``source`` gives less than ``size``, or fails itself.

        """
        name = os.path.basename(remote_file)  # noqa: PTH119 a path of another host
        return self._send_file(remote_file, Upload(source, size, name, attributes or {}))

    def _send_file(self, remote_file: str, upload: Upload) -> bool:
        if upload.size is None:
            return self._authorized(lambda token: self._upload(remote_file, token, upload))
        sized = SizedSource(upload.source, upload.size)
        upload = replace(upload, source=sized)
        try:
            return self._authorized(lambda token: self._upload(remote_file, token, upload))
        except AppMeshConnectionError:
            if sized.failure is not None:
                raise sized.failure from None
            raise

    def _authorized(self, transfer: Callable[[str], T]) -> T:
        """What ``transfer`` gives with the client's token; begun again with another one where that was refused."""
        token = self._bearer()
        try:
            return transfer(token)
        except AppMeshError as error:
            if not token or error.status is None:
                raise
            if not self._is_refused(token, error.status, error.message, self._exchange):
                raise
            newer = self._newer_token(token)
            if not newer:
                raise
        return transfer(newer)

    @contextlib.contextmanager
    def _download(self, remote_file: str, token: str) -> Iterator[RemoteFile]:
        with self._file_session() as session:
            if self._takes_tickets():
                with self._download_by_ticket(session, remote_file) as remote:
                    yield remote
                return
            message = self._file_message("GET", paths.FILE_DOWNLOAD, remote_file, token)
            with session.open(message, self._timeout_seconds) as response:
                if _has_no_file(response) and self._generation() != 2:  # noqa: PLR2004 as documented
                    raise _not_served(message)
                yield _remote_file(message, response, {})

    @contextlib.contextmanager
    def _download_by_ticket(self, session: "HttpSession", remote_file: str) -> Iterator[RemoteFile]:
        """Mode, owner and group stand in the first answer only.

        A daemon of 2.x closes the connection without a byte where the file is empty. Twice in a row, with the daemon's
        answer that there is such a file before, between and after, it is taken for that.
        """
        lost: AppMeshConnectionError | None = None
        for _ in range(_EMPTY_FILE_ATTEMPTS):
            message, attributes = self._ticket_message("GET", paths.FILE_DOWNLOAD, remote_file)
            with contextlib.ExitStack() as opened:
                try:
                    response = opened.enter_context(session.open(message, self._timeout_seconds))
                except AppMeshConnectionError as error:
                    from meshbridge.appmesh.http_session import closed_without_answer  # noqa: PLC0415 brings requests along

                    if not closed_without_answer(error):
                        raise
                    lost = error
                    continue
                yield _remote_file(message, response, attributes)
                return
        _, attributes = self._ticket_message("GET", paths.FILE_DOWNLOAD, remote_file)
        if self._generation() != 2:  # noqa: PLR2004 only those have the fault
            assert lost is not None
            raise lost
        yield RemoteFile(attributes, 0, iter(()))

    def _upload(self, remote_file: str, token: str, upload: Upload) -> bool:
        """Whether the daemon applies the attributes."""
        if upload.size is None:
            raise ValueError("over HTTPS the size of a file must be known before it is sent")
        with self._file_session() as session:
            by_ticket = self._takes_tickets()
            if by_ticket:
                message, _ = self._ticket_message("POST", paths.FILE_UPLOAD, remote_file)
                body: Any = _bare(upload)
            else:
                if self._provider is not None:
                    token = self._checked(token)
                message = self._file_message("POST", paths.FILE_UPLOAD, remote_file, token)
                body, message.headers["Content-Type"] = self._https_body(upload, upload.size)
            message.headers.update(upload.attributes)
            with session.open(message, self._timeout_seconds, body) as response:
                if response.status_code not in {HTTPStatus.OK, HTTPStatus.CREATED}:
                    raise answer_error(message, _read(message, response))
                if not by_ticket and self._generation() != 2 and _is_placeholder(_read(message, response)):  # noqa: PLR2004 as documented
                    raise _not_served(message)
        return not upload.attributes or not by_ticket or self._generation() != 2  # noqa: PLR2004 as documented

    def _https_body(self, upload: Upload, size: int) -> tuple[Any, str]:
        """What an upload over HTTPS carries, and its type: a form at daemons of 2.x, the bare file at those of 3.x."""
        if self._generation() == 3:  # noqa: PLR2004 as documented
            return _bare(upload), "application/octet-stream"
        form = MultipartFile(upload.source, upload.name, size)
        return form, form.content_type

    def _checked(self, token: str) -> str:
        """A token that the daemon takes: a body that was sent once can't be sent again with another."""
        return token if self._takes_token(token, self._exchange) else self._newer_token(token) or token

    @contextlib.contextmanager
    def _file_session(self) -> "Iterator[HttpSession]":
        """What carries one file."""
        from meshbridge.appmesh.http_session import HttpSession  # noqa: PLC0415 brings requests along

        if not isinstance(self._exchange, HttpSession):
            raise AppMeshRequestError("files need a transport of their own, which this client's exchange is not")
        yield self._exchange

    def _takes_tickets(self) -> bool:
        """Whether this is the WSS port, whose answers hand out a token for one transfer, over HTTPS."""
        return urlsplit(self.base_url).port == _WSS_PORT

    def _file_message(self, method: str, uri: str, remote_file: str, token: str) -> RequestMessage:
        headers = {_FILE_PATH: self._path_header(remote_file)}
        return self._message(method, uri, None, headers, b"", token, self._forward_header())

    def _ticket_message(self, method: str, uri: str, remote_file: str) -> tuple[RequestMessage, dict[str, str]]:
        """The request for the transfer itself, once the daemon has agreed to it over this client's transport.

        With it the headers of that first answer, which for a download are the file's attributes.

        A 2.x daemon gives a token for it (docs/protocol.md, 'Files'). A 3.x daemon takes the client's own, as client
        3.0.14 sends it.
        """
        headers = {_FILE_PATH: self._path_header(remote_file)}
        answer = self._request(method, uri, headers=headers)
        message = self._file_message(method, f"{uri}/ws", remote_file, self._bearer())
        if ticket := answer.headers.get("Authorization"):
            message.headers["Authorization"] = ticket
            if target := message.headers.get("X-Target-Host"):
                raise AppMeshRequestError(
                    f"over WSS a daemon of 2.x does not forward files to {target}: use HTTPS",
                    operation=f"{method} {uri}",
                )
        return message, answer.headers

    def _path_header(self, remote_file: str) -> str:
        """Daemons of 3.x decode percent escapes in a path, those of 2.x take it as it is, over each transport.

        Raises:
            AppMeshRequestError: the transport would carry another path.

        """
        escaped = quote(remote_file)
        if escaped == remote_file:
            return remote_file
        if self._generation() == 3:  # noqa: PLR2004 as told above
            return escaped
        if why := self._lost(remote_file):
            raise AppMeshRequestError(
                f"{remote_file!r} cannot be sent to a daemon of 2.x over HTTPS or WSS: {why}. Use tcp://"
            )
        return remote_file

    def _lost(self, path: str) -> str:
        """What a header would lose of a path on its way to a daemon of 2.x; empty where it is nothing."""
        if path != path.strip(" \t"):
            return "blanks at its start or end are lost"
        if _CONTROL.search(path):
            return "a header cannot have control characters"
        if not path[-1:].isascii() and self._takes_tickets():
            return "bytes above 0x7F at its end are lost"
        return ""


def _remote_file(request: RequestMessage, response: "requests.Response", attributes: Mapping[str, str]) -> RemoteFile:
    """Raises AppMeshError: the daemon does not give it."""
    from meshbridge.appmesh.http_session import read_headers  # noqa: PLC0415 brings requests along

    if response.status_code != HTTPStatus.OK:
        raise answer_error(request, _read(request, response))
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    return RemoteFile({**attributes, **read_headers(response)}, size, response.iter_content(_CHUNK_BYTES))


def _bare(upload: Upload) -> Any:
    """The file itself as a body. An empty one has a length, too: without, it would be sent in chunks."""
    return upload.source if upload.size else b""


def _has_no_file(response: "requests.Response") -> bool:
    """Whether a daemon of 3.x says something instead of giving the file: it is its port for WSS."""
    is_json = "json" in response.headers.get("Content-Type", "").lower()
    return response.status_code == HTTPStatus.OK and is_json and "Content-Disposition" not in response.headers


def _is_placeholder(answer: ResponseMessage) -> bool:
    """Whether a daemon of 3.x has stored nothing, though it answers 200: it is its port for WSS."""
    if answer.http_status != HTTPStatus.OK:
        return False
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and "message" in found


def _not_served(request: RequestMessage) -> AppMeshRequestError:
    return AppMeshRequestError(
        "this port of the daemon carries no files: use https:// on port 6060, tcp:// or wss://",
        operation=f"{request.http_method} {request.request_uri}",
    )


def _read(request: RequestMessage, response: "requests.Response") -> ResponseMessage:
    """An answer that was to be streamed, read whole because it is an error."""
    return ResponseMessage(
        request_uri=request.request_uri, http_status=response.status_code, body=response.raw.read(_CHUNK_BYTES)
    )
