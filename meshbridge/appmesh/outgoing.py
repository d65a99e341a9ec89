"""HTTP sessions to the outside. Settings alone decide how a server is reached and trusted, the environment never:
neither ``HTTPS_PROXY``, ``REQUESTS_CA_BUNDLE`` and ``CURL_CA_BUNDLE`` nor the user's netrc have an effect.
"""

import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from meshbridge.appmesh.exceptions import AppMeshConnectionError
from meshbridge.appmesh.final_response import FinalResponse
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify, client_context

__all__ = ["new_session"]


def new_session(
    ssl_verify: SslVerify,
    ssl_client_cert: ClientCert = None,
    *,
    connections: int = 2,
    on_connect: Callable[[HTTPSConnection], None] | None = None,
) -> requests.Session:
    """A session that trusts what :func:`client_context` does. The TLS files are read at each new connection.

    ``connections``: kept open; ``on_connect`` gets each one that is made. Requests raise ``OSError`` where the TLS
    files cannot be loaded, else what ``requests`` raises.
    """
    session = requests.Session()
    session.trust_env = False
    adapter = _Adapter(lambda: _context(ssl_verify, ssl_client_cert), connections, on_connect)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _context(ssl_verify: SslVerify, ssl_client_cert: ClientCert) -> ssl.SSLContext:
    try:
        return client_context(ssl_verify, ssl_client_cert)
    except AppMeshConnectionError as error:
        raise _TlsFilesError(str(error)) from error


class _TlsFilesError(Exception):
    """Goes through urllib3, which retries or wraps an ``OSError``."""


class _Adapter(HTTPAdapter):
    """Each connection has its own context, which alone says which authorities to trust. Skips interim responses."""

    def __init__(
        self,
        new_context: Callable[[], ssl.SSLContext],
        connections: int,
        on_connect: Callable[[HTTPSConnection], None] | None,
    ) -> None:
        class PlainConnection(HTTPConnection):
            response_class = FinalResponse

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = PlainConnection

        class Connection(HTTPSConnection):
            response_class = FinalResponse

            def connect(self) -> None:
                self.ssl_context = new_context()
                self.cert_reqs = self.ssl_context.verify_mode
                super().connect()
                if on_connect is not None:
                    on_connect(self)

        class Pool(HTTPSConnectionPool):
            ConnectionCls = Connection

        self._pools = {"http": PlainPool, "https": Pool}
        super().__init__(pool_connections=2, pool_maxsize=connections)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = {**self.poolmanager.pool_classes_by_scheme, **self._pools}

    def send(self, *arguments: Any, **named: Any) -> requests.Response:
        try:
            return super().send(*arguments, **named)
        except _TlsFilesError as error:
            raise OSError(str(error)) from error

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: Any,  # noqa: ARG002 the context says it
        cert: Any = None,  # noqa: ARG002
    ) -> Any:
        parts = urlsplit(request.url or "")
        return {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}, {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing to add to the context."""
