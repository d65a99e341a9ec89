"""The exporter's listener."""

from meshbridge import telemetry
from meshbridge.exporter.handler import ScrapeHandler
from meshbridge.exporter.options import ExporterOptions
from meshbridge.exporter.sources import Sources
from meshbridge.exporter.web import HEALTH_PATHS, ExporterApplication
from meshbridge.exporter.webconfig import WebConfigError, WebConfigFile
from meshbridge.web.addresses import listen_tcp, split_address
from meshbridge.web.limits import DEFAULT_LIMITS, Limits
from meshbridge.web.server import Server

__all__ = ["Exporter"]


class Exporter:
    """Serves Prometheus. :meth:`start` and :meth:`stop` are for one thread, the owner's; each may be called once."""

    def __init__(self, options: ExporterOptions, sources: Sources, limits: Limits = DEFAULT_LIMITS) -> None:
        self._options = options
        self._limits = limits
        self._application = ExporterApplication(ScrapeHandler(options, sources), sources)
        self._web_config = WebConfigFile(options.web_config)
        self._address: tuple[str, int] | None = None
        self._server: Server | None = None

    def start(self) -> None:
        """Binds, and serves from then on.

        Raises:
            OSError: the address cannot be listened on, or the web config cannot be used (``WebConfigError``).

        """
        config, context = self._web_config.load()
        self._application.use(config)
        listener = listen_tcp(*split_address(self._options.listen), self._limits.connections, who="the exporter")
        self._address = listener.getsockname()[:2]
        self._server = Server(
            self._application,
            listener,
            "exporter",
            limits=self._limits,
            context=context,
            vital=HEALTH_PATHS,
            each_tick=self._reload,
            on_end=self._application.end_waits,
        )
        self._server.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on."""
        assert self._address is not None, "not started"
        return self._address

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """Stops listening, lets answers that are being sent go out, and gives up on scrapes that still wait."""
        if self._server is not None:
            self._server.stop(timeout_seconds)
        self._application.close()

    def _reload(self) -> None:
        """Uses a changed web config for the next connections and requests; one that is not usable changes nothing."""
        if not self._web_config.changed():
            return
        try:
            config, context = self._web_config.load()
        except WebConfigError as error:
            telemetry.web_config_refused(error.where, error.problem)
            return
        assert self._server is not None
        self._application.use(config)
        self._server.context = context
        telemetry.web_config_read()
