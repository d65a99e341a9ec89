"""The control socket: the API on a unix socket that the bridge's user and group can open, and root."""

from pathlib import Path

from meshbridge.admin.api import Api
from meshbridge.admin.paths import CONTROL_SOCKET
from meshbridge.admin.serving import Served
from meshbridge.web.limits import Limits
from meshbridge.web.unix import listen_unix, unlink_unix

__all__ = ["ControlSocket"]

_LIMITS = Limits(connections=64)


class ControlSocket:
    """Serves an application. :meth:`start` and :meth:`stop` are for the owner's thread, once each."""

    def __init__(self, directory: Path, api: Api) -> None:
        self._path = directory / CONTROL_SOCKET
        self._api = api
        self._served: Served | None = None

    def start(self) -> None:
        """Takes the place of a socket that an earlier life has left, and serves from then on.

        Raises:
            OSError: the directory takes no socket.

        """
        listener = listen_unix(self._path, 0o660, _LIMITS.connections)
        self._served = Served(self._api, listener, "control", _LIMITS)
        self._served.start()

    def stop(self, timeout_seconds: float) -> None:
        """Lets answers that are being sent go out, as far as there is time."""
        if self._served is not None:  # else what stands there is another's
            unlink_unix(self._path)
            self._served.stop(timeout_seconds)
