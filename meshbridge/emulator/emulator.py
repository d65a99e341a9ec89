"""The emulated daemon as a whole: its thread, its listeners, and what tests may do to it."""

import asyncio
import contextlib
import functools
import logging
import shutil
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from meshbridge.appmesh.tcp_messages import RequestMessage
from meshbridge.emulator.certificates import certificates, server_context
from meshbridge.emulator.connection import Connection, is_loopback
from meshbridge.emulator.daemon import Daemon
from meshbridge.emulator.errors import EmulatorError
from meshbridge.emulator.events import RecordedEvent
from meshbridge.emulator.issuer import ISSUER, subject_of
from meshbridge.emulator.issuer_web import AUTH_PATH, IssuerApplication
from meshbridge.emulator.messages import EmulatedAnswer
from meshbridge.emulator.principals import principal_id
from meshbridge.emulator.processes import Reaper
from meshbridge.emulator.settings import EmulatorOptions
from meshbridge.emulator.store import AppStore
from meshbridge.emulator.tcp import TcpProtocol
from meshbridge.emulator.web import WebApplication
from meshbridge.emulator.web_server import CLOSE_SECONDS, AbortClient, WebServer

log = logging.getLogger(__name__)

Address = tuple[str, int]
T = TypeVar("T")

EMIT_CHUNK = 500
EMIT_CHUNK_BYTES = 256 * 1024
"""Between two looks at the clients' queues: small against what they may hold before they are cut off."""

BACKLOG_SHARE = 2
"""``emit_many`` waits for a client whose queue is fuller than one part in so many of its limit."""

STALL_SECONDS = 1.0
"""For how long it waits for a client that does not read; then it goes on, and that client is cut off."""


class Emulator:
    """An App Mesh daemon in a thread of this process.

    :meth:`start` returns when all listeners are open. One thread, named after the node, runs the event loop and owns
    everything inside; the methods here may be called from any other thread. An emulator that was stopped can be started
    again: on the same ``data_dir`` it is the same daemon, with a new start time.
    """

    def __init__(self, options: EmulatorOptions | None = None) -> None:
        self.options = options or EmulatorOptions()
        self.tcp_address: Address | None = None
        self.wss_address: Address | None = None
        self.https_address: Address | None = None
        self.issuer_address: Address | None = None
        self.ca_file = Path()
        self._daemon: Daemon | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None
        self._tcp: set[TcpProtocol] = set()
        self._web: list[WebServer] = []
        self._last_start_time = 0

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the daemon, and the apps that it had.

        Raises:
            EmulatorError: a library is missing, a port is taken, the host cannot be listened on.

        """
        if self._thread is not None:
            raise EmulatorError("the emulator runs already")
        if not is_loopback(self.options.host):
            log.warning(
                "the emulator listens on %s, not on loopback only: anyone who reaches it can run commands here with "
                "its well-known passwords",
                self.options.host,
            )
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name=f"emulator-{self.options.node_name}", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            self._thread = None
            raise

    def stop(self) -> None:
        """Ends the connections, the apps and the listeners; nothing of it is left when this returns."""
        if self._thread is None:
            return
        assert self._loop is not None
        assert self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- for tests and load -------------------------------------------------------------------------------------------

    def emit(self, app_name: str, event_type: str, data: Any) -> int:
        """Sends an event as if ``app_name`` had caused it; gives its number (0: STDOUT without a subscription)."""
        return self._call(functools.partial(self._running().hub.emit, app_name, event_type, data))

    def emit_many(self, events: Iterable[tuple[str, str, Any]]) -> int:
        """As :meth:`emit` for each ``(app, type, data)``; gives the last number.

        It holds back for clients that read more slowly, as long as they read: a client that reads nothing for a second
        is cut off, as it would be by the real daemon.
        """
        return self._wait(self._emit_many(self._running(), iter(events)))

    def drop_connections(self) -> None:
        """Resets every client's connection: no close frame, no end of the TLS stream."""
        self._call(self._drop_connections)

    def break_hop(self) -> None:
        """Ends every subscription as a daemon of 3.x ends forwarded ones whose next node is gone."""
        self._call(self._running().hub.disconnected)

    def set_signing_keys(self, *, available: bool) -> None:
        """3.x: whether the daemon has the keys of its issuer; without them it answers 503."""
        bearers = self._running().bearers
        assert bearers is not None
        self._call(lambda: setattr(bearers, "keys_available", available))

    def set_issuer_user(self, email: str, password: str, role: str | None = None) -> None:
        """3.x: adds a user at the issuer, or gives one another password; with ``role``, as ``appmesh-auth.sh`` does."""

        def change() -> None:
            daemon = self._running()
            assert daemon.issuer is not None
            daemon.issuer.set_password(email, password)
            daemon.issuer.save(daemon.store)
            if role is not None:
                daemon.principals.change(principal_id(ISSUER, subject_of(email)), {"roles": [role]})
                daemon.save_accounts()

        self._call(change)

    @property
    def issuer_url(self) -> str:
        """Where the issuer of a daemon of 3.x is reached over HTTP; its name is another."""
        host, port = self.issuer_address or ("", 0)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{AUTH_PATH}"

    @property
    def sequence(self) -> int:
        """The number of the last event."""
        return self._running().hub.sequence

    @property
    def history(self) -> list[RecordedEvent]:
        """Every event so far, with ``EmulatorOptions(record=True)``; also those without a subscription."""
        history = self._running().hub.history
        return list(history) if self._thread is None else self._call(lambda: list(history))

    @property
    def start_time(self) -> int:
        """``appmesh_start_time_unix_seconds``: names this run."""
        return self._running().start_time

    def join(self, other: "Emulator") -> None:
        """Makes two nodes of one cluster: each forwards to the other (``X-Target-Host``) and takes its tokens."""
        for node, neighbour in ((self, other), (other, self)):
            daemon = neighbour._running()  # noqa: SLF001 the other emulator is one of these
            node._call(  # noqa: SLF001 as above
                functools.partial(node._know, neighbour._names(), neighbour._serve_forwarded, daemon)  # noqa: SLF001 as above
            )

    # --- in the loop's thread -----------------------------------------------------------------------------------------

    def _run(self, started: "Future[None]") -> None:
        with asyncio.Runner() as runner:
            try:
                runner.run(self._main(started))
            except BaseException as error:  # goes to the thread that waits for the start
                if not started.done():
                    started.set_exception(error)
                else:
                    log.exception("the emulator has failed")

    async def _main(self, started: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        temporary = None if self.options.data_dir else Path(tempfile.mkdtemp(prefix="meshbridge-emulator-"))
        store = AppStore((self.options.data_dir or temporary or Path()).resolve())
        reaper: Reaper | None = None
        try:
            store.open()
            self.ca_file = certificates(store.ssl, self.options.host)
            reaper = Reaper(temporary)
            daemon = Daemon(self.options, store, reaper.environment(), earlier_start=self._last_start_time)
            self._last_start_time = daemon.start_time
            self._daemon = daemon
            with contextlib.ExitStack() as sockets:
                server = await self._listen(daemon, store, sockets)
                daemon.applications.restore()
                started.set_result(None)
                await self._stopping.wait()
                daemon.stopping = True
                await self._close(server)
        finally:
            if self._daemon is not None:
                self._daemon.applications.abandon()
            if reaper is not None:
                await asyncio.to_thread(reaper.close)
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    async def _listen(self, daemon: Daemon, store: AppStore, opened: contextlib.ExitStack) -> asyncio.Server | None:
        options = self.options
        context = server_context(store.ssl, verify_client=options.verify_client)
        sockets = {
            name: opened.enter_context(_bind(options.host, port)) for name, port in self._ports() if port is not None
        }
        addresses = {name: _address(sock) for name, sock in sockets.items()}
        self.tcp_address, self.wss_address = addresses.get("tcp"), addresses.get("wss")
        self.https_address, self.issuer_address = addresses.get("https"), addresses.get("issuer")
        ports = {name: addresses[name][1] if name in addresses else 0 for name in ("tcp", "wss", "https")}
        daemon.configuration.set_ports(**ports)
        daemon.neighbours.own(self._names())
        server = None
        if "tcp" in sockets:
            server = await asyncio.get_running_loop().create_server(
                lambda: TcpProtocol(daemon, options, self._tcp),
                sock=sockets["tcp"],
                ssl=context,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        self._web = [
            WebServer(
                self._application(daemon, name),
                sockets[name],
                None if name == "issuer" else context,
                messages=name == "wss",
                pings=daemon.dialect.pings,
            )
            for name in ("wss", "https", "issuer")
            if name in sockets
        ]
        for web in self._web:
            await web.start()
        return server

    def _ports(self) -> tuple[tuple[str, int | None], ...]:
        options = self.options
        issuer = options.issuer_port if options.dialect.has_issuer else None
        return ("tcp", options.tcp_port), ("wss", options.wss_port), ("https", options.https_port), ("issuer", issuer)

    def _application(self, daemon: Daemon, name: str) -> Callable[[AbortClient], Any]:
        if name == "issuer":
            assert daemon.issuer is not None
            issuer = IssuerApplication(daemon.issuer)
            return lambda _abort: issuer
        return lambda abort: WebApplication(daemon, self.options, messages=name == "wss", abort=abort)

    async def _close(self, server: asyncio.Server | None) -> None:
        if server is not None:
            server.close()
        for protocol in list(self._tcp):
            protocol.close()
        await asyncio.gather(*(web.stop() for web in self._web))
        for protocol in list(self._tcp):
            protocol.abort()
        await asyncio.gather(*(protocol.lost.wait() for protocol in list(self._tcp)))

    async def _emit_many(self, daemon: Daemon, events: Iterable[tuple[str, str, Any]]) -> int:
        hub = daemon.hub
        stalled: dict[Connection, int] = {}
        events_left, bytes_before = EMIT_CHUNK, hub.pushed_bytes
        for app, event_type, data in events:
            hub.emit(app, event_type, data)
            events_left -= 1
            if not events_left or hub.pushed_bytes - bytes_before > EMIT_CHUNK_BYTES:
                await asyncio.sleep(0)
                await self._let_clients_read(list(hub.subscribers), stalled)
                events_left, bytes_before = EMIT_CHUNK, hub.pushed_bytes
        return hub.sequence

    async def _let_clients_read(self, clients: Sequence[Connection], stalled: dict[Connection, int]) -> None:
        """``stalled``: clients given up on, and what they had taken by then; they get another chance once they read."""
        loop = asyncio.get_running_loop()
        for client in clients:
            taken, since = client.taken_messages, loop.time()
            while not client.closed and self._is_behind(client) and stalled.get(client) != taken:
                await asyncio.sleep(0.001)
                if client.taken_messages != taken:
                    taken, since = client.taken_messages, loop.time()
                elif loop.time() - since > STALL_SECONDS:
                    stalled[client] = taken

    def _is_behind(self, client: Connection) -> bool:
        if client.transport == "tcp":
            return len(client.queue) > self.options.tcp_queue_messages // BACKLOG_SHARE
        return client.queued_bytes > self.options.wss_queue_bytes // BACKLOG_SHARE

    def _drop_connections(self) -> None:
        for protocol in list(self._tcp):
            protocol.reset()
        for web in self._web:
            web.reset_all()

    # --- neighbours ---------------------------------------------------------------------------------------------------

    def _names(self) -> set[str]:
        addresses = [address for address in (self.tcp_address, self.wss_address, self.https_address) if address]
        return {self.options.node_name, *(f"{host}:{port}" for host, port in addresses)}

    def _know(
        self, names: set[str], forward: Callable[[RequestMessage], Awaitable[EmulatedAnswer]], other: Daemon
    ) -> None:
        daemon = self._running()
        daemon.neighbours.add(names, forward)
        if daemon.bearers is not None and other.issuer is not None:
            daemon.bearers.keys.update(other.issuer.public_keys)
        if other.tokens.keys[0] not in daemon.tokens.keys:
            daemon.tokens.keys.append(other.tokens.keys[0])

    async def _serve_forwarded(self, request: RequestMessage) -> EmulatedAnswer:
        """Carries out another node's request; called in that node's loop, served in this one's."""
        assert self._loop is not None
        connection = Connection("peer")
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._running().handle(request, connection), self._loop)
        )

    # --- between the threads ------------------------------------------------------------------------------------------

    def _running(self) -> Daemon:
        if self._daemon is None:
            raise EmulatorError("the emulator has not been started")
        return self._daemon

    def _call(self, action: Callable[[], T]) -> T:
        async def call() -> T:
            return action()

        return self._wait(call())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None or self._thread is None:
            work.close()
            raise EmulatorError("the emulator does not run")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise EmulatorError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return sock


def _address(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return host, port
