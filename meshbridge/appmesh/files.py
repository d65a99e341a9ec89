"""Files on this host: what of them travels with a transfer, and how they are written."""

import contextlib
import grp
import logging
import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol
from uuid import uuid4

__all__ = [
    "MultipartFile",
    "RemoteFile",
    "SizedSource",
    "Source",
    "Upload",
    "apply_attributes",
    "file_attributes",
    "open_local",
    "replacing",
]

logger = logging.getLogger(__name__)

_MODE, _USER, _GROUP = "X-File-Mode", "X-File-User", "X-File-Group"
_PERMISSION_BITS = 0o7777


def open_local(path: str) -> IO[bytes]:
    """A file to upload.

    Raises:
        FileNotFoundError: there is none, or it is no file.

    """
    if not os.path.isfile(path):  # noqa: PTH113 the reference takes strings
        raise FileNotFoundError(f"Local file not found: {path}")
    return open(path, "rb")  # noqa: PTH123 the caller closes it


def file_attributes(path: str) -> dict[str, str]:
    """Mode (decimal), owner and group of a file as headers (docs/protocol.md, 'Files')."""
    status = os.stat(path)  # noqa: PTH116
    headers = {_MODE: str(status.st_mode & 0o777)}
    # An owner that has no name here cannot have one there.
    with contextlib.suppress(KeyError):
        headers[_USER] = pwd.getpwuid(status.st_uid).pw_name
    with contextlib.suppress(KeyError):
        headers[_GROUP] = grp.getgrgid(status.st_gid).gr_name
    return headers


def apply_attributes(path: str, headers: Mapping[str, str]) -> None:
    """Gives a file the mode, owner and group of ``headers``, as far as this host and this user let it."""
    if mode := headers.get(_MODE):
        try:
            os.chmod(path, int(mode) & _PERMISSION_BITS)  # noqa: PTH101
        except (ValueError, OSError) as error:
            logger.warning("%s does not get the mode %s: %s", path, mode, error)
    user, group = headers.get(_USER), headers.get(_GROUP)
    if user or group:
        try:
            uid = pwd.getpwnam(user).pw_uid if user else -1
            gid = grp.getgrnam(group).gr_gid if group else -1
            os.chown(path, uid, gid)
        except (KeyError, OSError) as error:
            logger.debug("%s stays with its owner, not %s:%s: %s", path, user, group, error)


@contextlib.contextmanager
def replacing(path: str, attributes: Mapping[str, str]) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of ``path`` once all went well; nothing is left of a failed transfer.

    It gets ``attributes`` before it is in its place. Without them it has the mode of the file it replaces.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open("wb") as device:  # a device or a pipe: written to, not replaced
            yield device
        return
    new = target.with_name(f".{target.name}.{uuid4().hex}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if _MODE in attributes else 0o666)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 it is open already
            yield file
        if _MODE not in attributes and target.exists():
            new.chmod(target.stat().st_mode & _PERMISSION_BITS)
        apply_attributes(str(new), attributes)
        new.replace(target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a daemon's host, as it comes."""

    attributes: Mapping[str, str]
    """``X-File-Mode`` (decimal), ``X-File-User``, ``X-File-Group``, as far as the daemon tells."""
    size: int | None
    """In bytes; None where the transport does not tell it before the end."""
    chunks: Iterator[bytes | bytearray]


class Source(Protocol):
    """What is sent as a file."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most ``size``; none at the end."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What is sent, and how it is to be there."""

    source: Source
    size: int | None
    """In bytes; None: as many as there are."""
    name: str
    attributes: Mapping[str, str]
    """As of a :class:`RemoteFile`."""


class SizedSource:
    """A source of which a size was promised: no more of it is read, and less is an error."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = size
        self._left = size
        self.failure: OSError | None = None
        """What was wrong with the source; a transport may take it for an error of its own."""

    def __len__(self) -> int:
        """In bytes; requests sends it as the Content-Length."""
        return self._size

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer only at the end."""
        size = self._left if size < 0 else min(size, self._left)
        data = b""
        try:
            while len(data) < size:
                data += self._next(size - len(data))
        except OSError as error:
            self.failure = error
            raise
        self._left -= len(data)
        return data

    def _next(self, size: int) -> bytes:
        part = self._source.read(size)
        if not part:
            raise OSError("the file became shorter while it was sent")
        return part


class MultipartFile:
    """A ``multipart/form-data`` body around a file, read as it is sent: its memory does not grow with the file."""

    def __init__(self, source: Source, name: str, size: int) -> None:
        boundary = uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="filename"\r\n\r\n{name}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="filename"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._file = SizedSource(source, size)
        self._length = len(self._head) + size + len(self._tail)

    def __len__(self) -> int:
        """In bytes; requests sends it as the Content-Length."""
        return self._length

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes of the body, fewer only at its end."""
        if size < 0:
            size = self._length
        parts = [self._head[:size]]
        self._head = self._head[size:]
        parts.append(self._file.read(size - len(parts[0])))
        size -= sum(map(len, parts))
        parts.append(self._tail[:size])
        self._tail = self._tail[size:]
        return b"".join(parts)
