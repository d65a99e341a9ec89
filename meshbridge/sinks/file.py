"""Writes events as JSON lines to a file, or to standard output."""

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from meshbridge.events import Envelope, encode
from meshbridge.options import Format
from meshbridge.sinks.base import NotConnected, Retry
from meshbridge.sinks.options import SinkOptions

__all__ = ["FileOptions", "FileSink"]

STANDARD_OUTPUT = "-"


class FileOptions(SinkOptions):
    """JSON lines in a file. A file that was moved away is noticed and begun anew."""

    type: Literal["file"]
    path: str = Field(description='where to; "-" is standard output')

    @field_validator("format")
    @classmethod
    def _one_text(cls, value: Format) -> Format:
        if value is Format.BINARY:
            raise ValueError("binary needs a place for attributes beside the body: use cloudevents or raw")
        return value

    def probe(self, timeout_seconds: float) -> None:  # noqa: ARG002 nothing to wait for
        """Sees whether the file can be written, without making it.

        Raises:
            NotConnected: it can't.

        """
        path = Path(self.path)
        if self.path != STANDARD_OUTPUT and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise NotConnected(f"cannot write {self.path}: no such directory, or not allowed", reason="open")

    def build(self, _name: str, _state_directory: Path) -> "FileSink":
        return FileSink(self)


class FileSink:
    """Acknowledges when the lines are on the disk; for a pipe or a terminal, when they are handed to the kernel."""

    def __init__(self, options: FileOptions) -> None:
        self._options = options
        self._descriptor: int | None = None
        self._regular = False

    def connect(self, timeout_seconds: float) -> None:  # noqa: ARG002 opening a file has no time limit to give
        self.close(0)
        if self._options.path == STANDARD_OUTPUT:
            self._descriptor = os.dup(1)
        else:
            try:
                self._descriptor = os.open(
                    self._options.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640
                )
            except OSError as error:
                raise NotConnected(f"cannot open {self._options.path}: {error.strerror}", reason="open") from error
        self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:  # noqa: ARG002 as connect
        descriptor = self._opened()
        lines = b"".join(encode(envelope.event, self._options.format) + b"\n" for envelope in batch)
        before = os.fstat(descriptor).st_size
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(descriptor, view) :]
            if self._regular:
                os.fsync(descriptor)
        except OSError as error:
            if self._regular:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, before)  # no torn line, and no duplicates of those that fitted
            raise Retry(f"cannot write {self._options.path}: {error.strerror}", reason="write") from error

    def idle(self) -> None:
        self._opened()

    def close(self, timeout_seconds: float) -> None:  # noqa: ARG002 closing does not wait
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        """The open file, unless it has been moved away (logrotate) or deleted."""
        if self._descriptor is None:
            raise NotConnected("the file is not open")
        if self._regular and self._options.path != STANDARD_OUTPUT:
            held = os.fstat(self._descriptor)
            try:
                there = os.stat(self._options.path)  # noqa: PTH116 the option is a plain string
            except FileNotFoundError:
                raise NotConnected(f"{self._options.path} was moved away", reason="moved") from None
            if (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino):
                raise NotConnected(f"{self._options.path} was replaced", reason="moved")
        return self._descriptor
