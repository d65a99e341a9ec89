"""The application's side of tasks, by its names in the SDK of 2.x."""

import logging
from http import HTTPStatus

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import AppMeshError, AppMeshProcessSupersededError
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.worker_http import AppMeshWorker

__all__ = ["AppMeshServer"]


class AppMeshServer(AppMeshWorker):
    """As :class:`~meshbridge.appmesh.worker_http.AppMeshWorker`; tries again after every error but 412."""

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
        super().__init__(base_url, ssl_verify, ssl_client_cert, request_timeout, client=client, logger=logger_)

    def task_fetch(self) -> str | bytes:
        """The payload of the next task, as bytes; waits until there is one, through any errors of the connection.

        Raises:
            SystemExit: the daemon has started a newer process in the place of this one (412), which is to end.
            AppMeshError: this is no process of a daemon, or :meth:`close` was called.

        """
        try:
            return self.fetch_task()
        except AppMeshProcessSupersededError as error:
            self._logger.error("%s", error)  # noqa: TRY400 no fault
            raise SystemExit(1) from error

    def task_return(self, result: str | bytes) -> None:
        """Gives the result of the task to who called ``run_task``.

        Raises:
            AppMeshRequestError: 412 where a newer process has taken over.

        """
        key, name = self._environment()
        body = result.encode() if isinstance(result, str) else bytes(result)
        self._client._return_task(name, key, body)  # noqa: SLF001 the other half of this class

    def _end_of(self, error: AppMeshError, name: str) -> AppMeshError | None:
        return super()._end_of(error, name) if error.status == HTTPStatus.PRECONDITION_FAILED else None
