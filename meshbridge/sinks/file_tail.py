"""Up to where a file of JSON lines is good, after a power cut or a kill in the middle of a write.

The file system may keep the new size of a file and lose some sectors of what was written, also before a newline; they
then read as NULs. So all that was written since the last known good length is checked, not the last line alone.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Self

import orjson

__all__ = ["KnownLength", "good_length"]

_BLOCK_BYTES = 64 * 1024
_UNKNOWN_BYTES = 2**20  # looked at from the end where no good length is known
_MAX_TAIL_BYTES = 64 * 2**20  # since a known length: no bridge has more than a few batches under way
_MAX_LINE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class KnownLength:
    """How much of which file was whole on the disk."""

    device: int
    inode: int
    length: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Self:
        return cls(facts.st_dev, facts.st_ino, facts.st_size)

    @classmethod
    def from_text(cls, text: str) -> "KnownLength | None":
        """Of :meth:`to_text`; None for anything else."""
        try:
            device, inode, length = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            return None
        if any(type(number) is not int or number < 0 for number in (device, inode, length)):
            return None
        return cls(device, inode, length)

    def to_text(self) -> str:
        return json.dumps([self.device, self.inode, self.length])


def good_length(file: IO[bytes], known: KnownLength | None) -> int:
    """The length up to which every line is whole.

    Behind a known length a line is whole when it is a JSON object: nothing behind it is acknowledged yet, so what is
    cut off is written again. Of a file that is not known a line is whole unless it has a NUL: its lines may be
    somebody else's.
    """
    facts = os.fstat(file.fileno())
    if known is not None and _fits(file, known, facts):
        return _first_damaged(file, known.length, _is_object)
    start = _line_start(file, max(0, facts.st_size - _UNKNOWN_BYTES))
    return _first_damaged(file, start, lambda line: b"\0" not in line)


def _fits(file: IO[bytes], known: KnownLength, facts: os.stat_result) -> bool:
    if (known.device, known.inode) != (facts.st_dev, facts.st_ino):
        return False
    if not facts.st_size - _MAX_TAIL_BYTES <= known.length <= facts.st_size:
        return False
    file.seek(max(0, known.length - 1))
    return known.length == 0 or file.read(1) == b"\n"


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _first_damaged(file: IO[bytes], start: int, is_whole: Callable[[bytes], bool]) -> int:
    file.seek(start)
    while line := file.readline(_MAX_LINE_BYTES):
        if not line.endswith(b"\n") or not is_whole(line):
            break
        start += len(line)
    return start


def _line_start(file: IO[bytes], place: int) -> int:
    """The beginning of the line at a place."""
    while place:
        start = max(0, place - _BLOCK_BYTES)
        file.seek(start)
        newline = file.read(place - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        place = start
    return 0
