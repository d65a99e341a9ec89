"""Unix sockets: a short name for their directory, sockets to listen on, and who is on the other side."""

import contextlib
import errno
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["listen_unix", "peer_of", "short_path", "unlink_unix"]

_PEER = struct.Struct("3i")  # unix(7), SO_PEERCRED: process, user, group


@contextlib.contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """A name for a directory that is short enough for an address: those of unix sockets have 107 bytes."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def listen_unix(path: Path, mode: int, backlog: int) -> socket.socket:
    """A listening unix socket. It is made in a private directory, and moved into place with its mode.

    A socket that an earlier process has left there is replaced; anything else, or one that is served, is not.

    Raises:
        OSError: it cannot be made.

    """
    if os.path.lexists(path) and not path.is_socket():
        raise FileExistsError(errno.EEXIST, "a file that is not a socket is in the way")
    if _is_served(path):
        raise OSError(errno.EADDRINUSE, "in use by another process")
    with tempfile.TemporaryDirectory(prefix=".socket-", dir=path.parent) as private:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(Path(private)) as place:
                listener.bind(f"{place}/socket")
            made = Path(private) / "socket"
            made.chmod(mode)
            listener.listen(backlog)
            made.rename(path)
        except BaseException:
            listener.close()
            raise
    return listener


def _is_served(path: Path) -> bool:
    try:
        with short_path(path.parent) as place, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(f"{place}/{path.name}")
    except OSError:
        return False
    return True


def unlink_unix(path: Path) -> None:
    """At the end, before the listener is closed."""
    with contextlib.suppress(OSError):
        path.unlink()


def peer_of(sock: socket.socket) -> tuple[str, int]:
    """``user N`` and the process that made a connection."""
    process, user, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return f"user {user}", process
