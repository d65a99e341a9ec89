"""The client over TCP."""

import contextlib
import socket
from collections.abc import Iterator

from meshbridge.appmesh import paths
from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.event_connection import ReopeningConnection
from meshbridge.appmesh.files import RemoteFile, Upload
from meshbridge.appmesh.tcp_files import FileConnection
from meshbridge.appmesh.tcp_transport import TCPTransport
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.token_provider import TokenProvider
from meshbridge.appmesh.transport_mixin import TransportClientMixin

__all__ = ["AppMeshClientTCP"]


class AppMeshClientTCP(TransportClientMixin, AppMeshClient):
    """A daemon's operations over one TCP connection (TLS), and its events.

    The connection is made at the first request, and again after it was lost; subscriptions end with it. Each file
    goes over a connection of its own, so that neither events nor other requests wait for it.
    """

    _USER_AGENT = "appmesh/python/tcp"

    def __init__(
        self,
        tcp_address: tuple[str, int] = ("127.0.0.1", 6059),
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        auto_refresh_token: bool = False,
        *,
        token_provider: TokenProvider | None = None,
        bearer_token: str | None = None,
        connect_timeout_seconds: float | None = None,
    ) -> None:
        """As :class:`~meshbridge.appmesh.client_http.AppMeshClient`; ``tcp_address`` is host and port."""
        self._address = tcp_address
        self._events = ReopeningConnection(
            self._transport, name="appmesh-tcp", connect_timeout_seconds=connect_timeout_seconds
        )
        self._client_address = socket.gethostname()
        super().__init__(
            ssl_verify=ssl_verify,
            ssl_client_cert=ssl_client_cert,
            auto_refresh_token=auto_refresh_token,
            exchange=self._events,
            token_provider=token_provider,
            bearer_token=bearer_token,
        )

    def _transport(self) -> TCPTransport:
        return TCPTransport(self._address, self.ssl_verify, self.ssl_client_cert)

    def close(self) -> None:
        """Ends the connection, the subscriptions and the client's threads."""
        super().close()

    @contextlib.contextmanager
    def _download(self, remote_file: str, token: str) -> Iterator[RemoteFile]:
        message = self._file_message("GET", paths.FILE_DOWNLOAD, remote_file, token)
        with FileConnection(self._transport()) as connection:
            yield connection.download(message)

    def _lost(self, path: str) -> str:  # noqa: ARG002 a message carries any text
        return ""

    def _upload(self, remote_file: str, token: str, upload: Upload) -> bool:
        message = self._file_message("POST", paths.FILE_UPLOAD, remote_file, token)
        message.headers.update(upload.attributes)
        with FileConnection(self._transport()) as connection:
            connection.upload(message, upload.source)
        return True
