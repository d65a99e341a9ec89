"""The ways to a token: a user of the daemon's own, a token that somebody else gave, or an OpenID Connect issuer.

Each :class:`Login` knows how to get a token and how to renew it; when, and what if not, is
:class:`~meshbridge.link.credentials.Credentials`' business.
"""

import time
from pathlib import Path
from typing import Any, Protocol

import pyotp

from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshError, AppMeshRequestError
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.oidc import Grant, TokenEndpoint, find_token_url
from meshbridge.appmesh.tokens import expiry
from meshbridge.fields import SecretFileError, SecretFiles
from meshbridge.link import operations
from meshbridge.link.operations import LoginRefusedError, Token
from meshbridge.link.options import DaemonOptions, OidcOptions, ssl_client_cert, ssl_verify

__all__ = ["IssuerError", "Login", "login_of"]

_SECONDS = 8.0
_ISSUER_SECONDS = 5.0  # to connect, and for each read: the link's thread waits for it, and must find a dead daemon


class IssuerError(AppMeshError):
    """The issuer of tokens gives no usable answer; the daemon may be fine."""


class Login(Protocol):
    """One way to a token. Called by one thread at a time."""

    files: tuple[Path, ...]
    """Of secrets; a change of one may mend a refusal."""
    renews: bool
    """Whether a token is renewed before it expires."""
    follows: bool
    """Whether a changed file means another token, though the present one is good."""

    def obtain(self, exchange: Exchange, refused: str | None) -> Token:
        """A token, not the one that was ``refused``.

        Raises:
            LoginRefusedError: there is none to be had.
            IssuerError: whoever issues them does not answer.
            AppMeshError: the daemon gave no usable answer.

        """

    def renew(self, exchange: Exchange, token: Token) -> Token:
        """The next token; as :meth:`obtain` raises."""

    def end(self, exchange: Exchange, token: Token) -> None:
        """Gives a token back that is no longer needed, where it is ours; as :meth:`obtain` raises."""


def login_of(options: DaemonOptions) -> Login:
    """The way that is configured."""
    if options.oidc is not None:
        return OidcLogin(options.oidc)
    if options.username is not None:
        return UserLogin(options)
    return GivenToken(options)


def _secret(options: SecretFiles, key: str) -> str | None:
    try:
        return options.secret(key)
    except SecretFileError as error:
        hint = f"make {key}_file a text file that holds the secret and that this user can read"
        raise LoginRefusedError(f"cannot read {key}_file {error}", hint=hint) from None


def _files(options: SecretFiles, *keys: str) -> tuple[Path, ...]:
    paths = (getattr(options, f"{key}_file") for key in keys)
    return tuple(path for path in paths if path is not None)


class UserLogin:
    """A user of the daemon's own (2.x): name and password, and the code of a second factor."""

    renews = True
    follows = False

    def __init__(self, options: DaemonOptions) -> None:
        self._options = options
        self.files = _files(options, "password", "totp_secret")

    def obtain(self, exchange: Exchange, refused: str | None) -> Token:  # noqa: ARG002 each login gives another one
        options = self._options
        password, key = _secret(options, "password"), _secret(options, "totp_secret")
        return operations.login(
            exchange,
            options.username or "",
            password or "",
            options.token_expire,
            _SECONDS,
            totp_code=None if key is None else lambda: _totp_code(key),
        )

    def renew(self, exchange: Exchange, token: Token) -> Token:
        return operations.renew(exchange, token, self._options.token_expire, _SECONDS)

    def end(self, exchange: Exchange, token: Token) -> None:
        operations.log_off(exchange, token, _SECONDS)


class _Totp(pyotp.TOTP):
    min_secret_length_bits = 0  # the daemon chose the key, and takes no other


def _totp_code(key: str) -> str:
    """RFC 6238, as the daemon computes it; by the wall clock, as it must be."""
    text = key.strip().replace(" ", "").upper()
    try:
        return _Totp(text).now()
    except ValueError:  # binascii.Error is one, and tells parts of the key
        raise LoginRefusedError("totp_secret is no base32 text", hint="set totp_secret_file to the key") from None


class GivenToken:
    """A token that somebody else got and looks after; renewed only where that is asked for."""

    def __init__(self, options: DaemonOptions) -> None:
        self._options = options
        self.files = _files(options, "token")
        self.renews = options.renew_token
        self.follows = bool(self.files)

    def obtain(self, exchange: Exchange, refused: str | None) -> Token:  # noqa: ARG002 nobody is asked
        value = (_secret(self._options, "token") or "").strip()
        path = self._options.token_file
        place = "token" if path is None else f"token_file {path}"
        hint = "put a good token there: it is read at once" if path else "set another token, or token_file"
        if not value:
            raise LoginRefusedError(f"{place} holds no token", hint=hint)
        if value == refused:
            raise LoginRefusedError(
                f"the daemon refuses the token of {place}: it has expired or was revoked", hint=hint
            )
        expires_at = expiry(value)
        lifetime = float("inf") if expires_at is None else max(0.0, expires_at - time.time())
        return Token(value, expires_at, lifetime)

    def renew(self, exchange: Exchange, token: Token) -> Token:
        return operations.renew(exchange, token, self._options.token_expire, _SECONDS)

    def end(self, exchange: Exchange, token: Token) -> None:
        """It is not ours."""


class OidcLogin:
    """An issuer (3.x): the password grant of a user, or the credentials of a client."""

    renews = True
    follows = False

    def __init__(self, options: OidcOptions) -> None:
        self._options = options
        self.files = _files(options, "client_secret", "password")
        self._told: dict[str, Any] | None = None  # what the daemon says of its issuer; asked anew after a failure
        self._token_url = options.token_url

    def obtain(self, exchange: Exchange, refused: str | None) -> Token:  # noqa: ARG002 each grant gives another one
        options = self._options
        password = _secret(options, "password")
        fields = {"grant_type": "client_credentials"}
        if options.username is not None:
            fields = {"grant_type": "password", "username": options.username, "password": password or ""}
        try:
            if scope := self._scope(exchange):
                fields["scope"] = scope
            return self._ask(exchange, fields)
        except AppMeshError:
            self._told, self._token_url = None, options.token_url
            raise

    def renew(self, exchange: Exchange, token: Token) -> Token:
        if token.refresh is None:
            return self.obtain(exchange, None)
        return self._ask(exchange, {"grant_type": "refresh_token", "refresh_token": token.refresh})

    def end(self, exchange: Exchange, token: Token) -> None:
        """It ends by itself; to revoke one is optional for an issuer."""

    def _ask(self, exchange: Exchange, fields: dict[str, str]) -> Token:
        options = self._options
        client_id = options.client_id or self._daemon_says(exchange).get("public_client_id")
        if not client_id:
            raise LoginRefusedError("the daemon names no public client", hint="set oidc.client_id of the daemon")
        endpoint = TokenEndpoint(
            self._find_token_url(),
            str(client_id),
            _secret(options, "client_secret"),
            ssl_verify=ssl_verify(options.tls),
            ssl_client_cert=ssl_client_cert(options.tls),
            timeout_seconds=_ISSUER_SECONDS,
        )
        try:
            grant = endpoint.grant(fields.pop("grant_type"), **fields)
        except AppMeshAuthError as error:
            hint = "set username, password_file and client_id of oidc to what the issuer knows"
            raise LoginRefusedError(str(error), hint=hint, status=error.status) from error
        except AppMeshError as error:
            raise IssuerError(str(error), status=error.status) from error
        finally:
            endpoint.close()  # a grant each few minutes or hours is not worth an open connection
        return _token_of(grant)

    def _scope(self, exchange: Exchange) -> str | None:
        if self._options.scope is not None:
            return self._options.scope
        if self._options.token_url is not None and self._options.client_id is not None:
            return None  # all is configured: the daemon need not be asked
        scopes = self._daemon_says(exchange).get("scopes")
        return " ".join(str(scope) for scope in scopes) if isinstance(scopes, list) else scopes

    def _daemon_says(self, exchange: Exchange) -> dict[str, Any]:
        if self._told is None:
            self._told = operations.auth_config(exchange, _SECONDS)
        if self._told is None:
            raise LoginRefusedError(
                "this daemon names no issuer of tokens (App Mesh 2.x)",
                hint="set username and password_file of the daemon instead of oidc",
            )
        return self._told

    def _find_token_url(self) -> str:
        """Where the settings say; nothing that the daemon says has a part in it."""
        if self._token_url is None:
            tls = self._options.tls
            assert self._options.issuer is not None  # the settings have one of both
            try:
                self._token_url = find_token_url(
                    self._options.issuer,
                    ssl_verify=ssl_verify(tls),
                    ssl_client_cert=ssl_client_cert(tls),
                    timeout_seconds=_ISSUER_SECONDS,
                )
            except AppMeshAuthError as error:
                raise LoginRefusedError(
                    str(error), hint="set oidc.issuer to the issuer's own name, or oidc.token_url"
                ) from error
            except AppMeshError as error:
                raise IssuerError(str(error)) from error
        return self._token_url


def _token_of(grant: Grant) -> Token:
    if not grant.access_token.isascii():
        raise AppMeshRequestError("the issuer's token is no token")
    return Token(grant.access_token, grant.expires_at, grant.expires_at - grant.granted_at, grant.refresh_token or None)
