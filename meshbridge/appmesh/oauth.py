"""A client of an OpenID Connect issuer, which keeps an App Mesh client of 3.x in tokens: flows for people, token sets.

Names are those of the official client of 3.0.14. For programs without a person: ``password_provider``, or
:class:`~meshbridge.appmesh.oidc.OidcTokens` for the credentials of a client.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from meshbridge.appmesh.addresses import is_loopback, is_private
from meshbridge.appmesh.exceptions import (
    AppMeshError,
    AppMeshLoginError,
    AppMeshRequestError,
    OAuthError,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.oidc import RENEWALS, TokenEndpoint, discover, refreshed
from meshbridge.appmesh.tls_stream import SslVerify
from meshbridge.appmesh.token_keeper import TokenKeeper

if TYPE_CHECKING:
    from meshbridge.appmesh.client_http import AppMeshClient

__all__ = ["OAuthClient", "OAuthError"]

_PUBLIC_CLIENT = "appmesh-cli"
_AGENT_PORT = 6060  # of a daemon's host, where the issuer that comes with it is reached from elsewhere
_OFFLINE = "offline_access"
_TIMEOUT = (10.0, 30.0)
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
# RFC 8628, 3.2 and 3.5.
_POLL_SECONDS, _SLOW_DOWN_SECONDS, _DEVICE_SECONDS = 5.0, 5.0, 600.0


class OAuthClient(TokenKeeper):
    """Gets tokens for a person, and renews them by their refresh token. A ``TokenProvider``.

    The issuer's canonical name is an identity; it is reached at ``access_url``, where that is given.
    """

    def __init__(  # noqa: PLR0917 as the official client has it
        self,
        appmesh_client: "AppMeshClient | None",
        issuer: str,
        access_url: str | None = None,
        client_id: str | None = None,
        audience: str | None = None,
        scopes: Iterable[str] | None = None,
        ssl_verify: SslVerify = True,
        timeout: tuple[float, float] | None = None,
        allow_plain_http: bool = False,
        refresh_token: bool = True,
    ) -> None:
        """``appmesh_client`` takes its tokens from here, from now on; None: no client yet.

        Raises:
            ValueError: secrets would go to an address that is neither https:// nor this host.

        """
        address = access_url or issuer
        if not allow_plain_http and not is_private(address):
            raise ValueError(f"secrets must not be sent to {address!r}: use an https:// address")
        self.issuer = issuer
        self.access_url = access_url
        self.audience = audience
        self.client_id = client_id or _PUBLIC_CLIENT
        named = [scope for scope in scopes or ("openid",) if refresh_token or scope != _OFFLINE]
        self._scopes = list(named)
        self._ssl_verify = ssl_verify
        self._timeout = timeout or _TIMEOUT
        self._endpoints: dict[str, str] | None = None
        self._endpoint: TokenEndpoint | None = None
        self._tokens: dict[str, Any] = {}
        self._pending: dict[str, Mapping[str, str]] = {}  # authorization requests that are not answered, by state
        super().__init__(self._source(), renewals=RENEWALS, lazy=True)
        if appmesh_client is not None:
            appmesh_client.set_token_provider(self)

    def _source(self) -> Any:
        return _RefreshOnly(self)

    @classmethod
    def from_appmesh(
        cls,
        appmesh_client: "AppMeshClient",
        access_url: str | None = None,
        client_id: str | None = None,
        scopes: Iterable[str] | None = None,
        ssl_verify: SslVerify = True,
    ) -> "OAuthClient":
        """For the issuer that the daemon names. Give ``access_url`` where you don't trust the daemon with secrets.

        Raises:
            AppMeshNotOfferedError: the daemon is of 2.x, and has no issuer.

        """
        told = appmesh_client.get_auth_config()
        issuer = str(told.get("issuer") or "")
        host = urlsplit(appmesh_client.base_url).hostname or ""
        place = f"[{host}]" if ":" in host else host
        if access_url is None and is_loopback(issuer) and not is_loopback(f"//{place}"):
            access_url = f"https://{place}:{_AGENT_PORT}{urlsplit(issuer).path}"
        named = told.get("scopes")
        return OAuthClient(
            appmesh_client,
            issuer,
            access_url,
            client_id or str(told.get("public_client_id") or _PUBLIC_CLIENT),
            str(told.get("audience") or "") or None,
            scopes or (named.split() if isinstance(named, str) else named),
            ssl_verify,
            refresh_token=told.get("refresh_token") is not False,
        )

    @classmethod
    def from_token_set(  # noqa: PLR0917 as the official client has it
        cls,
        token_url: str,
        client_id: str = _PUBLIC_CLIENT,
        access_token: str | None = None,
        refresh_token: str | None = None,
        expires_in: float | None = None,
        appmesh_client: "AppMeshClient | None" = None,
        ssl_verify: SslVerify = True,
        timeout: tuple[float, float] | None = None,
    ) -> "OAuthClient":
        """For tokens that the program has already; the issuer is not asked for its addresses."""
        made = OAuthClient(appmesh_client, token_url, client_id=client_id, ssl_verify=ssl_verify, timeout=timeout)
        made._endpoints = {"token_endpoint": token_url}
        if access_token or refresh_token:
            fields = {"access_token": access_token or "", "refresh_token": refresh_token, "expires_in": expires_in}
            made._tokens = {name: value for name, value in fields.items() if value is not None}
            grant = Grant.from_token(access_token or "")
            lifetime = grant.lifetime_seconds if expires_in is None else expires_in
            made.take(
                Grant(access_token or "", lifetime if access_token else 0.0, grant.expires_at, refresh_token or "")
            )
        return made

    # --- tokens --------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> dict[str, Any]:
        """The issuer's last answer: ``access_token``, ``refresh_token``, ``id_token``, …"""
        return dict(self._tokens)

    @property
    def can_refresh(self) -> bool:
        grant = self.grant
        return grant is not None and bool(grant.refresh_token)

    def get_access_token(self) -> str | None:
        """The token, renewed in time; None before a flow is completed."""
        return None if self.grant is None else self.token()

    def refresh_access_token(self, rejected_token: str | None = None) -> str | None:
        """Another token than ``rejected_token``; None where there is no refresh token."""
        grant = self.grant
        if grant is None or (rejected_token is not None and grant.access_token != rejected_token):
            return None if grant is None else grant.access_token
        if not grant.refresh_token:
            return None
        self.renew(grant.access_token, lambda old: self.source.renew(None, old))
        return self.present

    def refresh(self) -> dict[str, Any]:
        """Renews the tokens now, and gives them.

        Raises:
            OAuthError: there is no refresh token, or it is spent.

        """
        grant = self.grant
        if grant is None or not grant.refresh_token:
            raise OAuthError("there is no refresh token: begin a flow again", error="invalid_grant")
        self.renew(grant.access_token, lambda old: self.source.renew(None, old))
        return self.tokens

    def clear(self) -> None:
        """Forgets the tokens, here only."""
        self._tokens = {}
        super().clear()

    def revoke(self) -> bool:
        """Has the issuer end the refresh token, where it offers that, and forgets the tokens; whether it did."""
        grant = self.grant
        self.clear()
        endpoint = self._discovered().get("revocation_endpoint")
        if grant is None or endpoint is None:
            return False
        try:
            self._token_endpoint().post(endpoint, {"token": grant.refresh_token or grant.access_token})
        except AppMeshError:
            return False
        return True

    def close(self) -> None:
        """Closes the connections to the issuer."""
        if self._endpoint is not None:
            self._endpoint.close()

    # --- a browser: authorization code with PKCE (RFC 7636) ----------------------------------------------------------

    def authorization_request(
        self, redirect_uri: str, scopes: Iterable[str] | None = None, state: str | None = None, nonce: str | None = None
    ) -> dict[str, str]:
        """Where to send a browser: ``authorization_url``, with ``state``, ``nonce`` and ``code_verifier``."""
        verifier = secrets.token_urlsafe(48)
        digest = hashlib.sha256(verifier.encode()).digest()
        request = {
            "state": state or secrets.token_urlsafe(24),
            "nonce": nonce or secrets.token_urlsafe(24),
            "code_verifier": verifier,
            "redirect_uri": redirect_uri,
        }
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "scope": self._scope(scopes),
            "state": request["state"],
            "nonce": request["nonce"],
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        request["authorization_url"] = f"{self._endpoint_of('authorization_endpoint')}?{urlencode(query)}"
        self._pending[request["state"]] = request
        return request

    def exchange_authorization_code(self, code: str, redirect_uri: str, code_verifier: str) -> dict[str, Any]:
        """The tokens for a code that came back to ``redirect_uri``."""
        fields = {"code": code, "redirect_uri": redirect_uri, "code_verifier": code_verifier}
        return self._take("authorization_code", fields)

    def complete_authorization_callback(
        self, callback_url: str, id_token_validator: Callable[[str, str, dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """The tokens for the address to which the browser came back; each request is good for one.

        ``id_token_validator`` gets the ID token, the nonce, and all tokens; it raises what it refuses.

        Raises:
            OAuthError: the person or the issuer refused, or this answers no request of :meth:`authorization_request`.

        """
        answer = {name: values[0] for name, values in parse_qs(urlsplit(callback_url).query).items()}
        request = self._pending.pop(answer.get("state", ""), None)
        if request is None:
            raise OAuthError("the callback answers no request that was made here", error="invalid_state")
        if "error" in answer:
            raise OAuthError(answer.get("error_description") or answer["error"], error=answer["error"])
        tokens = self.exchange_authorization_code(
            answer.get("code", ""), request["redirect_uri"], request["code_verifier"]
        )
        if id_token_validator is not None:
            try:
                id_token_validator(str(tokens.get("id_token") or ""), request["nonce"], tokens)
            except BaseException:
                self.clear()
                raise
        return tokens

    # --- a terminal: device authorization (RFC 8628) ---------------------------------------------------------------

    def device_authorization(self, scopes: Iterable[str] | None = None) -> dict[str, Any]:
        """What a person needs: ``verification_uri`` and ``user_code``, or ``verification_uri_complete``."""
        endpoint = self._endpoint_of("device_authorization_endpoint")
        return self._token_endpoint().post(endpoint, {"scope": self._scope(scopes)})

    def wait_for_device_authorization(
        self, device: Mapping[str, Any], on_prompt: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Waits until the person has decided, and gives the tokens. ``on_prompt`` shows them what they need.

        Raises:
            OAuthError: they refused (``access_denied``), or did not decide in time (``expired_token``).

        """
        if on_prompt is not None:
            on_prompt(dict(device))
        pause = _seconds(device.get("interval"), _POLL_SECONDS)
        deadline = time.monotonic() + _seconds(device.get("expires_in"), _DEVICE_SECONDS)
        while True:
            time.sleep(pause)
            try:
                return self._take(_DEVICE_GRANT, {"device_code": str(device.get("device_code") or "")})
            except OAuthError as error:
                if error.error == "slow_down":
                    pause += _SLOW_DOWN_SECONDS
                elif error.error != "authorization_pending":
                    raise
            if time.monotonic() >= deadline:
                raise OAuthError("the login was not confirmed in time", error="expired_token")

    # --- the issuer ----------------------------------------------------------------------------------------------

    def _take(self, grant_type: str, fields: Mapping[str, str]) -> dict[str, Any]:
        answer = self._token_endpoint().post(self._endpoint_of("token_endpoint"), {"grant_type": grant_type, **fields})
        self.take(Grant.from_answer(answer))
        self._tokens = answer
        return self.tokens

    def _scope(self, scopes: Iterable[str] | None) -> str:
        return " ".join(self._scopes if scopes is None else scopes)

    def _discovered(self) -> dict[str, str]:
        if self._endpoints is None:
            self._endpoints = discover(
                self.issuer,
                access_url=self.access_url,
                ssl_verify=self._ssl_verify,
                timeout_seconds=self._timeout[1],
            )
        return self._endpoints

    def _endpoint_of(self, name: str) -> str:
        endpoint = self._discovered().get(name)
        if endpoint is None:
            raise AppMeshRequestError(f"the issuer {self.issuer} offers no {name.removesuffix('_endpoint')}")
        return endpoint

    def _token_endpoint(self) -> TokenEndpoint:
        if self._endpoint is None:
            self._endpoint = TokenEndpoint(
                self._endpoint_of("token_endpoint"),
                self.client_id,
                ssl_verify=self._ssl_verify,
                timeout_seconds=self._timeout[1],
            )
        return self._endpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _RefreshOnly:
    """The tokens of a person as a source: without a refresh token, only the person can get others."""

    renews, obtains, early, watches, follows = True, False, True, False, False

    def __init__(self, client: OAuthClient) -> None:
        self._client = client

    def obtain(self, exchange: Exchange | None, refused: str | None) -> Grant:  # noqa: ARG002 as a TokenSource
        raise AppMeshLoginError("there is no token: begin a flow again")

    def renew(self, exchange: Exchange | None, grant: Grant) -> Grant:  # noqa: ARG002 as a TokenSource
        client = self._client
        renewed = refreshed(client._token_endpoint(), grant) if grant.refresh_token else None  # noqa: SLF001 its other half
        if renewed is None:
            raise OAuthError("the refresh token is spent: begin a flow again", error="invalid_grant")
        client._tokens |= {"access_token": renewed.access_token, "refresh_token": renewed.refresh_token}  # noqa: SLF001
        return renewed

    def end(self, exchange: Exchange | None, grant: Grant) -> None:
        """``revoke`` does."""

    def changed(self) -> bool:
        return False


def _seconds(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else otherwise
