"""Notices that files have changed, so that a renewed certificate is shown without a restart."""

from collections.abc import Iterable
from pathlib import Path

__all__ = ["WatchedFiles"]

_Stamp = tuple[int, ...] | None


class WatchedFiles:
    """Compares inode, size and modification time. For one thread."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._seen: dict[Path, _Stamp] = {}
        self.watch(paths)

    def watch(self, paths: Iterable[Path]) -> None:
        """Takes these files as they are now, in place of those watched before."""
        self._seen = {path: _stamp(path) for path in paths}

    def changed(self) -> bool:
        """Whether one has changed since :meth:`watch`, appeared or gone."""
        return any(_stamp(path) != stamp for path, stamp in self._seen.items())


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
