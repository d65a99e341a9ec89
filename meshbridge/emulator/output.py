"""An app's output: files of its present and earlier processes, and STDOUT events (docs/protocol.md, 'STDOUT')."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

COLLECT_SECONDS = 0.2
COLLECT_BYTES = 256 * 1024
SMALLEST_READ = 1024
LARGEST_READ = 3 * 1024 * 1024
"""``stdout_maxsize`` outside these two means the larger."""


class OutputFiles:
    """``appmesh.<app>.out`` of the present process, ``….out.1`` of the one before, and so on.

    ``kept`` earlier ones stay (``stdout_cache_num``); each new process moves the index of the others by one.
    """

    def __init__(self, directory: Path, app: str, kept: int) -> None:
        self._path = directory / f"appmesh.{app}.out"
        self._kept = kept
        self.count = 0

    def path(self, index: int) -> Path:
        return self._path if index == 0 else self._path.with_name(f"{self._path.name}.{index}")

    def start(self) -> int:
        """Makes room for a new process; gives the descriptor its output is to be written to."""
        while self.count > self._kept:
            self.path(self.count - 1).unlink(missing_ok=True)
            self.count -= 1
        for index in reversed(range(self.count)):
            self.path(index).replace(self.path(index + 1))
        self.count += 1
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def size(self, index: int) -> int:
        return self.path(index).stat().st_size

    def read(self, index: int, position: int, size: int) -> bytes:
        with self.path(index).open("rb") as file:
            file.seek(position)
            return file.read(size)

    def remove(self) -> None:
        for index in range(self.count):
            self.path(index).unlink(missing_ok=True)
        self.count = 0


class OutputCollector:
    """Writes one process's output to its file and tells it on in pieces, as the daemon collects it.

    A piece goes out 200 ms after its first byte, or as soon as it has 256 KiB; what is there when the process ends is
    one piece. ``emit(text, position, last)`` gets the bytes as text, where those that are no UTF-8 (also the halves of
    a character cut in two) are U+FFFD; ``position`` counts the real bytes.
    """

    def __init__(self, descriptor: int, emit: Callable[[str, int, bool], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._emit = emit
        self._pieces: list[bytes] = []
        self._pending_bytes = 0
        self._position = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def write(self, data: bytes, last: bool) -> None:
        """``last``: read after the process has ended, so it all goes into the final piece."""
        os.write(self._descriptor, data)
        self._pieces.append(data)
        self._pending_bytes += len(data)
        if last:
            return
        if self._pending_bytes >= COLLECT_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(COLLECT_SECONDS, self._flush)

    def close(self, *, flush: bool = True) -> None:
        if self._closed:
            return
        self._closed = True
        if flush:
            self._flush(last=True)
        elif self._timer is not None:
            self._timer.cancel()
        os.close(self._descriptor)

    def _flush(self, *, last: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._pieces:
            return
        data = b"".join(self._pieces)
        position = self._position
        self._pieces.clear()
        self._pending_bytes = 0
        self._position += len(data)
        self._emit(data.decode("utf-8", "replace"), position, last)
