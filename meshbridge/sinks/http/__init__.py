"""What the sinks that speak HTTP share: the client, its settings, what an answer means, the probe of ``check``."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshbridge.sinks.http.client import HttpClient
    from meshbridge.sinks.http.options import HttpOptions

__all__ = ["new_client"]


def new_client(options: "HttpOptions", connections: int) -> "HttpClient":
    """A client. It is imported only now: it brings requests along, 5 MiB that a bridge without hooks does not need."""
    from meshbridge.sinks.http.client import HttpClient  # noqa: PLC0415 as said

    return HttpClient(options, connections)
