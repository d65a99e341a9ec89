"""Logins at a daemon of 2.x: the client's own token, and grants for those who keep tokens elsewhere."""

import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import orjson

from meshbridge.appmesh import paths
from meshbridge.appmesh.answers import answer_error, json_of, reason_of, text_of
from meshbridge.appmesh.client_session import ClientSession
from meshbridge.appmesh.durations import seconds_of
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshLoginError,
    AppMeshRequestError,
    LoginFault,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.token_keeper import Renewals, RenewalThread, TokenKeeper
from meshbridge.appmesh.token_provider import StaticAccessTokenProvider, TokenProvider
from meshbridge.appmesh.tokens import REFRESH_AHEAD_SECONDS, REFRESH_EVERY_SECONDS, CookieFile, MemoryTokens, TokenStore

__all__ = ["LoginOperations"]

logger = logging.getLogger(__name__)

# Answers whose token the client takes (docs/protocol.md, 'Authentication').
_TOKEN_WHERE_ASKED_FOR = frozenset({paths.LOGIN, paths.AUTH, paths.TOTP_VALIDATE})

_SET_COOKIE, _EXPIRE, _REFRESH = "X-Set-Cookie", "X-Expire-Seconds", "X-Refresh-Token"
_JSON = {"Content-Type": "application/json"}
_NO_SUCH_USER = "user not found"
_RENEWALS = Renewals(ahead_seconds=REFRESH_AHEAD_SECONDS, least_seconds=0.0, unknown_seconds=REFRESH_EVERY_SECONDS)


class LoginOperations(ClientSession):
    """Logs in, keeps the client's token and renews it, unless a provider gives the tokens.

    ``request_grant``, ``renew_grant`` and ``end_grant`` leave the client's own token as it is: they are for programs
    that keep tokens themselves.
    """

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
        bearer_token: str | None = None,
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
            bearer_token: as a ``StaticAccessTokenProvider`` of it.

        """
        if bearer_token is not None and token_provider is not None:
            raise ValueError("give bearer_token or token_provider")
        if bearer_token is not None:
            token_provider = StaticAccessTokenProvider(bearer_token)
        super().__init__(
            base_url, ssl_verify, ssl_client_cert, request_timeout, exchange=exchange, token_provider=token_provider
        )
        self._tokens: TokenStore = CookieFile(cookie_file, base_url) if cookie_file else MemoryTokens()
        self._auto_refresh_token = auto_refresh_token
        self._keeper = TokenKeeper(_OwnLogin(self._renew_own), renewals=_RENEWALS)
        self._refresher = RenewalThread(self._keeper)
        if jwt_token:
            self.set_token(jwt_token)
        elif kept := self._tokens.get():
            self._keeper.take(Grant.from_token(kept))
            self._refresh_if_wanted()

    def close(self) -> None:
        """Ends the client's threads and connections. It cannot be used any more."""
        self._refresher.stop(wait=False)
        super().close()  # which wakes a renewal that waits for its answer
        self._refresher.stop()

    # --- tokens of others ----------------------------------------------------------------------------------------

    @property
    def token_provider(self) -> TokenProvider | None:
        """Who gives the tokens; None where the client logs in itself."""
        return self._provider

    def set_token_provider(self, provider: TokenProvider) -> None:
        """Takes the tokens from ``provider``, from the next request on."""
        self._provider = provider

    def set_bearer_token(self, token: str) -> None:
        """Sends ``token``, which the program got elsewhere, from the next request on."""
        self._provider = StaticAccessTokenProvider(token)

    def clear_bearer_token(self) -> None:
        """Sends no token any more."""
        if self._provider is not None:
            self._provider.clear()

    # --- the client's own token ----------------------------------------------------------------------------------

    def _bearer(self) -> str:
        return self._tokens.get() if self._provider is None else super()._bearer()

    def _is_refused(self, token: str, status: int, reason: str, exchange: Exchange) -> bool:
        if self._provider is None:
            return status == HTTPStatus.UNAUTHORIZED
        return super()._is_refused(token, status, reason, exchange)

    def _newer_token(self, refused: str) -> str:
        """A renewal under way is waited for."""
        if self._provider is not None:
            return super()._newer_token(refused)
        with self._keeper.renewing():
            token = self._tokens.get()
        return token if token != refused else ""

    def _answered(self, uri: str, request: RequestMessage, response: ResponseMessage) -> None:
        asked_for = uri in _TOKEN_WHERE_ASKED_FOR and request.headers.get(_SET_COOKIE) == "true"
        if asked_for or uri == paths.TOTP_SETUP:
            token = json_of(response, dict).get("access_token")
            if isinstance(token, str) and token:
                self._keep_token(token)

    def _keep_token(self, token: str) -> None:
        self._keep_grant(Grant.from_token(token) if token else None)

    def _keep_grant(self, grant: Grant | None) -> None:
        self._tokens.set("" if grant is None else grant.access_token)
        self._keeper.take(grant)
        self._refresher.token_changed()

    # --- login and token -----------------------------------------------------------------------------------------

    def login(
        self,
        username: str,
        password: str,
        totp_code: str | None = None,
        token_expire: str | int = "P1W",  # noqa: S107 a duration
        audience: str | None = None,
    ) -> str | None:
        """Logs in; the token is kept for the requests that follow, and renewed if the client was set to do so.

        Gives the challenge for :meth:`validate_totp` where the user has two-factor login and no code was given, else
        None. ``token_expire`` is in seconds, or an ISO 8601 duration.

        Raises:
            AppMeshAuthError: the daemon does not take these credentials.

        """
        headers = _login_headers(username, password, token_expire, totp_code)
        headers[_SET_COOKIE] = "true"
        if audience:
            headers["X-Audience"] = audience
        try:
            response = self._request(
                "POST",
                paths.LOGIN,
                headers=headers,
                accept=(HTTPStatus.PRECONDITION_REQUIRED, HTTPStatus.NOT_FOUND),
                authorize=False,
            )
        except (AppMeshAuthError, AppMeshRequestError):
            self._keep_token("")  # what follows must not run as the user who was logged in before
            raise
        if response.http_status == HTTPStatus.NOT_FOUND:
            self._keep_token("")
            self._require_generation(2, f"POST {paths.LOGIN}")
            raise AppMeshDeniedError(reason_of(response), status=response.http_status, operation=f"POST {paths.LOGIN}")
        if response.http_status == HTTPStatus.PRECONDITION_REQUIRED:
            self._keep_token("")
            challenge = str(json_of(response, dict).get("totp_challenge") or "")
            if not challenge:
                raise AppMeshAuthError("the daemon asks for a second factor without a challenge", status=428)
            if not totp_code:
                return challenge
            self.validate_totp(username, challenge, totp_code, token_expire)
            return None
        self._generations[self._forward_header()] = 2  # those of 3.x know no logins
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
            paths.TOTP_VALIDATE,
            headers={_SET_COOKIE: "true"} | _JSON,
            body=_challenge_answer(username, code, challenge, token_expire),
            authorize=False,
        )
        self._refresh_if_wanted()

    def logout(self) -> bool:
        """Ends the session; the token is revoked. False where there was none, or the daemon could not end it."""
        if not self._tokens.get():
            return False
        try:
            self._request("POST", paths.LOGOFF)
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
            response = self._request("POST", paths.AUTH, headers=headers, authorize=False)
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
        used = self._tokens.get()
        if not used:
            raise AppMeshAuthError("No token to renew", operation=f"POST {paths.TOKEN_RENEW}")
        self._keeper.renew(used, lambda grant: self._renew_own(grant, token_expire))
        self._refresher.token_changed()

    def _renew_own(self, grant: Grant, token_expire: int | str = "P1W") -> Grant:  # noqa: S107 a duration
        """The next token, kept for the next client too."""
        used = grant.access_token
        # Not by _request's own authorization: a 401 must not wait for the renewal that this is.
        response = self._request(
            "POST",
            paths.TOKEN_RENEW,
            headers={"Authorization": f"Bearer {used}", _EXPIRE: str(seconds_of(token_expire))},
            authorize=False,
        )
        token = json_of(response, dict).get("access_token")
        if not isinstance(token, str) or not token or token == used:
            raise AppMeshRequestError("the daemon's answer has no new token", operation=f"POST {paths.TOKEN_RENEW}")
        self._tokens.set(token)
        return Grant.from_token(token)

    def start_token_refresh(self) -> None:
        """Renews the token in time from now on, on a thread of the client.

        It does not give up on a network error, but tries on until the token can no longer be renewed; then it logs an
        error.
        """
        self._refresher.start()

    def stop_token_refresh(self) -> None:
        """Ends what :meth:`start_token_refresh` began."""
        self._refresher.stop()

    def _refresh_if_wanted(self) -> None:
        if self._auto_refresh_token and self._provider is None and self._tokens.get():
            self.start_token_refresh()

    # --- grants --------------------------------------------------------------------------------------------------

    def request_grant(
        self,
        username: str,
        password: str,
        *,
        totp_code: Callable[[], str] | None = None,
        token_expire: str | int = "P1W",  # noqa: S107 a duration
    ) -> Grant:
        """A new token for a user, with a refresh token where the daemon gives them.

        ``totp_code`` gives the present code of the second factor.

        Raises:
            AppMeshLoginError: wrong user, password or code, a locked user, a second factor that is asked for and not
                given, or a daemon without logins.
            AppMeshError: no usable answer.

        """
        headers = _login_headers(username, password, token_expire, totp_code and totp_code())
        headers[f"{_REFRESH}-Request"] = "true"  # daemons that know no refresh tokens ignore it
        response = self._login_answer(paths.LOGIN, headers)
        if response.http_status == HTTPStatus.PRECONDITION_REQUIRED and totp_code is not None:
            # A daemon that does not take the code with the login. Each challenge is good for one try.
            challenge = str(json_of(response, dict).get("totp_challenge") or "")
            body = _challenge_answer(username, totp_code(), challenge, token_expire)
            response = self._login_answer(paths.TOTP_VALIDATE, _JSON, body)
        if response.http_status != HTTPStatus.OK:
            raise _login_error(response, username)
        return Grant.from_answer(json_of(response, dict))

    def _login_answer(self, uri: str, headers: Mapping[str, str], body: bytes = b"") -> ResponseMessage:
        return self._request(
            "POST", uri, headers=headers, body=body, accept=range(HTTPStatus.BAD_REQUEST, 600), authorize=False
        )

    def renew_grant(self, grant: Grant, token_expire: int | str = "P1W") -> Grant:  # noqa: S107 a duration
        """A new token for an old one, which is revoked at once; by its refresh token, where it came with one.

        Raises:
            AppMeshTokenError: it can no longer be renewed.
            AppMeshError: no usable answer.

        """
        headers = _grant_headers(grant) | {_EXPIRE: str(seconds_of(token_expire))}
        response = self._request("POST", paths.TOKEN_RENEW, headers=headers, authorize=False)
        return Grant.from_answer(json_of(response, dict))

    def end_grant(self, grant: Grant) -> None:
        """Revokes a token, and what would renew it.

        Raises:
            AppMeshError: the daemon could not.

        """
        self._request("POST", paths.LOGOFF, headers=_grant_headers(grant), authorize=False)

    # --- two-factor login ------------------------------------------------------------------------------------------

    def get_totp_secret(self) -> str:
        """A new secret for the user's authenticator; :meth:`enable_totp` with a code of it makes it count."""
        response = self._request("POST", paths.TOTP_SECRET)
        try:
            uri = base64.b64decode(json_of(response, dict)["mfa_uri"]).decode()
            return parse_qs(urlsplit(uri).query)["secret"][0]
        except (KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
            raise AppMeshRequestError(
                "the daemon's answer has no secret", status=response.http_status, operation=f"POST {paths.TOTP_SECRET}"
            ) from error

    def enable_totp(self, totp_code: str) -> None:
        """Turns two-factor login on for the user, with a code of the new secret."""
        self._request("POST", paths.TOTP_SETUP, headers={"X-Totp-Code": str(totp_code)})

    def disable_totp(self, user: str = "self") -> None:
        """Turns two-factor login off; a daemon of 2.x refuses it for others than oneself."""
        self._request("POST", paths.totp_disable(user))


class _OwnLogin:
    """The client's own login as a source of tokens: it holds no password, so it can only renew what there is."""

    renews, obtains, early, watches, follows = True, False, False, False, False

    def __init__(self, renew: Callable[[Grant], Grant]) -> None:
        self._renew = renew

    def obtain(self, exchange: Exchange | None, refused: str | None) -> Grant:  # noqa: ARG002 as a TokenSource
        raise AppMeshLoginError("log in again")

    def renew(self, exchange: Exchange | None, grant: Grant) -> Grant:  # noqa: ARG002 as a TokenSource
        return self._renew(grant)

    def end(self, exchange: Exchange | None, grant: Grant) -> None:
        """``logout`` does."""

    def changed(self) -> bool:
        return False


def _login_headers(username: str, password: str, token_expire: str | int, totp_code: str | None) -> dict[str, str]:
    credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}", _EXPIRE: str(seconds_of(token_expire))}
    if totp_code:
        headers["X-Totp-Code"] = str(totp_code)
    return headers


def _grant_headers(grant: Grant) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {grant.access_token}"}
    return headers | {_REFRESH: grant.refresh_token} if grant.refresh_token else headers


def _challenge_answer(username: str, code: str, challenge: str, token_expire: str | int) -> bytes:
    return orjson.dumps(
        {
            "user_name": username,
            "totp_code": str(code),
            "totp_challenge": challenge,
            "expire_seconds": seconds_of(token_expire),
        }
    )


def _login_error(response: ResponseMessage, username: str) -> AppMeshError:
    status, said = response.http_status, reason_of(response, "")
    if status == HTTPStatus.PRECONDITION_REQUIRED:
        fault = LoginFault.CODE_MISSING
    elif status == HTTPStatus.UNAUTHORIZED:
        fault = LoginFault.CODE if "totp" in said.lower() else LoginFault.PASSWORD
    elif status == HTTPStatus.NOT_FOUND and said == _NO_SUCH_USER:
        fault = LoginFault.USER
    elif status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        fault = LoginFault.NO_LOGINS
    else:
        return answer_error(RequestMessage(http_method="POST", request_uri=paths.LOGIN), response)
    return AppMeshLoginError(
        f"login as {username!r} refused: {fault.value}", fault=fault, status=status, operation=f"POST {paths.LOGIN}"
    )
