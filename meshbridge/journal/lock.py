"""One owner of a journal's directory at a time."""

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from meshbridge.journal.errors import JournalError, JournalInUseError

__all__ = ["DirectoryLock", "refuse_others"]


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
            refuse_others(directory)
            # A link that somebody else has put there would have its target overwritten.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(directory / "lock", flags, 0o600)
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


_OURS = ("lock", "journal.db", "journal.db-wal", "journal.db-shm", "journal.db.new")


def refuse_others(directory: Path, user: int | None = None) -> None:
    """A user who may write to the directory can replace the journal's files by links and files of their own.

    ``user``: whose journal it is to be; default: this process's.

    Raises:
        JournalError: another user may write to it or owns it, or a file of the journal is a link or another user's.

    """
    found = directory.stat()
    user = os.geteuid() if user is None else user
    if found.st_uid not in {user, 0}:
        raise JournalError(
            f"journal.path: {directory} belongs to user {found.st_uid}, and this is user {user}: "
            f"chown it to {user}, or choose another directory"
        )
    # A volume of Kubernetes belongs to root, and to a group that is this process's alone (fsGroup).
    volume = found.st_uid != user and found.st_gid in {os.getegid(), *os.getgroups()}
    if found.st_mode & (stat.S_IWOTH if volume else stat.S_IWOTH | stat.S_IWGRP):
        raise JournalError(
            f"journal.path: other users may write to {directory} (mode {stat.S_IMODE(found.st_mode):04o}): "
            f"run chmod go-w {directory}, or choose another directory"
        )
    for name in _OURS:
        path = directory / name
        try:
            one = path.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(one.st_mode):
            raise JournalError(f"journal.path: {path} is not a regular file: remove it")
        if one.st_uid not in {user, found.st_uid}:
            raise JournalError(f"journal.path: {path} belongs to user {one.st_uid}: remove it, or chown it")
        if one.st_nlink > 1:
            raise JournalError(f"journal.path: {path} is also another file (a hard link): remove it")
