"""How an operation reaches a daemon: one request, one answer."""

from typing import Protocol

from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

__all__ = ["Exchange"]


class Exchange(Protocol):
    """Something that carries requests to one daemon: a channel over TCP or WSS, or an HTTPS session."""

    def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        """The daemon's answer, whatever its status. May be called from many threads at once.

        Raises:
            AppMeshTimeoutError: no answer within ``timeout_seconds``.
            AppMeshConnectionError: there is no connection, or it was lost.

        """

    def close(self) -> None:
        """Ends it; requests that wait get :class:`AppMeshConnectionError`."""
