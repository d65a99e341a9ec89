"""Where the control socket is."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CONTROL_SOCKET", "short_path"]

CONTROL_SOCKET = "control.sock"


@contextlib.contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """A name for a directory that is short enough for an address: those of unix sockets have 107 bytes."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
