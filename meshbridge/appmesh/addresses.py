"""What an address says of where secrets would go. Nothing here does I/O."""

import ipaddress
from urllib.parse import urlsplit

__all__ = ["is_loopback", "is_private", "same_origin"]

_LOOPBACK_NAME = "localhost"


def is_loopback(url: str) -> bool:
    """Whether an address is one of this very host."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == _LOOPBACK_NAME


def is_private(url: str) -> bool:
    """Whether secrets may be sent to ``url``: https://, or http:// to this very host."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if parts.username is not None or parts.password is not None or not host:
        return False
    if parts.scheme == "https":
        return True
    return parts.scheme == "http" and is_loopback(url)


def same_origin(one: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port (RFC 6454)."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
