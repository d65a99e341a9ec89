"""A client library for App Mesh, name for name that of the official SDK: a user changes one import.

How it is built, from the bottom:

* ``wire/`` and ``tcp_messages`` turn bytes into messages and back, ``subscribe`` knows who gets an event; no I/O.
* A transport (``tcp_transport``, ``wss_transport``) is one blocking connection. ``channel`` puts a reading thread over
  it, so that many threads can ask at once. ``event_connection`` adds callbacks for events; it reopens after a loss.
* An ``exchange`` is whatever carries a request to a daemon and brings its answer: a channel, an event connection, or
  ``http_session``. ``client_session`` asks over one, with the tokens of a ``token_provider``; ``client_login``,
  ``client_files`` and ``client_http`` have every operation once. ``paths`` has every path that is asked for.
* ``token_keeper`` is the one place that decides when a token is got, renewed and asked for again.
* ``client_tcp`` and ``client_wss`` choose the exchange; ``transport_mixin`` has what only they can do: events.

A program that has an exchange already gets a client over it by ``AppMeshClient(exchange=…, jwt_token=…)``.

Nothing is imported before it is asked for (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshbridge.appmesh.app import App
    from meshbridge.appmesh.app_output import AppOutput
    from meshbridge.appmesh.app_run import AppRun, OutputHandler, print_output_handler
    from meshbridge.appmesh.client_http import AppMeshClient
    from meshbridge.appmesh.client_http_oauth import AppMeshClientOAuth
    from meshbridge.appmesh.client_tcp import AppMeshClientTCP
    from meshbridge.appmesh.client_wss import AppMeshClientWSS
    from meshbridge.appmesh.exceptions import (
        AppMeshAppRemovedError,
        AppMeshAuthError,
        AppMeshConnectionError,
        AppMeshDeniedError,
        AppMeshError,
        AppMeshIssuerError,
        AppMeshLoginError,
        AppMeshNotOfferedError,
        AppMeshProcessSupersededError,
        AppMeshRequestError,
        AppMeshTimeoutError,
        AppMeshTokenError,
        AppMeshUnsafeError,
        AppMeshWorkerRejectedError,
        OAuthError,
    )
    from meshbridge.appmesh.harm import AppMeshUnsafeWarning
    from meshbridge.appmesh.oauth import OAuthClient
    from meshbridge.appmesh.password_provider import PasswordGrantProvider
    from meshbridge.appmesh.server_http import AppMeshServer
    from meshbridge.appmesh.server_tcp import AppMeshServerTCP
    from meshbridge.appmesh.server_wss import AppMeshServerWSS
    from meshbridge.appmesh.subscribe import AppEvent, SubscriptionResult
    from meshbridge.appmesh.token_provider import StaticAccessTokenProvider, TokenProvider
    from meshbridge.appmesh.worker_http import AppMeshWorker
    from meshbridge.appmesh.worker_tcp import AppMeshWorkerTCP
    from meshbridge.appmesh.worker_wss import AppMeshWorkerWSS

__all__ = [
    "App",
    "AppEvent",
    "AppMeshAppRemovedError",
    "AppMeshAuthError",
    "AppMeshClient",
    "AppMeshClientOAuth",
    "AppMeshClientTCP",
    "AppMeshClientWSS",
    "AppMeshConnectionError",
    "AppMeshDeniedError",
    "AppMeshError",
    "AppMeshIssuerError",
    "AppMeshLoginError",
    "AppMeshNotOfferedError",
    "AppMeshProcessSupersededError",
    "AppMeshRequestError",
    "AppMeshServer",
    "AppMeshServerTCP",
    "AppMeshServerWSS",
    "AppMeshTimeoutError",
    "AppMeshTokenError",
    "AppMeshUnsafeError",
    "AppMeshUnsafeWarning",
    "AppMeshWorker",
    "AppMeshWorkerRejectedError",
    "AppMeshWorkerTCP",
    "AppMeshWorkerWSS",
    "AppOutput",
    "AppRun",
    "OAuthClient",
    "OAuthError",
    "OutputHandler",
    "PasswordGrantProvider",
    "StaticAccessTokenProvider",
    "SubscriptionResult",
    "TokenProvider",
    "print_output_handler",
]

_HOMES = {
    "OAuthClient": "oauth",
    "PasswordGrantProvider": "password_provider",
    "TokenProvider": "token_provider",
    "StaticAccessTokenProvider": "token_provider",
    "AppMeshWorker": "worker_http",
    "AppMeshWorkerTCP": "worker_tcp",
    "AppMeshWorkerWSS": "worker_wss",
    "App": "app",
    "AppEvent": "subscribe",
    "AppMeshClient": "client_http",
    "AppMeshClientOAuth": "client_http_oauth",
    "AppMeshClientTCP": "client_tcp",
    "AppMeshClientWSS": "client_wss",
    "AppMeshServer": "server_http",
    "AppMeshServerTCP": "server_tcp",
    "AppMeshServerWSS": "server_wss",
    "AppOutput": "app_output",
    "AppRun": "app_run",
    "OutputHandler": "app_run",
    "AppMeshUnsafeWarning": "harm",
    "SubscriptionResult": "subscribe",
    "print_output_handler": "app_run",
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "exceptions"),
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # asked for once only
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
