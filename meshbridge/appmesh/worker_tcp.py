"""The application's side of tasks, over one TCP connection."""

import logging

from meshbridge.appmesh.client_tcp import AppMeshClientTCP
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.worker_http import AppMeshWorker

__all__ = ["AppMeshWorkerTCP"]


class AppMeshWorkerTCP(AppMeshWorker):
    """Fetches tasks and returns their results, over one TCP connection."""

    def __init__(
        self,
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        tcp_address: tuple[str, int] = ("127.0.0.1", 6059),
        *,
        logger: logging.Logger | None = None,
    ) -> None:
        """As :class:`~meshbridge.appmesh.client_tcp.AppMeshClientTCP`."""
        super().__init__(client=AppMeshClientTCP(tcp_address, ssl_verify, ssl_client_cert), logger=logger)
