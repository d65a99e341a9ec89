"""The exporter's listener: a socket, a thread with its own event loop, and uvicorn in it."""

import socket
import ssl
import threading

import uvicorn

from meshbridge import telemetry
from meshbridge.exporter.handler import ScrapeHandler
from meshbridge.exporter.options import ExporterOptions
from meshbridge.exporter.sources import Sources
from meshbridge.exporter.web import Application
from meshbridge.exporter.webconfig import WebConfig, WebConfigError, WebConfigFile
from meshbridge.web.addresses import listen_tcp, split_address

__all__ = ["Exporter"]

_BACKLOG = 128
_CONNECTIONS = 256  # idle ones included; beyond that uvicorn answers 503
_HEAD_BYTES = 16 * 1024  # request line and headers; h11's own limit is 64 KiB
_START_SECONDS = 10.0
_TICKS_PER_LOOK = 10  # uvicorn ticks ten times a second


class Exporter:
    """Serves Prometheus. :meth:`start` and :meth:`stop` are for one thread, the owner's; each may be called once."""

    def __init__(self, options: ExporterOptions, sources: Sources) -> None:
        self._options = options
        self._application = Application(ScrapeHandler(options, sources), sources)
        self._address: tuple[str, int] | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Binds, and serves from then on.

        Raises:
            OSError: the address can't be had, or the web config not be used (``WebConfigError``); the text says which.

        """
        web_config = WebConfigFile(self._options.web_config)
        loaded = web_config.load()
        listener = listen_tcp(*split_address(self._options.listen), _BACKLOG, who="the exporter")
        self._address = listener.getsockname()[:2]
        self._server = _Server(self._application, listener, web_config, loaded)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="exporter", daemon=True)
        self._thread.start()
        if not self._server.serving.wait(_START_SECONDS):
            raise OSError(f"the exporter did not start within {_START_SECONDS:.0f} s")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on."""
        assert self._address is not None, "not started"
        return self._address

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """Stops listening, lets answers that are being sent go out, and gives up on scrapes that still wait."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._application.end_waits()
            self._thread.join(timeout_seconds * 3 / 4)
            if self._thread.is_alive():
                self._server.force_exit = True
                self._thread.join(timeout_seconds / 4)
        self._application.close()


class _Server(uvicorn.Server):
    """uvicorn's, on a socket that outlives a change of the TLS settings. Runs in the exporter's thread."""

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        web_config: WebConfigFile,
        loaded: tuple[WebConfig, ssl.SSLContext | None],
    ) -> None:
        config = uvicorn.Config(
            application,
            http="h11",  # always there with uvicorn, and the one whose head size can be limited
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",  # that it starts and stops is told by the service
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_HEAD_BYTES,
            limit_concurrency=_CONNECTIONS,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=1,
        )
        config.load()
        super().__init__(config)
        self.serving = threading.Event()
        self._application = application
        self._listener = listener
        self._web_config = web_config
        self._use(*loaded)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 as uvicorn calls it
        """Listens through a duplicate, since asyncio closes what it listens on and fixes its TLS settings."""
        await super().startup([self._listener.dup()])
        self.serving.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_LOOK == 0 and self._web_config.changed():
            await self._reload()
        return await super().on_tick(counter)

    def _use(self, config: WebConfig, context: ssl.SSLContext | None) -> None:
        self._application.use(config)
        self.config.ssl = context

    async def _reload(self) -> None:
        """Takes a changed web config, or says why not and keeps the old one. No connection is refused meanwhile."""
        try:
            loaded = self._web_config.load()
        except WebConfigError as error:
            telemetry.web_config_refused(error.where, error.problem)
            return
        self._use(*loaded)
        before = self.servers
        await self.startup()
        for server in before:
            server.close()
        telemetry.web_config_read()
