"""The client over WebSocket."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.event_connection import ReopeningConnection
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.token_provider import TokenProvider
from meshbridge.appmesh.transport_mixin import TransportClientMixin
from meshbridge.appmesh.wss_transport import WSSTransport

if TYPE_CHECKING:
    from meshbridge.appmesh.http_session import HttpSession

__all__ = ["AppMeshClientWSS"]


class AppMeshClientWSS(TransportClientMixin, AppMeshClient):
    """A daemon's operations over one WebSocket (TLS), and its events.

    The connection is made at the first request, and again after it was lost; subscriptions end with it. Files go over
    HTTPS on the same port, by a token that the daemon hands out for each.
    """

    _USER_AGENT = "appmesh/python/wss"
    _client_address = "wss-client"

    def __init__(
        self,
        wss_address: tuple[str, int] = ("127.0.0.1", 6058),
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        auto_refresh_token: bool = False,
        *,
        token_provider: TokenProvider | None = None,
        bearer_token: str | None = None,
        connect_timeout_seconds: float | None = None,
    ) -> None:
        """As :class:`~meshbridge.appmesh.client_http.AppMeshClient`; ``wss_address`` is host and port."""
        self._address = wss_address
        self._events = ReopeningConnection(
            self._transport, name="appmesh-wss", connect_timeout_seconds=connect_timeout_seconds
        )
        host, port = wss_address
        super().__init__(
            f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
            ssl_verify=ssl_verify,
            ssl_client_cert=ssl_client_cert,
            auto_refresh_token=auto_refresh_token,
            exchange=self._events,
            token_provider=token_provider,
            bearer_token=bearer_token,
        )

    def _transport(self) -> WSSTransport:
        transport = WSSTransport(self._address, self.ssl_verify, self.ssl_client_cert)
        if self._provider is not None:  # daemons of 3.x, which look at the upgrade
            transport.set_bearer_token(self._bearer() or None)
        return transport

    def close(self) -> None:
        """Ends the connection, the subscriptions and the client's threads."""
        super().close()

    @contextlib.contextmanager
    def _file_session(self) -> "Iterator[HttpSession]":
        """One for each file: transfers are rare, and a kept connection would outlive most clients' need."""
        from meshbridge.appmesh.http_session import HttpSession  # noqa: PLC0415 brings requests along

        session = HttpSession(self.base_url, self.ssl_verify, self.ssl_client_cert, WSSTransport.WSS_CONNECT_TIMEOUT)
        with contextlib.closing(session):
            yield session

    def _takes_tickets(self) -> bool:
        return True
