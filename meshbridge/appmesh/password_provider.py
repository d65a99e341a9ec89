"""Tokens of the password grant, for programs without a person: the issuer that comes with App Mesh 3.x, and others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshbridge.appmesh.exceptions import AppMeshLoginError
from meshbridge.appmesh.oauth import OAuthClient
from meshbridge.appmesh.oidc import IssuerLogin
from meshbridge.appmesh.tls_stream import SslVerify

if TYPE_CHECKING:
    from meshbridge.appmesh.client_http import AppMeshClient

__all__ = ["PasswordGrantProvider"]


class PasswordGrantProvider(OAuthClient):
    """Logs a user in at an issuer's token endpoint, as often as that takes. A ``TokenProvider``."""

    def __init__(  # noqa: PLR0917 as the official client has it
        self,
        token_url: str,
        username: str,
        password: str | None = None,
        password_file: str | None = None,
        client_id: str = "appmesh-cli",
        scope: str = "openid audience:server:client_id:appmesh-api",
        appmesh_client: "AppMeshClient | None" = None,
        ssl_verify: SslVerify = True,
        timeout: tuple[float, float] | None = None,
    ) -> None:
        """``username``: an e-mail, at the issuer that comes with App Mesh. ``password_file`` is read at each login.

        Raises:
            ValueError: neither or both of ``password`` and ``password_file``, or an address that must not get secrets.

        """
        if (password is None) == (password_file is None):
            raise ValueError("give password or password_file")
        self._username = username
        self._password = password
        self._password_file = password_file
        super().__init__(
            appmesh_client,
            token_url,
            client_id=client_id,
            scopes=scope.split(),
            ssl_verify=ssl_verify,
            timeout=timeout,
        )
        self._endpoints = {"token_endpoint": token_url}

    def _source(self) -> Any:
        return IssuerLogin(self._token_endpoint, self._credentials)

    def _credentials(self) -> dict[str, str]:
        password = self._password
        if self._password_file is not None:
            try:
                password = Path(self._password_file).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise AppMeshLoginError(f"cannot read password_file {self._password_file}: {error}") from None
        return {
            "grant_type": "password",
            "username": self._username,
            "password": password or "",
            "scope": self._scope(None),
        }

    @property
    def can_refresh(self) -> bool:
        return True

    def get_access_token(self) -> str | None:
        """The token; logs in where there is none.

        Raises:
            AppMeshLoginError: the issuer refuses the user.
            AppMeshIssuerError: it gives no usable answer.

        """
        return self.token()

    def refresh_access_token(self, rejected_token: str | None = None) -> str | None:
        """Another token than ``rejected_token``. Raises as :meth:`get_access_token` does."""
        return self.token(refused=rejected_token)
