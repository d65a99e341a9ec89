"""The application's side of tasks, over one WebSocket."""

import logging

from meshbridge.appmesh.client_wss import AppMeshClientWSS
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.worker_http import AppMeshWorker

__all__ = ["AppMeshWorkerWSS"]


class AppMeshWorkerWSS(AppMeshWorker):
    """Fetches tasks and returns their results, over one WebSocket."""

    def __init__(
        self,
        wss_address: tuple[str, int] = ("127.0.0.1", 6058),
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        *,
        logger: logging.Logger | None = None,
    ) -> None:
        """As :class:`~meshbridge.appmesh.client_wss.AppMeshClientWSS`."""
        super().__init__(client=AppMeshClientWSS(wss_address, ssl_verify, ssl_client_cert), logger=logger)
