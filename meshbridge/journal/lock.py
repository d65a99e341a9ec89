"""One owner of a journal's directory at a time."""

import contextlib
import fcntl
import os
from pathlib import Path

from meshbridge.journal.errors import JournalError, JournalInUseError

__all__ = ["DirectoryLock"]


class DirectoryLock:
    """Held from its making until :meth:`release`; the kernel takes it back when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory where it is missing, and takes its lock.

        Raises:
            JournalInUseError: another process has it.
            JournalError: the directory can't be used.

        """
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(
                f"journal.path: cannot use {directory}: {error.strerror}; create it for this user, or choose another"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise JournalInUseError(
                f"journal.path: {directory} is in use by process {owner}: one meshbridge per journal; stop that one, "
                "or give this one another journal.path"
            ) from None
        self._descriptor: int | None = descriptor
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the owner's name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
