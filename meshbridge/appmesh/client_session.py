"""What a client is beneath its operations: a transport, a token, and the one way that a request takes.

A request goes through :meth:`ClientSession._request` to an :class:`~meshbridge.appmesh.exchange.Exchange`.
"""

import base64
import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

from meshbridge.appmesh.answers import answer_error, json_of, reason_of, text_of
from meshbridge.appmesh.durations import seconds_of
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshNotOfferedError,
    AppMeshRequestError,
    AppMeshTimeoutError,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.http_session import HttpSession
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.tokens import (
    CookieFile,
    MemoryTokens,
    TokenProvider,
    TokenRefresher,
    TokenStore,
    renewable_until_leeway,
)

__all__ = ["ClientSession"]

logger = logging.getLogger(__name__)

# Answers whose token the client takes (PROTOCOL.md, 'Authentication').
_TOKEN_WHERE_ASKED_FOR = frozenset({"/appmesh/login", "/appmesh/auth", "/appmesh/totp/validate"})
_TOKEN_ALWAYS = frozenset({"/appmesh/token/renew", "/appmesh/totp/setup"})

_SET_COOKIE = "X-Set-Cookie"
_FORWARD_TIMEOUT_SECONDS = 60.0  # a daemon that is told to forward to itself never answers
_ANSWER_SECONDS = 30.0  # beyond what an operation itself waits for


class _Here(threading.local):
    """What :meth:`ClientSession.using` sets, for one thread."""

    forward_to: str | None = None
    timeout_seconds: float | None = None


class ClientSession:
    """Logs in, keeps the token and renews it, and asks the daemon. Any thread may use it."""

    _USER_AGENT = "appmesh/python"
    _client_address = ""
    _default_forward_port: int | None = None

    def __init__(  # noqa: PLR0917 as the reference has it
        self,
        base_url: str = "https://127.0.0.1:6060",
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        request_timeout: tuple[float, float] = (60, 300),
        jwt_token: str | None = None,
        cookie_file: str | None = None,
        auto_refresh_token: bool = False,
        *,
        exchange: Exchange | None = None,
        token_provider: TokenProvider | None = None,
    ) -> None:
        """Connects to nothing yet.

        Args:
            base_url: where the daemon listens.
            ssl_verify: True for the system's authorities, False for no verification, or a CA bundle or directory.
            ssl_client_cert: a PEM file with certificate and key, or the two files.
            request_timeout: seconds to connect, and to wait for an answer.
            jwt_token: a token to begin with; it is not looked at.
            cookie_file: keeps the token between runs; mode 0600.
            auto_refresh_token: renew the token before it expires, from the first login on.
            exchange: carries the requests, instead of an HTTPS session of the client's own; closed with the client.
            token_provider: gives bearer tokens, for daemons of 3.x. The client then neither logs in nor renews.

        """
        self.base_url = base_url
        self.ssl_verify = ssl_verify
        self.ssl_client_cert = ssl_client_cert
        self.request_timeout = request_timeout
        self._exchange: Exchange
        if exchange is None:
            self._exchange = HttpSession(base_url, ssl_verify, ssl_client_cert, request_timeout[0])
            self._default_forward_port = urlsplit(base_url).port
        else:
            self._exchange = exchange
        self._timeout_seconds = request_timeout[1]
        self._provider = token_provider
        self._tokens: TokenStore = CookieFile(cookie_file, base_url) if cookie_file else MemoryTokens()
        self._forward_to = ""
        self._here = _Here()
        self._renewing = threading.Lock()  # held while the token is renewed, which revokes the old one
        self._generation: int | None = None
        self._auto_refresh_token = auto_refresh_token
        self._refresher = TokenRefresher(self._tokens.get, self.renew_token, renewable_until=self._renewable_until)
        if jwt_token:
            self.set_token(jwt_token)
        elif auto_refresh_token and self._tokens.get():
            self.start_token_refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the client's threads and connections. It cannot be used any more."""
        self._refresher.stop(wait=False)
        self._exchange.close()  # which wakes a renewal that waits for its answer
        self._refresher.stop()

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
        response = self._exchanged(exchange, message, timeout_seconds)
        if token and self._is_refused(token, response.http_status, exchange, timeout_seconds):
            newer = self._newer_token(token)
            if newer:
                # Another one is to be had, and nothing was done yet.
                message = self._message(method, uri, query, headers, body, newer, forward_to)
                response = self._exchanged(exchange, message, timeout_seconds)
        if response.http_status == HTTPStatus.OK:
            self._take_token(uri, message, response)
        elif response.http_status not in accept:
            raise answer_error(message, response)
        return response

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

    def _bearer(self) -> str:
        return self._tokens.get() if self._provider is None else self._provider.token()

    def _is_refused(self, token: str, status: int, exchange: Exchange, timeout_seconds: float) -> bool:
        """Whether an answer of ``status`` means that the daemon does not take the token.

        To a text that is no token it answers 500, as to a fault of its own (PROTOCOL.md, 'Surprises'). Where somebody
        gives other ones, it is asked what it says of this one.
        """
        if status != HTTPStatus.INTERNAL_SERVER_ERROR or self._provider is None:
            return status == HTTPStatus.UNAUTHORIZED
        asked = self._message("POST", "/appmesh/auth", None, None, b"", token, "")
        answer = self._exchanged(exchange, asked, timeout_seconds)
        return answer.http_status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.INTERNAL_SERVER_ERROR}

    def _newer_token(self, refused: str) -> str:
        """Another token than the one that was refused, where there is one; a renewal under way is waited for."""
        if self._provider is not None:
            return self._provider.token() if self._provider.rejected(refused) else ""
        with self._renewing:
            token = self._tokens.get()
        return token if token != refused else ""

    def _take_token(self, uri: str, request: RequestMessage, response: ResponseMessage) -> None:
        if uri in _TOKEN_ALWAYS or (uri in _TOKEN_WHERE_ASKED_FOR and request.headers.get(_SET_COOKIE) == "true"):
            token = json_of(response, dict).get("access_token")
            if isinstance(token, str) and token:
                self._keep_token(token)

    def _keep_token(self, token: str) -> None:
        self._tokens.set(token)
        self._refresher.token_changed()

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
        is connected, None what the client was set to. What the daemon itself is told to wait comes on top.
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

    # --- authentication ------------------------------------------------------------------------------------------

    def login(
        self,
        username: str,
        password: str,
        totp_code: str | None = None,
        token_expire: str | int = "P1W",  # noqa: S107 a duration
        audience: str | None = None,
    ) -> str | None:
        """Logs in; the token is kept for the requests that follow, and renewed if the client was told to.

        Gives the challenge for :meth:`validate_totp` where the user has two-factor login and no code was given, else
        None. ``token_expire`` is in seconds, or an ISO 8601 duration.

        Raises:
            AppMeshAuthError: the daemon does not take these credentials.

        """
        credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
        headers = {
            "Authorization": f"Basic {credentials}",
            _SET_COOKIE: "true",
            "X-Expire-Seconds": str(seconds_of(token_expire)),
        }
        if audience:
            headers["X-Audience"] = audience
        if totp_code:
            headers["X-Totp-Code"] = str(totp_code)
        try:
            response = self._request(
                "POST",
                "/appmesh/login",
                headers=headers,
                accept=(HTTPStatus.PRECONDITION_REQUIRED, HTTPStatus.NOT_FOUND),
                authorize=False,
            )
        except (AppMeshAuthError, AppMeshRequestError):
            self._keep_token("")  # what follows must not run as whoever was logged in before
            raise
        if response.http_status == HTTPStatus.NOT_FOUND:
            self._keep_token("")
            self._require_generation(2, "POST /appmesh/login")
            raise AppMeshDeniedError(reason_of(response), status=response.http_status, operation="POST /appmesh/login")
        if response.http_status == HTTPStatus.PRECONDITION_REQUIRED:
            self._keep_token("")
            challenge = str(json_of(response, dict).get("totp_challenge") or "")
            if not challenge:
                raise AppMeshAuthError("the daemon asks for a second factor without a challenge", status=428)
            if not totp_code:
                return challenge
            self.validate_totp(username, challenge, totp_code, token_expire)
            return None
        self._refresh_if_wanted()
        return None

    def validate_totp(
        self,
        username: str,
        challenge: str,
        code: str,
        token_expire: int | str = "P1W",  # noqa: S107 a duration
    ) -> None:
        """Answers the challenge of a :meth:`login`, which is good for one try; the token is kept."""
        self._request(
            "POST",
            "/appmesh/totp/validate",
            headers={_SET_COOKIE: "true", "Content-Type": "application/json"},
            body=orjson.dumps(
                {
                    "user_name": username,
                    "totp_code": str(code),
                    "totp_challenge": challenge,
                    "expire_seconds": seconds_of(token_expire),
                }
            ),
            authorize=False,
        )
        self._refresh_if_wanted()

    def logout(self) -> bool:
        """Ends the session; the token is revoked. False where there was none, or the daemon could not end it."""
        if not self._tokens.get():
            return False
        try:
            self._request("POST", "/appmesh/self/logoff")
        except AppMeshError as error:
            logger.warning("could not log out: %s", error)
            return False
        self._refresher.stop()
        self._keep_token("")
        return True

    def authenticate(
        self, token: str, permission: str | None = None, audience: str | None = None, update_session: bool = True
    ) -> tuple[bool, str]:
        """Asks the daemon whether ``token`` is good (and allows ``permission``): (whether it is, the daemon's words).

        With ``update_session`` a good token becomes the client's own.
        """
        headers = {"Authorization": f"Bearer {token}"}
        if permission:
            headers["X-Permission"] = permission
        if audience:
            headers["X-Audience"] = audience
        if update_session:
            headers[_SET_COOKIE] = "true"
        try:
            response = self._request("POST", "/appmesh/auth", headers=headers, authorize=False)
        except AppMeshConnectionError:
            raise
        except AppMeshError as error:
            return False, error.message
        if update_session:
            self._refresh_if_wanted()
        return True, text_of(response)

    def authentication(
        self, token: str, permission: str | None = None, audience: str | None = None, update_session: bool = True
    ) -> tuple[bool, str]:
        """The older name of :meth:`authenticate`."""
        return self.authenticate(token, permission, audience, update_session)

    def set_token(self, token: str) -> None:
        """Makes ``token`` the client's own, without asking the daemon."""
        self._keep_token(token or "")
        self._refresh_if_wanted()

    def renew_token(self, token_expire: int | str = "P1W") -> None:  # noqa: S107 a duration
        """Replaces the token by a new one. The old one is revoked at once, also for other clients that have it.

        Raises:
            AppMeshAuthError: there is no token, or it can no longer be renewed.

        """
        seconds = seconds_of(token_expire)
        used = self._tokens.get()
        with self._renewing:
            if self._tokens.get() != used:
                return  # another thread was faster
            if not used:
                raise AppMeshAuthError("No token to renew", operation="POST /appmesh/token/renew")
            # Not by _request's own authorization: a 401 must not wait for the renewal that this is.
            self._request(
                "POST",
                "/appmesh/token/renew",
                headers={"Authorization": f"Bearer {used}", "X-Expire-Seconds": str(seconds)},
                authorize=False,
            )
            if self._tokens.get() == used:
                raise AppMeshRequestError("the daemon's answer has no new token", operation="POST /appmesh/token/renew")

    def start_token_refresh(self) -> None:
        """Renews the token in time from now on, on a thread of the client.

        It does not give up on a network error, but tries on until the token can no longer be renewed; then it logs an
        error.
        """
        self._refresher.start()

    def stop_token_refresh(self) -> None:
        """Ends what :meth:`start_token_refresh` began."""
        self._refresher.stop()

    def _renewable_until(self, token: str) -> float | None:
        return renewable_until_leeway(token)

    def _refresh_if_wanted(self) -> None:
        if self._auto_refresh_token and self._provider is None and self._tokens.get():
            self.start_token_refresh()

    # --- generations ---------------------------------------------------------------------------------------------

    def get_auth_config(self) -> dict[str, Any]:
        """Who issues tokens for this daemon: ``issuer``, ``audience``, ``scopes``, …; needs no token.

        Raises:
            AppMeshNotOfferedError: a daemon of 2.x, which issues its tokens itself (:meth:`login`).

        """
        operation = "GET /appmesh/auth/config"
        response = self._request("GET", "/appmesh/auth/config", accept=(HTTPStatus.NOT_FOUND,), authorize=False)
        if response.http_status == HTTPStatus.NOT_FOUND:
            self._generation = 2
            raise _not_offered(operation, 2, HTTPStatus.NOT_FOUND)
        self._generation = 3
        return json_of(response, dict)

    def _request_of(
        self, generation: int, method: str, uri: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> ResponseMessage:
        """A request that only daemons of one generation know; others answer 404, as for something that is missing."""
        try:
            return self._request(method, uri, headers=headers, body=body)
        except AppMeshRequestError as error:
            if error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
                self._require_generation(generation, f"{method} {uri}")
            raise

    def _require_generation(self, generation: int, operation: str) -> None:
        if self._generation is None:
            try:
                self.get_auth_config()
            except AppMeshNotOfferedError:
                pass
            except AppMeshError as error:
                logger.debug("the generation of the daemon stays unknown: %s", error)
                return
        if self._generation is not None and self._generation != generation:
            raise _not_offered(operation, self._generation, HTTPStatus.NOT_FOUND)


def _not_offered(operation: str, generation: int, status: int) -> AppMeshNotOfferedError:
    return AppMeshNotOfferedError(
        f"{operation} is not offered by this daemon, which is of {generation}.x", status=status, operation=operation
    )
