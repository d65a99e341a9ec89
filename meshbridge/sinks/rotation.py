"""When a file is full, what becomes of it: a new name, compression, and in the end its deletion.

A file that is done is called ``<name>.<moment it was done, UTC>`` (``events.jsonl.20260131T235959Z``, with ``-1``,
``-2`` … behind it where several were done within a second) and stays as it is from then on; compressed, ``.gz`` is
added. Names that grow with time have no file renamed twice, so nothing races with the compression, or with a reader.

By age a file holds one period, counted from 1970 in UTC: with ``max_age: 1d`` a day, with ``1h`` an hour. Whether a
file is of an earlier one says the time of its last change, so a restart forgets nothing.
"""

import contextlib
import glob
import gzip
import re
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from meshbridge.fields import Duration, Options, Size
from meshbridge.system.disk import rename_durably

__all__ = ["Archive", "RotateOptions"]

_BLOCK_BYTES = 256 * 1024
_UNFINISHED = ".part"


class RotateOptions(Options):
    """When a new file is begun, and how many old ones stay."""

    max_bytes: Size | None = Field(default=None, gt=0, description="before a line would make the file larger")
    max_age: Duration | None = Field(default=None, ge=1, description="at each multiple of it since 1970 in UTC")
    keep: int = Field(default=7, ge=0, description="old files")
    gzip: bool = Field(default=False, description="compress old files")

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        if self.max_bytes is None and self.max_age is None:
            raise ValueError("set max_bytes, max_age or both")
        return self


class Archive:
    """The old files of one path.

    Threads: one at most, ``compress-<file>``, reads and writes old files alone; every method is for the sink's thread.
    """

    def __init__(self, path: Path, options: RotateOptions, clock: Callable[[], float]) -> None:
        self._path = path
        self._options = options
        self._clock = clock
        self._old = re.compile(re.escape(path.name) + r"\.(\d{8}T\d{6}Z)(?:-(\d+))?(\.gz)?")
        self._stop = threading.Event()
        self._compressor: threading.Thread | None = None

    def is_over(self, changed: float) -> bool:
        """Whether the period of a file that was last changed then is over."""
        age = self._options.max_age
        return age is not None and changed // age < self._clock() // age

    def fits(self, size: int, line_bytes: int) -> bool:
        """Whether a line may be added to a file of this size; an empty one takes every line."""
        return not size or self._options.max_bytes is None or size + line_bytes <= self._options.max_bytes

    def add(self) -> None:
        """Gives the file at the path its name as an old one; it must be closed and on the disk.

        Raises:
            OSError: it can't be renamed.

        """
        found = self._found()
        # Names only ever grow, also when the clock is set back: their order is that of the events.
        moment = max(
            f"{datetime.fromtimestamp(self._clock(), UTC):%Y%m%dT%H%M%SZ}", *(stamp for stamp, _, _ in found), ""
        )
        same = [number for stamp, number, _ in found if stamp == moment]
        name = f"{self._path.name}.{moment}" + (f"-{max(same) + 1}" if same else "")
        rename_durably(self._path, self._path.with_name(name))
        self.tidy()

    def tidy(self) -> None:
        """Deletes what is too old and begins to compress the rest."""
        files: dict[tuple[str, int], list[Path]] = {}  # two of one moment: its compression was cut short
        for stamp, number, file in sorted(self._found()):
            files.setdefault((stamp, number), []).append(file)
        for same in list(files.values())[: max(0, len(files) - self._options.keep)]:
            for file in same:
                file.unlink(missing_ok=True)
        if self._compressor is not None and self._compressor.is_alive():
            return
        for part in self._path.parent.glob(f"{glob.escape(self._path.name)}.*{_UNFINISHED}"):
            part.unlink(missing_ok=True)  # left by a bridge that was killed
        if self._options.gzip:
            self._stop.clear()
            self._compressor = threading.Thread(
                target=self._compress_all, name=f"compress-{self._path.name}", daemon=True
            )
            self._compressor.start()

    def close(self, timeout_seconds: float) -> None:
        """Ends the compression; what is not done is begun again with the next old file or the next start."""
        self._stop.set()
        if self._compressor is not None:
            self._compressor.join(timeout_seconds)

    def _found(self) -> list[tuple[str, int, Path]]:
        """The old files with their moments and numbers."""
        found = []
        for file in self._path.parent.iterdir():
            match = self._old.fullmatch(file.name)
            if match:
                found.append((match[1], int(match[2] or 0), file))
        return found

    def _compress_all(self) -> None:
        while not self._stop.is_set():
            todo = [file for _, _, file in sorted(self._found()) if file.suffix != ".gz"]
            if not todo or not self._compress(todo[0]):
                return

    def _compress(self, file: Path) -> bool:
        packed = file.with_name(f"{file.name}.gz")
        part = file.with_name(f"{packed.name}{_UNFINISHED}")
        try:
            with file.open("rb") as source, part.open("wb") as target:
                shutil.copymode(file, part)
                with gzip.GzipFile(filename="", fileobj=target, mode="wb", mtime=0) as stream:
                    while block := source.read(_BLOCK_BYTES):
                        if self._stop.is_set():
                            raise InterruptedError
                        stream.write(block)
            rename_durably(part, packed)  # before the file goes: one of the two is always whole
            file.unlink()
        except FileNotFoundError:
            with contextlib.suppress(OSError):  # deleted meanwhile, as one too many
                part.unlink()
                packed.unlink()
        except OSError:  # a full disk, or the end: the file stays as it is
            with contextlib.suppress(OSError):
                part.unlink()
            return False
        return True
