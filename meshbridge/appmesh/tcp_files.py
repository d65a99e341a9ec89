"""Files over TCP: a connection for each, on which raw frames follow an answer (docs/protocol.md, 'Files')."""

from http import HTTPStatus
from typing import Self
from uuid import uuid4

from meshbridge.appmesh import paths
from meshbridge.appmesh.answers import answer_error
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshRequestError
from meshbridge.appmesh.files import RemoteFile, Source
from meshbridge.appmesh.tcp_messages import MessageError, RequestMessage, ResponseMessage
from meshbridge.appmesh.tcp_transport import TCPTransport

__all__ = ["FileConnection"]

_SEND, _RECEIVE = "X-Send-File-Socket", "X-Recv-File-Socket"
_IDLE_SECONDS = 60.0
_CHUNK_BYTES = 16 * 1024 - 128  # with its header still one TLS record, which has at most 16 KiB


class FileConnection:
    """One connection for one transfer. Its memory does not grow with the file. One thread uses it."""

    def __init__(self, transport: TCPTransport) -> None:
        self._transport = transport

    def __enter__(self) -> Self:
        self._transport.connect()
        self._transport.settimeout(_IDLE_SECONDS)
        return self

    def __exit__(self, *exception: object) -> None:
        self._transport.close()

    def download(self, request: RequestMessage) -> RemoteFile:
        """What ``request`` asks for; its chunks come from this connection."""
        request.headers[_RECEIVE] = "true"
        response = self._ask(request, _RECEIVE)
        return RemoteFile(response.headers, None, iter(self._transport.receive_message, None))

    def upload(self, request: RequestMessage, source: Source) -> None:
        """Sends all of ``source``; on return the daemon has it."""
        request.headers.update({_SEND: "true", "Content-Type": "application/octet-stream"})
        self._ask(request, _SEND)
        while data := source.read(_CHUNK_BYTES):
            self._transport.send_message(data)
        self._transport.send_message([])
        # Nothing answers the end of a file. But the connection carries messages again after it, and in order: an
        # answer, whatever it says, means that the file was read to its end. Health is asked without a login.
        self._exchange(RequestMessage(http_method="GET", request_uri=paths.app("-", "health")))

    def _ask(self, request: RequestMessage, confirmation: str) -> ResponseMessage:
        response = self._exchange(request)
        if response.http_status != HTTPStatus.OK:
            raise answer_error(request, response)
        if confirmation not in response.headers:
            raise AppMeshRequestError(
                f"the daemon does not offer files on this connection: {confirmation} is missing from its answer",
                status=response.http_status,
                operation=f"{request.http_method} {request.request_uri}",
            )
        return response

    def _exchange(self, request: RequestMessage) -> ResponseMessage:
        request.uuid = uuid4().hex
        self._transport.send_message(request.serialize())
        while True:
            data = self._transport.receive_message()
            if data is None:
                raise AppMeshConnectionError("the daemon sent an end of file where its answer should be")
            try:
                response = ResponseMessage.from_bytes(data)
            except MessageError as error:
                raise AppMeshConnectionError(f"the daemon sent no answer: {error}") from error
            if response.uuid == request.uuid:
                return response
