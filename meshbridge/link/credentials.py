"""The token of one daemon, which all of its connections use: the SDK's keeper, and the ways to a token."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyotp

from meshbridge import telemetry
from meshbridge.appmesh.addresses import is_loopback
from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshError,
    AppMeshLoginError,
    AppMeshNotOfferedError,
    LoginFault,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.token_keeper import KeeperWatch, Renewals, TokenKeeper, TokenSource
from meshbridge.appmesh.tokens import claims
from meshbridge.fields import SecretFileError, SecretFiles, chance_of_jitter
from meshbridge.link.options import DaemonOptions, OidcOptions, ssl_client_cert, ssl_verify
from meshbridge.outside import remember_secret

if TYPE_CHECKING:
    from meshbridge.appmesh.oidc import TokenEndpoint

__all__ = ["Credentials"]

_SECONDS = 8.0
_AGENT_PORT = 6060  # of a daemon's host, where its issuer is reached from elsewhere
_AUDIENCE, _OFFLINE = "audience:", "offline_access"
_ISSUER_SECONDS = 5.0  # to connect, and for each read: the link's thread waits for it, and must find a dead daemon

RENEWALS = Renewals()

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Credentials(TokenKeeper):
    """The keeper of a daemon's token; see :class:`~meshbridge.appmesh.token_keeper.TokenKeeper`.

    Attended by the link's thread, whenever :attr:`due_at` has come.
    """

    def __init__(self, daemon: str, options: DaemonOptions, *, chance: Callable[[], float] = chance_of_jitter) -> None:
        super().__init__(_source_of(options), watch=_Reports(daemon), renewals=RENEWALS, chance=chance)


class _Reports(KeeperWatch):
    def __init__(self, daemon: str) -> None:
        self._daemon = daemon

    def refreshed(self, how: str, grant: Grant) -> None:
        for secret in (grant.access_token, grant.refresh_token):
            remember_secret(secret)
        telemetry.token_refreshed(self._daemon, how, grant.expires_at)

    def failed(self, error: AppMeshError, *, first: bool) -> None:
        telemetry.token_refresh_failed(self._daemon, error.describe(), first=first)

    def expires_soon(self, grant: Grant) -> None:
        assert grant.expires_at is not None
        telemetry.token_expires_soon(self._daemon, grant.expires_at)


def _source_of(options: DaemonOptions) -> TokenSource:
    """The way that is configured."""
    if options.oidc is not None:
        return _Issuer(options.oidc, options.address[0])
    if options.username is not None:
        return _User(options)
    return _GivenToken(options)


class _FromFiles:
    """Secrets of the settings, some of them in files."""

    obtains = True
    early = True

    def __init__(self, options: SecretFiles, *keys: str) -> None:
        self._secrets = options
        paths = (getattr(options, f"{key}_file") for key in keys)
        self._files = tuple(path for path in paths if path is not None)
        self._stamp: _Stamp = ()  # of the files, when they were last read
        self.watches = bool(self._files)

    def changed(self) -> bool:
        return _stamp(self._files) != self._stamp

    def _read_anew(self) -> None:
        self._stamp = _stamp(self._files)

    def _secret(self, key: str) -> str | None:
        try:
            return self._secrets.secret(key)
        except SecretFileError as error:
            hint = f"make {key}_file a text file that holds the secret and that this user can read"
            raise AppMeshLoginError(f"cannot read {key}_file {error}", hint=hint) from None


def _stamp(paths: Sequence[Path]) -> _Stamp:
    """What differs once a file was written or replaced, also through a link as Kubernetes does."""
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _client(exchange: Exchange | None) -> AppMeshClient:
    assert exchange is not None
    return AppMeshClient(exchange=exchange, request_timeout=(_SECONDS, _SECONDS))


class _User(_FromFiles):
    """A user of the daemon's own (2.x): name and password, and the code of a second factor."""

    early = False
    renews, follows = True, False

    def __init__(self, options: DaemonOptions) -> None:
        super().__init__(options, "password", "totp_secret")
        self._options = options

    def obtain(self, exchange: Exchange | None, refused: str | None) -> Grant:  # noqa: ARG002 each login differs
        self._read_anew()
        options = self._options
        password, key = self._secret("password"), self._secret("totp_secret")
        return _client(exchange).request_grant(
            options.username or "",
            password or "",
            totp_code=None if key is None else lambda: _totp_code(key),
            token_expire=int(options.token_expire),
        )

    def renew(self, exchange: Exchange | None, grant: Grant) -> Grant:
        return _client(exchange).renew_grant(grant, int(self._options.token_expire))

    def end(self, exchange: Exchange | None, grant: Grant) -> None:
        _client(exchange).end_grant(grant)


class _Totp(pyotp.TOTP):
    min_secret_length_bits = 0  # the daemon chose the key, and takes no other


def _totp_code(key: str) -> str:
    """RFC 6238, as the daemon computes it; by the wall clock, as it must be."""
    text = key.strip().replace(" ", "").upper()
    try:
        return _Totp(text).now()
    except ValueError:  # binascii.Error is one, and its text holds parts of the key
        raise AppMeshLoginError("totp_secret is no base32 text", hint="set totp_secret_file to the key") from None


class _GivenToken(_FromFiles):
    """A token that somebody else got and looks after; renewed only where that is asked for."""

    def __init__(self, options: DaemonOptions) -> None:
        super().__init__(options, "token")
        self._options = options
        self.renews = options.renew_token
        self.follows = self.watches

    def obtain(self, exchange: Exchange | None, refused: str | None) -> Grant:  # noqa: ARG002 nothing is asked
        self._read_anew()
        value = (self._secret("token") or "").strip()
        path = self._options.token_file
        place = "token" if path is None else f"token_file {path}"
        hint = "put a good token there: it is read at once" if path else "set another token, or token_file"
        if not value:
            raise AppMeshLoginError(f"{place} holds no token", hint=hint)
        if value == refused:
            raise AppMeshLoginError(
                f"the daemon refuses the token of {place}: it has expired or was revoked", hint=hint
            )
        return Grant.from_token(value, now=time.time())

    def renew(self, exchange: Exchange | None, grant: Grant) -> Grant:
        return _client(exchange).renew_grant(grant, int(self._options.token_expire))

    def end(self, exchange: Exchange | None, grant: Grant) -> None:
        """It is not ours."""


class _Issuer(_FromFiles):
    """An issuer (3.x): the password grant of a user, or the credentials of a client."""

    renews, follows = True, False

    def __init__(self, options: OidcOptions, daemon_host: str) -> None:
        super().__init__(options, "client_secret", "password")
        self._options = options
        self._daemon_host = daemon_host
        self._told: dict[str, Any] | None = None  # what the daemon says of its issuer; asked again after a failure
        self._token_url = options.token_url

    def obtain(self, exchange: Exchange | None, refused: str | None) -> Grant:  # noqa: ARG002 each grant differs
        from meshbridge.appmesh.oidc import issuer_errors  # noqa: PLC0415 brings requests along

        self._read_anew()
        options = self._options
        password = self._secret("password")
        fields = {"grant_type": "client_credentials"}
        if options.username is not None:
            fields = {"grant_type": "password", "username": options.username, "password": password or ""}
        try:
            if scope := self._scope(exchange):
                fields["scope"] = scope
            endpoint = self._endpoint(exchange)
            with issuer_errors(), contextlib.closing(endpoint):  # a grant each few minutes is not worth more
                grant = endpoint.grant(fields.pop("grant_type"), **fields)
            self._check_issuer(exchange, grant)
            return grant
        except AppMeshError:
            self._told, self._token_url = None, options.token_url
            raise

    def renew(self, exchange: Exchange | None, grant: Grant) -> Grant:
        from meshbridge.appmesh.oidc import refreshed  # noqa: PLC0415 brings requests along

        if grant.refresh_token:
            with contextlib.closing(self._endpoint(exchange)) as endpoint:
                if renewed := refreshed(endpoint, grant):
                    return renewed
        return self.obtain(exchange, None)

    def end(self, exchange: Exchange | None, grant: Grant) -> None:
        """It ends by itself; to revoke one is optional for an issuer."""

    def _endpoint(self, exchange: Exchange | None) -> "TokenEndpoint":
        from meshbridge.appmesh.oidc import TokenEndpoint  # noqa: PLC0415 brings requests along

        options = self._options
        client_id = options.client_id or self._daemon_says(exchange).get("public_client_id")
        if not client_id:
            raise AppMeshLoginError("the daemon names no public client", hint="set oidc.client_id of the daemon")
        return TokenEndpoint(
            self._find_token_url(),
            str(client_id),
            self._secret("client_secret"),
            ssl_verify=ssl_verify(options.tls),
            ssl_client_cert=ssl_client_cert(options.tls),
            timeout_seconds=_ISSUER_SECONDS,
        )

    def _scope(self, exchange: Exchange | None) -> str | None:
        """What the daemon says that tokens need; a client's own credentials have less to ask for than a user's."""
        if self._options.scope is not None:
            return self._options.scope
        told = self._daemon_says(exchange)
        scopes = told.get("scopes")
        named = scopes.split() if isinstance(scopes, str) else [str(scope) for scope in scopes or ()]
        if self._options.username is None:
            named = [scope for scope in named if scope.startswith(_AUDIENCE)] or named
        if self._options.username is None or told.get("refresh_token") is False:
            named = [scope for scope in named if scope != _OFFLINE]
        return " ".join(named) or None

    def _check_issuer(self, exchange: Exchange | None, grant: Grant) -> None:
        """A token of another issuer than the daemon's is refused there without a reason: it is better said here."""
        expected, found = self._daemon_says(exchange).get("issuer"), claims(grant.access_token).get("iss")
        if isinstance(expected, str) and isinstance(found, str) and expected.rstrip("/") != found.rstrip("/"):
            raise AppMeshLoginError(
                f"the token is of the issuer {found!r}, but the daemon takes tokens of {expected!r}",
                fault=LoginFault.ISSUER,
                hint="set oidc.issuer and oidc.access_url (or oidc.token_url) to the issuer that the daemon names",
            )

    def _daemon_says(self, exchange: Exchange | None) -> dict[str, Any]:
        if self._told is None:
            try:
                self._told = _client(exchange).get_auth_config()
            except AppMeshNotOfferedError as error:
                raise AppMeshLoginError(LoginFault.NO_ISSUER.value, fault=LoginFault.NO_ISSUER) from error
        return self._told

    def _find_token_url(self) -> str:
        """Where the settings say; nothing that the daemon says has a part in it."""
        from meshbridge.appmesh.oidc import find_token_url, issuer_errors  # noqa: PLC0415 brings requests along

        if self._token_url is None:
            tls = self._options.tls
            try:
                with issuer_errors():
                    self._token_url = find_token_url(
                        self._options.issuer,
                        access_url=self._access_url(),
                        ssl_verify=ssl_verify(tls),
                        ssl_client_cert=ssl_client_cert(tls),
                        timeout_seconds=_ISSUER_SECONDS,
                    )
            except AppMeshAuthError as error:
                raise AppMeshLoginError(
                    error.message,
                    hint="set oidc.issuer to the issuer's name and oidc.access_url to its address",
                ) from error
        return self._token_url

    def _access_url(self) -> str | None:
        """The issuer that comes with App Mesh has a loopback address; its daemon's host hands requests on to it."""
        issuer = self._options.issuer
        if self._options.access_url is not None or issuer is None:
            return self._options.access_url
        host = f"[{self._daemon_host}]" if ":" in self._daemon_host else self._daemon_host
        if is_loopback(issuer) and not is_loopback(f"//{host}"):
            return f"https://{host}:{_AGENT_PORT}{urlsplit(issuer).path}"
        return None
