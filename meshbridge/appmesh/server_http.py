"""The application's side of tasks: what runs under a daemon fetches a payload, and returns a result."""

import logging
import os
import threading
import time
from http import HTTPStatus
from typing import Self

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import AppMeshError
from meshbridge.appmesh.paths import path_part
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify

__all__ = ["AppMeshServer"]

logger = logging.getLogger(__name__)

_PROCESS_KEY, _APPLICATION_NAME = "APP_MESH_PROCESS_KEY", "APP_MESH_APPLICATION_NAME"
_QUICK_SECONDS = 0.1
_PAUSE_SECONDS = (0.1, 2.0)


class AppMeshServer:
    """Fetches tasks and returns their results, over HTTPS. For use in a process that a daemon started.

    The daemon says in the environment which process it is: ``APP_MESH_PROCESS_KEY``, ``APP_MESH_APPLICATION_NAME``.
    """

    def __init__(
        self,
        base_url: str = "https://127.0.0.1:6060",
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        request_timeout: tuple[float, float] = (60, 300),
        *,
        client: AppMeshClient | None = None,
        logger_: logging.Logger | None = None,
    ) -> None:
        """The first four are as for :class:`~meshbridge.appmesh.client_http.AppMeshClient`.

        ``client`` is asked instead of one made of these, and closed with the server.
        """
        self._client = client or AppMeshClient(base_url, ssl_verify, ssl_client_cert, request_timeout)
        self._logger = logger_ or logger
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection to the daemon, and a :meth:`task_fetch` that waits, with an error."""
        self._closed.set()
        self._client.close()

    def task_fetch(self) -> str | bytes:
        """The payload of the next task, as bytes; waits until there is one, through any errors of the connection.

        Raises:
            SystemExit: the daemon has started a newer process in the place of this one (412), which is to end.
            AppMeshError: this is no process of a daemon, or :meth:`close` was called.

        """
        key, name = self._environment()
        pause, longest = _PAUSE_SECONDS
        while True:
            begun = time.monotonic()
            try:
                return self._client._fetch_task(name, key)  # noqa: SLF001 the other half of this class
            except AppMeshError as error:
                if error.status == HTTPStatus.PRECONDITION_FAILED:
                    self._logger.error("a newer process has taken over the application %s: this one ends", name)  # noqa: TRY400 no fault
                    raise SystemExit(1) from error
                if self._closed.is_set():
                    raise
                self._logger.warning("no task could be fetched, trying again: %s", error)
            if time.monotonic() - begun >= _QUICK_SECONDS:
                pause = _PAUSE_SECONDS[0]
                continue
            if self._closed.wait(pause):
                raise AppMeshError("the server was closed")
            pause = min(pause * 2, longest)

    def task_return(self, result: str | bytes) -> None:
        """Gives the result of the task to whoever called ``run_task``.

        Raises:
            AppMeshRequestError: 412 where a newer process has taken over.

        """
        key, name = self._environment()
        body = result.encode() if isinstance(result, str) else bytes(result)
        self._client._return_task(name, key, body)  # noqa: SLF001

    @staticmethod
    def _environment() -> tuple[str, str]:
        values = []
        for variable in (_PROCESS_KEY, _APPLICATION_NAME):
            value = os.environ.get(variable)
            if not value:
                raise AppMeshError(f"Missing environment variable: {variable}. This must be set by App Mesh service.")
            values.append(value)
        return values[0], path_part(values[1])
