"""The client: every operation of a daemon, each once, over one request path.

An operation goes through :meth:`AppMeshClient._request` to an :class:`~meshbridge.appmesh.exchange.Exchange`: here an
HTTPS session, in :mod:`~meshbridge.appmesh.client_tcp` and :mod:`~meshbridge.appmesh.client_wss` a connection that
also carries events.
"""

import base64
import binascii
import contextlib
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import orjson
import requests

from meshbridge.appmesh.answers import answer_error, integer_header, json_of, path_part, reason_of, text_of
from meshbridge.appmesh.app import App
from meshbridge.appmesh.app_output import AppOutput
from meshbridge.appmesh.app_run import AppRun, OutputHandler, print_output_handler
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
from meshbridge.appmesh.files import (
    MultipartFile,
    RemoteFile,
    SizedSource,
    Source,
    Upload,
    file_attributes,
    open_local,
    replacing,
)
from meshbridge.appmesh.http_session import HttpSession, read_headers
from meshbridge.appmesh.run_output import READ_BYTES, RunOutput
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

__all__ = ["AppMeshClient"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Answers whose token the client takes (PROTOCOL.md, 'Authentication').
_TOKEN_WHERE_ASKED_FOR = frozenset({"/appmesh/login", "/appmesh/auth", "/appmesh/totp/validate"})
_TOKEN_ALWAYS = frozenset({"/appmesh/token/renew", "/appmesh/totp/setup"})

_JSON = {"Content-Type": "application/json"}
_SET_COOKIE = "X-Set-Cookie"
_FILE_PATH = "X-File-Path"
_EXIT_CODE, _OUTPUT_POSITION = "X-Exit-Code", "X-Output-Position"

_FORWARD_TIMEOUT_SECONDS = 60.0  # a daemon that is told to forward to itself never answers
_ANSWER_SECONDS = 30.0  # beyond what an operation itself waits for
_POLL_SECONDS = 1  # for the end of the process; output alone does not end the daemon's wait
_POLL_PAUSE_SECONDS = 0.05  # for a daemon that does not wait
_CHUNK_BYTES = 64 * 1024
_WSS_PORT = 6058  # there the paths for files only hand out a token (PROTOCOL.md, 'Files')

_DURATION = re.compile(
    r"P(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?"
)
_DAYS_OF_YEAR, _DAYS_OF_MONTH = 365, 30  # as the official SDK counts them


class _Here(threading.local):
    """What :meth:`AppMeshClient.using` sets, for one thread."""

    forward_to: str | None = None
    timeout_seconds: float | None = None


class AppMeshClient:
    """A daemon's operations over HTTPS.

    One client may be used from many threads at once. :meth:`close` it, or use it as a context manager.

    All errors are :class:`~meshbridge.appmesh.exceptions.AppMeshError`, save those of local files (``OSError``) and of
    arguments that make no sense (``ValueError``, ``TypeError``).
    """

    _USER_AGENT = "appmesh/python"
    _TAKES_EVENTS = False
    _FETCH_SECONDS = (
        0.0  # over HTTPS the usual timeout: the daemon sees the connection end, and gives nobody's task away
    )
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
            "X-Expire-Seconds": str(_seconds(token_expire)),
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
            headers={_SET_COOKIE: "true", **_JSON},
            body=orjson.dumps(
                {
                    "user_name": username,
                    "totp_code": str(code),
                    "totp_challenge": challenge,
                    "expire_seconds": _seconds(token_expire),
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
        seconds = _seconds(token_expire)
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

    def get_totp_secret(self) -> str:
        """A new secret for the user's authenticator; :meth:`enable_totp` with a code of it makes it count."""
        response = self._request("POST", "/appmesh/totp/secret")
        try:
            uri = base64.b64decode(json_of(response, dict)["mfa_uri"]).decode()
            return parse_qs(urlsplit(uri).query)["secret"][0]
        except (KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
            raise AppMeshRequestError(
                "the daemon's answer has no secret", status=response.http_status, operation="POST /appmesh/totp/secret"
            ) from error

    def enable_totp(self, totp_code: str) -> None:
        """Turns two-factor login on for the user, with a code of the new secret."""
        self._request("POST", "/appmesh/totp/setup", headers={"X-Totp-Code": str(totp_code)})

    def disable_totp(self, user: str = "self") -> None:
        """Turns two-factor login off; for others than oneself that takes an administrator."""
        self._request("POST", f"/appmesh/totp/{path_part(user)}/disable")

    # --- applications --------------------------------------------------------------------------------------------

    def list_apps(self) -> list[App]:
        """All applications that the user may see, one-off runs among them (``status`` 2)."""
        return [App(fields) for fields in json_of(self._request("GET", "/appmesh/applications"), list)]

    def get_app(self, app_name: str) -> App:
        return App(json_of(self._request("GET", f"/appmesh/app/{path_part(app_name)}"), dict))

    def check_app_health(self, app_name: str) -> bool:
        """Whether it is healthy: its process runs, and its health check (if it has one) succeeds."""
        return text_of(self._request("GET", f"/appmesh/app/{path_part(app_name)}/health")).strip() == "0"

    def add_app(self, app: App, subscribe_events: list[str] | None = None) -> App:
        """Registers an application, or registers it again, and gives it as the daemon has it.

        ``subscribe_events`` counts on TCP and WSS only; over HTTPS there is no way back for events.
        """
        return self._add_app(app, subscribe_events if self._TAKES_EVENTS else None)

    def _add_app(self, app: App, subscribe_events: list[str] | None, over: Exchange | None = None) -> App:
        response = self._request(
            "PUT",
            f"/appmesh/app/{path_part(app.name or '')}",
            query={"subscribe_events": ",".join(subscribe_events)} if subscribe_events else None,
            headers=_JSON,
            body=_dump(app.to_dict()),
            over=over,
        )
        return App(json_of(response, dict))

    def delete_app(self, app_name: str) -> bool:
        """Removes an application and ends its process; False where there is none of that name."""
        uri = f"/appmesh/app/{path_part(app_name)}"
        return self._request("DELETE", uri, accept=(HTTPStatus.NOT_FOUND,)).http_status == HTTPStatus.OK

    def enable_app(self, app_name: str) -> None:
        self._request("POST", f"/appmesh/app/{path_part(app_name)}/enable")

    def disable_app(self, app_name: str) -> None:
        """Stops an application and keeps it from being started."""
        self._request("POST", f"/appmesh/app/{path_part(app_name)}/disable")

    def get_app_output(  # noqa: PLR0917 as the reference has it
        self,
        app_name: str,
        stdout_position: int = 0,
        stdout_index: int = 0,
        stdout_maxsize: int = 10240,
        process_uuid: str = "",
        timeout: int = 0,
    ) -> AppOutput:
        """A piece of an application's output.

        Args:
            app_name: which application.
            stdout_position: where to begin, in bytes; ``out_position`` of one call goes here in the next.
            stdout_index: 0 for the present (or last) process, 1 for the one before, and so on.
            stdout_maxsize: at most so many bytes; the daemon takes less than 1,024 or more than 3 MiB for 3 MiB.
            process_uuid: only if it is this process; with another the status is 417.
            timeout: seconds to wait for the **end of the process**, not for output.

        """
        response = self._output(app_name, stdout_position, stdout_maxsize, process_uuid, timeout, stdout_index)
        status = response.http_status
        return AppOutput(
            status_code=HTTPStatus(status) if status in HTTPStatus._value2member_map_ else status,  # type: ignore[arg-type] # a status that has no name is given as it is
            output=text_of(response) if status == HTTPStatus.OK else reason_of(response, ""),
            out_position=integer_header(response, _OUTPUT_POSITION),
            exit_code=integer_header(response, _EXIT_CODE),
        )

    def _output(  # noqa: PLR0917 called by get_app_output's names
        self, app_name: str, position: int, maxsize: int, process_uuid: str = "", timeout: int = 0, index: int = 0
    ) -> ResponseMessage:
        query = {
            "stdout_position": position,
            "stdout_index": index,
            "stdout_maxsize": maxsize,
            "process_uuid": process_uuid,
            "timeout": timeout,
        }
        return self._request(
            "GET",
            f"/appmesh/app/{path_part(app_name)}/output",
            query={name: value for name, value in query.items() if value},
            accept=(HTTPStatus.NOT_FOUND, HTTPStatus.EXPECTATION_FAILED),
            waits_seconds=timeout,
        )

    # --- runs and tasks ------------------------------------------------------------------------------------------

    def run_app_async(self, app: App | str, max_time: int | str = "P2D", lifecycle: int | str = "P2DT12H") -> AppRun:
        """Starts a run of its own of a command (a text is run by the shell) or of an existing application (its name).

        ``max_time`` is how long it may run, ``lifecycle`` how long the daemon remembers it; in seconds, or ISO 8601
        durations.
        """
        answer = json_of(self._run("/appmesh/app/run", app, max_time, lifecycle, waits_seconds=0), dict)
        return AppRun(self, str(answer.get("name") or ""), str(answer.get("process_uuid") or ""))

    def run_app_sync(
        self, app: App | str, max_time: int | str = "P2D", lifecycle: int | str = "P2DT12H"
    ) -> tuple[int | None, str]:
        """As :meth:`run_app_async`, and waits for the end: (exit code, output).

        The code is 9 where ``max_time`` cut it off, None where the daemon gave none.
        """
        response = self._run("/appmesh/app/syncrun", app, max_time, lifecycle, waits_seconds=_seconds(max_time))
        return integer_header(response, _EXIT_CODE), text_of(response)

    def _run(
        self, uri: str, app: App | str, max_time: int | str, lifecycle: int | str, waits_seconds: float
    ) -> ResponseMessage:
        if isinstance(app, str):
            app = App({"command": app, "shell": True})
        return self._request(
            "POST",
            uri,
            query={"timeout": _seconds(max_time), "lifecycle": _seconds(lifecycle)},
            headers=_JSON,
            body=_dump(app.to_dict()),
            waits_seconds=waits_seconds,
        )

    def wait_for_async_run(
        self, run: AppRun, print_stdout: bool | OutputHandler = True, timeout: int = 0
    ) -> int | None:
        """Waits for a run to end and gives its exit code; the run is then removed from the daemon.

        Args:
            run: what :meth:`run_app_async` gave.
            print_stdout: whether to print its output, or a function that gets each piece of it and its position.
            timeout: at most so many seconds, 0 for ever.

        Returns:
            The exit code; None when ``timeout`` passed, or the daemon does not know the run (any more).

        """
        return self._poll_run(run, _handler(print_stdout), timeout)

    def _poll_run(self, run: AppRun, handler: OutputHandler, timeout: float) -> int | None:
        """Waits for ``run`` by asking for its output again and again."""
        deadline = time.monotonic() + timeout if timeout > 0 else math.inf
        with run.forward_to():
            output = self._run_output(run, handler)
            while True:
                asked, position = time.monotonic(), output.position
                try:
                    output.pull(math.ceil(max(0, min(_POLL_SECONDS, deadline - asked))))
                except AppMeshRequestError as error:
                    logger.warning("the run %s can no longer be followed: %s", run.app_name, error)
                    return None
                if output.exit_code is not None:
                    self._delete_run(run)
                    return output.exit_code
                now = time.monotonic()
                if now >= deadline:
                    return None
                if position == output.position and now - asked < _POLL_PAUSE_SECONDS:
                    time.sleep(_POLL_PAUSE_SECONDS)

    def _run_output(self, run: AppRun, handler: OutputHandler) -> RunOutput:
        def fetch(position: int, wait_seconds: int) -> ResponseMessage:
            return self._output(run.app_name, position, READ_BYTES, run.proc_uid, wait_seconds)

        return RunOutput(fetch, handler)

    def _delete_run(self, run: AppRun) -> None:
        try:
            self.delete_app(run.app_name)
        except AppMeshError as error:  # it goes by itself once its lifecycle is over
            logger.debug("the run %s could not be removed: %s", run.app_name, error)

    def run_task(self, app_name: str, data: str | bytes | Mapping[str, Any], timeout: int = 300) -> str:
        """Hands ``data`` to a running application (``AppMeshServer.task_fetch``) and gives what it returns.

        ``timeout``: at most so many seconds. What is no UTF-8 in the answer is U+FFFD.
        """
        headers = _JSON if isinstance(data, Mapping) else None
        body = _dump(data) if isinstance(data, Mapping) else data.encode() if isinstance(data, str) else bytes(data)
        response = self._request(
            "POST",
            f"/appmesh/app/{path_part(app_name)}/task",
            query={"timeout": timeout},
            headers=headers,
            body=body,
            waits_seconds=timeout,
        )
        return text_of(response)

    def cancel_task(self, app_name: str) -> bool:
        """Cancels what :meth:`run_task` asked for; False where there is nothing to cancel."""
        response = self._request(
            "DELETE",
            f"/appmesh/app/{path_part(app_name)}/task",
            accept=(HTTPStatus.ALREADY_REPORTED, HTTPStatus.NOT_FOUND),
        )
        return response.http_status == HTTPStatus.OK

    def _fetch_task(self, app_name: str, process_key: str) -> bytes:
        """What the next :meth:`run_task` hands to this process; waits for it. ``AppMeshServer`` calls it."""
        uri = f"/appmesh/app/{app_name}/task"
        query = {"process_key": process_key}
        return self._request("GET", uri, query=query, authorize=False, waits_seconds=self._FETCH_SECONDS).body

    def _return_task(self, app_name: str, process_key: str, result: bytes) -> None:
        uri = f"/appmesh/app/{app_name}/task"
        self._request("PUT", uri, query={"process_key": process_key}, body=result, authorize=False)

    # --- the daemon ----------------------------------------------------------------------------------------------

    def get_host_resources(self) -> dict[str, Any]:
        """The host's processors, memory, disks and network, and when the daemon was started."""
        return json_of(self._request("GET", "/appmesh/resources"), dict)

    def get_metrics(self) -> str:
        """The daemon's metrics, in Prometheus's text format; needs no login."""
        return text_of(self._request("GET", "/appmesh/metrics"))

    def get_config(self) -> dict[str, Any]:
        return json_of(self._request("GET", "/appmesh/config"), dict)

    def set_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Changes the parts of the configuration that ``config`` has; gives all of it."""
        return json_of(self._request("POST", "/appmesh/config", headers=_JSON, body=_dump(config)), dict)

    def set_log_level(self, level: str = "DEBUG") -> str:
        """Sets how much the daemon logs (it takes any text), and gives what it is now."""
        base = self.set_config({"BaseConfig": {"LogLevel": level}}).get("BaseConfig")
        return str(base.get("LogLevel", level)) if isinstance(base, dict) else level

    def list_labels(self) -> dict[str, str]:
        return json_of(self._request("GET", "/appmesh/labels"), dict)

    def add_label(self, label_name: str, label_value: str) -> None:
        self._request("PUT", f"/appmesh/label/{path_part(label_name)}", query={"value": label_value})

    def delete_label(self, label_name: str) -> None:
        """Removes a label; no error where there is none."""
        self._request("DELETE", f"/appmesh/label/{path_part(label_name)}")

    # --- users, roles, permissions -------------------------------------------------------------------------------

    def list_users(self) -> dict[str, Any]:
        """All users by name, without their passwords."""
        return json_of(self._request_of(2, "GET", "/appmesh/users"), dict)

    def get_current_user(self) -> dict[str, Any]:
        return json_of(self._request_of(2, "GET", "/appmesh/user/self"), dict)

    def add_user(self, username: str, user_data: Mapping[str, Any]) -> None:
        """Adds or changes a user: ``key`` (the password), ``roles``, ``group``, ``email``, ``exec_user``."""
        self._request_of(2, "PUT", f"/appmesh/user/{path_part(username)}", headers=_JSON, body=_dump(user_data))

    def delete_user(self, username: str) -> None:
        self._request_of(2, "DELETE", f"/appmesh/user/{path_part(username)}")

    def lock_user(self, username: str) -> None:
        """Keeps a user from logging in."""
        self._request_of(2, "POST", f"/appmesh/user/{path_part(username)}/lock")

    def unlock_user(self, username: str) -> None:
        self._request_of(2, "POST", f"/appmesh/user/{path_part(username)}/unlock")

    def update_password(self, old_password: str, new_password: str, username: str = "self") -> None:
        """Changes a password. The user's tokens are revoked by it, the client's own among them: log in again."""
        passwords = {"old_password": old_password, "new_password": new_password}
        self._request_of(
            2,
            "POST",
            f"/appmesh/user/{path_part(username)}/passwd",
            headers=_JSON,
            body=_dump({name: base64.b64encode(text.encode()).decode() for name, text in passwords.items()}),
        )

    def list_groups(self) -> list[str]:
        return json_of(self._request_of(2, "GET", "/appmesh/user/groups"), list)

    def list_permissions(self) -> list[str]:
        """Every permission that there is."""
        return json_of(self._request("GET", "/appmesh/permissions"), list)

    def get_user_permissions(self) -> list[str]:
        """What the user of this client may do."""
        return json_of(self._request_of(2, "GET", "/appmesh/user/permissions"), list)

    def list_roles(self) -> dict[str, Any]:
        """All roles by name, with their permissions."""
        return json_of(self._request("GET", "/appmesh/roles"), dict)

    def update_role(self, role_name: str, permission_set: list[str]) -> None:
        """Adds a role, or replaces its permissions; the daemon takes names that are no permission, too."""
        self._request("POST", f"/appmesh/role/{path_part(role_name)}", headers=_JSON, body=_dump(list(permission_set)))

    def delete_role(self, role_name: str) -> None:
        self._request("DELETE", f"/appmesh/role/{path_part(role_name)}")

    # --- daemons of 3.x ------------------------------------------------------------------------------------------

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

    def list_principals(self) -> Any:
        """Everyone whom the daemon knows by their tokens."""
        return json_of(self._request_of(3, "GET", "/appmesh/principals"), object)

    def get_current_principal(self) -> dict[str, Any]:
        return json_of(self._request_of(3, "GET", "/appmesh/principal/self"), dict)

    def get_principal_permissions(self) -> list[str]:
        """What the principal of this client's token may do."""
        return json_of(self._request_of(3, "GET", "/appmesh/principal/self/permissions"), list)

    def update_principal(self, principal_id: str, principal: Mapping[str, Any]) -> None:
        """Adds or changes a principal, for example its ``roles``."""
        uri = f"/appmesh/principal/{path_part(principal_id)}"
        self._request_of(3, "PUT", uri, headers=_JSON, body=_dump(principal))

    def delete_principal(self, principal_id: str) -> None:
        self._request_of(3, "DELETE", f"/appmesh/principal/{path_part(principal_id)}")

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

    # --- files ---------------------------------------------------------------------------------------------------

    def download_file(self, remote_file: str, local_file: str, preserve_permissions: bool = True) -> None:
        """Copies a file from the daemon's host; it is in its place only once all of it is there.

        With ``preserve_permissions`` it gets mode, owner and group of the original, as far as this host allows.

        Raises:
            AppMeshRequestError: 406 where there is no such file.

        """
        with (
            self.open_download(remote_file) as remote,
            replacing(local_file, remote.attributes if preserve_permissions else {}) as file,
        ):
            for chunk in remote.chunks:
                file.write(chunk)

    def upload_file(self, local_file: str, remote_file: str, preserve_permissions: bool = True) -> None:
        """Copies a file to the daemon's host, with its mode, owner and group where ``preserve_permissions``.

        Raises:
            FileNotFoundError: there is no such local file.
            AppMeshRequestError: 403 where the remote file exists already.

        """
        with open_local(local_file) as file:
            attributes = file_attributes(local_file) if preserve_permissions else {}
            name = os.path.basename(local_file)  # noqa: PTH119 the reference takes strings
            self._send_file(remote_file, Upload(file, os.fstat(file.fileno()).st_size, name, attributes))

    @contextlib.contextmanager
    def open_download(self, remote_file: str) -> Iterator[RemoteFile]:
        """A file of the daemon's host, to be read as it comes, for as long as the context lasts; for one thread.

        Raises:
            AppMeshError: as :meth:`download_file`, also while it is read: then the file is not whole.

        """
        with contextlib.ExitStack() as opened:
            yield self._authorized(lambda token: opened.enter_context(self._download(remote_file, token)))

    def upload_stream(
        self, source: Source, remote_file: str, *, size: int | None = None, attributes: Mapping[str, str] | None = None
    ) -> None:
        """Sends what ``source`` gives as a file to the daemon's host; on return it is there.

        ``size`` is how many bytes that are; without it, as many as there are, which only TCP can carry.
        ``attributes`` are those of a :class:`~meshbridge.appmesh.files.RemoteFile`.

        Raises:
            ValueError: the transport needs a size.
            AppMeshRequestError: 403 where the remote file exists already.
            OSError: ``source`` gives less than ``size``, or fails itself.

        """
        name = os.path.basename(remote_file)  # noqa: PTH119 a path of another host
        self._send_file(remote_file, Upload(source, size, name, attributes or {}))

    def _send_file(self, remote_file: str, upload: Upload) -> None:
        if upload.size is None:
            self._authorized(lambda token: self._upload(remote_file, token, upload))
            return
        sized = SizedSource(upload.source, upload.size)
        upload = replace(upload, source=sized)
        try:
            self._authorized(lambda token: self._upload(remote_file, token, upload))
        except AppMeshConnectionError:
            if sized.failure is not None:
                raise sized.failure from None
            raise

    def _authorized(self, transfer: Callable[[str], T]) -> T:
        """What ``transfer`` gives with the client's token; begun again with another one where that was refused."""
        token = self._bearer()
        try:
            return transfer(token)
        except AppMeshError as error:
            if not token or error.status is None:
                raise
            if not self._is_refused(token, error.status, self._exchange, self._timeout_seconds):
                raise
            newer = self._newer_token(token)
            if not newer:
                raise
        return transfer(newer)

    @contextlib.contextmanager
    def _download(self, remote_file: str, token: str) -> Iterator[RemoteFile]:
        with self._file_session() as session:
            if self._takes_tickets(session):
                message = self._ticket_message("GET", "/appmesh/file/download", remote_file)
            else:
                message = self._file_message("GET", "/appmesh/file/download", remote_file, token)
            with session.open(message, self._timeout_seconds) as response:
                if response.status_code != HTTPStatus.OK:
                    raise answer_error(message, _read(message, response))
                length = response.headers.get("Content-Length", "")
                size = int(length) if length.isdecimal() else None
                yield RemoteFile(read_headers(response), size, response.iter_content(_CHUNK_BYTES))

    def _upload(self, remote_file: str, token: str, upload: Upload) -> None:
        if upload.size is None:
            raise ValueError("over HTTPS the size of a file must be known before it is sent")
        with self._file_session() as session:
            if self._takes_tickets(session):
                message = self._ticket_message("POST", "/appmesh/file/upload", remote_file)
                body: Any = upload.source
            else:
                if self._provider is not None:
                    token = self._checked(token)
                message = self._file_message("POST", "/appmesh/file/upload", remote_file, token)
                body = MultipartFile(upload.source, upload.name, upload.size)
                message.headers["Content-Type"] = body.content_type
            message.headers.update(upload.attributes)
            with session.open(message, self._timeout_seconds, body) as response:
                if response.status_code not in {HTTPStatus.OK, HTTPStatus.CREATED}:
                    raise answer_error(message, _read(message, response))

    def _checked(self, token: str) -> str:
        """A token that the daemon takes: a body that was sent once can't be sent again with another."""
        refused = self._is_refused(token, HTTPStatus.INTERNAL_SERVER_ERROR, self._exchange, self._timeout_seconds)
        return (self._newer_token(token) or token) if refused else token

    @contextlib.contextmanager
    def _file_session(self) -> Iterator[HttpSession]:
        """What carries one file."""
        if not isinstance(self._exchange, HttpSession):
            raise AppMeshRequestError("files need a transport of their own, which this client's exchange is not")
        yield self._exchange

    def _takes_tickets(self, session: HttpSession) -> bool:
        """Whether this is the WSS port, whose answers hand out a token for one transfer, over HTTPS."""
        return urlsplit(session.base_url).port == _WSS_PORT

    def _file_message(self, method: str, uri: str, remote_file: str, token: str) -> RequestMessage:
        headers = {_FILE_PATH: self._path_header(remote_file)}
        return self._message(method, uri, None, headers, b"", token, self._forward_header())

    def _ticket_message(self, method: str, uri: str, remote_file: str) -> RequestMessage:
        """The request for the transfer itself, once the daemon has agreed to it over this client's transport.

        One of 2.x gives a token for it (PROTOCOL.md, 'Files'), one of 3.x takes the client's own, as its own client
        of 3.0.14 sends it.
        """
        headers = {_FILE_PATH: self._path_header(remote_file)}
        answer = self._request(method, uri, headers=headers)
        message = self._file_message(method, f"{uri}/ws", remote_file, self._bearer())
        if ticket := answer.headers.get("Authorization"):
            message.headers["Authorization"] = ticket
            if target := message.headers.get("X-Target-Host"):
                raise AppMeshRequestError(
                    f"over WSS a daemon of 2.x does not forward files to {target}: use HTTPS",
                    operation=f"{method} {uri}",
                )
        return message

    def _path_header(self, remote_file: str) -> str:
        """Daemons of 3.x decode percent escapes in a path, those of 2.x take it as it is, over each transport."""
        return quote(remote_file) if self._provider is not None or self._generation == 3 else remote_file  # noqa: PLR2004


# --- small change ------------------------------------------------------------------------------------------------


def _seconds(duration: int | str | timedelta) -> int:
    """Whole seconds of a number or an ISO 8601 duration (a year has 365 days, a month 30).

    Raises:
        ValueError: a text that is no duration.
        TypeError: neither a text nor a whole number.

    """
    if isinstance(duration, int):
        return int(duration)
    if not isinstance(duration, str):
        raise TypeError(f"a duration is a whole number of seconds or an ISO 8601 text, not {duration!r}")
    match = _DURATION.fullmatch(duration)
    if match is None or duration.endswith(("P", "T")):
        raise ValueError(f"{duration!r} is no ISO 8601 duration, such as P1W, P2DT12H or PT30S")
    parts = {name: int(number) for name, number in match.groupdict().items() if number}
    parts["days"] = (
        parts.get("days", 0) + parts.pop("years", 0) * _DAYS_OF_YEAR + parts.pop("months", 0) * _DAYS_OF_MONTH
    )
    return int(timedelta(**parts).total_seconds())


def _handler(print_stdout: bool | OutputHandler) -> OutputHandler:
    if isinstance(print_stdout, bool):
        return print_output_handler if print_stdout else None
    return print_stdout


def _dump(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)


def _not_offered(operation: str, generation: int, status: int) -> AppMeshNotOfferedError:
    return AppMeshNotOfferedError(
        f"{operation} is not offered by this daemon, which is of {generation}.x", status=status, operation=operation
    )


def _read(request: RequestMessage, response: requests.Response) -> ResponseMessage:
    """An answer that was to be streamed, read whole because it is an error."""
    return ResponseMessage(
        request_uri=request.request_uri, http_status=response.status_code, body=response.raw.read(_CHUNK_BYTES)
    )
