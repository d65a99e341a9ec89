"""Settings of a daemon."""

from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.options import Duration, SecretFiles, Tls, split_list

__all__ = ["EVENT_TYPES", "DaemonOptions"]

EVENT_TYPES = ("START", "EXIT", "STDOUT", "HEALTH", "STATUS", "REMOVED")
_DEFAULT_PORTS = {"tcp": 6059, "wss": 6058, "https": 6060}


def _upper(value: Any) -> Any:
    value = split_list(value)
    return [str(item).upper() for item in value] if isinstance(value, list | tuple) else value


class DaemonOptions(SecretFiles):
    """One App Mesh daemon."""

    url: str = Field(description="tcp://host:6059, wss://host:6058, or https://host:6060 (no events)")
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    token_expire: Duration = Field(default=86400.0, ge=60, description="lifetime to ask for; renewed long before")
    tls: Tls = Tls()
    events: Annotated[tuple[str, ...], BeforeValidator(_upper)] = Field(
        default=EVENT_TYPES, description="event types to subscribe to; only with all six can a loss be seen"
    )

    labels: dict[str, str] = Field(default={}, description="what a sink's when may ask for: site, stage, …")
    reconcile_interval: Duration = Field(
        default=300.0, ge=1, description="how often the list of apps is compared with what events have said"
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

    @model_validator(mode="after")
    def _can_log_in(self) -> Self:
        if self.username is None:
            raise ValueError("username is missing")
        if self.password is None and self.password_file is None:
            raise ValueError("password or password_file is missing")
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
    def ssl_verify(self) -> SslVerify:
        """``tls`` as the SDK's transports take it."""
        return str(self.tls.ca_file) if self.tls.verify and self.tls.ca_file else self.tls.verify

    @property
    def ssl_client_cert(self) -> ClientCert:
        cert, key = self.tls.client_cert, self.tls.client_key
        if cert is None:
            return None
        return (str(cert), str(key)) if key else str(cert)
