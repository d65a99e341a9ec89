"""A web application on a port, served by uvicorn inside the emulator's own event loop."""

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Any

from meshbridge.emulator.daemon import Daemon
from meshbridge.emulator.errors import NotInstalled
from meshbridge.emulator.settings import EmulatorOptions
from meshbridge.emulator.web import WebApplication

PING_SECONDS = 20.0
MAX_MESSAGE_BYTES = 100 * 1024 * 1024
STOP_SECONDS = 2


class WebServer:
    """One port. uvicorn's own server is used for its accept loop and timers; signals are not its business here."""

    def __init__(
        self, daemon: Daemon, options: EmulatorOptions, sock: socket.socket, context: ssl.SSLContext, *, messages: bool
    ) -> None:
        try:
            import uvicorn  # noqa: PLC0415 not needed before an emulator runs
            import websockets  # noqa: F401, PLC0415 only the extra `demo` has it, and uvicorn imports it late
        except ImportError as error:
            sock.close()
            raise NotInstalled(error.name or "uvicorn") from error
        application: Any = WebApplication(daemon, options, messages=messages, abort=self._abort)
        config = uvicorn.Config(
            application,
            ws="websockets-sansio" if messages else "none",
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=PING_SECONDS,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        config.load()
        config.ssl = context
        self._server = uvicorn.Server(config)
        self._socket = sock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def reset_all(self) -> None:
        for connection in list(self._server.server_state.connections):
            _reset(connection.transport)

    def _abort(self, client: tuple[str, int]) -> None:
        for connection in list(self._server.server_state.connections):
            if connection.transport.get_extra_info("peername")[:2] == client:
                connection.transport.abort()


def _reset(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
