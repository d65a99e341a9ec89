"""What the control socket and the admin listener have in common: a thread, an event loop, and uvicorn in it."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import tempfile
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from meshbridge import telemetry
from meshbridge.admin.connection import Connection
from meshbridge.admin.options import ServerTls
from meshbridge.admin.paths import short_path

__all__ = ["Served", "listen_unix", "unlink_unix"]

_START_SECONDS = 10.0
_HEAD_BYTES = 32 * 1024  # request line and headers; h11's own limit is 64 KiB
_KEEP_ALIVE_SECONDS = 30
_HANDSHAKE_SECONDS = 10.0  # asyncio's own is 60
TICKS_PER_LOOK = 10  # uvicorn ticks ten times a second


class Served:
    """An application behind a socket. :meth:`start` and :meth:`stop` are for the owner's thread, once each."""

    def __init__(
        self,
        application: FastAPI,
        listener: socket.socket,
        name: str,
        *,
        connections: int,
        tls: ServerTls | None = None,
    ) -> None:
        """Raises: OSError, ValueError, where the TLS files are not usable."""
        self._server = _Server(application, listener, connections, tls)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name=name, daemon=True)

    def start(self) -> None:
        """Raises: OSError, where it does not come to serve."""
        self._thread.start()
        if not self._server.serving.wait(_START_SECONDS):
            raise OSError(f"{self._thread.name}: not served within {_START_SECONDS:.0f} s")

    def stop(self, timeout_seconds: float) -> bool:
        """Lets answers that are being sent go out, as far as there is time; False where the thread does not end."""
        self._server.should_exit = True
        self._thread.join(timeout_seconds / 2)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(timeout_seconds / 2)
        return not self._thread.is_alive()


class _Server(uvicorn.Server):
    def __init__(self, application: FastAPI, listener: socket.socket, connections: int, tls: ServerTls | None) -> None:
        config = uvicorn.Config(
            application,
            http="h11",  # always there with uvicorn, and the one whose head size can be limited
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # a peer could call itself whatever it likes
            h11_max_incomplete_event_size=_HEAD_BYTES,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
        config.load()
        super().__init__(config)
        self.serving = threading.Event()
        self._application = application
        self._listener = listener
        self._connections = connections
        self._tls = tls
        self._context = None if tls is None else tls.context()
        self._stamps = _stamps(tls)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 as uvicorn calls it
        """As uvicorn's, with connections of our own, and less patience for TLS."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self.config, self.server_state, self._connections),
            sock=self._listener,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else _HANDSHAKE_SECONDS,
            backlog=self._connections,
        )
        self.servers = [server]
        self.started = True
        self.serving.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_LOOK == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                try:
                    connection.look(now)
                except Exception:  # noqa: BLE001 one connection must not cost the listener
                    telemetry.log.exception("admin connection failed")
                    connection.transport.abort()
            if self._tls is not None and self._context is not None and _stamps(self._tls) != self._stamps:
                self._stamps = _stamps(self._tls)
                self._take_certificate(self._tls, self._context)
        return await super().on_tick(counter)

    def _take_certificate(self, tls: ServerTls, context: ssl.SSLContext) -> None:
        """Shows a new certificate from the next connection on; one that is not usable changes nothing."""
        try:
            tls.context()  # a whole one, before the one in use is touched
            tls.load_into(context)
        except (OSError, ValueError) as error:
            telemetry.admin_certificate_refused(str(error))
        else:
            telemetry.admin_certificate_read()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the streams of events first, which would never end by themselves."""
        self._application.state.events.close()
        await super().shutdown(sockets)
        self._application.state.audit.close()


def _stamps(tls: ServerTls | None) -> list[tuple[int, ...] | None]:
    found: list[tuple[int, ...] | None] = []
    for path in () if tls is None else tls.files():
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def listen_unix(path: Path, mode: int, backlog: int) -> socket.socket:
    """A listening unix socket. It is made where nobody else can reach it, and moved into place with its mode.

    A socket that an earlier life has left there is replaced; anything else, or one that is served, is not.

    Raises:
        OSError: it can't be had.

    """
    if os.path.lexists(path) and not path.is_socket():
        raise FileExistsError(errno.EEXIST, "something is in the way that is no socket")
    if _is_served(path):
        raise OSError(errno.EADDRINUSE, "in use by another process")
    with tempfile.TemporaryDirectory(prefix=".socket-", dir=path.parent) as private:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(Path(private)) as place:
                listener.bind(f"{place}/socket")
            made = Path(private) / "socket"
            made.chmod(mode)
            listener.listen(backlog)
            made.rename(path)
        except BaseException:
            listener.close()
            raise
    return listener


def _is_served(path: Path) -> bool:
    try:
        with short_path(path.parent) as place, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(f"{place}/{path.name}")
    except OSError:
        return False
    return True


def unlink_unix(path: Path) -> None:
    """At the end, before the listener is closed."""
    with contextlib.suppress(OSError):
        path.unlink()
