"""Files to and from a daemon's host (PROTOCOL.md, 'Files')."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests

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
from meshbridge.appmesh.http_session import HttpSession, read_headers
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

__all__ = ["FileOperations"]

T = TypeVar("T")

_FILE_PATH = "X-File-Path"
_CHUNK_BYTES = 64 * 1024
_WSS_PORT = 6058  # there the paths for files only hand out a token


class FileOperations(LoginOperations):
    """The operations on files, over HTTPS; a client over TCP has a way of its own for the transfer itself."""

    def download_file(self, remote_file: str, local_file: str, preserve_permissions: bool = True) -> None:
        """Copies a file from the daemon's host; it is in its place only once all of it is there.

        With ``preserve_permissions`` it gets mode, owner and group of the original, as far as this host allows.

        Raises:
            AppMeshRequestError: 406 where there is no such file.

        """
        with (
            self.open_download(remote_file) as remote,
            replacing(local_file, remote.attributes if preserve_permissions else {}) as file,
        ):
            for chunk in remote.chunks:
                file.write(chunk)

    def upload_file(self, local_file: str, remote_file: str, preserve_permissions: bool = True) -> None:
        """Copies a file to the daemon's host, with its mode, owner and group where ``preserve_permissions``.

        Raises:
            FileNotFoundError: there is no such local file.
            AppMeshRequestError: 403 where the remote file exists already.

        """
        with open_local(local_file) as file:
            attributes = file_attributes(local_file) if preserve_permissions else {}
            name = os.path.basename(local_file)  # noqa: PTH119 the reference takes strings
            self._send_file(remote_file, Upload(file, os.fstat(file.fileno()).st_size, name, attributes))

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
    ) -> None:
        """Sends what ``source`` gives as a file to the daemon's host; on return it is there.

        ``size`` is how many bytes that are; without it, as many as there are, which only TCP can carry.
        ``attributes`` are those of a :class:`~meshbridge.appmesh.files.RemoteFile`.

        Raises:
            ValueError: the transport needs a size.
            AppMeshRequestError: 403 where the remote file exists already.
            OSError: ``source`` gives less than ``size``, or fails itself.

        """
        name = os.path.basename(remote_file)  # noqa: PTH119 a path of another host
        self._send_file(remote_file, Upload(source, size, name, attributes or {}))

    def _send_file(self, remote_file: str, upload: Upload) -> None:
        if upload.size is None:
            self._authorized(lambda token: self._upload(remote_file, token, upload))
            return
        sized = SizedSource(upload.source, upload.size)
        upload = replace(upload, source=sized)
        try:
            self._authorized(lambda token: self._upload(remote_file, token, upload))
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
            if self._takes_tickets(session):
                message = self._ticket_message("GET", paths.FILE_DOWNLOAD, remote_file)
            else:
                message = self._file_message("GET", paths.FILE_DOWNLOAD, remote_file, token)
            with session.open(message, self._timeout_seconds) as response:
                if response.status_code != HTTPStatus.OK:
                    raise answer_error(message, _read(message, response))
                length = response.headers.get("Content-Length", "")
                size = int(length) if length.isdecimal() else None
                yield RemoteFile(read_headers(response), size, response.iter_content(_CHUNK_BYTES))

    def _upload(self, remote_file: str, token: str, upload: Upload) -> None:
        if upload.size is None:
            raise ValueError("over HTTPS the size of a file must be known before it is sent")
        with self._file_session() as session:
            if self._takes_tickets(session):
                message = self._ticket_message("POST", paths.FILE_UPLOAD, remote_file)
                body: Any = upload.source
            else:
                if self._provider is not None:
                    token = self._checked(token)
                message = self._file_message("POST", paths.FILE_UPLOAD, remote_file, token)
                body = MultipartFile(upload.source, upload.name, upload.size)
                message.headers["Content-Type"] = body.content_type
            message.headers.update(upload.attributes)
            with session.open(message, self._timeout_seconds, body) as response:
                if response.status_code not in {HTTPStatus.OK, HTTPStatus.CREATED}:
                    raise answer_error(message, _read(message, response))

    def _checked(self, token: str) -> str:
        """A token that the daemon takes: a body that was sent once can't be sent again with another."""
        return token if self._takes_token(token, self._exchange) else self._newer_token(token) or token

    @contextlib.contextmanager
    def _file_session(self) -> Iterator[HttpSession]:
        """What carries one file."""
        if not isinstance(self._exchange, HttpSession):
            raise AppMeshRequestError("files need a transport of their own, which this client's exchange is not")
        yield self._exchange

    def _takes_tickets(self, session: HttpSession) -> bool:
        """Whether this is the WSS port, whose answers hand out a token for one transfer, over HTTPS."""
        return urlsplit(session.base_url).port == _WSS_PORT

    def _file_message(self, method: str, uri: str, remote_file: str, token: str) -> RequestMessage:
        headers = {_FILE_PATH: self._path_header(remote_file)}
        return self._message(method, uri, None, headers, b"", token, self._forward_header())

    def _ticket_message(self, method: str, uri: str, remote_file: str) -> RequestMessage:
        """The request for the transfer itself, once the daemon has agreed to it over this client's transport.

        One of 2.x gives a token for it (PROTOCOL.md, 'Files'), one of 3.x takes the client's own, as its own client
        of 3.0.14 sends it.
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
        return message

    def _path_header(self, remote_file: str) -> str:
        """Daemons of 3.x decode percent escapes in a path, those of 2.x take it as it is, over each transport."""
        return quote(remote_file) if self._provider is not None or self._generation == 3 else remote_file  # noqa: PLR2004


def _read(request: RequestMessage, response: requests.Response) -> ResponseMessage:
    """An answer that was to be streamed, read whole because it is an error."""
    return ResponseMessage(
        request_uri=request.request_uri, http_status=response.status_code, body=response.raw.read(_CHUNK_BYTES)
    )
