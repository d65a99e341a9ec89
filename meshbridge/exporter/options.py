"""Settings of the exporter (docs/design.md, 'Configuration')."""

from pathlib import Path

from pydantic import Field, field_validator

from meshbridge.fields import Options
from meshbridge.web.addresses import split_address

__all__ = ["Collectors", "ExporterOptions"]


class Collectors(Options):
    """What is asked of each daemon at a scrape."""

    daemon: bool = Field(default=True, description="the daemon's own metrics, as it writes them")
    host: bool = Field(default=True, description="appmesh_host_*, from the daemon's host resources")
    apps: bool = Field(default=True, description="appmesh_app_*, from the daemon's list of apps")

    def names(self) -> tuple[str, ...]:
        """The collectors that are on."""
        return tuple(name for name in Collectors.model_fields if getattr(self, name))


class ExporterOptions(Options):
    """Where Prometheus scrapes this bridge, and what it gets."""

    listen: str = Field(default="0.0.0.0:9665", description="host:port; port 0 takes a free one")
    web_config: Path | None = Field(
        default=None, description="TLS, client CA and users, in the file format of Prometheus's exporter-toolkit"
    )
    collectors: Collectors = Collectors()
    max_series: int = Field(default=500_000, ge=1, description="series served for one daemon; the rest is cut off")

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        split_address(value)
        return value
