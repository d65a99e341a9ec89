"""Who may do what: each operation needs a scope, and an ``Authenticate`` function says whether its caller has it."""

import ipaddress
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI, Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from meshbridge import telemetry
from meshbridge.admin.options import Scope, Token
from meshbridge.admin.paths import CONFIGURATION_HEADER, ENVIRONMENT_ALONE
from meshbridge.admin.problems import Problem
from meshbridge.admin.tokens import FailureLimit, owner_of

__all__ = ["Authenticate", "Scope", "command_auth", "needs", "peer_of", "socket_auth", "token_auth"]

_IPV6_NETWORK = 64  # bits that an attacker has a whole network of

Authenticate = Callable[[Request, Scope], None]
"""Raises ``Problem`` (401, 403, 429) where the caller may not; puts into ``request.state`` who it is
(``caller``) and the highest of its scopes (``scope``)."""


def socket_auth(request: Request, _scope: Scope) -> None:
    """Of the control socket: those who can open it (its user, its group, root) have every scope."""
    request.state.caller, request.state.scope = "control", Scope.ADMIN


def command_auth(configuration: str) -> Authenticate:
    """As :func:`socket_auth`, but refuses a command that was given another configuration than this bridge."""

    def authenticate(request: Request, scope: Scope) -> None:
        given = unquote(request.headers.get(CONFIGURATION_HEADER, ""))
        if given and not _same_file(given, configuration):
            mine = "the environment alone" if configuration == ENVIRONMENT_ALONE else configuration
            raise Problem(
                HTTPStatus.CONFLICT,
                f"the bridge that runs on this journal has the configuration {mine}, not {given}: use --config of the "
                f"bridge that you mean, and set journal.path to a directory of its own in each",
                found=given,
                allowed=[configuration],
            )
        socket_auth(request, scope)

    return authenticate


def _same_file(given: str, own: str) -> bool:
    try:
        return given == own or Path(given).samefile(own)
    except OSError:
        return False


def token_auth(tokens: Callable[[], Sequence[Token]], *, clock: Callable[[], float] = time.monotonic) -> Authenticate:
    """Lets those in who show one of the tokens, as they are at that moment (RFC 6750).

    ``tokens`` is asked at each call, so a reload changes who may come in:
    ``token_auth(lambda: settings.admin.tokens)``. Make one for each listener, whose thread
    alone uses it.
    """
    limit = FailureLimit()

    def authenticate(request: Request, scope: Scope) -> None:
        kind, _, presented = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not presented:
            telemetry.admin_refused("no_token")
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed: send Authorization: Bearer TOKEN (meshbridge token new makes one)",
                headers={"WWW-Authenticate": 'Bearer realm="meshbridge"'},
            )
        found = owner_of(presented.strip(), tokens())
        if found is None:
            wait = limit.failed(_network(peer_of(request)), clock())
            if wait:
                telemetry.admin_refused("rate_limit")
                raise Problem(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"too many wrong tokens from here: try again in {wait} s",
                    headers={"Retry-After": str(wait)},
                )
            telemetry.admin_refused("wrong_token")
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "this token is not known here",
                headers={"WWW-Authenticate": 'Bearer realm="meshbridge", error="invalid_token"'},
            )
        request.state.caller, request.state.scope = found.name, found.scope
        if not found.scope.contains(scope):
            telemetry.admin_refused("scope")
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"this takes the scope {scope}; the token {found.name} has {found.scope}",
                headers={"WWW-Authenticate": f'Bearer realm="meshbridge", error="insufficient_scope", scope="{scope}"'},
                found=found.scope,
                allowed=[one for one in Scope if one.contains(scope)],
            )

    return authenticate


def peer_of(request: Request) -> str:
    """The address of the other side; of a unix socket, its user."""
    return "unknown" if request.client is None else request.client.host


def _network(peer: str) -> str:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))
    return peer


def install(application: FastAPI, authenticate: Authenticate) -> None:
    application.state.authenticate = authenticate


class Need(SecurityBase):
    """What an operation asks of its caller; the framework writes it into the API's description."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.scheme_name = "token"
        self.model = HTTPBearer(
            description="made by meshbridge token new; scopes: read, operate, admin, each contains those before it"
        )

    async def __call__(self, request: Request) -> None:
        authenticate: Authenticate = request.app.state.authenticate
        request.state.needed = self.scope
        authenticate(request, self.scope)


def needs(scope: Scope) -> Any:
    """A dependency of an operation."""
    return Security(Need(scope), scopes=[scope])
