"""Tokens of an OpenID Connect issuer: its token endpoint, and a provider that keeps a client in tokens."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests

from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshConnectionError, AppMeshError, AppMeshRequestError
from meshbridge.appmesh.http_session import no_netrc
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.tokens import REFRESH_AHEAD_SECONDS

__all__ = ["Grant", "OidcTokens", "TokenEndpoint"]

logger = logging.getLogger(__name__)

# RFC 6749, 5.2, and what Keycloak adds: with these answers the same credentials will not do the next time either.
_DEAD_CREDENTIALS = frozenset({"invalid_grant", "access_denied", "invalid_client", "unauthorized_client"})
_DEFAULT_LIFE_SECONDS = 60.0  # where the issuer does not say
_REJECTED_EVERY_SECONDS = 5.0


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
        self._session = requests.Session()
        self._session.auth = no_netrc
        # Not the session's: requests lets REQUESTS_CA_BUNDLE of the environment win over that.
        self._verify = ssl_verify
        self._cert = ssl_client_cert

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
        return self._ask("GET", url, headers={"Authorization": f"Bearer {token}"})

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
                verify=self._verify,
                cert=self._cert,
                allow_redirects=False,
                **arguments,
            )
        except (requests.exceptions.RequestException, OSError) as error:
            raise AppMeshConnectionError(f"cannot ask {url}: {error}", operation=operation) from error
        try:
            answer = response.json() if response.content else {}
        except ValueError:
            answer = {}
        answer = answer if isinstance(answer, dict) else {}
        if response.ok:
            return answer
        code = str(answer.get("error") or "")
        why = str(answer.get("error_description") or code or response.reason)
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


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise
