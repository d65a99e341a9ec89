"""The settings of sinks that speak HTTP: the URL, the credentials, the proxy."""

import base64
import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, SecretStr, field_validator, model_validator

from meshbridge.fields import Duration, SecretFiles, Tls
from meshbridge.sinks.base import NotConnected
from meshbridge.sinks.options import secret_of

__all__ = ["HttpAuth", "HttpOptions", "SecretUrl", "origin", "shown_url"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_OWN_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "host", "authorization"})


def origin(url: str) -> str:
    """Scheme, host and port: what may be shown of an address. Path and query of many hooks are their secret."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"


def shown_url(value: SecretStr | None) -> str | None:
    """An address without its path and query."""
    if value is None:
        return None
    url = value.get_secret_value()
    return origin(url) + ("/…" if urlsplit(url).path not in {"", "/"} or urlsplit(url).query else "")


SecretUrl = Annotated[SecretStr, PlainSerializer(shown_url, return_type=str)]
"""An address of which only scheme, host and port are ever shown."""


def _checked_url(url: str, what: str) -> str:
    try:
        parts = urlsplit(url)
        right = parts.scheme in {"http", "https"} and parts.hostname and not parts.fragment and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"not the address of {what}: use http://host[:port]/path or https://…")
    return url


class HttpAuth(SecretFiles):
    """A bearer token, or a name and a password (basic)."""

    bearer: SecretStr | None = Field(default=None, description="token, sent as Authorization: Bearer")
    bearer_file: Path | None = None
    username: str | None = Field(default=None, description="sent with password, as Authorization: Basic")
    password: SecretStr | None = Field(default=None, description="of username")
    password_file: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        bearer = self.bearer is not None or self.bearer_file is not None
        password = self.password is not None or self.password_file is not None
        if bearer == (self.username is not None):
            raise ValueError("set either bearer (or bearer_file), or username with password (or password_file)")
        if password != (self.username is not None):
            raise ValueError("username and password (or password_file) go together")
        return self

    def header(self) -> str:
        """The value of ``Authorization`` as it is now.

        Raises:
            NotConnected: a file can't be read, or holds what no header can have.

        """
        if self.username is not None:
            return "Basic " + base64.b64encode(f"{self.username}:{secret_of(self, 'password')}".encode()).decode()
        token = secret_of(self, "bearer") or ""
        if not token.isascii() or not token.isprintable():
            raise NotConnected("auth.bearer has characters that no header can have", reason="secret")
        return f"Bearer {token}"


class HttpOptions(SecretFiles):
    """How to reach an HTTP server."""

    url: SecretUrl | None = Field(default=None, description="http:// or https://; shown without path and query")
    url_file: Path | None = Field(default=None, description="file with the url, where that is a secret")
    headers: dict[str, SecretStr] = Field(default={}, description="further headers of each request; never shown")
    auth: HttpAuth | None = Field(default=None, description="bearer, or username and password")
    tls: Tls = Field(default=Tls(), description="for https://")
    proxy: SecretUrl | None = Field(
        default=None, description="http://[user:password@]host:port; the environment's is not used"
    )
    proxy_file: Path | None = Field(default=None, description="file with the proxy's address")
    timeout: Duration = Field(default=10.0, gt=0, description="for the whole of one request and its answer")

    @field_validator("url")
    @classmethod
    def _address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _without_userinfo(_checked_url(value.get_secret_value(), "a server"))
        return value

    @field_validator("proxy")
    @classmethod
    def _proxy_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _checked_url(value.get_secret_value(), "a proxy")
        return value

    @field_validator("headers")
    @classmethod
    def _writable(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a header")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(
                    f"{name} is set by meshbridge{' from auth' if name.lower() == 'authorization' else ''}"
                )
            text = secret.get_secret_value()
            if not text.isprintable() or not text.isascii():
                raise ValueError(f"the value of {name} has characters that no header can have")
        return value

    @model_validator(mode="after")
    def _has_address(self) -> Self:
        if self.url is None and self.url_file is None:
            raise ValueError("url (or url_file) is missing")
        return self

    def address(self) -> str:
        """The url as it is now.

        Raises:
            NotConnected: its file can't be read, or holds none.

        """
        url = secret_of(self, "url") or ""
        try:
            return _without_userinfo(_checked_url(url.strip(), "a server"))
        except ValueError as error:
            raise NotConnected(f"url_file: {error}", reason="secret") from None


def _without_userinfo(url: str) -> str:
    if "@" in urlsplit(url).netloc:
        raise ValueError("name and password stand in auth, not in the url")
    return url
