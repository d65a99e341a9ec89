"""Posts to an HTTP server within a time that is kept whatever the server does.

``requests`` limits the wait for each *read*, so a server that sends a byte now and then holds a caller for ever. Here
the thread that writes watches: requests run in threads of their own (:meth:`HttpClient.together`), and at the end of
its time an exchange's socket is shut down under it. What a thread is stuck in beyond that (a look-up of a name) is left
behind: such a thread sends nothing any more.
"""

import contextlib
import errno
import logging
import queue
import socket
import ssl
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import disable_warnings
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, InsecureRequestWarning, NameResolutionError
from urllib3.exceptions import SSLError as Urllib3SSLError

from meshbridge import __version__
from meshbridge.appmesh.final_response import FinalResponse
from meshbridge.fields import strict_certificate_hint
from meshbridge.sinks.base import NotConnected, Retry, SinkError
from meshbridge.sinks.http.answers import Answer, readable, words_of
from meshbridge.sinks.http.options import HttpOptions, origin
from meshbridge.sinks.options import secret_of

__all__ = ["HttpClient", "Post"]

_MAX_ANSWER_BYTES = 64 * 1024  # read so that the connection can be used again; a longer answer costs the connection
_MAX_DOCUMENT_BYTES = 1024 * 1024  # of what is asked for by GET
_ANSWER_SECONDS = 1.0  # the same in time: once the status is known, the rest can be left
_LOOK_SECONDS = 0.25  # how often the watch looks whether a time has become shorter


# --- connections that can be cut from outside ----------------------------------------------------------------------


class _Exchange:
    """One lane's request at hand, between the lane's thread and the one that watches."""

    def __init__(self, ends: float) -> None:
        self.ends = ends  # no request of the lane goes on after this
        self.deadline = ends  # of the request at hand
        self.error: BaseException | None = None
        self._lock = threading.Lock()  # guards what follows
        self._socket: socket.socket | None = None
        self.is_cut = False

    def watch(self, sock: socket.socket | None) -> None:
        with self._lock:
            if self.is_cut:
                raise TimeoutError
            self._socket = sock

    def forget(self) -> None:
        """Nothing of the lane is in flight: the connection may be another's now."""
        with self._lock:
            self._socket = None

    def cut(self) -> None:
        with self._lock:
            self.is_cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


_lane = threading.local()  # .exchange: the one that this thread works on


class _Cuttable:
    """A connection that shows its socket to the watch. TLS takes the socket object over, so a second one is kept."""

    _handle: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        exchange: _Exchange | None = getattr(_lane, "exchange", None)
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]  # it stands before urllib3's class
        self._handle = sock.dup()
        if exchange is not None:
            try:
                exchange.watch(self._handle)
            except TimeoutError:
                sock.close()
                raise
        return sock

    def request(self, *arguments: Any, **named: Any) -> None:
        exchange: _Exchange | None = getattr(_lane, "exchange", None)
        if exchange is not None:
            exchange.watch(self._handle)
        super().request(*arguments, **named)  # type: ignore[misc]

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


class _HttpConnection(_Cuttable, HTTPConnection):
    response_class = FinalResponse


class _HttpsConnection(_Cuttable, HTTPSConnection):
    response_class = FinalResponse


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _Adapter(HTTPAdapter):
    """Cuttable connections, and the TLS context of the settings alone.

    ``requests`` adds the authorities it comes with to any context it is given, so that a ``ca_file`` would no longer
    be the only one trusted.
    """

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named, ssl_context=self._context)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **named, ssl_context=self._context)
        manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return manager

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: Any,  # noqa: ARG002 the context says it
        cert: Any = None,  # noqa: ARG002
    ) -> Any:
        parts = urlsplit(request.url or "")
        return {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}, {"ssl_context": self._context}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing to add to the context."""


# --- the client ----------------------------------------------------------------------------------------------------

Post = Callable[[bytes, Mapping[str, str]], Answer]
"""Sends a body with these headers; raises a ``SinkError`` where there is no answer."""


class HttpClient:
    """One session of ``requests``, connections kept alive, used by the threads of :meth:`together` only."""

    def __init__(self, options: HttpOptions, connections: int) -> None:
        self._options = options
        self._connections = connections
        self._session: requests.Session | None = None
        self._adapter: _Adapter | None = None
        self.place = "the server"
        # Its lines have whole urls in them, and their path and query are often a hook's secret.
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)

    def connect(self, timeout_seconds: float) -> None:
        """Opens a session, and sees whether the server (or the proxy) can be reached and is trusted.

        Raises:
            NotConnected: it can't, or isn't.

        """
        self.close()
        url, proxy = self._options.address(), secret_of(self._options, "proxy")
        self.place = origin(url)
        try:
            context = self._options.tls.context()
        except OSError as error:
            raise NotConnected(f"cannot load the TLS files for {self.place}: {error}", reason="tls") from error
        if not self._options.tls.verify:
            disable_warnings(InsecureRequestWarning)  # logged once at the start, not at each request
        failed: list[NotConnected] = []

        def reach(_post: Post) -> None:
            try:
                self._reach(url, proxy, context, timeout_seconds)
            except (OSError, ValueError) as error:
                failed.append(self._explained(error))

        if not self._run([reach], timeout_seconds, None):
            raise NotConnected(f"no connection to {self.place} in time", reason="timeout")
        if failed:
            raise failed[0]
        self._adapter = _Adapter(context, self._connections)
        self._session = requests.Session()
        self._session.trust_env = False  # settings alone decide: no proxy, authority or netrc of the environment
        self._session.mount("http://", self._adapter)
        self._session.mount("https://", self._adapter)

    def _reach(self, url: str, proxy: str | None, context: ssl.SSLContext, timeout_seconds: float) -> None:
        parts = urlsplit(proxy or url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        exchange: _Exchange = _lane.exchange
        with socket.create_connection((parts.hostname or "", port), timeout_seconds) as sock:
            exchange.watch(handle := sock.dup())
            with handle:
                if parts.scheme == "https":
                    context.wrap_socket(sock, server_hostname=parts.hostname).close()

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    @property
    def is_open(self) -> bool:
        return self._session is not None

    def together(self, lanes: Sequence[Callable[[Post], None]], timeout_seconds: float) -> None:
        """Runs the lanes side by side, each in a thread of its own, and returns when all are done or the time is up.

        A lane that is not done by then finds every further ``post`` failing. Settings that are files are read here,
        once for all of the lanes' requests.

        Raises:
            NotConnected: without ``connect``, or a secret can't be read.

        """
        if self._session is None or self._adapter is None:
            raise NotConnected(f"not connected to {self.place}")
        self._run(lanes, timeout_seconds, self._request())

    def ask(self, method: Literal["GET", "OPTIONS"], timeout_seconds: float) -> Answer:
        """The answer to a safe request (RFC 9110, 9.2.1): it changes nothing and carries no event.

        Raises:
            SinkError: there is no answer.

        """
        answers: list[Answer] = []
        self._run([lambda post: answers.append(post(b"", {}))], timeout_seconds, self._request(method))
        if not answers:
            raise Retry(f"{self.place} gives no answer within {timeout_seconds:g} s", reason="timeout")
        return answers[0]

    def _run(self, lanes: Sequence[Callable[[Post], None]], timeout_seconds: float, base: "_Base | None") -> bool:
        now = time.monotonic()
        last = now + timeout_seconds * 0.98
        ends = now + timeout_seconds * 0.95  # what is cut then has a moment to report it
        done: queue.SimpleQueue[_Exchange] = queue.SimpleQueue()
        running = {_Exchange(ends) for _ in lanes}
        for lane, exchange in zip(lanes, list(running), strict=True):
            threading.Thread(
                target=self._lane, args=(lane, exchange, base, done), name="http-lane", daemon=True
            ).start()
        while running and now < last:
            nearest = min(
                ends if now < ends else last, *(exchange.deadline for exchange in running), now + _LOOK_SECONDS
            )
            with contextlib.suppress(queue.Empty):
                exchange = done.get(timeout=max(0.001, nearest - now))
                running.discard(exchange)
                if exchange.error is not None:
                    for other in running:
                        other.cut()
                    raise exchange.error
            now = time.monotonic()
            for exchange in running:
                if now >= exchange.deadline:
                    exchange.cut()
        return not running

    def _lane(
        self,
        lane: Callable[[Post], None],
        exchange: _Exchange,
        base: "_Base | None",
        done: "queue.SimpleQueue[_Exchange]",
    ) -> None:
        _lane.exchange = exchange
        try:
            lane(lambda body, headers: self._post(base, exchange, body, headers))
        except BaseException as error:  # noqa: BLE001 the thread that watches raises it
            exchange.error = error
        finally:
            done.put(exchange)

    # --- one request ---------------------------------------------------------------------------------------------

    def _request(self, method: str = "POST") -> "_Base":
        options = self._options
        headers = {name: value.get_secret_value() for name, value in options.headers.items()}
        if options.auth is not None:
            headers["Authorization"] = options.auth.header()
        proxy = secret_of(options, "proxy")
        url = options.address()
        self.place = origin(url)
        return _Base(method, url, headers, {} if proxy is None else {"http": proxy.strip(), "https": proxy.strip()})

    def _post(self, base: "_Base | None", exchange: _Exchange, body: bytes, headers: Mapping[str, str]) -> Answer:
        adapter = self._adapter
        assert base is not None
        assert adapter is not None
        now = time.monotonic()
        exchange.deadline = min(exchange.ends, now + self._options.timeout)
        left = max(0.001, exchange.deadline - now)
        response: requests.Response | None = None
        try:
            if exchange.is_cut:
                raise TimeoutError
            # Not by Session.send: that reads the whole of a redirect's body before anyone can ask how long it is.
            response = adapter.send(
                base.prepared(body, headers), stream=True, timeout=(left, left), proxies=base.proxies
            )
            status, retry_after = response.status_code, response.headers.get("Retry-After")
            exchange.deadline = min(exchange.deadline, time.monotonic() + _ANSWER_SECONDS)
            said = _finish(response, base.max_answer_bytes)
            text = readable(said, response.headers) if base.reads or status >= HTTPStatus.BAD_REQUEST else ""
            answer = Answer(status, retry_after, words_of(text, base.secrets, body), text, said)
        except (OSError, HTTPError, ValueError) as error:  # every exception of requests is an OSError
            raise self._translated(error, exchange, time.monotonic() - now) from None  # its text has the whole url
        finally:
            exchange.forget()
        exchange.deadline = exchange.ends
        return answer

    def _translated(self, error: Exception, exchange: _Exchange, seconds: float) -> SinkError:
        if exchange.is_cut or isinstance(error, requests.exceptions.ReadTimeout | TimeoutError):
            return Retry(f"{self.place} gives no answer within {seconds:.1f} s", reason="timeout")
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return NotConnected(f"no connection to {self.place} in time", reason="unreachable")
        causes = list(_causes(error))
        if any(
            isinstance(cause, ssl.SSLError | Urllib3SSLError | socket.gaierror | NameResolutionError)
            for cause in causes
        ):
            return self._explained(error)
        if isinstance(error, requests.exceptions.ProxyError):
            return NotConnected(f"the proxy gives no way to {self.place}", reason="proxy")
        refused = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH}
        if any(isinstance(cause, OSError) and cause.errno in refused for cause in causes):
            return self._explained(error)
        return Retry(f"{self.place} ended the connection before its answer was complete", reason="cut_off")

    def _explained(self, error: Exception) -> NotConnected:
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                hint = strict_certificate_hint(cause) or "set tls.ca_file to the PEM file of its authority"
                said = f"certificate of {self.place} not trusted: {cause.verify_message}; {hint}"
                return NotConnected(said, reason="tls")
            if isinstance(cause, ssl.SSLError):
                return NotConnected(f"no TLS with {self.place}: {cause.reason or 'broken off'}", reason="tls")
            if isinstance(cause, socket.gaierror):
                return NotConnected(f"cannot find the host of {self.place}: {cause.strerror}", reason="unreachable")
            if isinstance(cause, TimeoutError):
                return NotConnected(f"no connection to {self.place} in time", reason="unreachable")
            if isinstance(cause, OSError) and cause.strerror:
                return NotConnected(f"cannot connect to {self.place}: {cause.strerror}", reason="unreachable")
        return NotConnected(f"cannot connect to {self.place}", reason="unreachable")


class _Base:
    """What all requests of one write have in common."""

    def __init__(self, method: str, url: str, headers: Mapping[str, str], proxies: dict[str, str]) -> None:
        self.proxies = proxies
        self.reads = method == "GET"  # the body is what was asked for
        self.max_answer_bytes = _MAX_DOCUMENT_BYTES if self.reads else _MAX_ANSWER_BYTES
        self._headers = dict(headers)
        self.secrets = [one for one in _secrets(url, headers, proxies) if len(one) > 1]
        own = {"User-Agent": f"meshbridge/{__version__}", "Accept-Encoding": "identity"}
        self._prepared = requests.Request(method, url, headers=own).prepare()

    def prepared(self, body: bytes, headers: Mapping[str, str]) -> requests.PreparedRequest:
        prepared = self._prepared.copy()
        prepared.headers.update(headers)
        prepared.headers.update(self._headers)
        prepared.body = body
        prepared.headers["Content-Length"] = str(len(body))
        return prepared


def _secrets(url: str, headers: Mapping[str, str], proxies: Mapping[str, str]) -> Iterator[str]:
    """What a server (or a proxy) knows of the settings that must stay secret."""
    parts = urlsplit(url)
    for text in (parts.path, parts.query):
        yield from (text, unquote(text))
    yield from (value for name, value in headers.items() if name.lower() not in {"accept", "content-type"})
    if (given := headers.get("Authorization", "")).startswith("Basic "):
        yield b64decode(given.removeprefix("Basic ")).decode()
    for proxy in proxies.values():
        yield unquote(urlsplit(proxy).netloc.rpartition("@")[0])


def _finish(response: requests.Response, max_bytes: int) -> bytes:
    """Reads what is left of an answer, so that its connection can be used again, and gives it.

    Where that is too much, or is not to be had, the connection is closed, and there is nothing to give.
    """
    body = bytearray()
    try:
        for chunk in response.raw.stream(8192, decode_content=False):
            body += chunk
            if len(body) > max_bytes:
                response.close()
                return b""
    except (HTTPError, OSError, ValueError):  # the status is known: how the rest ends doesn't matter
        response.close()
        return b""
    response.raw.release_conn()
    return bytes(body)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that led to it, also where urllib3 keeps them in attributes."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [getattr(one, "reason", None), one.__cause__, one.__context__, *one.args[:2]]
