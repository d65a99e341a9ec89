"""What a client is beneath its operations: a transport, who gives it tokens, and the one way that a request takes.

A request goes through :meth:`ClientSession._request` to an :class:`~meshbridge.appmesh.exchange.Exchange`.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

from meshbridge.appmesh import paths
from meshbridge.appmesh.answers import (
    answer_error,
    json_of,
    knows_path,
    may_refuse_token,
    reason_of,
    token_is_refused,
)
from meshbridge.appmesh.exceptions import (
    AppMeshError,
    AppMeshNotOfferedError,
    AppMeshRequestError,
    AppMeshTimeoutError,
    AppMeshTokenError,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.token_provider import TokenProvider

__all__ = ["ClientSession"]

logger = logging.getLogger(__name__)

_OK, _ERROR = 200, 400  # for each answer; a member of HTTPStatus costs two calls
_FORWARD_TIMEOUT_SECONDS = 60.0  # a daemon that forwards to itself never answers
_LEAST_SECONDS = 1.0  # for a request that is sent again with another token
_PRINCIPALS = 3  # the generation that has principals, and no logins
_ANSWER_SECONDS = 30.0  # beyond what an operation itself waits for


class _Here(threading.local):
    """What :meth:`ClientSession.using` sets, for one thread."""

    forward_to: str | None = None
    timeout_seconds: float | None = None


class ClientSession:
    """Asks the daemon, with the tokens of a provider. Any thread may use it."""

    _USER_AGENT = "appmesh/python"
    _client_address = ""
    _default_forward_port: int | None = None

    def __init__(
        self,
        base_url: str,
        ssl_verify: SslVerify,
        ssl_client_cert: ClientCert,
        request_timeout: tuple[float, float],
        *,
        exchange: Exchange | None = None,
        token_provider: TokenProvider | None = None,
    ) -> None:
        self.base_url = base_url
        self.ssl_verify = ssl_verify
        self.ssl_client_cert = ssl_client_cert
        self.request_timeout = request_timeout
        self._exchange: Exchange
        if exchange is None:
            from meshbridge.appmesh.http_session import HttpSession  # noqa: PLC0415 brings requests along

            self._exchange = HttpSession(base_url, ssl_verify, ssl_client_cert, request_timeout[0])
            self._default_forward_port = urlsplit(base_url).port
        else:
            self._exchange = exchange
        self._timeout_seconds = request_timeout[1]
        self._provider = token_provider
        self._forward_to = ""
        self._here = _Here()
        self._october: dict[str, bool] = {}  # by node, too
        self._generations: dict[str, int | None] = {}  # by node as in forward_to ("": connected), as measured

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the client's threads and connections. It cannot be used any more."""
        self._exchange.close()

    # --- requests ------------------------------------------------------------------------------------------------

    def _request(
        self,
        method: str,
        uri: str,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        accept: Sequence[int] = (),
        waits_seconds: float = 0,
        authorize: bool = True,
        over: Exchange | None = None,
    ) -> ResponseMessage:
        """The daemon's answer to one request; the one way that all operations take.

        ``accept``: statuses besides 200 that are no error. ``waits_seconds``: how long the daemon itself may wait
        before it answers. ``authorize``: with the client's token. ``over``: what carries it, where not the usual.

        Raises:
            AppMeshAuthError: not logged in, or not allowed.
            AppMeshRequestError: any other error that the daemon answers with.
            AppMeshConnectionError: no answer.

        """
        exchange = over or self._exchange
        timeout_seconds, forward_to = self._here.timeout_seconds or self._timeout_seconds, self._forward_header()
        if forward_to:
            timeout_seconds = min(timeout_seconds, _FORWARD_TIMEOUT_SECONDS)
        if waits_seconds:
            timeout_seconds = max(timeout_seconds, waits_seconds + _ANSWER_SECONDS)
        token = self._bearer() if authorize else ""
        message = self._message(method, uri, query, headers, body, token, forward_to)
        deadline = time.monotonic() + timeout_seconds
        try:
            response = self._exchanged(exchange, message, timeout_seconds)
            refused = bool(token) and response.http_status >= _ERROR and self._is_refused_by(response, token, exchange)
        except AppMeshTokenError as error:  # by the upgrade to a WebSocket
            response = ResponseMessage(http_status=error.status or 0, body=error.message.encode())
            refused = True
        if refused and (newer := self._newer_token(token)):
            # Another one is to be had, and nothing was done yet.
            message = self._message(method, uri, query, headers, body, newer, forward_to)
            response = self._exchanged(exchange, message, max(_LEAST_SECONDS, deadline - time.monotonic()))
            refused = response.http_status >= _ERROR and self._is_refused_by(response, newer, exchange)
        if response.http_status == _OK:
            self._answered(uri, message, response)
        elif refused:
            raise AppMeshTokenError(reason_of(response), status=response.http_status, operation=f"{method} {uri}")
        elif response.http_status not in accept:
            raise answer_error(message, response)
        return response

    def _answered(self, uri: str, request: RequestMessage, response: ResponseMessage) -> None:
        """Sees each answer of status 200."""

    def _message(  # noqa: PLR0917 called in two places, with the same names
        self,
        method: str,
        uri: str,
        query: Mapping[str, object] | None,
        headers: Mapping[str, str] | None,
        body: bytes,
        token: str,
        forward_to: str,
    ) -> RequestMessage:
        sent = {"User-Agent": self._USER_AGENT}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if forward_to:
            sent["X-Target-Host"] = forward_to
        if headers:
            sent.update(headers)
        return RequestMessage(
            request_uri=uri,
            http_method=method,
            client_addr=self._client_address,
            body=body,
            headers=sent,
            query={name: str(value) for name, value in query.items()} if query else {},
        )

    @staticmethod
    def _exchanged(exchange: Exchange, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        try:
            return exchange.request(message, timeout_seconds)
        except AppMeshTimeoutError as error:
            target = message.headers.get("X-Target-Host")
            if target is None:
                raise
            raise AppMeshTimeoutError(
                f"{error.message} (forwarded to {target}; a daemon does not answer when that is itself)",
                operation=error.operation,
            ) from error

    # --- tokens --------------------------------------------------------------------------------------------------

    def _bearer(self) -> str:
        return "" if self._provider is None else self._provider.get_access_token() or ""

    def _get_access_token(self) -> str | None:
        """The token of the client, or None. An alias that code written for the official client uses."""
        return self._bearer() or None

    def _is_refused_by(self, response: ResponseMessage, token: str, exchange: Exchange) -> bool:
        return self._is_refused(token, response.http_status, reason_of(response, ""), exchange)

    def _is_refused(self, token: str, status: int, reason: str, exchange: Exchange) -> bool:
        """Whether the daemon does not take the token; where the answer may have another reason, it is asked.

        What a caller's mistake looks like must not make a link log in again and again.
        """
        if self._provider is None or not self._provider.can_refresh or not may_refuse_token(status, reason):
            return False
        return not self._takes_token(token, exchange)

    def _newer_token(self, refused: str) -> str:
        """Another token than the one that was refused; ``""`` where there is none."""
        if self._provider is None:
            return ""
        newer = self._provider.refresh_access_token(refused)
        return newer if newer and newer != refused else ""

    def check_token(self, token: str | None = None) -> bool:
        """Whether the daemon takes a token, by default the client's own; no other one is asked for.

        Any answer shows that the daemon is there: it serves as a probe of the connection, too.

        Raises:
            AppMeshConnectionError: no answer.

        """
        return self._takes_token(self._bearer() if token is None else token, self._exchange)

    def _takes_token(self, token: str, exchange: Exchange) -> bool:
        """The one place that decides whether a token is refused: where the request that only checks it is."""
        timeout_seconds = self._here.timeout_seconds or self._timeout_seconds
        if self._generations.get("") != _PRINCIPALS:
            asked = self._message("POST", paths.AUTH, None, None, b"", token, "")
            answer = self._exchanged(exchange, asked, timeout_seconds)
            if knows_path(asked, answer):
                return not token_is_refused(asked, answer)
        asked = self._message("GET", paths.PRINCIPAL_SELF, None, None, b"", token, "")
        answer = self._exchanged(exchange, asked, timeout_seconds)
        self._generations[""] = _PRINCIPALS if knows_path(asked, answer) else None
        return not token_is_refused(asked, answer)

    # --- where to ------------------------------------------------------------------------------------------------

    @property
    def forward_to(self) -> str:
        """The node that carries out the requests instead of the one connected: ``host`` or ``host:port``, or ``""``.

        All nodes must have the same JWT settings. Forwarded requests wait for 60 s at most.
        """
        here = self._here.forward_to
        return self._forward_to if here is None else here

    @forward_to.setter
    def forward_to(self, host: str | None) -> None:
        self._forward_to = host or ""

    @contextlib.contextmanager
    def using(self, *, forward_to: str | None = None, timeout_seconds: float | None = None) -> Iterator[None]:
        """While it lasts, this thread's requests go to another node, or wait for an answer only so long.

        Those of other threads are left alone. ``forward_to`` is as the property of that name: ``""`` is the node that
        is connected, None what the client was set to. The wait that the request asks of the daemon comes on top.
        """
        here = self._here
        before = here.forward_to, here.timeout_seconds
        if forward_to is not None:
            here.forward_to = forward_to
        if timeout_seconds is not None:
            here.timeout_seconds = timeout_seconds
        try:
            yield
        finally:
            here.forward_to, here.timeout_seconds = before

    def _forward_header(self) -> str:
        host = self.forward_to
        if not host or self._default_forward_port is None or urlsplit(f"//{host}").port is not None:
            return host
        return f"{host}:{self._default_forward_port}"

    # --- generations ---------------------------------------------------------------------------------------------

    def get_auth_config(self) -> dict[str, Any]:
        """Who issues tokens for this daemon: ``issuer``, ``audience``, ``scopes``, …; needs no token.

        Raises:
            AppMeshNotOfferedError: a daemon of 2.x, which issues its tokens itself (:meth:`login`).

        """
        try:
            response = self._request("GET", paths.AUTH_CONFIG, authorize=False)
        except AppMeshNotOfferedError as error:
            self._generations[self._forward_header()] = 2
            raise _not_offered(f"GET {paths.AUTH_CONFIG}", 2, error.status) from error
        self._generations[self._forward_header()] = 3
        return json_of(response, dict)

    def _generation(self) -> int:
        """Of the daemon that carries out the requests, measured where it is not known; 2 or 3.

        Raises:
            AppMeshError: the daemon does not say.

        """
        node = self._forward_header()
        if self._generations.get(node) is None:
            with contextlib.suppress(AppMeshNotOfferedError):
                self.get_auth_config()
        return self._generations[node] or 0

    def _request_of(  # noqa: PLR0917 as _request
        self,
        generation: int,
        method: str,
        uri: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        accept: Sequence[int] = (),
    ) -> ResponseMessage:
        """A request that only daemons of one generation know; others answer 404, as for something that is missing."""
        try:
            return self._request(method, uri, headers=headers, body=body, accept=accept)
        except AppMeshRequestError as error:
            if error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
                self._require_generation(generation, f"{method} {uri}")
            raise

    def _require_generation(self, generation: int, operation: str) -> None:
        try:
            known = self._generation()
        except AppMeshError as error:
            logger.debug("the generation of the daemon stays unknown: %s", error)
            return
        if known != generation:
            raise _not_offered(operation, known, HTTPStatus.NOT_FOUND)


def _not_offered(operation: str, generation: int, status: int | None) -> AppMeshNotOfferedError:
    return AppMeshNotOfferedError(
        f"{operation} is not offered by this daemon, which is of {generation}.x", status=status, operation=operation
    )
