"""Settings of the admin API (docs/design.md, 'Configuration'). Imports no web framework: commands read them too."""

import re
import ssl
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from meshbridge.fields import Options, SecretFiles, Size, load_key_pair
from meshbridge.web.addresses import is_loopback, split_address

__all__ = ["AdminOptions", "Scope", "ServerTls", "Token"]

_LISTEN = "127.0.0.1:9666"
_UNIX = "unix:"
_HASH = re.compile(r"[0-9a-fA-F]{64}")


class Scope(StrEnum):
    """What a token may be good for; each contains those before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def contains(self, other: "Scope") -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(other)


class Token(Options):
    """Somebody who may come in. ``meshbridge token new`` makes one, and the lines for it."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")] = Field(
        description="who it is: stands in the audit log"
    )
    sha256: str = Field(description="the token's SHA-256 in hex; the token itself is kept nowhere")
    scopes: tuple[Scope, ...] = Field(min_length=1, description="read, operate, admin; each contains those before it")

    @field_validator("sha256")
    @classmethod
    def _a_hash(cls, value: str) -> str:
        if not _HASH.fullmatch(value):  # not repeated in the message: it may be the token itself
            raise ValueError("no SHA-256 in hex (64 digits): take it from meshbridge token new, not the token itself")
        return value.lower()

    @property
    def scope(self) -> Scope:
        """The highest of its scopes, which contains the others."""
        return max(self.scopes, key=list(Scope).index)


class ServerTls(SecretFiles):
    """TLS 1.2 or newer. The files are read again when they change."""

    cert_file: Path = Field(description="PEM file of the certificate, and those between it and its authority")
    key_file: Path = Field(description="PEM file of its key")
    key_password: SecretStr | None = Field(default=None, description="of the key, where that is encrypted")
    key_password_file: Path | None = None
    client_ca_file: Path | None = Field(
        default=None, description="PEM file of authorities: callers need a certificate of one of them, and a token"
    )

    def context(self) -> ssl.SSLContext:
        """Raises: OSError, for a file that is missing or not PEM, or a key that cannot be decrypted."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        key = "key_password"
        load_key_pair(context, self.cert_file, self.key_file, lambda: self.secret(key), setting=key)
        if self.client_ca_file is not None:
            context.load_verify_locations(self.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def files(self) -> tuple[Path, ...]:
        paths = (self.cert_file, self.key_file, self.key_password_file, self.client_ca_file)
        return tuple(path for path in paths if path is not None)


class AdminOptions(Options):
    """The HTTP API, for those who have a token. Without tokens nothing is listened on but the control socket."""

    listen: str = Field(default=_LISTEN, description="host:port, port 0 takes a free one; or unix:PATH, of mode 0660")
    tls: ServerTls | None = Field(default=None, description="needed on an address that is not loopback")
    insecure: bool = Field(
        default=False,
        description="listen without TLS where others than this host can listen in; tokens travel in clear",
    )
    tokens: tuple[Token, ...] = Field(default=(), description="who may come in; made by meshbridge token new")
    audit_file: Path | None = Field(
        default=None, description="JSON lines, one for each call: who, what, how it ended; null: they go to the log"
    )
    max_request_bytes: Size = Field(
        default=2**20, ge=1024, description="of a request's body; files that are sent on to a daemon have no limit"
    )
    max_connections: int = Field(default=256, ge=8, le=65_536, description="open at once; above it callers get 503")
    max_streams: int = Field(default=64, ge=1, le=4096, description="event streams open at once; above it 503")

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        if not value.startswith(_UNIX):
            split_address(value)
        elif not Path(value.removeprefix(_UNIX)).is_absolute():
            raise ValueError(f"not a place for a socket: {value!r} (use unix:/path/of/the.sock)")
        return value

    @field_validator("tokens")
    @classmethod
    def _distinct(cls, value: tuple[Token, ...]) -> tuple[Token, ...]:
        for what in ("name", "sha256"):
            found = [getattr(token, what) for token in value]
            if twice := sorted({one for one in found if found.count(one) > 1}):
                raise ValueError(f"two tokens have the {what} {twice[0]}: the audit log could not tell them apart")
        return value

    @model_validator(mode="after")
    def _closed(self) -> Self:
        if not self.tokens and (self.listen != _LISTEN or self.tls is not None or self.insecure):
            raise ValueError(
                "tokens is empty, so every request would be refused: meshbridge token new makes one, and its lines"
            )
        if self.unix_path is not None:
            if self.tls is not None:
                raise ValueError("tls has no effect on a unix socket: leave it out")
        elif self.tls is None and not self.insecure and not is_loopback(split_address(self.listen)[0]):
            raise ValueError(
                f"{self.listen} can be reached from other hosts, so tls is needed (cert_file, key_file); or listen on "
                "127.0.0.1 or a unix socket; or set insecure: true, and tokens travel in clear"
            )
        return self

    @property
    def unix_path(self) -> Path | None:
        """Where the socket is; None for TCP."""
        return Path(self.listen.removeprefix(_UNIX)) if self.listen.startswith(_UNIX) else None

    @property
    def enabled(self) -> bool:
        """Whether there is to be a listener at all."""
        return bool(self.tokens)
