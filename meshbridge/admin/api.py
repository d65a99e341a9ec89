"""The API of one listener, built at its first request.

Its operations take half of a start and a fifth of the memory, and many bridges are never asked. So a listener holds an
:class:`Api`, which imports the web framework and builds the application when the first request has come.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from meshbridge.web.asgi import Message, Receive, Send

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI

    from meshbridge.admin.interface import Bridge
    from meshbridge.admin.options import AdminOptions, Token

__all__ = ["Api", "control_api", "token_api"]


class Api:
    """An ASGI application. For any thread; ``build`` is called once, in a thread of the event loop's pool."""

    def __init__(self, build: "Callable[[], FastAPI]") -> None:
        self._build = build
        self._lock = threading.Lock()  # guards _application
        self._application: FastAPI | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        application = self._application
        if application is None:
            application = await asyncio.to_thread(self.built)
        await application(scope, receive, send)

    def built(self) -> "FastAPI":
        """The application itself."""
        with self._lock:
            if self._application is None:
                self._application = self._build()
            return self._application

    def end_streams(self) -> None:
        """Ends event streams, which would never end by themselves."""
        if self._application is not None:
            self._application.state.events.close()

    def close(self) -> None:
        """Closes the audit file, when no request is under way any more."""
        if self._application is not None:
            self._application.state.audit.close()


def control_api(bridge: "Bridge", options: "AdminOptions") -> Api:
    """The API on the control socket, whose file mode says who may."""

    def build() -> "FastAPI":
        from meshbridge.admin.application import new_application  # noqa: PLC0415 at the first request, not at the start
        from meshbridge.admin.auth import command_auth, socket_auth  # noqa: PLC0415

        authenticate = socket_auth if bridge.configuration is None else command_auth(bridge.configuration)
        return new_application(bridge, authenticate, options)

    return Api(build)


def token_api(bridge: "Bridge", options: "AdminOptions", tokens: "Callable[[], Sequence[Token]]") -> Api:
    """The API for those who have a token; ``tokens`` is asked at each request."""

    def build() -> "FastAPI":
        from meshbridge.admin.application import new_application  # noqa: PLC0415 as above
        from meshbridge.admin.auth import token_auth  # noqa: PLC0415

        return new_application(bridge, token_auth(tokens), options)

    return Api(build)
