"""An SDK client that asks with a link's own token: for callers that should not hold App Mesh credentials."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.client_tcp import AppMeshClientTCP
from meshbridge.appmesh.client_wss import AppMeshClientWSS
from meshbridge.appmesh.exceptions import AppMeshConnectionError
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.token_provider import TokenProvider
from meshbridge.link.connections import new_login_exchange
from meshbridge.link.credentials import Credentials
from meshbridge.link.options import DaemonOptions

__all__ = ["IDLE_SECONDS", "DaemonClient"]

IDLE_SECONDS = 300.0  # a connection unused for so long is closed
_CONNECT_SECONDS = 8.0
_ANSWER_SECONDS = 30.0  # unless who asks sets another limit

T = TypeVar("T")


class DaemonClient:
    """One client, on a connection of its own; made when it is first needed, and again after it was idle.

    Any thread may use it, many at once. Its connection carries requests only: neither events nor scrapes wait for what
    is asked here. Each file has yet another one, and so has what waits by intent (:meth:`alone`).
    """

    def __init__(self, options: DaemonOptions, credentials: Credentials) -> None:
        self._options = options
        self._tokens = _LinkTokens(credentials, lambda seconds: new_login_exchange(options, seconds))
        self._lock = threading.Lock()  # guards what follows
        self._client: AppMeshClient | None = None
        self._users = 0
        self._used_at = 0.0  # monotonic seconds
        self._alone: set[AppMeshClient] = set()
        self._closed = False

    @contextlib.contextmanager
    def use(self) -> Iterator[AppMeshClient]:
        """The client; no request is sent yet. It stays open at least as long as it is used.

        Raises:
            AppMeshConnectionError: :meth:`close` was called.

        """
        with self._lock:
            if self._closed:
                raise AppMeshConnectionError("the link is stopping")
            if self._client is None:
                self._client = self._new_client()
            client = self._client
            self._users += 1
        try:
            yield client
        finally:
            with self._lock:
                self._users -= 1
                self._used_at = time.monotonic()

    @contextlib.contextmanager
    def alone(self) -> Iterator[AppMeshClient]:
        """A client for one user, who may end what it waits for: any thread may call its ``close()``.

        Raises:
            AppMeshConnectionError: :meth:`close` was called.

        """
        with self._lock:
            if self._closed:
                raise AppMeshConnectionError("the link is stopping")
            client = self._new_client()
            self._alone.add(client)
        try:
            yield client
        finally:
            with self._lock:
                self._alone.discard(client)
            client.close()

    def close_idle(self, seconds: float = IDLE_SECONDS) -> bool:
        """Ends the connection if it was unused for so long; whether it did."""
        with self._lock:
            if self._client is None or self._users or time.monotonic() - self._used_at < seconds:
                return False
            client, self._client = self._client, None
        client.close()
        return True

    def close(self) -> None:
        """Ends the connections for good; requests under way get :class:`AppMeshConnectionError`."""
        with self._lock:
            self._closed = True
            clients = [*self._alone, *([] if self._client is None else [self._client])]
            self._client = None
        for client in clients:
            client.close()

    def _new_client(self) -> AppMeshClient:
        options = self._options
        verify, cert = options.ssl_verify, options.ssl_client_cert
        client: AppMeshClient
        if options.scheme == "https":
            host, port = options.address
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            limits = (_CONNECT_SECONDS, _ANSWER_SECONDS)
            client = AppMeshClient(
                f"https://{place}", verify, cert, request_timeout=limits, token_provider=self._tokens
            )
        else:
            kind = AppMeshClientWSS if options.scheme == "wss" else AppMeshClientTCP
            client = kind(
                options.address,
                verify,
                cert,
                token_provider=self._tokens,
                connect_timeout_seconds=_CONNECT_SECONDS,
            )
        client.forward_to = options.forward_to or ""
        return client


class _LinkTokens(TokenProvider):
    """The link's credentials, for clients with connections of their own: the daemon is asked over yet another one."""

    def __init__(self, credentials: Credentials, open_exchange: Callable[[float], Exchange]) -> None:
        self._credentials = credentials
        self._open_exchange = open_exchange
        self._lock = threading.Lock()  # held while the daemon is asked for a token
        self._attempts = 0
        self._failure: AppMeshConnectionError | None = None  # of the last attempt

    def get_access_token(self) -> str:
        """Gets one where there is none. Raises as :meth:`Credentials.token` does."""
        if self._credentials.present is not None:
            return self._ask(self._credentials.token)
        attempts = self._attempts
        with self._lock:
            if self._failure is not None and self._attempts > attempts:
                # The daemon was not reached while this thread waited: many threads don't try one after the other.
                raise AppMeshConnectionError(self._failure.message) from self._failure
            try:
                token = self._ask(self._credentials.token)
                self._failure = None
            except AppMeshConnectionError as error:
                self._failure = error
                raise
            finally:
                self._attempts += 1
            return token

    def refresh_access_token(self, rejected_token: str | None = None) -> str:
        return self._ask(lambda exchange: self._credentials.token(exchange, refused=rejected_token))

    @property
    def can_refresh(self) -> bool:
        return True

    def _ask(self, question: Callable[[Exchange], T]) -> T:
        exchange = _Opening(self._open_exchange)
        try:
            return question(exchange)
        finally:
            exchange.close()


class _Opening:
    """An exchange that connects at the first request: mostly the token is there, and no request is needed for it."""

    def __init__(self, open_exchange: Callable[[float], Exchange]) -> None:
        self._open_exchange = open_exchange
        self._exchange: Exchange | None = None

    def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        if self._exchange is None:
            self._exchange = self._open_exchange(min(timeout_seconds, _CONNECT_SECONDS))
        return self._exchange.request(message, timeout_seconds)

    def close(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
