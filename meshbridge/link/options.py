"""Settings of a daemon."""

from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from meshbridge.appmesh.addresses import is_private
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.fields import Duration, SecretFiles, Tls, split_list

__all__ = ["EVENT_TYPES", "DaemonOptions", "OidcOptions", "ssl_client_cert", "ssl_verify"]

EVENT_TYPES = ("START", "EXIT", "STDOUT", "HEALTH", "STATUS", "REMOVED")
_DEFAULT_PORTS = {"tcp": 6059, "wss": 6058, "https": 6060}


def _upper(value: Any) -> Any:
    value = split_list(value)
    return [str(item).upper() for item in value] if isinstance(value, list | tuple) else value


class OidcOptions(SecretFiles):
    """An OpenID Connect issuer whose tokens 3.x daemons accept.

    With ``username`` and a password the grant is ``password``, without them ``client_credentials``.
    """

    issuer: str | None = Field(
        default=None,
        description="the issuer's name, as its discovery document and its tokens have it; "
        "the token endpoint is found there",
    )
    access_url: str | None = Field(
        default=None,
        description="where the issuer is reached, if not at its name; null: issuer, or for an issuer at a loopback "
        "address (the one that comes with App Mesh) https:// on port 6060 of the daemon's host",
    )
    token_url: str | None = Field(
        default=None,
        description="the issuer's token endpoint, without discovery; issuer or token_url is required, "
        "since a daemon must not decide where secrets go",
    )
    client_id: str | None = Field(default=None, description="null: the public client that the daemon names")
    client_secret: SecretStr | None = Field(default=None, description="of the client; alone it is the grant")
    client_secret_file: Path | None = None
    username: str | None = Field(default=None, description="a user of the issuer's, with password")
    password: SecretStr | None = Field(default=None, description="of username")
    password_file: Path | None = None
    scope: str | None = Field(default=None, description="scopes, separated by spaces; null: those the daemon names")
    tls: Tls = Field(default=Tls(), description="how the issuer is trusted; the daemon has tls of its own")

    @field_validator("issuer", "access_url", "token_url")
    @classmethod
    def _secured(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.username is not None or parts.password is not None:
                raise ValueError("the url holds no secrets: use client_id and client_secret_file")
            if not is_private(value):
                raise ValueError(f"secrets must not be sent to {value!r}: use https://host/path")
            if parts.query or parts.fragment:
                raise ValueError(f"an address without a query or a fragment: {value!r}")
        return value

    @model_validator(mode="after")
    def _can_ask(self) -> Self:
        has_password = self.password is not None or self.password_file is not None
        if self.username is not None and not has_password:
            raise ValueError("password or password_file is missing for username")
        if self.username is None and has_password:
            raise ValueError("username is missing for the password")
        has_secret = self.client_secret is not None or self.client_secret_file is not None
        if has_secret and self.client_id is None:
            raise ValueError("client_id is missing for the client_secret")
        if self.username is None and not has_secret:
            raise ValueError(
                "set username and password_file (the user's grant), or client_id and client_secret_file (the client's)"
            )
        if self.issuer is None and self.access_url is None and self.token_url is None:
            raise ValueError(
                "issuer or token_url is missing: set issuer to the address of the OpenID Connect issuer "
                "(a daemon must not decide where secrets go)"
            )
        return self


class DaemonOptions(SecretFiles):
    """One App Mesh daemon."""

    url: str = Field(description="tcp://host:6059, wss://host:6058, or https://host:6060 (no events)")
    username: str | None = Field(default=None, description="a user of the daemon's own (2.x), with password")
    password: SecretStr | None = Field(default=None, description="of username")
    password_file: Path | None = None
    totp_secret: SecretStr | None = Field(
        default=None, description="key of the user's two-factor login (base32); the code is computed"
    )
    totp_secret_file: Path | None = None
    token: SecretStr | None = Field(default=None, description="a token of somebody else's, instead of a user")
    token_file: Path | None = Field(default=None, description="as token; read again when it changes")
    renew_token: bool = Field(
        default=False, description="renew token or token_file too, in memory: that revokes the one its owner holds"
    )
    oidc: OidcOptions | None = Field(default=None, description="an issuer of tokens, for daemons of 3.x")
    token_expire: Duration = Field(default=86400.0, ge=60, description="lifetime to ask for; renewed long before")
    tls: Tls = Tls()
    events: Annotated[tuple[str, ...], BeforeValidator(_upper)] = Field(
        default=EVENT_TYPES, description="event types to subscribe to; only with all six can a loss be seen"
    )
    forward_to: str | None = Field(
        default=None, description="host[:port] of another node for metrics and admin; events stay this daemon's"
    )
    labels: dict[str, str] = Field(default={}, description="what a sink's when may ask for: site, stage, …")
    reconcile_interval: Duration = Field(
        default=300.0, ge=1, description="how often the list of apps is compared with what events have said"
    )

    exact_output: bool = Field(
        default=False,
        description="fetch the bytes behind output that is no UTF-8, which events show as U+FFFD, and tell them again",
    )

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError(
                f"not the address of a daemon: {value!r} (use tcp://host:6059, wss://host:6058, https://…)"
            )
        if parts.username or parts.password:
            raise ValueError("name and password stand in username and password, not in the url")
        if parts.path.strip("/") or parts.query:
            raise ValueError(f"only scheme, host and port: {value!r}")
        _ = parts.port  # raises ValueError itself
        return value

    @field_validator("events")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in EVENT_TYPES:
                raise ValueError(f"unknown event {name!r}: use {', '.join(EVENT_TYPES)}")
        if not value:
            raise ValueError("at least one event type; leave the key out for all six")
        return tuple(name for name in EVENT_TYPES if name in value)

    @field_validator("forward_to")
    @classmethod
    def _node(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or any(sign in value for sign in " /@?#")):
            raise ValueError(f"not a node: {value!r} (use host or host:port)")
        return value

    @model_validator(mode="after")
    def _can_log_in(self) -> Self:
        user = self.username is not None
        password = self.password is not None or self.password_file is not None
        token = self.token is not None or self.token_file is not None
        totp = self.totp_secret is not None or self.totp_secret_file is not None
        ways = [
            name
            for name, given in (("username", user or password), ("token", token), ("oidc", self.oidc is not None))
            if given
        ]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are different ways to log in: keep one")
        if not ways:
            raise ValueError("username is missing: set username and password_file, or token_file, or oidc")
        if password and not user:
            raise ValueError("username is missing for the password")
        if user and not password:
            raise ValueError("password or password_file is missing")
        if totp and not user:
            raise ValueError("totp_secret goes with username and password")
        if self.renew_token and not token:
            raise ValueError("renew_token goes with token or token_file; other tokens are always renewed")
        return self

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def address(self) -> tuple[str, int]:
        """(host, port)"""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]

    @property
    def takes_everything(self) -> bool:
        """Whether every number of the daemon is seen, so that a hole means a loss."""
        return self.events == EVENT_TYPES

    @property
    def renews_at_daemon(self) -> bool:
        """Whether the daemon is asked to renew the token, which its owner must be allowed to do."""
        return self.username is not None or self.renew_token

    @property
    def ssl_verify(self) -> SslVerify:
        return ssl_verify(self.tls)

    @property
    def ssl_client_cert(self) -> ClientCert:
        return ssl_client_cert(self.tls)


def ssl_verify(tls: Tls) -> SslVerify:
    """Which authorities to trust, in the SDK's form."""
    return str(tls.ca_file) if tls.verify and tls.ca_file else tls.verify


def ssl_client_cert(tls: Tls) -> ClientCert:
    """The certificate to show, as the SDK takes it."""
    if tls.client_cert is None:
        return None
    if tls.client_key_password is not None or tls.client_key_password_file is not None:
        return tls.load_client_certificate
    return (str(tls.client_cert), str(tls.client_key)) if tls.client_key else str(tls.client_cert)
