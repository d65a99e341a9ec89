"""How an emulated daemon is set up."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from meshbridge.emulator.dialects import DIALECTS, Dialect, Generation
from meshbridge.emulator.issuer import ACCESS_SECONDS
from meshbridge.fields import Options


class EmulatorOptions(Options):
    """Ports: 0 takes a free one from the kernel, None leaves the listener off."""

    host: str = Field(default="127.0.0.1", description="address to listen on; anything but loopback gives a warning")
    tcp_port: int | None = Field(default=0, description="TCP over TLS: requests, events, files")
    wss_port: int | None = Field(default=0, description="WebSocket over TLS, and the REST paths over HTTPS")
    https_port: int | None = Field(default=0, description="HTTPS: requests only")
    generation: Annotated[Generation, BeforeValidator(str)] = Field(
        default="2",
        description="3: a daemon of October 2026, 3.0: one of August; both take the tokens of an issuer beside them",
    )
    issuer_port: int | None = Field(
        default=0, description="HTTP of the issuer of a daemon of 3.x, on loopback; it is below /auth on https_port too"
    )
    issuer_token_seconds: int = Field(
        default=ACCESS_SECONDS, gt=0, description="lifetime of the issuer's access tokens"
    )
    data_dir: Path | None = Field(
        default=None, description="where the daemon keeps itself; without it, a temporary directory, gone on stop"
    )
    node_name: str = Field(default="node-a", description="HOST_NAME, issuer of tokens and the host label of metrics")
    prometheus_port: int = Field(
        default=0, description="PrometheusExporterListenPort: above 0, the metrics have a family for each app"
    )
    record: bool = Field(default=False, description="keep every event in Emulator.history")
    record_limit: int = Field(default=1_000_000, gt=0, description="oldest recorded events go first beyond this")
    verify_client: bool = Field(default=False, description="ask for a client certificate of the emulator's own CA")
    csrf_token: bool = Field(
        default=False,
        description="as older daemons: writes by cookie need X-CSRF-Token of the cookie appmesh_csrf_token",
    )
    token_leeway_seconds: int = Field(default=60, ge=0, description="how long an expired token is still taken")
    tcp_queue_messages: int = Field(
        default=10_000, gt=0, description="unread messages at which a TCP client is cut off"
    )
    tcp_queue_bytes: int = Field(
        default=257 * 1024 * 1024, gt=0, description="unread bytes at which a TCP client of a daemon of 3.x is cut off"
    )
    wss_idle_seconds: float = Field(
        default=120, gt=0, description="3.x: how long nothing may come in on a WebSocket before it is closed"
    )
    wss_queue_bytes: int = Field(
        default=16 * 1024 * 1024, gt=0, description="unread bytes at which a WSS client is closed"
    )
    restart_seconds: float = Field(
        default=1.5, ge=0, description="from an exit to the start again (measured: 1.2 to 2)"
    )

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.generation]
