"""TLS and users, in the web configuration file of Prometheus's exporter-toolkit (its docs/web-configuration.md).

The file, and the certificates that it names, are read again when one of them changes. What this bridge can't offer is
refused and never silently left out, since all of it is there for security. Relative paths start at the file's folder.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import ssl
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import bcrypt
import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from meshbridge.fields import Options, SecretFiles, load_key_pair, read_secret_file
from meshbridge.model.strict_yaml import DuplicateKeyError, load_yaml
from meshbridge.web.tls import WatchedFiles

__all__ = ["Users", "WebConfig", "WebConfigError", "WebConfigFile"]


class WebConfigError(OSError, ValueError):
    """The file, or one that it names, can't be used. ``where`` is the path, or path and key."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"web config {where}: {problem}")
        self.where = where
        self.problem = problem


class _ClientAuth(StrEnum):
    """Go's names. Those that take a certificate without verifying it are not offered."""

    NONE = "NoClientCert"
    IF_GIVEN = "VerifyClientCertIfGiven"
    REQUIRED = "RequireAndVerifyClientCert"


class _TlsVersion(StrEnum):
    TLS12 = "TLS12"
    TLS13 = "TLS13"


_VERIFY = {
    _ClientAuth.NONE: ssl.CERT_NONE,
    _ClientAuth.IF_GIVEN: ssl.CERT_OPTIONAL,
    _ClientAuth.REQUIRED: ssl.CERT_REQUIRED,
}
_VERSIONS = {_TlsVersion.TLS12: ssl.TLSVersion.TLSv1_2, _TlsVersion.TLS13: ssl.TLSVersion.TLSv1_3}
_CIPHERS = {
    f"TLS_ECDHE_{key}_WITH_{go}": f"ECDHE-{key}-{openssl}"
    for key in ("ECDSA", "RSA")
    for go, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("CHACHA20_POLY1305", "CHACHA20-POLY1305"),
    )
}
_TLS13_CIPHERS = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
_BCRYPT_BYTES = 72  # of a password; htpasswd and Go's bcrypt leave out the rest, so exporter-toolkit does
_BCRYPT = re.compile(r"\$2[abxy]\$(?:0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")


class _TlsServer(SecretFiles):
    """As in exporter-toolkit, and a password for the key, which that one does not offer."""

    cert_file: Path
    key_file: Path
    key_password: SecretStr | None = None
    key_password_file: Path | None = None
    client_auth_type: _ClientAuth = _ClientAuth.NONE
    client_ca_file: Path | None = None
    min_version: _TlsVersion = _TlsVersion.TLS12
    max_version: _TlsVersion = _TlsVersion.TLS13
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True

    def password(self, folder: Path) -> str | None:
        """Of the key. Raises: SecretFileError."""
        if self.key_password_file is not None:
            return read_secret_file(folder / self.key_password_file)
        return self.secret("key_password")

    @field_validator("cipher_suites")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in _CIPHERS and name not in _TLS13_CIPHERS:
                raise ValueError(f"unknown or weak cipher suite {name!r}: use {', '.join(_CIPHERS)}")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.client_auth_type is not _ClientAuth.NONE and self.client_ca_file is None:
            raise ValueError(f"client_auth_type {self.client_auth_type} needs client_ca_file")
        if self.client_auth_type is _ClientAuth.NONE and self.client_ca_file is not None:
            raise ValueError("client_ca_file has no effect without client_auth_type: use RequireAndVerifyClientCert")
        if self.min_version > self.max_version:
            raise ValueError("min_version is above max_version")
        return self


class _HttpServer(Options):
    http2: bool = Field(default=True, description="accepted for compatibility: HTTP/1.1 is served either way")
    headers: Mapping[str, str] = {}

    @field_validator("headers")
    @classmethod
    def _one_line(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, text in value.items():
            if not re.fullmatch(r"[A-Za-z0-9-]+", name) or not re.fullmatch(r"[\x20-\x7e]*", text):
                raise ValueError(f"not a header: {name!r}")
        return value


class WebConfig(Options):
    """The content of the file; empty without one: no TLS, everybody may read."""

    tls_server_config: _TlsServer | None = None
    http_server_config: _HttpServer = _HttpServer()
    basic_auth_users: Mapping[str, SecretStr] = {}

    @field_validator("basic_auth_users")
    @classmethod
    def _hashed(cls, value: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        for user, password in value.items():
            if not _BCRYPT.fullmatch(password.get_secret_value()):
                raise ValueError(f"the password of {user!r} is no bcrypt hash: make one with htpasswd -nBC 10 ''")
        return value

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """To add to every answer."""
        return tuple((name.lower(), value) for name, value in self.http_server_config.headers.items() if value)

    def context(self, folder: Path) -> ssl.SSLContext | None:
        """Raises: OSError, for a file that is missing or not PEM, or a key that cannot be decrypted."""
        options = self.tls_server_config
        if options is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[options.min_version]
        context.maximum_version = _VERSIONS[options.max_version]
        if ciphers := [_CIPHERS[name] for name in options.cipher_suites if name in _CIPHERS]:
            context.set_ciphers(":".join(ciphers))
        if not options.prefer_server_cipher_suites:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        load_key_pair(
            context,
            folder / options.cert_file,
            folder / options.key_file,
            lambda: options.password(folder),
            setting="key_password",
        )
        if options.client_ca_file is not None:
            context.load_verify_locations(folder / options.client_ca_file)
        context.verify_mode = _VERIFY[options.client_auth_type]
        return context

    def files(self, folder: Path) -> Iterator[Path]:
        options = self.tls_server_config
        if options is not None:
            for name in (options.cert_file, options.key_file, options.key_password_file, options.client_ca_file):
                if name is not None:
                    yield folder / name


class Users:
    """Who may read. Not thread-safe but for :meth:`verify`, which is slow by design and belongs in a thread."""

    def __init__(self, hashes: Mapping[str, SecretStr]) -> None:
        self._hashes = {user: value.get_secret_value().encode() for user, value in hashes.items()}
        self._key = secrets.token_bytes(32)
        self._verified: set[bytes] = set()  # one for each user at most, since only right passwords get in

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def known(self, authorization: str) -> bool:
        """Whether these credentials have been verified before: bcrypt is paid for once."""
        return self._digest(authorization) in self._verified

    def verify(self, authorization: str) -> bool:
        """Whether ``Authorization: Basic …`` names a user with the right password."""
        user, password = _credentials(authorization)
        stored = self._hashes.get(user)
        # An unknown user takes as long as a known one.
        against = stored if stored is not None else next(iter(self._hashes.values()), b"")
        try:
            right = bcrypt.checkpw(password[:_BCRYPT_BYTES], against) and stored is not None
        except ValueError:  # a zero byte: no hash was ever made of it
            right = False
        if right:
            self._verified.add(self._digest(authorization))
        return right

    def _digest(self, authorization: str) -> bytes:
        return hmac.digest(self._key, authorization.encode("utf-8", "replace"), hashlib.sha256)


def _credentials(authorization: str) -> tuple[str, bytes]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
            return user.decode(), password
        except (binascii.Error, UnicodeDecodeError):
            pass
    return "", b""


class WebConfigFile:
    """Reads the file and tells when it, or a file that it names, has changed. ``path`` None: as if it were empty."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._watched = WatchedFiles()

    def changed(self) -> bool:
        """Since the last :meth:`load`, whether that went well or not."""
        return self._watched.changed()

    def load(self) -> tuple[WebConfig, ssl.SSLContext | None]:
        """Raises: WebConfigError."""
        if self._path is None:
            return WebConfig(), None
        self._watched.watch([self._path])
        config = _parsed(self._path)
        folder = self._path.parent
        self._watched.watch([self._path, *config.files(folder)])
        try:
            return config, config.context(folder)
        except OSError as error:
            raise WebConfigError(f"{self._path}: tls_server_config", _cause(error)) from error


def _parsed(path: Path) -> WebConfig:
    try:
        content: Any = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WebConfigError(str(path), error.strerror or str(error)) from error
    except DuplicateKeyError as error:
        raise WebConfigError(str(path), str(error)) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise WebConfigError(str(path), f"no YAML: {' '.join(str(error).split())}") from error
    try:
        return WebConfig.model_validate({} if content is None else content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            problem = "not known to this bridge, or not offered by it"
        raise WebConfigError(f"{path}: {key}" if key else str(path), problem) from error


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"a certificate or key is not usable ({error.reason or error})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
