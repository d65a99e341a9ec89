"""The application's side of tasks, over TCP."""

import logging

from meshbridge.appmesh.client_tcp import AppMeshClientTCP
from meshbridge.appmesh.server_http import AppMeshServer
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify

__all__ = ["AppMeshServerTCP"]


class AppMeshServerTCP(AppMeshServer):
    """Fetches tasks and returns their results, over one TCP connection."""

    def __init__(
        self,
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        tcp_address: tuple[str, int] = ("127.0.0.1", 6059),
        *,
        logger_: logging.Logger | None = None,
    ) -> None:
        """As :class:`~meshbridge.appmesh.client_tcp.AppMeshClientTCP`."""
        super().__init__(client=AppMeshClientTCP(tcp_address, ssl_verify, ssl_client_cert), logger_=logger_)
