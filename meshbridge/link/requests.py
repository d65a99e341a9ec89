"""The request connection of a daemon: opened at first need, opened again after a loss."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshConnectionError,
    AppMeshError,
    AppMeshRequestError,
    AppMeshTimeoutError,
)

__all__ = ["DaemonRequests"]

T = TypeVar("T")

_NOT_FOUND = 404
_CONNECT_SECONDS = 8.0  # at most, whatever time the request has: a connection without answers is replaced


class DaemonRequests:
    """What scrapes ask of one daemon. Any thread may call; requests are in flight together.

    ``open_client`` makes a client over a new connection, within the seconds it is given.
    """

    def __init__(self, name: str, open_client: Callable[[float], AppMeshClient]) -> None:
        self.name = name
        self._open = open_client
        self._lock = threading.Lock()  # guards _client and _ended; nothing is waited for while it is held
        self._connecting = threading.Lock()  # lets one thread connect while the others wait for it
        self._client: AppMeshClient | None = None
        self._ended = False
        # Written by whichever thread asked last, read by any.
        self.last_error: AppMeshError | None = None
        self.last_error_at: float | None = None  # unix seconds
        self.answered = False  # whether the last request was

    def get_metrics(self, timeout_seconds: float) -> bytes:
        """The daemon's own Prometheus text, 0.0.4.

        Raises:
            AppMeshError: as all of these: no connection, no answer in time, or an answer that is an error.

        """
        return self._ask(AppMeshClient.get_metrics_bytes, timeout_seconds)

    def get_host_resources(self, timeout_seconds: float) -> dict[str, Any]:
        """The host's resources, as the daemon reports them."""
        return self._ask(AppMeshClient.get_host_resources, timeout_seconds)

    def list_apps(self, timeout_seconds: float) -> list[dict[str, Any]]:
        """Every app, as the daemon reports it."""
        return self._ask(AppMeshClient.list_apps_json, timeout_seconds)

    def get_app(self, app: str, timeout_seconds: float) -> dict[str, Any] | None:
        """One app, as the daemon reports it; None where there is none of that name."""
        try:
            return self._ask(lambda client: client.get_app_json(app), timeout_seconds)
        except AppMeshRequestError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def get_output(
        self, app: str, position: int, *, index: int, process_uuid: str | None, timeout_seconds: float
    ) -> bytes | None:
        """At most 3 MiB of a process's output from ``position``, as the bytes that they are.

        ``index`` 0 is the present or last process, 1 the one before; None where the daemon doesn't have it (any more).
        """
        uuid = process_uuid if process_uuid and not index else ""
        return self._ask(
            lambda client: client.read_output(app, position, index=index, process_uuid=uuid), timeout_seconds
        )

    def end(self) -> None:
        """Ends the connection for good: a request that comes later is refused, so nothing is left open behind it."""
        with self._lock:
            self._ended = True
        self.close()

    def close(self) -> None:
        """Ends the connection; the next request would open it again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _ask(self, question: Callable[[AppMeshClient], T], timeout_seconds: float) -> T:
        try:
            answer = self._ask_connected(question, time.monotonic() + timeout_seconds)
        except AppMeshError as error:
            self.last_error, self.last_error_at, self.answered = error, time.time(), False
            raise
        self.last_error, self.answered = None, True
        return answer

    def _ask_connected(self, question: Callable[[AppMeshClient], T], deadline: float) -> T:
        client, fresh = self._connected(deadline)
        try:
            with client.using(timeout_seconds=_left(deadline)):
                return question(client)
        except AppMeshTimeoutError:
            # A connection that may be half open is not worth another scrape's time.
            self._discard(client)
            raise
        except AppMeshConnectionError:
            self._discard(client)
            if fresh:
                raise
        # A connection that was kept may have ended unnoticed; these requests change nothing, so once more is safe.
        client, _ = self._connected(deadline)
        try:
            with client.using(timeout_seconds=_left(deadline)):
                return question(client)
        except AppMeshConnectionError:
            self._discard(client)
            raise

    def _connected(self, deadline: float) -> tuple[AppMeshClient, bool]:
        """(the client over the connection, whether it was made just now)."""
        if (kept := self._kept()) is not None:
            return kept, False
        if not self._connecting.acquire(timeout=_left(deadline)):
            raise AppMeshTimeoutError("no connection in time: another request is still connecting")
        try:
            if (kept := self._kept()) is not None:
                return kept, False
            client = self._open(min(_left(deadline), _CONNECT_SECONDS))
            with self._lock:
                ended = self._ended
                if not ended:
                    self._client = client
            if ended:
                client.close()
                raise AppMeshConnectionError("the link has ended")
            return client, True
        finally:
            self._connecting.release()

    def _kept(self) -> AppMeshClient | None:
        with self._lock:
            return self._client

    def _discard(self, client: AppMeshClient) -> None:
        with self._lock:
            if self._client is client:
                self._client = None
        client.close()


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())
