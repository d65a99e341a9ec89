"""The requests that a link makes itself, each one exchange: what to ask, and what the answer means."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshError, AppMeshRequestError
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

__all__ = [
    "LEAST_ROLE",
    "LoginRefusedError",
    "PermissionMissingError",
    "Token",
    "TokenRefusedError",
    "ask",
    "login",
    "probe",
    "renew",
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

_OK, _UNAUTHORIZED, _NOT_FOUND, _TOTP_CHALLENGE, _SERVER_ERROR = 200, 401, 404, 428, 500
_USER_AGENT = "meshbridge"


class LoginRefusedError(AppMeshAuthError):
    """The daemon does not take the user's name and password."""


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

    value: str
    expires_at: float  # unix seconds by the daemon's clock: for people and metrics
    lifetime_seconds: float  # for deadlines


def ask(
    exchange: Exchange,
    method: str,
    uri: str,
    *,
    token: str | None = None,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    timeout_seconds: float,
) -> ResponseMessage:
    """The answer of status 200.

    Raises:
        TokenRefusedError: 401, or the 500 that a daemon gives to a token that it can't read.
        PermissionMissingError: 400 'Permission denied' (PROTOCOL.md, 'Surprises').
        AppMeshRequestError: any other status.
        AppMeshConnectionError: no answer.

    """
    sent = {"User-Agent": _USER_AGENT, **(headers or {})}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    request = RequestMessage(request_uri=uri, http_method=method, headers=sent, query=query or {})
    response = exchange.request(request, timeout_seconds)
    if response.http_status == _OK:
        return response
    raise _error(response, f"{method} {uri}")


def _error(response: ResponseMessage, operation: str) -> AppMeshError:
    said, status = _message_of(response), response.http_status
    text = f"{operation}: {said} (status {status})"
    _, denied, permission = said.partition("lacks required permission ")
    if denied:
        return PermissionMissingError(text, permission=permission.strip("'\""), status=status, operation=operation)
    if status == _UNAUTHORIZED:
        return TokenRefusedError(text, status=status, operation=operation)
    return AppMeshRequestError(text, status=status, operation=operation)


def _message_of(response: ResponseMessage) -> str:
    try:
        return str(orjson.loads(response.body)["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return response.body[:200].decode("utf-8", "replace") or "no message"


def login(exchange: Exchange, username: str, password: str, lifetime_seconds: float, timeout_seconds: float) -> Token:
    """A new token.

    Raises:
        LoginRefusedError: wrong user or password, a locked user, or a second factor is asked for.
        AppMeshError: as :func:`ask`.

    """
    basic = base64.b64encode(f"{username}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}", "X-Expire-Seconds": str(int(lifetime_seconds))}
    try:
        response = ask(exchange, "POST", "/appmesh/login", headers=headers, timeout_seconds=timeout_seconds)
    except AppMeshError as error:
        if error.status in {_UNAUTHORIZED, _NOT_FOUND}:
            why = "no such user" if error.status == _NOT_FOUND else "wrong password, or the user is locked"
            raise LoginRefusedError(
                f"login as {username!r} refused: {why}", status=error.status, operation=error.operation
            ) from error
        if error.status == _TOTP_CHALLENGE:
            raise LoginRefusedError(
                f"login as {username!r} refused: the user has two-factor login, which needs a user without it",
                status=error.status,
                operation=error.operation,
            ) from error
        raise
    return _token(response)


def renew(exchange: Exchange, token: str, lifetime_seconds: float, timeout_seconds: float) -> Token:
    """A new token for an old one, which is revoked at once.

    Raises:
        AppMeshError: as :func:`ask`.

    """
    headers = {"X-Expire-Seconds": str(int(lifetime_seconds))}
    return _token(
        ask(
            exchange,
            "POST",
            "/appmesh/token/renew",
            token=token,
            headers=headers,
            timeout_seconds=timeout_seconds,
        )
    )


def _token(response: ResponseMessage) -> Token:
    try:
        fields: dict[str, Any] = orjson.loads(response.body)
        return Token(str(fields["access_token"]), float(fields["expire_time"]), float(fields["expires_in"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise AppMeshRequestError(f"the daemon's answer holds no token: {error!r}", status=_OK) from error


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
    except (TokenRefusedError, AppMeshRequestError) as error:
        return error.status not in {_UNAUTHORIZED, _SERVER_ERROR}
    except PermissionMissingError:
        return True
    return True
