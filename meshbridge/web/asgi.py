"""ASGI, as far as it is spoken here (HTTP, specification 2.3)."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

import h11

from meshbridge.web.head import BadRequestError

__all__ = ["ENCODED_SLASH", "Application", "Message", "Receive", "Send", "scope_of", "shown_path"]

ENCODED_SLASH = "\udc2f"
"""Stands in a path where ``%2F`` was: a slash in a name, which does not divide the path. UTF-8 has no such sign."""
_ENCODED = re.compile(rb"%2f", re.IGNORECASE)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def scope_of(request: h11.Request, *, scheme: str, client: Any, server: Any) -> Message:
    """``client`` and ``server``: host and port.

    Raises:
        BadRequestError: for a version or a target that is not served.

    """
    if request.http_version not in {b"1.0", b"1.1"}:
        raise BadRequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1")
    target = request.target
    if target[:1] not in {b"/", b"*"}:  # the absolute form, as a client sends it to a proxy (RFC 9112, 3.2.2)
        try:
            parts = urlsplit(target)
        except ValueError as error:
            raise BadRequestError(HTTPStatus.BAD_REQUEST, f"invalid HTTP request: {error}") from error
        target = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
    raw_path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode("ascii"),
        "server": server,
        "client": client,
        "scheme": scheme,
        "method": request.method.decode("ascii"),
        "root_path": "",
        "path": ENCODED_SLASH.join(unquote(part.decode("ascii")) for part in _ENCODED.split(raw_path)),
        "raw_path": raw_path,
        "query_string": query,
        "headers": list(request.headers),
    }


def shown_path(scope: Message) -> str:
    """For logs."""
    return str(scope["path"]).replace(ENCODED_SLASH, "%2F")
