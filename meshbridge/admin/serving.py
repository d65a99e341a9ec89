"""Serves the API: what the control socket and the admin listener have in common."""

import socket
import ssl
from http import HTTPStatus

import orjson

from meshbridge import telemetry
from meshbridge.admin.api import Api
from meshbridge.admin.options import ServerTls
from meshbridge.admin.problems import MEDIA_TYPE, SECURITY_HEADERS, Problem, problem_content
from meshbridge.web.limits import Limits
from meshbridge.web.server import Server
from meshbridge.web.tls import WatchedFiles

__all__ = ["Served"]


class Served:
    """An API behind a socket. :meth:`start` and :meth:`stop` are for the owner's thread, once each."""

    def __init__(
        self, api: Api, listener: socket.socket, name: str, limits: Limits, tls: ServerTls | None = None
    ) -> None:
        """Raises: OSError, where the TLS files are not usable."""
        self._api = api
        self._tls = tls
        self._watched = WatchedFiles(() if tls is None else tls.files())
        self._context: ssl.SSLContext | None = None if tls is None else tls.context()
        self.server = Server(
            api,
            listener,
            name,
            limits=limits,
            context=self._context,
            refusal=_refusal,
            each_tick=self._reload,
            on_end=api.end_streams,
        )

    def start(self) -> None:
        self.server.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Lets answers that are being sent go out, as far as there is time; False where the thread does not end."""
        ended = self.server.stop(timeout_seconds)
        self._api.close()
        return ended

    def _reload(self) -> None:
        """Shows a new certificate from the next connection on; one that is not usable changes nothing."""
        if self._tls is None or not self._watched.changed():
            return
        self._watched.watch(self._tls.files())
        try:
            self.server.context = self._tls.context()
        except OSError as error:
            telemetry.admin_certificate_refused(str(error))
        else:
            telemetry.admin_certificate_read()


def _refusal(status: HTTPStatus, detail: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """What the server itself refuses, as a problem like all others."""
    headers = [(b"content-type", MEDIA_TYPE.encode()), *SECURITY_HEADERS]
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"5"))
    return headers, orjson.dumps(problem_content(Problem(status, detail)))
