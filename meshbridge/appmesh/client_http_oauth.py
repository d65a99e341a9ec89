"""The client whose tokens come from an OpenID Connect issuer, by Keycloak's paths."""

import contextlib
from collections.abc import Mapping
from typing import Any

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshError
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.oidc import TokenEndpoint
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify

__all__ = ["AppMeshClientOAuth"]


class AppMeshClientOAuth(AppMeshClient):
    """A daemon's operations over HTTPS, with the access tokens of a Keycloak server."""

    def __init__(  # noqa: PLR0917 as the official SDK has it
        self,
        oauth2: Mapping[str, str],
        base_url: str = "https://127.0.0.1:6060",
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        request_timeout: tuple[float, float] = (60, 300),
        auto_refresh_token: bool = True,
    ) -> None:
        """As :class:`~meshbridge.appmesh.client_http.AppMeshClient`.

        ``oauth2``: ``auth_server_url`` (such as ``https://keycloak:8443``), ``realm``, ``client_id`` and, for a
        confidential client, ``client_secret``.
        """
        server = str(oauth2.get("auth_server_url") or "").rstrip("/")
        self._protocol_url = f"{server}/realms/{oauth2.get('realm') or ''}/protocol/openid-connect"
        self._endpoint = TokenEndpoint(
            f"{self._protocol_url}/token",
            str(oauth2.get("client_id") or ""),
            oauth2.get("client_secret"),
            ssl_verify=ssl_verify,
            ssl_client_cert=ssl_client_cert,
            timeout_seconds=request_timeout[0],
        )
        super().__init__(base_url, ssl_verify, ssl_client_cert, request_timeout, auto_refresh_token=auto_refresh_token)

    def login(
        self,
        username: str,
        password: str,
        totp_code: str | None = None,
        token_expire: str | int = 0,  # noqa: ARG002 the issuer decides
        audience: str | None = None,  # noqa: ARG002 the issuer decides
    ) -> str | None:
        """Gets tokens of the issuer for a user; they are renewed in time. ``token_expire`` is the issuer's business.

        Raises:
            AppMeshAuthError: the issuer refuses these credentials.

        """
        fields = {"username": username, "password": password, "scope": "openid"}
        if totp_code:
            fields["totp"] = totp_code
        self._keep_grant(self._endpoint.grant("password", **fields))
        self._refresh_if_wanted()
        return None

    def renew_token(self, token_expire: int | str = 0) -> None:  # noqa: ARG002 the issuer decides
        """Exchanges the refresh token for new tokens.

        Raises:
            AppMeshAuthError: there is none, or it is not good any more.

        """
        if self._keeper.grant is None:
            raise AppMeshAuthError("No valid Keycloak token available")
        super().renew_token()

    def _renew_own(self, grant: Grant, token_expire: int | str = 0) -> Grant:  # noqa: ARG002 the issuer decides
        if not grant.refresh_token:
            raise AppMeshAuthError("No valid Keycloak token available")
        renewed = self._endpoint.grant("refresh_token", refresh_token=grant.refresh_token)
        self._tokens.set(renewed.access_token)
        return renewed

    def logout(self) -> bool:
        """Ends the session at the issuer. False where there was none, or the issuer could not end it."""
        grant = self._keeper.grant
        self._refresher.stop()
        self._keep_token("")
        if grant is None:
            return False
        try:
            self._endpoint.post(f"{self._protocol_url}/logout", {"refresh_token": grant.refresh_token})
        except AppMeshError:
            return False
        return True

    def get_current_user(self) -> dict[str, Any]:
        """What the issuer says of the user (``userinfo``)."""
        return self._endpoint.get(f"{self._protocol_url}/userinfo", self._tokens.get())

    def close(self) -> None:
        """Ends the session at the issuer, and the client's threads and connections."""
        with contextlib.suppress(AppMeshError):
            self.logout()
        super().close()
        self._endpoint.close()
