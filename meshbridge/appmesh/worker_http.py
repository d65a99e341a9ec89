"""The application's side of tasks: what runs under a daemon fetches a payload, and returns a result."""

import logging
import os
import threading
import time
from http import HTTPStatus
from typing import Self

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshAppRemovedError,
    AppMeshError,
    AppMeshProcessSupersededError,
    AppMeshWorkerRejectedError,
)
from meshbridge.appmesh.paths import path_part
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify

__all__ = ["AppMeshWorker"]

_logger = logging.getLogger(__name__)

_PROCESS_KEY, _APPLICATION_NAME = "APP_MESH_PROCESS_KEY", "APP_MESH_APPLICATION_NAME"
_QUICK_SECONDS = 0.1
_PAUSE_SECONDS = (0.1, 2.0)


class AppMeshWorker:
    """Fetches tasks and returns their results, over HTTPS. For use in a process that a daemon started.

    The daemon says in the environment which process it is: ``APP_MESH_PROCESS_KEY``, ``APP_MESH_APPLICATION_NAME``.
    Daemons of 3.x want the key in a header, those of 2.x in the query: the daemon is asked once which it is.
    """

    def __init__(
        self,
        base_url: str = "https://127.0.0.1:6060",
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        request_timeout: tuple[float, float] = (60, 300),
        *,
        client: AppMeshClient | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        """The first four are as for :class:`~meshbridge.appmesh.client_http.AppMeshClient`.

        ``client`` is asked instead of one made of these, and closed with the worker.
        """
        self._client = client or AppMeshClient(base_url, ssl_verify, ssl_client_cert, request_timeout)
        self._logger = logger or _logger
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection to the daemon, and a :meth:`fetch_task` that waits, with an error."""
        self._closed.set()
        self._client.close()

    def fetch_task(self, *, stop_event: threading.Event | None = None, max_retries: int | None = None) -> str | bytes:
        """The payload of the next task, as bytes; waits until there is one, through errors of the connection.

        ``stop_event`` ends it between two attempts, ``max_retries`` after so many failed ones; :meth:`close` at once.

        Raises:
            AppMeshProcessSupersededError: a newer process has taken this one's place (412), which is to end.
            AppMeshWorkerRejectedError: the daemon does not take this process for a worker (400, 403).
            AppMeshAppRemovedError: the application is gone (404).
            AppMeshError: this is no process of a daemon, or the worker was stopped.

        """
        key, name = self._environment()
        pause, longest = _PAUSE_SECONDS
        failed = 0
        while True:
            begun = time.monotonic()
            try:
                return self._client._fetch_task(name, key)  # noqa: SLF001 the other half of this class
            except AppMeshError as error:
                ends = self._end_of(error, name)
                if ends is not None:
                    raise ends from error
                failed += 1
                if self._closed.is_set() or failed > (failed if max_retries is None else max_retries):
                    raise
                self._logger.warning("no task could be fetched, trying again: %s", error)
            if stop_event is not None and stop_event.is_set():
                raise AppMeshError("the worker was stopped")
            if time.monotonic() - begun >= _QUICK_SECONDS:
                pause = _PAUSE_SECONDS[0]
                continue
            if self._closed.wait(pause):
                raise AppMeshError("the worker was closed")
            pause = min(pause * 2, longest)

    def send_task_result(self, result: str | bytes) -> None:
        """Gives the result of the task to who called ``run_task``.

        Raises:
            AppMeshProcessSupersededError, AppMeshWorkerRejectedError, AppMeshAppRemovedError: as :meth:`fetch_task`.

        """
        key, name = self._environment()
        body = result.encode() if isinstance(result, str) else bytes(result)
        try:
            self._client._return_task(name, key, body)  # noqa: SLF001 as above
        except AppMeshError as error:
            raise self._end_of(error, name) or error from error.__cause__

    def _end_of(self, error: AppMeshError, name: str) -> AppMeshError | None:
        """What an answer means that will not change; None: try again."""
        status = error.status
        if status == HTTPStatus.PRECONDITION_FAILED:
            text = f"a newer process has taken over the application {name}: this one ends"
            return AppMeshProcessSupersededError(text, status=status, operation=error.operation)
        if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}:
            return AppMeshWorkerRejectedError(error.message, status=status, operation=error.operation)
        if status == HTTPStatus.NOT_FOUND:
            return AppMeshAppRemovedError(error.message, status=status, operation=error.operation)
        return None

    @staticmethod
    def _environment() -> tuple[str, str]:
        values = []
        for variable in (_PROCESS_KEY, _APPLICATION_NAME):
            value = os.environ.get(variable)
            if not value:
                raise AppMeshError(f"Missing environment variable: {variable}. This must be set by App Mesh service.")
            values.append(value)
        return values[0], path_part(values[1])
