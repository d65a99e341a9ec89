"""The admin listener: the API on TCP or on a unix socket, for those who have a token."""

import socket
from dataclasses import replace

from meshbridge import telemetry
from meshbridge.admin.api import Api
from meshbridge.admin.options import AdminOptions
from meshbridge.admin.serving import Served
from meshbridge.web.addresses import is_loopback, listen_tcp, split_address
from meshbridge.web.limits import DEFAULT_LIMITS, Limits
from meshbridge.web.unix import listen_unix, unlink_unix

__all__ = ["AdminListener"]

_MODE = 0o660


class AdminListener:
    """Serves an application where the settings say, which asks for tokens::

        api = token_api(bridge, settings.admin, lambda: settings.admin.tokens)
        listener = AdminListener(settings.admin, api)

    To be made only where ``options.enabled``. A reload that leaves ``options`` equal but for ``tokens`` needs nothing
    but a changed answer of that callable; anything else a new listener, with a new API, once this one is
    stopped. :meth:`start` and :meth:`stop` are for the owner's thread, once each.
    """

    def __init__(self, options: AdminOptions, api: Api, limits: Limits = DEFAULT_LIMITS) -> None:
        self._options = options
        self._limits = replace(limits, connections=options.max_connections)
        self._api = api
        self._served: Served | None = None
        self._address = options.listen

    def start(self) -> None:
        """Binds, and serves from then on.

        Raises:
            OSError: the address can't be had, or the TLS files not be used; the text says which.

        """
        options = self._options
        if options.tls is not None:
            try:
                options.tls.context()
            except (OSError, ValueError) as error:
                raise OSError(f"admin.tls: a certificate or key is not usable: {error}") from error
        self._served = Served(self._api, self._bound(), "admin", self._limits, options.tls)
        self._served.start()
        if options.unix_path is None and options.tls is None and not is_loopback(split_address(options.listen)[0]):
            telemetry.admin_insecure(self._address)

    @property
    def address(self) -> str:
        """Where it listens, as in the settings, with the port that port 0 took."""
        return self._address

    def stop(self, timeout_seconds: float) -> None:
        """Stops listening, ends event streams, and lets other answers go out as far as there is time."""
        path = self._options.unix_path
        if self._served is not None:
            if path is not None:
                unlink_unix(path)
            self._served.stop(timeout_seconds)

    def _bound(self) -> socket.socket:
        options = self._options
        path = options.unix_path
        if path is not None:
            try:
                return listen_unix(path, _MODE, options.max_connections)
            except OSError as error:
                raise OSError(error.errno, f"the admin API can't listen on {path}: {error.strerror}") from error
        listener = listen_tcp(*split_address(options.listen), options.max_connections, who="the admin API")
        host, port = listener.getsockname()[:2]
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return listener
