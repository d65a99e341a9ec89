"""The requests that a link makes itself, each one exchange: what to ask, and what the answer means."""

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshError,
    AppMeshNotOfferedError,
    AppMeshRequestError,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

__all__ = [
    "LEAST_ROLE",
    "LoginRefusedError",
    "PermissionMissingError",
    "Token",
    "TokenRefusedError",
    "ask",
    "auth_config",
    "lacking",
    "log_off",
    "login",
    "permissions",
    "probe",
    "renew",
    "roles",
    "start_time",
    "subscribe",
]

LEAST_ROLE = (
    "app-subscribe",
    "app-view",
    "app-view-all",
    "app-output-view",
    "host-resource-view",
    "user-token-renew",
)
"""The permissions of the least role that a bridge needs (PROTOCOL.md, 'Events')."""
_RENEWAL = "user-token-renew"

_OK, _UNAUTHORIZED, _NOT_FOUND, _NOT_ALLOWED, _TOTP_CHALLENGE, _SERVER_ERROR = 200, 401, 404, 405, 428, 500
_USER_AGENT = "meshbridge"
_NAMED = ("/appmesh/app/", "/appmesh/label/", "/appmesh/role/", "/appmesh/file/")  # a 404 there may mean the thing
_NO_SUCH_USER = "user not found"


class LoginRefusedError(AppMeshAuthError):
    """There is no token to be had, or to be used, with what is configured; ``hint`` says what to do."""

    def __init__(
        self, message: str, *, hint: str | None = None, status: int | None = None, operation: str | None = None
    ) -> None:
        super().__init__(message, status=status, operation=operation)
        self.hint = hint


class TokenRefusedError(AppMeshAuthError):
    """The token is expired or revoked: log in again."""


class PermissionMissingError(AppMeshAuthError):
    """The user lacks ``permission``."""

    def __init__(self, message: str, *, permission: str, status: int, operation: str) -> None:
        super().__init__(message, status=status, operation=operation)
        self.permission = permission


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and how long it is good for, from when it was given."""

    value: str = field(repr=False)
    expires_at: float | None  # unix seconds by the clock of who gave it: for people and metrics; None: not told
    lifetime_seconds: float  # for deadlines
    refresh: str | None = field(default=None, repr=False)  # gives the next one, once


def ask(
    exchange: Exchange,
    method: str,
    uri: str,
    *,
    token: str | None = None,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    timeout_seconds: float,
) -> ResponseMessage:
    """The answer of status 200.

    Raises:
        TokenRefusedError: 401, or the token's user is gone. (To a text that is no token a daemon answers 500.)
        PermissionMissingError: 400 'Permission denied' (PROTOCOL.md, 'Surprises').
        AppMeshNotOfferedError: the daemon, being of another generation, does not know the operation.
        AppMeshRequestError: any other status.
        AppMeshConnectionError: no answer.

    """
    sent = {"User-Agent": _USER_AGENT, **(headers or {})}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    request = RequestMessage(request_uri=uri, http_method=method, headers=sent, query=query or {}, body=body)
    response = exchange.request(request, timeout_seconds)
    if response.http_status == _OK:
        return response
    raise _error(response, method, uri, authorized=token is not None)


def _error(response: ResponseMessage, method: str, uri: str, *, authorized: bool) -> AppMeshError:
    operation = f"{method} {uri}"
    said, status = _message_of(response), response.http_status
    text = f"{operation}: {said} (status {status})"
    _, denied, permission = said.partition("lacks required permission ")
    if denied:
        return PermissionMissingError(text, permission=permission.strip("'\""), status=status, operation=operation)
    if status == _UNAUTHORIZED or (authorized and status == _NOT_FOUND and said == _NO_SUCH_USER):
        return TokenRefusedError(text, status=status, operation=operation)
    if status in {_NOT_FOUND, _NOT_ALLOWED} and said != _NO_SUCH_USER and not uri.startswith(_NAMED):
        return AppMeshNotOfferedError(f"{operation} is not offered by this daemon", status=status, operation=operation)
    return AppMeshRequestError(text, status=status, operation=operation)


def _message_of(response: ResponseMessage) -> str:
    try:
        return str(orjson.loads(response.body)["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return response.body[:200].decode("utf-8", "replace") or "no message"


def login(
    exchange: Exchange,
    username: str,
    password: str,
    lifetime_seconds: float,
    timeout_seconds: float,
    *,
    totp_code: Callable[[], str] | None = None,
) -> Token:
    """A new token; ``totp_code`` gives the second factor of the moment.

    Raises:
        LoginRefusedError: wrong user, password or code, a locked user, a second factor is asked for and not
            configured, or the daemon knows no logins.
        AppMeshError: as :func:`ask`.

    """
    basic = base64.b64encode(f"{username}:{password}".encode()).decode()
    headers = {
        "Authorization": f"Basic {basic}",
        "X-Expire-Seconds": str(int(lifetime_seconds)),
        "X-Refresh-Token-Request": "true",  # daemons that know no refresh tokens ignore it
    }
    if totp_code is not None:
        headers["X-Totp-Code"] = totp_code()
    request = RequestMessage(
        request_uri="/appmesh/login", http_method="POST", headers={"User-Agent": _USER_AGENT, **headers}
    )
    response = exchange.request(request, timeout_seconds)
    if response.http_status == _OK:
        return _token(response)
    if response.http_status == _TOTP_CHALLENGE and totp_code is not None:
        # A daemon that does not take the code with the login. Each challenge is good for one try.
        answer = {"user_name": username, "totp_code": totp_code(), "totp_challenge": _challenge_of(response)}
        request = RequestMessage(
            request_uri="/appmesh/totp/validate",
            http_method="POST",
            headers={"User-Agent": _USER_AGENT},
            body=orjson.dumps({**answer, "expire_seconds": int(lifetime_seconds)}),
        )
        response = exchange.request(request, timeout_seconds)
        if response.http_status == _OK:
            return _token(response)
    raise _login_error(response, username)


def _challenge_of(response: ResponseMessage) -> str:
    try:
        return str(orjson.loads(response.body)["totp_challenge"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise AppMeshRequestError("the daemon's answer to the login holds no challenge", status=428) from error


def _login_error(response: ResponseMessage, username: str) -> AppMeshError:
    status, said = response.http_status, _message_of(response)
    hint = "set username and password of the daemon in the configuration"
    if status == _TOTP_CHALLENGE:
        why, hint = "the user has two-factor login", "set totp_secret_file of the daemon, or use a user without it"
    elif status == _UNAUTHORIZED and "totp" in said.lower():
        why, hint = "wrong two-factor code", "check totp_secret of the daemon, and the clocks of both hosts"
    elif status == _UNAUTHORIZED:
        why = "wrong password, or the user is locked"
    elif status == _NOT_FOUND and said == _NO_SUCH_USER:
        why = "no such user"
    elif status in {_NOT_FOUND, _NOT_ALLOWED}:
        why = "this daemon has no logins of its own (App Mesh 3.x)"
        hint = "set oidc (or token_file) of the daemon instead of username and password"
    else:
        return _error(response, "POST", "/appmesh/login", authorized=False)
    return LoginRefusedError(
        f"login as {username!r} refused: {why}", hint=hint, status=status, operation=response.request_uri
    )


def renew(exchange: Exchange, token: Token, lifetime_seconds: float, timeout_seconds: float) -> Token:
    """A new token for an old one, which is revoked at once; by its refresh token, where it came with one.

    Raises:
        AppMeshError: as :func:`ask`.

    """
    headers = {"X-Expire-Seconds": str(int(lifetime_seconds))}
    if token.refresh is not None:
        headers["X-Refresh-Token"] = token.refresh
    return _token(
        ask(
            exchange,
            "POST",
            "/appmesh/token/renew",
            token=token.value,
            headers=headers,
            timeout_seconds=timeout_seconds,
        )
    )


def log_off(exchange: Exchange, token: Token, timeout_seconds: float) -> None:
    """Ends a token, and what would renew it.

    Raises:
        AppMeshError: as :func:`ask`.

    """
    headers = {} if token.refresh is None else {"X-Refresh-Token": token.refresh}
    ask(
        exchange,
        "POST",
        "/appmesh/self/logoff",
        token=token.value,
        headers=headers,
        timeout_seconds=timeout_seconds,
    )


def _token(response: ResponseMessage) -> Token:
    try:
        fields: dict[str, Any] = orjson.loads(response.body)
        value, refresh = str(fields["access_token"]), fields.get("refresh_token")
        lifetime = float(fields["expires_in"])
        # Daemons say when, too; by whose clock does not matter to people, so where one does not, ours will do.
        expires_at = float(fields.get("expire_time") or time.time() + lifetime)
        return Token(value, expires_at, lifetime, str(refresh) if refresh else None)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        kind = type(error).__name__  # not its text: that may hold a part of the answer
        raise AppMeshRequestError(f"the daemon's answer holds no token ({kind})", status=_OK) from None


def auth_config(exchange: Exchange, timeout_seconds: float) -> dict[str, Any] | None:
    """Who issues tokens for the daemon: ``issuer``, ``scopes``, ``public_client_id``; None: itself (2.x).

    Raises:
        AppMeshError: as :func:`ask`.

    """
    try:
        response = ask(exchange, "GET", "/appmesh/auth/config", timeout_seconds=timeout_seconds)
    except AppMeshNotOfferedError:
        return None
    fields = _json(response)
    return fields if isinstance(fields, dict) else {}


def permissions(exchange: Exchange, token: str, timeout_seconds: float) -> frozenset[str] | None:
    """What the token's owner may do; None where that is not told.

    Raises:
        TokenRefusedError, AppMeshConnectionError: as :func:`ask`.

    """
    for uri in ("/appmesh/user/permissions", "/appmesh/principal/self/permissions"):
        try:
            granted = _json(ask(exchange, "GET", uri, token=token, timeout_seconds=timeout_seconds))
        except AppMeshNotOfferedError:
            continue  # of the other generation (PROTOCOL.md, 'Two generations of daemon')
        except (PermissionMissingError, AppMeshRequestError):
            return None
        return frozenset(str(name) for name in granted) if isinstance(granted, list) else None
    return None


def roles(exchange: Exchange, token: str, timeout_seconds: float) -> dict[str, frozenset[str]]:
    """The daemon's roles with what each permits; none where that is not told.

    Raises:
        AppMeshConnectionError: as :func:`ask`.

    """
    try:
        answer = _json(ask(exchange, "GET", "/appmesh/roles", token=token, timeout_seconds=timeout_seconds))
    except (AppMeshAuthError, AppMeshRequestError):
        return {}
    if not isinstance(answer, dict):
        return {}
    return {str(name): frozenset(map(str, granted)) for name, granted in answer.items() if isinstance(granted, list)}


def lacking(granted: frozenset[str] | None, *, renews: bool) -> tuple[str, ...]:
    """What of the least role is not granted; nothing where that is not told. ``renews``: whether tokens are renewed."""
    if granted is None:
        return ()
    needed = LEAST_ROLE if renews else [name for name in LEAST_ROLE if name != _RENEWAL]
    return tuple(name for name in needed if name not in granted)


def _json(response: ResponseMessage) -> Any:
    try:
        return orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return None


def start_time(exchange: Exchange, token: str, timeout_seconds: float) -> str:
    """What names the daemon's run: its start in unix seconds (DESIGN.md, 'Identity').

    Raises:
        PermissionMissingError: it needs ``host-resource-view``.
        AppMeshError: as :func:`ask`.

    """
    response = ask(exchange, "GET", "/appmesh/resources", token=token, timeout_seconds=timeout_seconds)
    try:
        return str(int(orjson.loads(response.body)["appmesh_start_time_unix_seconds"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise AppMeshRequestError(f"the daemon does not say when it started: {error!r}", status=_OK) from error


def subscribe(exchange: Exchange, token: str, events: Sequence[str], timeout_seconds: float) -> None:
    """Has the daemon push these events of every app on this connection, from now on.

    Raises:
        PermissionMissingError: it needs ``app-subscribe`` and ``app-view-all``.
        AppMeshError: as :func:`ask`.

    """
    query = {"events": ",".join(events)}
    ask(exchange, "POST", "/appmesh/subscribe", token=token, query=query, timeout_seconds=timeout_seconds)


def probe(exchange: Exchange, token: str, timeout_seconds: float) -> bool:
    """Whether the token is still good; any answer at all shows that the daemon is there.

    Raises:
        AppMeshConnectionError: it is not.

    """
    try:
        ask(exchange, "POST", "/appmesh/auth", token=token, timeout_seconds=timeout_seconds)
    except TokenRefusedError:
        return False
    except AppMeshRequestError as error:
        return error.status != _SERVER_ERROR
    except PermissionMissingError:
        return True
    return True
