"""The request connection of a daemon: opened at first need, opened again after a loss."""

import threading
import time
from collections.abc import Callable
from typing import Any

import orjson

from meshbridge.appmesh.exceptions import (
    AppMeshConnectionError,
    AppMeshError,
    AppMeshRequestError,
    AppMeshTimeoutError,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.link import operations
from meshbridge.link.credentials import Credentials
from meshbridge.link.operations import TokenRefusedError

__all__ = ["DaemonRequests"]

_NOT_FOUND, _NOT_KEPT = 404, 417
_CONNECT_SECONDS = 8.0  # at most, whatever time the request has: a connection that went into a hole is made anew
_OUTPUT_BYTES = 3 * 2**20  # the most that a daemon gives at once (PROTOCOL.md, 'STDOUT')


class DaemonRequests:
    """What scrapes ask of one daemon. Any thread may call; requests are in flight together.

    ``open_exchange`` makes a new connection, within the seconds it is given.
    """

    def __init__(self, name: str, credentials: Credentials, open_exchange: Callable[[float], Exchange]) -> None:
        self.name = name
        self._credentials = credentials
        self._open_exchange = open_exchange
        self._lock = threading.Lock()  # guards _exchange; nothing is waited for while it is held
        self._connecting = threading.Lock()  # lets one thread connect while the others wait for it
        self._exchange: Exchange | None = None
        # Written by whichever thread asked last, read by any.
        self.last_error: AppMeshError | None = None
        self.last_error_at: float | None = None  # unix seconds
        self.answered = False  # whether the last request was

    def get_metrics(self, timeout_seconds: float) -> bytes:
        """The daemon's own Prometheus text, 0.0.4. It needs no token.

        Raises:
            AppMeshError: as all of these: no connection, no answer in time, or an answer that is an error.

        """
        return self._get("/appmesh/metrics", timeout_seconds, with_token=False)

    def get_host_resources(self, timeout_seconds: float) -> dict[str, Any]:
        """The host's resources, as the daemon reports them."""
        resources = orjson.loads(self._get("/appmesh/resources", timeout_seconds))
        if not isinstance(resources, dict):
            raise AppMeshRequestError("GET /appmesh/resources: the answer is no object")
        return resources

    def list_apps(self, timeout_seconds: float) -> list[dict[str, Any]]:
        """Every app, as the daemon reports it."""
        apps = orjson.loads(self._get("/appmesh/applications", timeout_seconds))
        if not isinstance(apps, list):
            raise AppMeshRequestError("GET /appmesh/applications: the answer is no list")
        return apps

    def get_app(self, app: str, timeout_seconds: float) -> dict[str, Any] | None:
        """One app, as the daemon reports it; None where there is none of that name."""
        uri = f"/appmesh/app/{app}"
        try:
            fields = orjson.loads(self._get(uri, timeout_seconds))
        except AppMeshRequestError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        if not isinstance(fields, dict):
            raise AppMeshRequestError(f"GET {uri}: the answer is no object")
        return fields

    def get_output(
        self, app: str, position: int, *, index: int, process_uuid: str | None, timeout_seconds: float
    ) -> bytes | None:
        """At most 3 MiB of a process's output from ``position``, as the bytes that they are.

        ``index`` 0 is the present or last process, 1 the one before; None where the daemon doesn't have it (any more).
        """
        query = {"stdout_position": str(position), "stdout_index": str(index), "stdout_maxsize": str(_OUTPUT_BYTES)}
        if process_uuid and not index:
            query["process_uuid"] = process_uuid
        try:
            return self._get(f"/appmesh/app/{app}/output", timeout_seconds, query=query)
        except AppMeshRequestError as error:
            if error.status in {_NOT_FOUND, _NOT_KEPT}:
                return None
            raise

    def close(self) -> None:
        """Ends the connection; the next request would open it again."""
        with self._lock:
            exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def _get(
        self, uri: str, timeout_seconds: float, *, with_token: bool = True, query: dict[str, str] | None = None
    ) -> bytes:
        try:
            body = self._ask(uri, timeout_seconds, query or {}, with_token=with_token)
        except AppMeshError as error:
            self.last_error, self.last_error_at, self.answered = error, time.time(), False
            raise
        self.last_error, self.answered = None, True
        return body

    def _ask(self, uri: str, timeout_seconds: float, query: dict[str, str], *, with_token: bool) -> bytes:
        deadline = time.monotonic() + timeout_seconds
        exchange, fresh = self._connected(deadline)
        try:
            return self._ask_over(exchange, uri, query, deadline, with_token=with_token)
        except AppMeshTimeoutError:
            # A connection that may be half open is not worth another scrape's time.
            self._discard(exchange)
            raise
        except AppMeshConnectionError:
            self._discard(exchange)
            if fresh:
                raise
        # A connection that was kept may have ended unnoticed; these requests change nothing, so once more is safe.
        exchange, _ = self._connected(deadline)
        try:
            return self._ask_over(exchange, uri, query, deadline, with_token=with_token)
        except AppMeshConnectionError:
            self._discard(exchange)
            raise

    def _ask_over(
        self, exchange: Exchange, uri: str, query: dict[str, str], deadline: float, *, with_token: bool
    ) -> bytes:
        if not with_token:
            return operations.ask(exchange, "GET", uri, query=query, timeout_seconds=_left(deadline)).body

        def ask(token: str) -> bytes:
            seconds = _left(deadline)
            return operations.ask(exchange, "GET", uri, token=token, query=query, timeout_seconds=seconds).body

        token = self._credentials.token(exchange)
        try:
            return ask(token)
        except TokenRefusedError:
            token = self._credentials.token(exchange, refused=token)
            return ask(token)

    def _connected(self, deadline: float) -> tuple[Exchange, bool]:
        """(the connection, whether it was made just now)."""
        if (kept := self._kept()) is not None:
            return kept, False
        if not self._connecting.acquire(timeout=_left(deadline)):
            raise AppMeshTimeoutError("no connection in time: another request is still connecting")
        try:
            if (kept := self._kept()) is not None:
                return kept, False
            exchange = self._open_exchange(min(_left(deadline), _CONNECT_SECONDS))
            with self._lock:
                self._exchange = exchange
            return exchange, True
        finally:
            self._connecting.release()

    def _kept(self) -> Exchange | None:
        with self._lock:
            return self._exchange

    def _discard(self, exchange: Exchange) -> None:
        with self._lock:
            if self._exchange is exchange:
                self._exchange = None
        exchange.close()


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())
