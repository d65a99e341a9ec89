"""Tokens of an OpenID Connect issuer: its token endpoint, and a provider that keeps a client in tokens."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import orjson
import requests
from requests.auth import HTTPBasicAuth

from meshbridge.appmesh.addresses import is_private, same_origin
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshError,
    AppMeshIssuerError,
    AppMeshLoginError,
    AppMeshRequestError,
    LoginFault,
    OAuthError,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.final_response import ends_by
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.http_session import BodyError, read_body
from meshbridge.appmesh.outgoing import new_session
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.token_keeper import Renewals, TokenKeeper
from meshbridge.appmesh.tokens import REFRESH_AHEAD_SECONDS

__all__ = [
    "IssuerLogin",
    "OidcTokens",
    "TokenEndpoint",
    "discover",
    "find_token_url",
    "issuer_errors",
    "refreshed",
]

logger = logging.getLogger(__name__)

# RFC 6749, 5.2, and what Keycloak adds: with these answers the same credentials will not do the next time either.
_DEAD_CREDENTIALS = frozenset({"invalid_grant", "access_denied", "invalid_client", "unauthorized_client"})
_CLIENT_REFUSED = frozenset({"invalid_client", "unauthorized_client"})
# RFC 8628, 3.5: of a person who has not decided yet, or not in time.
_OF_A_FLOW = frozenset({"authorization_pending", "slow_down", "expired_token"})
_MAX_ANSWER_BYTES = 1024 * 1024  # discovery documents and tokens have a few KiB
_MAX_REASON_CHARACTERS = 300  # of what an issuer says, in an error
RENEWALS = Renewals(ahead_seconds=REFRESH_AHEAD_SECONDS, least_seconds=0.0)
_IDENTITY = {"Accept-Encoding": "identity"}


class TokenEndpoint:
    """An issuer's token endpoint, as one of its clients sees it (RFC 6749). Any thread may use it."""

    def __init__(
        self,
        token_url: str,
        client_id: str,
        client_secret: str | None = None,
        *,
        ssl_verify: SslVerify = True,
        ssl_client_cert: ClientCert = None,
        timeout_seconds: float = 60,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Args:
        token_url: such as ``https://idp/realms/main/protocol/openid-connect/token``.
        client_id: who asks.
        client_secret: none for a public client.
        ssl_verify: as for a client.
        ssl_client_cert: as for a client.
        timeout_seconds: to connect, and for the whole of an answer.
        clock: unix seconds.

        """
        self.token_url = token_url
        self.client_id = client_id
        self._client_secret = client_secret
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._session = new_session(ssl_verify, ssl_client_cert)
        self._names_itself_in_form = False  # once the issuer has refused an empty secret

    def grant(self, grant_type: str, **fields: str) -> Grant:
        """A grant: ``password`` (with ``username`` and ``password``), ``refresh_token`` or ``client_credentials``.

        Raises:
            AppMeshAuthError: the issuer refuses these credentials, for good.
            AppMeshRequestError: it answers with another error.
            AppMeshConnectionError: it cannot be reached.

        """
        now = self._clock()
        form = {"grant_type": grant_type, **fields}
        answer = self._password_answer(form) if grant_type == "password" else self.post(self.token_url, form)
        try:
            return Grant.from_answer(answer, now=now)
        except AppMeshRequestError as error:
            operation = f"POST {self.token_url}"
            raise AppMeshRequestError(f"{self.token_url}: {error}", operation=operation) from None

    def _password_answer(self, form: Mapping[str, str]) -> dict[str, Any]:
        """A public client names itself by HTTP Basic with an empty secret, as Dex wants it; else in the form."""
        if self._client_secret or self._names_itself_in_form:
            return self.post(self.token_url, form)
        basic = HTTPBasicAuth(self.client_id.encode(), b"")
        try:
            return self._ask("POST", self.token_url, data=form, auth=basic)
        except OAuthError as error:
            if error.error not in _CLIENT_REFUSED:
                raise
        self._names_itself_in_form = True
        return self.post(self.token_url, form)

    def post(self, url: str, fields: Mapping[str, str]) -> dict[str, Any]:
        """Posts a form as this client, and gives the JSON of the answer ({} where there is none)."""
        form = {"client_id": self.client_id, **fields}
        if self._client_secret:
            form["client_secret"] = self._client_secret
        return self._ask("POST", url, data=form)

    def get(self, url: str, token: str) -> dict[str, Any]:
        """Asks for something as the bearer of ``token``."""
        return self._ask("GET", url, headers={"Authorization": f"Bearer {token}", **_IDENTITY})

    def close(self) -> None:
        """Closes the kept connections."""
        self._session.close()

    def _ask(self, method: str, url: str, **arguments: Any) -> dict[str, Any]:
        operation = f"{method} {url}"
        try:
            with (
                ends_by(time.monotonic() + self._timeout_seconds),
                self._session.request(
                    method,
                    url,
                    timeout=self._timeout_seconds,
                    allow_redirects=False,
                    stream=True,
                    **{"headers": _IDENTITY} | arguments,
                ) as response,
            ):
                answer = _read_object(response)
        except (requests.exceptions.RequestException, OSError, BodyError) as error:
            raise AppMeshConnectionError(f"cannot ask {url}: {error}", operation=operation) from error
        if response.ok:
            return answer
        code = str(answer.get("error") or "")
        why = str(answer.get("error_description") or code or response.reason)[:_MAX_REASON_CHARACTERS]
        if code in _DEAD_CREDENTIALS or response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise OAuthError(f"{url} refused: {why}", error=code, status=response.status_code, operation=operation)
        if code in _OF_A_FLOW:
            raise OAuthError(f"{url}: {why}", error=code, status=response.status_code, operation=operation)
        raise AppMeshRequestError(f"{url} refused: {why}", status=response.status_code, operation=operation)


class IssuerLogin:
    """An issuer as a :class:`~meshbridge.appmesh.token_keeper.TokenSource`."""

    renews, obtains, early, watches, follows = True, True, True, False, False

    def __init__(
        self, endpoint: TokenEndpoint | Callable[[], TokenEndpoint], credentials: Callable[[], Mapping[str, str]]
    ) -> None:
        """``credentials`` is called for each grant, so that a password file is read again: the fields of the grant.

        For example ``{"grant_type": "password", "username": …, "password": …, "scope": "openid"}``, or
        ``{"grant_type": "client_credentials"}``.
        """
        self._endpoint = endpoint if callable(endpoint) else lambda: endpoint
        self._credentials = credentials

    def obtain(self, exchange: Exchange | None, refused: str | None) -> Grant:  # noqa: ARG002 each grant differs
        with issuer_errors():
            fields = dict(self._credentials())
            return self._endpoint().grant(fields.pop("grant_type"), **fields)

    def renew(self, exchange: Exchange | None, grant: Grant) -> Grant:
        if not grant.refresh_token:
            return self.obtain(exchange, None)
        return refreshed(self._endpoint(), grant) or self.obtain(exchange, None)

    def end(self, exchange: Exchange | None, grant: Grant) -> None:
        """It ends by itself; to revoke one is optional for an issuer."""

    def changed(self) -> bool:
        return False


def refreshed(endpoint: TokenEndpoint, grant: Grant) -> Grant | None:
    """The next grant by the refresh token of the last; None where that is spent.

    Raises:
        AppMeshIssuerError: the issuer gives no usable answer.

    """
    try:
        with issuer_errors():
            renewed = endpoint.grant("refresh_token", refresh_token=grant.refresh_token)
    except (AppMeshAuthError, AppMeshIssuerError) as error:
        # Dex says 400 invalid_request of one that has expired or was used, where RFC 6749 has invalid_grant.
        if isinstance(error, AppMeshIssuerError) and error.status != HTTPStatus.BAD_REQUEST:
            raise
        logger.debug("the refresh token is spent: %s", error)
        return None
    # Without rotation the old one stays good (RFC 6749, 6).
    return renewed if renewed.refresh_token else replace(renewed, refresh_token=grant.refresh_token)


@contextlib.contextmanager
def issuer_errors() -> Iterator[None]:
    """Errors of an issuer, told from those of the daemon."""
    try:
        yield
    except AppMeshAuthError as error:
        if isinstance(error, AppMeshLoginError):
            raise
        fault = LoginFault.ISSUER
        raise AppMeshLoginError(error.message, fault=fault, status=error.status, operation=error.operation) from error
    except AppMeshIssuerError:
        raise
    except AppMeshError as error:
        raise AppMeshIssuerError(error.message, status=error.status, operation=error.operation) from error


class OidcTokens(TokenKeeper):
    """A :class:`~meshbridge.appmesh.token_provider.TokenProvider` for unattended clients of daemons of 3.x.

    It keeps one token, gets the next one before that expires, and one more when the daemon refuses it.
    """

    def __init__(
        self,
        endpoint: TokenEndpoint,
        credentials: Callable[[], Mapping[str, str]],
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """As :class:`IssuerLogin`; ``clock`` gives monotonic seconds."""
        super().__init__(IssuerLogin(endpoint, credentials), renewals=RENEWALS, lazy=True, clock=clock)


def find_token_url(
    issuer: str | None,
    *,
    access_url: str | None = None,
    ssl_verify: SslVerify = True,
    ssl_client_cert: ClientCert = None,
    timeout_seconds: float = 60,
) -> str:
    """The token endpoint of an issuer: :func:`discover`, which says the rest."""
    found = discover(
        issuer,
        access_url=access_url,
        ssl_verify=ssl_verify,
        ssl_client_cert=ssl_client_cert,
        timeout_seconds=timeout_seconds,
    )
    return found["token_endpoint"]


def discover(
    issuer: str | None,
    *,
    access_url: str | None = None,
    ssl_verify: SslVerify = True,
    ssl_client_cert: ClientCert = None,
    timeout_seconds: float = 60,
) -> dict[str, str]:
    """The endpoints of an issuer, which the caller trusts with secrets (OpenID Connect Discovery 1.0, section 4).

    ``issuer`` names it, and is no address where there is an ``access_url``: then the endpoints that the document names
    below the issuer are given below that. ``issuer`` None: any.

    Raises:
        AppMeshConnectionError: the issuer cannot be reached, or gives no discovery document.
        AppMeshAuthError: the document is another issuer's (section 4.3), or its endpoint must not get secrets.

    """
    base = (access_url or issuer or "").rstrip("/")
    url = f"{base}/.well-known/openid-configuration"
    operation = f"GET {url}"
    found = _discovery_document(url, operation, ssl_verify, ssl_client_cert, timeout_seconds)
    named = found.get("issuer")
    if not isinstance(named, str) or (issuer is not None and named.rstrip("/") != issuer.rstrip("/")):
        said = repr(named)[:_MAX_REASON_CHARACTERS]
        raise AppMeshAuthError(f"{url} names another issuer: {said}, expected {issuer!r}", operation=operation)
    endpoints = {"issuer": named}
    for name, value in found.items():
        if name.endswith("_endpoint") and isinstance(value, str):
            endpoints[name] = _reachable(value, named.rstrip("/"), base)
    endpoint = endpoints.get("token_endpoint")
    if endpoint is None or not is_private(endpoint) or not same_origin(endpoint, base):
        said = repr(found.get("token_endpoint"))[:_MAX_REASON_CHARACTERS]
        raise AppMeshAuthError(
            f"{url} names a token endpoint that is not at the issuer's https:// address: {said}", operation=operation
        )
    return {name: value for name, value in endpoints.items() if name == "issuer" or same_origin(value, base)}


def _reachable(endpoint: str, issuer: str, base: str) -> str:
    """An endpoint below the issuer's name, below the address where the issuer is reached."""
    return base + endpoint.removeprefix(issuer) if endpoint.startswith(f"{issuer}/") else endpoint


def _discovery_document(
    url: str, operation: str, ssl_verify: SslVerify, ssl_client_cert: ClientCert, timeout_seconds: float
) -> dict[str, Any]:
    session = new_session(ssl_verify, ssl_client_cert)
    try:
        with (
            ends_by(time.monotonic() + timeout_seconds),
            session.get(
                url, timeout=timeout_seconds, headers=_IDENTITY, allow_redirects=False, stream=True
            ) as response,
        ):
            found = _read_object(response) if response.ok else {}
    except (requests.exceptions.RequestException, OSError, BodyError) as error:
        raise AppMeshConnectionError(f"cannot ask {url}: {error}", operation=operation) from error
    finally:
        session.close()
    if not found:
        raise AppMeshConnectionError(
            f"{url} is no discovery document (status {response.status_code})", operation=operation
        )
    return found


def _read_object(response: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer; {} where there is none."""
    try:
        found = orjson.loads(read_body(response, _MAX_ANSWER_BYTES))
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
