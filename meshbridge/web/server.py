"""A listener: a socket, a thread with its own event loop, and what the connections share."""

import asyncio
import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from meshbridge import telemetry
from meshbridge.web.asgi import Application
from meshbridge.web.connection import HttpConnection, Refusal, plain_refusal
from meshbridge.web.limits import DEFAULT_LIMITS, Limits

__all__ = ["Server"]

_ACCEPT_AT_ONCE = 16  # then open connections are served
_PAUSE_SECONDS = 1.0  # of accepting, where there is nothing left to accept with
_CANCEL_SECONDS = 0.25  # for the last word of an answer that is cancelled
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Server:
    """Serves an ASGI application. :meth:`start` and :meth:`stop` are for the owner's thread, once each.

    All else belongs to the event loop's thread. ``name`` is the thread's, and tells listeners apart in log and metrics;
    requests for a path in ``vital`` are answered whatever other clients do; ``each_tick`` is called once a second.
    """

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        name: str,
        *,
        limits: Limits = DEFAULT_LIMITS,
        context: ssl.SSLContext | None = None,
        vital: Iterable[str] = (),
        refusal: Refusal = plain_refusal,
        each_tick: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_end`` ends answers that would never end by themselves. ``listener`` is closed at the end."""
        self.application = application
        self.limits = limits
        self.refusal = refusal
        self.context = context  # of the next connection
        self.connections: set[HttpConnection] = set()
        self._listener = listener
        self._most = limits.most_connections()
        self._vital = frozenset(vital)
        self._each_tick = each_tick
        self._on_end = on_end
        self._making: dict[HttpConnection, asyncio.Task[Any]] = {}  # those not open yet, the oldest first
        self._shortage = _Shortage(name)
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._grace_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._listener.setblocking(False)
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Lets answers that are being sent go out, as far as there is time; False where the thread does not end."""
        self._grace_seconds = max(0.0, timeout_seconds / 2 - _CANCEL_SECONDS)
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._report)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._listener.close()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self) -> None:
        self._resume()
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self.limits.tick_seconds)
                break
            self._tick()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await self._end()

    async def _end(self) -> None:
        for task in list(self._making.values()):
            task.cancel()
        self._on_end()
        for connection in list(self.connections):
            connection.end()
        await self._wait_for_none(self._grace_seconds)
        for connection in list(self.connections):
            connection.cancel()
        await self._wait_for_none(_CANCEL_SECONDS)
        for connection in list(self.connections):
            connection.transport.abort()
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:  # applications that tidy up
            await asyncio.wait(rest, timeout=_CANCEL_SECONDS)

    async def _wait_for_none(self, seconds: float) -> None:
        until = self._loop.time() + seconds
        while self.connections and self._loop.time() < until:  # noqa: ASYNC110 for a moment, at the very end
            await asyncio.sleep(0.01)

    def _tick(self) -> None:
        now = self._loop.time()
        for connection in list(self.connections):
            self._guarded(lambda connection=connection: connection.look(now))  # type: ignore[misc]
        self._guarded(self._each_tick)
        self._shortage.look(now)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 one connection must not cost the server
            telemetry.web_fault(self._name, error)

    def _report(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Errors that asyncio can raise nowhere: most often what clients do to a connection."""
        error = context.get("exception")
        if not isinstance(error, OSError | None):
            telemetry.web_fault(self._name, error)

    # --- accepting -----------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        if not self._stopping.is_set():
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        # Few of the bound at once: what a connection has sent is read before enough others come to push it out.
        for _ in range(max(1, min(_ACCEPT_AT_ONCE, self._most // 8))):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    telemetry.log.error("cannot accept connections", listener=self._name, error=str(error))
                else:
                    self._shortage.begin(self._loop.time(), "descriptors")
                    if self._make_room():
                        return  # the descriptor is free in the loop's next round
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        while self._count() >= self._most:
            self._shortage.begin(self._loop.time(), "connections")
            if not self._make_room():
                break
        if self._count() >= 2 * self._most:
            self.cut("too_many")
            sock.close()
            return
        sock.setblocking(False)
        context, connection = self.context, HttpConnection(self)
        making: Coroutine[Any, Any, Any] = self._loop.connect_accepted_socket(
            lambda: connection,
            sock,
            ssl=context,
            ssl_handshake_timeout=None if context is None else self.limits.handshake_seconds,
        )
        task = self._making[connection] = self._loop.create_task(making)
        task.add_done_callback(lambda task: self._made(connection, task))

    def _made(self, connection: HttpConnection, task: asyncio.Task[Any]) -> None:
        self._making.pop(connection, None)
        if not task.cancelled():
            task.exception()  # a handshake that failed: the client's business

    def _count(self) -> int:
        return len(self.connections) + len(self._making)

    def _make_room(self) -> bool:
        """Closes the connection that has been idle longest, or the oldest handshake; False where all are busy."""
        idle = [one for one in self.connections if one.idle and not one.transport.is_closing()]
        if idle:
            oldest = min(idle, key=lambda one: one.idle_since)
            oldest.make_way()
            self.connections.discard(oldest)  # it closes in the loop's next round
            return True
        if self.context is not None and self._making:
            self._making.pop(next(iter(self._making))).cancel()
            self.cut("idle")
            return True
        return False

    # --- what connections need (`connection.Host`) ---------------------------------------------------------------

    def opened(self, connection: HttpConnection) -> None:
        self._making.pop(connection, None)
        self.connections.add(connection)

    def closed(self, connection: HttpConnection) -> None:
        self.connections.discard(connection)

    def serves(self, path: str) -> bool:
        if len(self.connections) <= self._most or path in self._vital:
            return True
        return sum(not connection.idle for connection in self.connections) < self._most

    def cut(self, reason: str) -> None:
        telemetry.connection_cut(self._name, reason)


class _Shortage:
    """Connections or descriptors are exhausted: logged when it begins, and when there was none for a while."""

    _QUIET_SECONDS = 60.0

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: float | None = None

    def begin(self, now: float, of: str) -> None:
        if self._last is None:
            telemetry.listener_exhausted(self._name, of)
        self._last = now

    def look(self, now: float) -> None:
        if self._last is not None and now - self._last > self._QUIET_SECONDS:
            self._last = None
            telemetry.listener_recovered(self._name)
