"""A disk that forgets: what can be on it after a power cut at any point of a recording (``recorder.c``).

What was not flushed may be lost, kept, or kept in part, by sectors of 512 bytes. Two kinds of file system:

* strict: an fsync of a file keeps its content, an fsync of its directory keeps its name, and nothing else is kept;
* journaling (like ext4): any fsync also keeps all names and all sizes, so that data which was lost reads as NULs.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

__all__ = ["Cut", "Disk", "Mark", "Operation", "read_recording"]

_SECTOR = 512
_NOT_KEPT = "-shm"  # SQLite makes it again
MARKS = "marks"


@dataclass(frozen=True, slots=True)
class Operation:
    """One record. ``kind``: create, write, truncate, sync, rename, unlink, mkdir."""

    kind: str
    offset: int
    path: str
    second: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """What the recorded process had promised, or seen, at this point."""

    word: str
    value: str


def read_recording(file: Path, root: Path) -> Iterator[Operation | Mark]:
    """The records in order, paths relative to ``root``; what was written to its file ``marks`` as marks."""
    content, place = file.read_bytes(), 0
    start = len(str(root)) + 1
    while place < len(content):
        end = content.index(b"\n", place)
        kind, *numbers = content[place:end].decode().split()
        offset, first, second, size = map(int, numbers)
        place = end + 1
        texts = [content[place : place + first], content[place + first : place + first + second]]
        data = content[place + first + second : place + first + second + size]
        place += first + second + size
        path, other = (text.decode()[start:] for text in texts)
        if path == MARKS:
            for line in data.decode().splitlines():
                word, _, value = line.partition(" ")
                yield Mark(word, value)
        elif not path.endswith(_NOT_KEPT):
            yield Operation(kind, offset, path, other, data)


class Cut(Enum):
    """What becomes of what was not flushed."""

    LOST = "lost"
    KEPT = "kept"
    TORN = "torn"
    TORN_JOURNALING = "torn, sizes and names kept"


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    cached: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)  # writes, and lengths it was cut to
    known_size: int = 0  # that a journaling file system has kept, and
    known_floor: int | None = None  # the length that it was cut to before: behind it nothing old can be read

    def write(self, offset: int, data: bytes) -> None:
        _put(self.cached, offset, data)
        self.pending.append((offset, data))

    def truncate(self, size: int) -> None:
        _resize(self.cached, size)
        self.pending.append(size)

    def sync(self) -> None:
        self.durable = bytearray(self.cached)
        self.known_size, self.known_floor = len(self.cached), None
        self.pending.clear()

    def commit_size(self) -> None:
        self.known_size = len(self.cached)
        self.known_floor = min((one for one in self.pending if isinstance(one, int)), default=None)

    def after(self, cut: Cut, chance: random.Random) -> bytes:
        if cut is Cut.KEPT:
            return bytes(self.cached)
        content = bytearray(self.durable)
        if cut is Cut.LOST:
            return bytes(content)
        if cut is Cut.TORN_JOURNALING:
            if self.known_floor is not None and self.known_floor < len(content):
                _resize(content, self.known_floor)
            _resize(content, self.known_size)
        for change in self.pending[: chance.randint(0, len(self.pending))]:
            if isinstance(change, int):
                _resize(content, change)
                continue
            offset, data = change
            end = offset + len(data)
            place = offset
            while place < end:
                upto = min(end, (place // _SECTOR + 1) * _SECTOR)
                if chance.random() < 0.6:
                    _put(content, place, data[place - offset : upto - offset])
                place = upto
            if cut is Cut.TORN_JOURNALING and len(content) < end:
                _resize(content, chance.choice((len(content), end)))
        return bytes(content)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        _resize(content, offset)
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


class Disk:
    """Follows a recording; at any point :meth:`cut` says what a power cut leaves."""

    def __init__(self) -> None:
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._pending: list[Operation] = []  # of names, with the file that they were made for
        self._committed = 0  # how many of them a journaling file system has kept
        self._made: dict[int, _File] = {}
        self._directories = {""}

    def apply(self, operation: Operation) -> None:
        path = operation.path
        match operation.kind:
            case "mkdir":
                self._directories.add(path)
            case "create":
                self._names[path] = self._made[id(operation)] = _File()
                self._pending.append(operation)
            case "write":
                self._names[path].write(operation.offset, operation.data)
            case "truncate":
                self._names[path].truncate(operation.offset)
            case "rename":
                self._names[operation.second] = self._names.pop(path)
                self._pending.append(operation)
            case "unlink":
                del self._names[path]
                self._pending.append(operation)
            case "sync":
                self._sync(path)

    def _sync(self, path: str) -> None:
        if path in self._directories:
            mine = [one for one in self._pending if path == (one.path.rpartition("/")[0])]
            self._keep_names(self._durable_names, mine)
            self._pending = [one for one in self._pending if one not in mine]
        elif path in self._names:
            self._names[path].sync()
        for file in self._names.values():  # what a journaling file system commits along with it
            file.commit_size()
        self._committed = len(self._pending)

    def _keep_names(self, names: dict[str, _File], operations: list[Operation]) -> None:
        for one in operations:
            match one.kind:
                case "create":
                    names[one.path] = self._made[id(one)]
                case "rename" if one.path in names:
                    names[one.second] = names.pop(one.path)
                case "unlink":
                    names.pop(one.path, None)

    def cut(self, cut: Cut, chance: random.Random, directory: Path) -> None:
        """Writes into ``directory`` what is there after the power cut."""
        names = dict(self._durable_names)
        kept = {
            Cut.LOST: 0,
            Cut.KEPT: len(self._pending),
            Cut.TORN: chance.randint(0, len(self._pending)),
            Cut.TORN_JOURNALING: chance.randint(self._committed, len(self._pending)),
        }[cut]
        self._keep_names(names, self._pending[:kept])
        for path in self._directories:
            (directory / path).mkdir(parents=True, exist_ok=True)
        for path, file in names.items():
            (directory / path).write_bytes(file.after(cut, chance))
