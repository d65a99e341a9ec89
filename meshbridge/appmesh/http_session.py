"""The HTTPS transport: requests and answers over a pool of kept connections."""

import contextlib
import http.client
import http.cookiejar
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import requests
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import LocationValueError, ProtocolError

from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshTimeoutError
from meshbridge.appmesh.final_response import ends_by
from meshbridge.appmesh.outgoing import new_session
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify
from meshbridge.appmesh.wire.framing import MAX_BODY_BYTES

__all__ = ["BodyError", "HttpSession", "closed_without_answer", "read_body"]

_CSRF_COOKIE = "appmesh_csrf_token"
_CHUNK_BYTES = 64 * 1024
_MOST_DIGITS = 18  # of a length: Python takes seconds to read a number of a megabyte
_POOL_SIZE = 16  # connections kept for that many threads at once


class HttpSession:
    """An :class:`~meshbridge.appmesh.exchange.Exchange` over HTTPS. Any thread may use it.

    Tokens are the client's business, and go as ``Authorization``: the daemon's session cookie is not kept. Of its
    cookies only the CSRF token is, which older daemons ask for.
    """

    def __init__(
        self,
        base_url: str,
        ssl_verify: SslVerify = False,
        ssl_client_cert: ClientCert = None,
        connect_timeout_seconds: float = 60,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.connect_timeout_seconds = connect_timeout_seconds
        self._connections = _Connections()
        self._session = new_session(
            ssl_verify, ssl_client_cert, connections=_POOL_SIZE, on_connect=self._connections.add
        )
        self._session.headers.clear()
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.cookies.set_policy(_CsrfOnly())

    def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        """The daemon's answer, whatever its status; all of it has come within ``timeout_seconds``.

        Raises:
            AppMeshTimeoutError: it has not.
            AppMeshConnectionError: the daemon cannot be reached, or :meth:`close` was called.

        """
        operation = f"{message.http_method} {message.request_uri}"
        with ends_by(time.monotonic() + timeout_seconds), self.open(message, timeout_seconds) as response:
            try:
                body = read_body(response, MAX_BODY_BYTES)
            except BodyError as error:
                raise AppMeshConnectionError(
                    f"the answer to {operation} is refused: {error}", operation=operation
                ) from None
        return ResponseMessage(
            uuid=message.uuid,
            request_uri=message.request_uri,
            http_status=response.status_code,
            body_msg_type=response.headers.get("Content-Type", ""),
            body=body,
            headers=read_headers(response),
        )

    @contextlib.contextmanager
    def open(self, message: RequestMessage, timeout_seconds: float, body: Any = None) -> Iterator[requests.Response]:
        """The answer, its body unread; errors while reading it are translated too. ``timeout_seconds`` is for its head.

        ``body``, something to read, goes instead of the message's, and is read as it is sent.
        """
        operation = f"{message.http_method} {message.request_uri}"
        headers: dict[str, str | bytes] = {name: value.encode() for name, value in message.headers.items()}
        if message.http_method != "GET" and (csrf := self._session.cookies.get(_CSRF_COOKIE)):
            headers["X-CSRF-Token"] = csrf
        timeout = min(timeout_seconds, threading.TIMEOUT_MAX)
        with _translated(self._where, operation, timeout_seconds):
            try:
                with ends_by(time.monotonic() + timeout):
                    response = self._session.request(
                        message.http_method,
                        self._url(message),
                        headers=headers,
                        data=message.body or None if body is None else body,
                        timeout=(min(self.connect_timeout_seconds, timeout), timeout),
                        allow_redirects=False,
                        stream=True,
                    )
            except requests.exceptions.RequestException:
                raise
            except OSError as error:  # so requests reports TLS files that are missing
                raise AppMeshConnectionError(f"cannot ask {self._where}: {error}", operation=operation) from error
            with response:
                yield response

    def _url(self, message: RequestMessage) -> str:
        """A daemon keeps a plus of a query as it is: a blank is ``%20`` there."""
        url = self.base_url + quote(message.request_uri, safe="/")
        return f"{url}?{urlencode(message.query, quote_via=quote, safe='')}" if message.query else url

    def close(self) -> None:
        """Closes all connections, for good; requests that wait get :class:`AppMeshConnectionError`."""
        self._connections.end()
        self._session.close()

    @property
    def _where(self) -> str:
        return urlsplit(self.base_url).netloc or repr(self.base_url)


class _Connections:
    """Those of one session that may be in use: requests itself only knows of those that are not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._open: weakref.WeakSet[HTTPSConnection] = weakref.WeakSet()
        self._ended = False

    def add(self, connection: HTTPSConnection) -> None:
        """Raises OSError where they have ended."""
        with self._lock:
            self._open.add(connection)
            ended = self._ended
        if ended:
            connection.close()
            raise ConnectionAbortedError("the client is closed")

    def end(self) -> None:
        """Wakes the threads that read or write; each closes its own."""
        with self._lock:
            self._ended = True
            connections = list(self._open)
        for connection in connections:
            if (used := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    # Not the method of a TLS socket, which takes its state away from the thread that reads.
                    socket.socket.shutdown(used, socket.SHUT_RDWR)


class _CsrfOnly(http.cookiejar.DefaultCookiePolicy):
    def set_ok(self, cookie: http.cookiejar.Cookie, request: Any) -> bool:
        return cookie.name == _CSRF_COOKIE and super().set_ok(cookie, request)


class BodyError(ValueError):
    """The body of an answer is larger than allowed, or in a form that was not asked for."""


def read_body(response: requests.Response, max_bytes: int) -> bytes:
    """The body of a streamed answer; :func:`~meshbridge.appmesh.final_response.ends_by` limits its time.

    A compressed body is refused: no request here asks for one, and a few bytes can become gigabytes.

    Raises:
        BodyError: the body is compressed, or larger than ``max_bytes``.

    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise BodyError(f"its body is compressed ({encoding[:40]!r})")
    declared = response.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > _MOST_DIGITS or int(declared) > max_bytes):
        raise BodyError(f"its body is larger than {max_bytes} bytes")
    body = bytearray()
    for chunk in response.iter_content(_CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise BodyError(f"its body is larger than {max_bytes} bytes")
    return bytes(body)


def read_headers(response: requests.Response) -> dict[str, str]:
    """Names as the daemon writes them, whatever a proxy made of them: HTTP does not care, a dict does."""
    return {name.title(): value for name, value in response.headers.items()}


@contextlib.contextmanager
def _translated(where: str, operation: str, timeout_seconds: float) -> Iterator[None]:
    """Errors of requests as those of this SDK; others, such as a full disk while a file is written, as they are."""
    try:
        yield
    except requests.exceptions.ConnectTimeout as error:
        raise AppMeshConnectionError(f"no connection to {where} in time", operation=operation) from error
    except requests.exceptions.Timeout as error:
        raise AppMeshTimeoutError(
            f"no answer to {operation} within {timeout_seconds:g} s", operation=operation
        ) from error
    except requests.exceptions.SSLError as error:
        raise AppMeshConnectionError(f"TLS with {where} failed: {_innermost(error)}", operation=operation) from error
    except requests.exceptions.ConnectionError as error:
        if "timed out" in str(error):  # requests calls a timeout while the body is read a connection error
            raise AppMeshTimeoutError(f"the answer to {operation} stopped coming", operation=operation) from error
        reason = _innermost(error)
        raise AppMeshConnectionError(f"connection to {where} failed: {reason}", operation=operation) from error
    except (requests.exceptions.RequestException, LocationValueError) as error:
        raise AppMeshConnectionError(f"cannot ask {where}: {error}", operation=operation) from error


def closed_without_answer(error: AppMeshConnectionError) -> bool:
    """Whether the other side took the request and closed the connection without a byte of an answer."""
    cause = error.__cause__
    wrapped = cause.args[0] if isinstance(cause, requests.exceptions.ConnectionError) and cause.args else None
    return isinstance(wrapped, ProtocolError) and isinstance(wrapped.args[-1], http.client.RemoteDisconnected)


def _innermost(error: BaseException) -> str:
    """What really happened, from under the wrappings of requests and urllib3."""
    reason: object = error.args[0] if error.args else error
    while (inner := getattr(reason, "reason", None)) is not None and isinstance(inner, BaseException):
        reason = inner
    return str(reason)
