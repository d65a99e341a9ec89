"""Names that survive a power cut. An fsync of a file keeps its content; only one of its directory keeps its name."""

import os
from pathlib import Path

__all__ = ["rename_durably", "sync_directory", "sync_file"]


def sync_file(path: Path) -> None:
    """Puts the content of a file on the disk.

    Raises:
        OSError: it can't be opened, or the disk fails.

    """
    _sync(path, os.O_RDONLY)


def sync_directory(directory: Path) -> None:
    """Puts the names in a directory on the disk: files that were made, renamed or deleted.

    Raises:
        OSError: it can't be opened, or the disk fails.

    """
    _sync(directory, os.O_RDONLY | os.O_DIRECTORY)


def rename_durably(source: Path, target: Path) -> None:
    """Renames a file within its directory; on return the new name is on the disk, and the content before it.

    Raises:
        OSError: it can't be renamed, or the disk fails.

    """
    sync_file(source)
    source.replace(target)
    sync_directory(target.parent)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
