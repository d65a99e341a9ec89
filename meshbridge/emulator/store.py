"""What a daemon keeps on disk, so that one started again on the same directory is the same daemon.

::

    <data_dir>/
      ssl/ca.pem, server.pem, client.pem, each with its …-key.pem
      config.json            the configuration, with the labels
      security.json          users, roles, the key that signs tokens
      run.json               when the last run started
      apps/<name>.json       each registered app: one file each, so that registering 10,000 stays linear
      work/stdout/, shell/   of this run only

Every file is replaced as a whole (written beside, then renamed), so that SIGKILL leaves the old or the new one.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import orjson


class AppStore:
    """The files of one daemon. Nothing is written before :meth:`open`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ssl = root / "ssl"
        self.stdout = root / "work" / "stdout"
        self.shell = root / "work" / "shell"
        self._apps = root / "apps"

    def open(self) -> None:
        shutil.rmtree(self.root / "work", ignore_errors=True)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.ssl, self.stdout, self.shell, self._apps):
            directory.mkdir(parents=True, exist_ok=True)

    def new_start_time(self, earlier: int = 0) -> int:
        """Unix seconds of this run's start: never that of an earlier run, not even within one second."""
        last = (self.read("run.json") or {"start_time": earlier})["start_time"]
        start_time: int = max(int(time.time()), last + 1)
        self.write("run.json", {"start_time": start_time})
        return start_time

    def read(self, name: str) -> Any:
        """The content of a file; None where there is none."""
        try:
            return orjson.loads((self.root / name).read_bytes())
        except FileNotFoundError:
            return None

    def write(self, name: str, value: object) -> None:
        _replace(self.root / name, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))

    def apps(self) -> list[dict[str, Any]]:
        """The registered apps, in the order of their registration."""
        stored = [orjson.loads(path.read_bytes()) for path in self._apps.glob("*.json")]
        return sorted(stored, key=lambda app: app["registered"])

    def write_app(self, name: str, value: object) -> None:
        _replace(self._apps / f"{name}.json", orjson.dumps(value))

    def remove_app(self, name: str) -> None:
        (self._apps / f"{name}.json").unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    beside.replace(path)
