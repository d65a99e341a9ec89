"""Tokens of an OpenID Connect issuer: its token endpoint, and a provider that keeps a client in tokens."""

import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests

from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshConnectionError, AppMeshError, AppMeshRequestError
from meshbridge.appmesh.http_session import BodyError, read_body
from meshbridge.appmesh.outgoing import new_session
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.tokens import REFRESH_AHEAD_SECONDS

__all__ = ["Grant", "OidcTokens", "TokenEndpoint", "find_token_url", "is_private", "same_origin"]

logger = logging.getLogger(__name__)

# RFC 6749, 5.2, and what Keycloak adds: with these answers the same credentials will not do the next time either.
_DEAD_CREDENTIALS = frozenset({"invalid_grant", "access_denied", "invalid_client", "unauthorized_client"})
_MAX_ANSWER_BYTES = 1024 * 1024  # discovery documents and tokens have a few KiB
_MAX_REASON_CHARACTERS = 300  # of what an issuer says, in an error
_DEFAULT_LIFE_SECONDS = 60.0  # where the issuer does not say
_REJECTED_EVERY_SECONDS = 5.0
_IDENTITY = {"Accept-Encoding": "identity"}
_LOOPBACK_NAME = "localhost"


@dataclass(frozen=True, slots=True)
class Grant:
    """What an issuer granted. Times are unix seconds."""

    access_token: str
    granted_at: float
    expires_at: float
    refresh_token: str = ""
    refresh_expires_at: float | None = None

    @property
    def renew_at(self) -> float:
        """When it is time for the next one: 30 s before the end, half way through a short life."""
        life = self.expires_at - self.granted_at
        return self.granted_at + max(life / 2, life - REFRESH_AHEAD_SECONDS)


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
        timeout_seconds: to connect, and for each read.
        clock: unix seconds.

        """
        self.token_url = token_url
        self.client_id = client_id
        self._client_secret = client_secret
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._session = new_session(ssl_verify, ssl_client_cert)

    def grant(self, grant_type: str, **fields: str) -> Grant:
        """A grant: ``password`` (with ``username`` and ``password``), ``refresh_token`` or ``client_credentials``.

        Raises:
            AppMeshAuthError: the issuer refuses these credentials, for good.
            AppMeshRequestError: it answers with another error.
            AppMeshConnectionError: it cannot be reached.

        """
        now = self._clock()
        answer = self.post(self.token_url, {"grant_type": grant_type, **fields})
        token = answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise AppMeshRequestError(f"{self.token_url} gave no access token", operation=f"POST {self.token_url}")
        refresh_seconds = answer.get("refresh_expires_in")
        return Grant(
            access_token=token,
            granted_at=now,
            expires_at=now + _number(answer.get("expires_in"), _DEFAULT_LIFE_SECONDS),
            refresh_token=str(answer.get("refresh_token") or ""),
            refresh_expires_at=now + _number(refresh_seconds, 0) if refresh_seconds else None,
        )

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
            response = self._session.request(
                method,
                url,
                timeout=self._timeout_seconds,
                allow_redirects=False,
                stream=True,
                **{"headers": _IDENTITY} | arguments,
            )
            with response:
                answer = _read_object(response, time.monotonic() + self._timeout_seconds)
        except (requests.exceptions.RequestException, OSError, BodyError) as error:
            raise AppMeshConnectionError(f"cannot ask {url}: {error}", operation=operation) from error
        if response.ok:
            return answer
        code = str(answer.get("error") or "")
        why = str(answer.get("error_description") or code or response.reason)[:_MAX_REASON_CHARACTERS]
        kind: type[AppMeshError] = AppMeshRequestError
        if code in _DEAD_CREDENTIALS or response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            kind = AppMeshAuthError
        raise kind(f"{url} refused: {why}", status=response.status_code, operation=operation)


class OidcTokens:
    """A :class:`~meshbridge.appmesh.tokens.TokenProvider` for unattended clients of daemons of 3.x.

    It keeps one token, gets the next one before that expires, and one more when the daemon refuses it.
    """

    def __init__(
        self,
        endpoint: TokenEndpoint,
        credentials: Callable[[], Mapping[str, str]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``credentials`` is called for each grant, so that a password file is read again: the fields of the grant.

        For example ``{"grant_type": "password", "username": …, "password": …, "scope": "openid"}``, or
        ``{"grant_type": "client_credentials"}``.
        """
        self._endpoint = endpoint
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows, and is held during a grant, so that there is one at a time
        self._grant: Grant | None = None
        self._rejected = ""

    def token(self) -> str:
        """A token that is good now.

        Raises:
            AppMeshAuthError: the issuer refuses the credentials.
            AppMeshConnectionError: the issuer cannot be reached, and the last token has expired.

        """
        with self._lock:
            grant, now = self._grant, self._clock()
            if grant is not None and now < grant.renew_at and grant.access_token != self._rejected:
                return grant.access_token
            try:
                self._grant = self._next(grant)
            except (AppMeshConnectionError, AppMeshRequestError) as error:
                if grant is None or now >= grant.expires_at or grant.access_token == self._rejected:
                    raise
                logger.warning("the token is not renewed yet: %s", error)
            assert self._grant is not None
            return self._grant.access_token

    def rejected(self, token: str) -> bool:
        """The daemon refused ``token``: True, unless it is one that was fetched only moments ago."""
        with self._lock:
            grant = self._grant
            if grant is None or grant.access_token != token:
                return True
            if self._clock() - grant.granted_at < _REJECTED_EVERY_SECONDS:
                return False
            self._rejected = token
            return True

    def _next(self, grant: Grant | None) -> Grant:
        if grant is not None and grant.refresh_token and grant.access_token != self._rejected:
            try:
                return self._endpoint.grant("refresh_token", refresh_token=grant.refresh_token)
            except AppMeshAuthError as error:
                logger.debug("the refresh token is spent: %s", error)
        fields = dict(self._credentials())
        return self._endpoint.grant(fields.pop("grant_type"), **fields)


def find_token_url(
    issuer: str,
    *,
    ssl_verify: SslVerify = True,
    ssl_client_cert: ClientCert = None,
    timeout_seconds: float = 60,
) -> str:
    """The token endpoint of ``issuer``, which the caller trusts with secrets (OpenID Connect Discovery 1.0, section 4).

    Raises:
        AppMeshConnectionError: the issuer cannot be reached, or gives no discovery document.
        AppMeshAuthError: the document is another issuer's (section 4.3), or its endpoint must not get secrets.

    """
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    operation = f"GET {url}"
    session = new_session(ssl_verify, ssl_client_cert)
    try:
        with session.get(
            url,
            timeout=timeout_seconds,
            headers=_IDENTITY,
            allow_redirects=False,
            stream=True,
        ) as response:
            found = _read_object(response, time.monotonic() + timeout_seconds) if response.ok else {}
    except (requests.exceptions.RequestException, OSError, BodyError) as error:
        raise AppMeshConnectionError(f"cannot ask {url}: {error}", operation=operation) from error
    finally:
        session.close()
    if not found:
        raise AppMeshConnectionError(
            f"{url} is no discovery document (status {response.status_code})", operation=operation
        )
    named, endpoint = found.get("issuer"), found.get("token_endpoint")
    if not isinstance(named, str) or named.rstrip("/") != issuer.rstrip("/"):
        said = repr(named)[:_MAX_REASON_CHARACTERS]
        raise AppMeshAuthError(f"{url} names another issuer: {said}, expected {issuer!r}", operation=operation)
    if not isinstance(endpoint, str) or not is_private(endpoint) or not same_origin(endpoint, issuer):
        said = repr(endpoint)[:_MAX_REASON_CHARACTERS]
        raise AppMeshAuthError(
            f"{url} names a token endpoint that is not at the issuer's https:// address: {said}", operation=operation
        )
    return endpoint


def is_private(url: str) -> bool:
    """Whether secrets may be sent to ``url``: https://, or http:// to this very host."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if parts.username is not None or parts.password is not None or not host:
        return False
    if parts.scheme == "https":
        return True
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == _LOOPBACK_NAME
    return parts.scheme == "http" and local


def same_origin(one: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port (RFC 6454)."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _read_object(response: requests.Response, deadline: float) -> dict[str, Any]:
    """The JSON object of an answer; {} where there is none."""
    try:
        found = orjson.loads(read_body(response, deadline, _MAX_ANSWER_BYTES))
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise
