"""The control socket: the API on a unix socket that only its owner can open."""

import contextlib
import socket
import tempfile
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from meshbridge.admin.paths import CONTROL_SOCKET, short_path

__all__ = ["ControlSocket"]

_START_SECONDS = 10.0
_BACKLOG = 16
_CONNECTIONS = 64


class ControlSocket:
    """Serves an application. :meth:`start` and :meth:`stop` are for the owner's thread, once each."""

    def __init__(self, directory: Path, application: FastAPI) -> None:
        self._directory = directory
        self._application = application
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Takes the place of a socket that an earlier life has left, and serves from then on.

        Raises:
            OSError: the directory takes no socket.

        """
        listener = _bound(self._directory)
        self._server = _Server(self._application)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="control", daemon=True)
        self._thread.start()
        if not self._server.serving.wait(_START_SECONDS):
            raise OSError(f"the control socket was not served within {_START_SECONDS:.0f} s")

    def stop(self, timeout_seconds: float) -> None:
        """Lets answers that are being sent go out, as far as there is time."""
        with contextlib.suppress(OSError):
            (self._directory / CONTROL_SOCKET).unlink()
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout_seconds / 2)
            if self._thread.is_alive():
                self._server.force_exit = True
                self._thread.join(timeout_seconds / 2)


class _Server(uvicorn.Server):
    def __init__(self, application: FastAPI) -> None:
        config = uvicorn.Config(
            application,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self.serving = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()


def _bound(directory: Path) -> socket.socket:
    """A listening socket of mode 0600. It is made where nobody else can reach it, and moved into place."""
    with tempfile.TemporaryDirectory(prefix=".control-", dir=directory) as private:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(Path(private)) as place:
                listener.bind(f"{place}/{CONTROL_SOCKET}")
            made = Path(private) / CONTROL_SOCKET
            made.chmod(0o600)
            listener.listen(_BACKLOG)
            made.rename(directory / CONTROL_SOCKET)
        except BaseException:
            listener.close()
            raise
    return listener
