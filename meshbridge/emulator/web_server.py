"""A web application on a port, by uvicorn's protocols in the emulator's own event loop.

uvicorn's ``Server`` is not used: it has no setting for how long to wait for the other side of a TLS stream (asyncio's
default of 30 s would hold up :meth:`WebServer.stop`), and it wakes up ten times a second.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

from meshbridge.emulator.errors import NotInstalled

PING_SECONDS = 20.0
MAX_MESSAGE_BYTES = 100 * 1024 * 1024

KEEP_ALIVE_SECONDS = 60
"""For an idle HTTPS connection. uvicorn's 5 s would now and then end one just as a client uses it again."""

AbortClient = Callable[[tuple[str, int]], None]
"""Drops the connection of the client at that address."""

CLOSE_SECONDS = 0.5
"""How long a client has to end its side of a TLS stream before the connection is dropped."""


class WebServer:
    """One port; opened by :meth:`start`, and gone with all of its connections when :meth:`stop` returns.

    ``application`` makes the ASGI application, which may drop its clients; ``messages`` says that it speaks WebSocket,
    ``pings`` that it looks whether its clients are still there. Without ``context`` it is plain HTTP.
    """

    def __init__(
        self,
        application: Callable[[AbortClient], Any],
        sock: socket.socket,
        context: ssl.SSLContext | None,
        *,
        messages: bool = False,
        pings: bool = True,
    ) -> None:
        try:
            import uvicorn  # noqa: PLC0415 not needed before an emulator runs
            import websockets  # noqa: F401, PLC0415 only the extra `demo` has it, and uvicorn imports it late
            from uvicorn.server import ServerState  # noqa: PLC0415 as above
        except ImportError as error:
            raise NotInstalled(error.name or "uvicorn") from error
        self._config = uvicorn.Config(
            application(self._abort),
            ws="websockets-sansio" if messages else "none",
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=PING_SECONDS if pings else None,
            ws_ping_timeout=PING_SECONDS if pings else None,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._config.load()
        self._context = context
        self._state = ServerState()
        self._socket = sock
        if not messages:
            # asyncio does so itself only where the socket names its protocol. An answer is two writes: the second would
            # wait for the client's delayed acknowledgement of the first, 40 ms for each request.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        protocol: Any = self._config.http_protocol_class
        self._server = await loop.create_server(
            lambda: protocol(config=self._config, server_state=self._state, app_state={}, _loop=loop),
            sock=self._socket,
            ssl=self._context,
            ssl_shutdown_timeout=CLOSE_SECONDS if self._context else None,
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._state.tasks)
        for connection in list(self._state.connections):
            connection.shutdown()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._state.connections:  # noqa: ASYNC110 uvicorn's set has no event; it is empty within CLOSE_SECONDS
            await asyncio.sleep(0.005)

    def reset_all(self) -> None:
        for connection in list(self._state.connections):
            if not connection.transport.is_closing():  # else it answers no question any more, and is gone soon
                sock = connection.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.transport.abort()

    def _abort(self, client: tuple[str, int]) -> None:
        for connection in list(self._state.connections):
            transport = connection.transport
            if not transport.is_closing() and transport.get_extra_info("peername")[:2] == client:
                transport.abort()
