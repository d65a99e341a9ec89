"""Addresses to listen on, and TCP sockets bound there. Standard library alone."""

import contextlib
import ipaddress
import re
import socket

__all__ = ["is_loopback", "listen_tcp", "split_address"]

_LAST_PORT = 65_535
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^\s:\[\]]*)):(?P<port>\d{1,5})")


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[::]:9665`` or ``:9665`` (all addresses).

    Raises:
        ValueError: it is none of these.

    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or int(match["port"]) > _LAST_PORT:
        raise ValueError(f"not an address to listen on: {text!r} (use host:port, such as 0.0.0.0:9665 or [::]:9665)")
    return match["v6"] or match["host"] or "0.0.0.0", int(match["port"])  # noqa: S104 the empty host asks for all


def is_loopback(host: str) -> bool:
    """Whether only this host reaches it. Of names, ``localhost`` alone is taken to be."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen_tcp(host: str, port: int, backlog: int, *, who: str) -> socket.socket:
    """A listening socket; on ``::`` it takes IPv4 too. ``who`` is named in errors.

    Raises:
        OSError: the address can't be had.

    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(error.errno, f"{who} can't listen on {host} port {port}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host == "::":
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{who} can't listen on {host} port {port}: {error.strerror}") from error
    return listener
