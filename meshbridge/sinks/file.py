"""Writes events as JSON lines to a file, or to standard output.

A reader of the file never finds half a line that stays: what could not be written to its end is cut off, at once, or at
the next start after a kill or a power cut (:mod:`meshbridge.sinks.file_tail`); its event was not acknowledged and is
written again. How long the file was when all of it was on the disk is remembered with the cursor.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from meshbridge import telemetry
from meshbridge.fields import Format
from meshbridge.model.events import Envelope, Event, encode
from meshbridge.sinks.base import NotConnected, Preview, Retry
from meshbridge.sinks.file_tail import KnownLength, good_length
from meshbridge.sinks.memory import Memory, VolatileMemory
from meshbridge.sinks.options import SinkOptions
from meshbridge.sinks.rotation import Archive, RotateOptions
from meshbridge.system.disk import sync_directory

__all__ = ["FileOptions", "FileSink"]

STANDARD_OUTPUT = "-"
_KIND = "file-length"  # of memory


class FileOptions(SinkOptions):
    """JSON lines in a file. Where it was moved away (logrotate) a new one is made at once."""

    type: Literal["file"]
    path: str = Field(description='where to; "-" is standard output')

    rotate: RotateOptions | None = Field(default=None, description="begin new files, keep some old ones")

    @model_validator(mode="after")
    def _can_rotate(self) -> Self:
        if self.rotate is not None and self.path == STANDARD_OUTPUT:
            raise ValueError("standard output cannot be rotated")
        return self

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
        if path.is_dir():
            raise NotConnected(f"cannot write {self.path}: it is a directory", reason="open")
        place = path if path.exists() else path.parent
        if self.path != STANDARD_OUTPUT and not os.access(place, os.W_OK, effective_ids=True):
            raise NotConnected(f"cannot write {self.path}: no such directory, or not allowed", reason="open")

    def build(self, _name: str, _state_directory: Path) -> "FileSink":
        return FileSink(self)


class FileSink:
    """Acknowledges when the lines are on the disk; for a pipe or a terminal, when they are handed to the kernel."""

    def __init__(self, options: FileOptions, clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._descriptor: int | None = None
        self._regular = False
        self._memory: Memory = VolatileMemory()
        self._archive = None if options.rotate is None else Archive(Path(options.path), options.rotate, clock)

    def use_memory(self, memory: Memory) -> None:
        """See :class:`meshbridge.sinks.memory.Remembering`."""
        self._memory = memory

    def connect(self, timeout_seconds: float) -> None:
        self.close(timeout_seconds)
        try:
            self._open()
            if self._regular and self._options.path != STANDARD_OUTPUT:
                self._repair()
            if self._archive is not None:
                self._archive.tidy()
        except OSError as error:
            raise NotConnected(f"cannot open {self._options.path}: {error.strerror}", reason="open") from error
        if self._archive is not None and not self._regular:
            raise NotConnected(f"{self._options.path} is no file that can be rotated", reason="open")

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:  # noqa: ARG002 a write to disk has no deadline
        descriptor = self._opened()
        lines = [encode(envelope.event, self._options.format) + b"\n" for envelope in batch]
        if self._archive is None:
            self._append(descriptor, lines, 0)
            return
        written = 0
        while written < len(lines):
            held = os.fstat(descriptor)
            size = held.st_size
            if size and (self._archive.is_over(held.st_mtime) or not self._archive.fits(size, len(lines[written]))):
                descriptor, size = self._begin_anew(written), 0
            end = written
            while end < len(lines) and self._archive.fits(size, len(lines[end])):
                size += len(lines[end])
                end += 1
            self._append(descriptor, lines[written:end], written)
            written = end

    def idle(self) -> None:
        held = os.fstat(self._opened())
        if self._archive is not None and held.st_size and self._archive.is_over(held.st_mtime):
            self._begin_anew(0)

    def preview(self, event: Event) -> list[Preview]:
        return [Preview(self._options.path, {}, encode(event, self._options.format) + b"\n")]

    def close(self, timeout_seconds: float) -> None:
        self._close()
        if self._archive is not None:
            self._archive.close(timeout_seconds)

    def _append(self, descriptor: int, lines: Sequence[bytes], acknowledged: int) -> None:
        """Writes all of these lines or none of them."""
        before = os.fstat(descriptor).st_size
        try:
            view = memoryview(b"".join(lines))
            while view:
                view = view[os.write(descriptor, view) :]
            if self._regular:
                os.fsync(descriptor)
                self._memory.save(_KIND, {"": KnownLength.of(os.fstat(descriptor)).to_text()})
        except OSError as error:
            text = f"cannot write {self._options.path}: {error.strerror}"
            if self._regular:
                try:
                    os.ftruncate(descriptor, before)  # no torn line, and no duplicates of those that fitted
                except OSError:
                    self._close()  # it is repaired when it is opened again
                    raise NotConnected(text, acknowledged=acknowledged, reason="write") from error
            raise Retry(text, acknowledged=acknowledged, reason="write") from error

    def _begin_anew(self, acknowledged: int) -> int:
        """Puts the file aside and opens a new one."""
        assert self._archive is not None
        self._close()
        try:
            self._archive.add()
            return self._open()
        except OSError as error:
            raise NotConnected(
                f"cannot rotate {self._options.path}: {error.strerror}", acknowledged=acknowledged, reason="rotate"
            ) from error

    def _open(self) -> int:
        if self._options.path == STANDARD_OUTPUT:
            descriptor = os.dup(1)
        else:
            descriptor = os.open(self._options.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._descriptor = descriptor
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if self._regular and self._options.path != STANDARD_OUTPUT:
            with contextlib.suppress(PermissionError):  # a directory that may not be read: its owner's choice
                sync_directory(Path(self._options.path).parent)
        return descriptor

    def _repair(self) -> None:
        """Cuts off what a power cut or a kill has torn at the end of the file."""
        texts = self._memory.load(_KIND) or {}
        with Path(self._options.path).open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            good = good_length(file, KnownLength.from_text(texts.get("", "")))
            if good < size:
                file.truncate(good)
                os.fsync(file.fileno())
                telemetry.file_tail_cut(self._options.path, size - good)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _opened(self) -> int:
        """The file at the path: a new one where it has been moved away, replaced or deleted, as by logrotate.

        Raises:
            NotConnected: it is not open, or no new one can be opened.

        """
        if self._descriptor is None:
            raise NotConnected("the file is not open")
        if self._regular and self._options.path != STANDARD_OUTPUT and self._was_moved(self._descriptor):
            self._close()
            try:
                return self._open()
            except OSError as error:
                raise NotConnected(f"cannot open {self._options.path}: {error.strerror}", reason="open") from error
        return self._descriptor

    def _was_moved(self, descriptor: int) -> bool:
        held = os.fstat(descriptor)
        try:
            there = os.stat(self._options.path)  # noqa: PTH116 the option is a plain string
        except FileNotFoundError:
            return True
        return (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino)
