"""The TCP client with its connections in memory."""

from typing import Any

from meshbridge.appmesh.client_tcp import AppMeshClientTCP
from tests.unit.appmesh.fakes import FakeDaemon


class MemoryClient(AppMeshClientTCP):
    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon
        super().__init__()
        self.set_token("a.e30.c")

    def _transport(self) -> Any:
        return self.daemon.transport()
