"""Speaks with a running bridge over its control socket. Imports little: commands start at once."""

import contextlib
import http.client
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from meshbridge.admin.paths import CONFIGURATION_HEADER, CONTROL_SOCKET
from meshbridge.appmesh.final_response import FinalResponse
from meshbridge.web.unix import short_path

__all__ = ["Client", "NotRunningError", "RefusedError"]


_PEER = struct.Struct("3i")  # unix(7), SO_PEERCRED: process, user, group


class NotRunningError(Exception):
    """No process serves the socket."""


class RefusedError(Exception):
    """The bridge refused; the message is its own (RFC 9457), ``problem`` the whole of what it said."""

    def __init__(self, message: str, status: int, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem or {}


class Client:
    """One exchange at a time, each on a connection of its own. Paths are whole: ``/api/v1/bridge/sinks``."""

    def __init__(self, directory: Path, timeout_seconds: float = 60.0, configuration: Path | None = None) -> None:
        """``configuration``: the file whose bridge is meant; another one refuses. None: any."""
        self._directory = directory
        self._timeout = timeout_seconds
        self._meant = {} if configuration is None else {CONFIGURATION_HEADER: quote(str(configuration.absolute()))}

    def peer_pid(self) -> int:
        """The process that serves the socket; raises as the others do."""
        connection = _Connection(self._directory, self._timeout)
        try:
            with self._translated():
                connection.connect()
            credentials = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            return int(_PEER.unpack(credentials)[0])
        finally:
            connection.close()

    def get(self, path: str, **query: object) -> Any:
        return self._ask("GET", _with(path, query), None)

    def post(self, path: str, body: Any = None, **query: object) -> Any:
        return self._ask("POST", _with(path, query), body)

    @contextlib.contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str] | None = None, **query: object
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer to be read as it comes; each read waits for the client's timeout at most.

        Raises:
            NotRunningError, RefusedError, OSError: as the others do.

        """
        connection = _Connection(self._directory, self._timeout)
        try:
            with self._translated():
                connection.request("GET", _with(path, query), headers={**self._meant, **(headers or {})})
            response = connection.getresponse()
            if response.status >= HTTPStatus.BAD_REQUEST:
                with contextlib.suppress(ValueError):
                    raise _refusal(response, json.loads(response.read()))
                raise RefusedError(response.reason, response.status)
            yield response
        except http.client.HTTPException as error:
            raise OSError(f"the bridge's answer cannot be read: {error!r}") from error
        finally:
            connection.close()

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path, None)

    def _ask(self, method: str, path: str, body: Any) -> Any:
        """The answer.

        Raises:
            NotRunningError: no bridge runs on this journal.
            RefusedError: it does not do that.
            OSError: it is not to be spoken with (not allowed, or silent).

        """
        connection = _Connection(self._directory, self._timeout)
        try:
            content = None if body is None else json.dumps(body)
            headers = self._meant if body is None else self._meant | {"Content-Type": "application/json"}
            with self._translated():
                connection.request(method, path, content, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"the bridge's answer cannot be read: {error!r}") from error
        finally:
            connection.close()
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _refusal(response, answer)
        return answer

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotRunningError(f"no bridge runs on the journal {self._directory}") from None
        except BrokenPipeError as error:  # not to be taken for that of a command's standard output
            raise ConnectionResetError(*error.args) from error


def _with(path: str, query: Mapping[str, object]) -> str:
    """``None`` is left out, a list given several times."""
    given = {key: value for key, value in query.items() if value is not None and value != []}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def _refusal(response: http.client.HTTPResponse, answer: Any) -> RefusedError:
    problem = answer if isinstance(answer, dict) else {}
    allowed = problem.get("allowed")
    hint = f" (there are: {', '.join(map(str, allowed))})" if allowed else ""
    return RefusedError(f"{problem.get('detail', response.reason)}{hint}", response.status, problem)


class _Connection(http.client.HTTPConnection):
    response_class = FinalResponse

    def __init__(self, directory: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._directory = directory

    def connect(self) -> None:
        with short_path(self._directory) as place:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"{place}/{CONTROL_SOCKET}")
