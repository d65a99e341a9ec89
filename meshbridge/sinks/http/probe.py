"""What ``meshbridge check`` can learn of an HTTP server without sending it an event."""

from http import HTTPStatus
from typing import TYPE_CHECKING

from meshbridge.sinks.base import Found, NotConnected
from meshbridge.sinks.http.answers import REMEDIES

if TYPE_CHECKING:
    from meshbridge.sinks.http.client import HttpClient

__all__ = ["probe_server"]

# Many servers take a POST where they allow no OPTIONS, so 405 says nothing.
_REMEDIES = {status: remedy for status, remedy in REMEDIES.items() if status != HTTPStatus.METHOD_NOT_ALLOWED} | {
    HTTPStatus.GONE: "see whether the hook has been deleted, and set url to the one that is there"
}
_FIRST_SERVER_ERROR = 500


def probe_server(client: "HttpClient", timeout_seconds: float) -> Found:
    """Connects, and asks for the methods that the server allows at the url.

    Many servers answer that with an error and take a POST all the same, so an answer raises no more than a doubt.

    Raises:
        NotConnected: the server can't be reached, is not trusted, or url has moved.
        SinkError: there is no answer.

    """
    try:
        client.connect(timeout_seconds)
        status = client.ask("OPTIONS", timeout_seconds).status
    finally:
        client.close()
    said = f"{client.place} answers {status} to OPTIONS"
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise NotConnected(f"{said}: redirects are not followed; set url to where it is now", reason="redirect")
    found = f"{client.place} answers"
    if remedy := _REMEDIES.get(status):
        return Found(found, f"{said} (nothing was posted)", remedy)
    if status >= _FIRST_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
        return Found(found, f"{said} (nothing was posted)", "see the server's log: it may be in trouble")
    return Found(found)
