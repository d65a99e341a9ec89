"""One look at a daemon, for ``meshbridge check``: connect, log in, see what is allowed, leave."""

from dataclasses import dataclass

import orjson

from meshbridge.link import operations
from meshbridge.link.connections import new_exchange
from meshbridge.link.credentials import Credentials
from meshbridge.link.options import DaemonOptions

__all__ = ["Trial", "try_daemon"]

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What a daemon said of itself and of the user."""

    version: str
    run: str
    apps: int
    missing_permissions: tuple[str, ...]


def try_daemon(name: str, options: DaemonOptions) -> Trial:
    """Logs in and asks; nothing is left behind on the daemon.

    Raises:
        AppMeshError: it could not; the message says why.

    """
    exchange = new_exchange(name, options, _SECONDS)
    credentials = Credentials(name, options)
    try:
        token = credentials.token(exchange)

        def get(uri: str) -> object:
            return orjson.loads(operations.ask(exchange, "GET", uri, token=token, timeout_seconds=_SECONDS).body)

        granted = operations.permissions(exchange, token, _SECONDS)
        missing = operations.lacking(granted, renews=options.renews_at_daemon)
        if missing:
            return Trial("", "", 0, missing)
        resources, apps = get("/appmesh/resources"), get("/appmesh/applications")
    finally:
        credentials.end(exchange)
        exchange.close()
    assert isinstance(resources, dict)
    assert isinstance(apps, list)
    return Trial(
        version=str(resources.get("appmesh_version", "version unknown")),
        run=str(resources.get("appmesh_start_time_unix_seconds", "unknown")),
        apps=len(apps),
        missing_permissions=(),
    )
