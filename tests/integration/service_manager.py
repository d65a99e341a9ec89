"""Stands in for systemd, as far as a service notices: the socket that it notifies, and what it finds at its start."""

import re
import shutil
import socket
from pathlib import Path

from tests.support import DEADLINE_SECONDS


class Manager:
    """The socket that a service of Type=notify writes to."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(DEADLINE_SECONDS)

    def receive(self) -> list[str]:
        return self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


class Unit:
    """A unit's file, with its paths under ``root``, and an instance where it is a template."""

    def __init__(self, file: Path, root: Path, instance: str = "") -> None:
        text = file.read_text(encoding="utf-8").replace("%i", instance).replace("%S", str(root / "var/lib"))
        self._lines = re.sub(r"(?<![\w/])/(etc|opt)/", rf"{root}/\1/", text).splitlines()

    def settings(self, key: str) -> list[str]:
        return [line.partition("=")[2] for line in self._lines if line.startswith(f"{key}=")]

    def load_credentials(self, into: Path) -> None:
        """As ``LoadCredential=ID:FOLDER`` does: each file in it becomes ID_file."""
        into.mkdir()
        for setting in self.settings("LoadCredential"):
            name, _, folder = setting.partition(":")
            for file in Path(folder).iterdir():
                shutil.copy(file, into / f"{name}_{file.name}")

    def environment(self) -> dict[str, str]:
        return dict(setting.split("=", 1) for setting in self.settings("Environment"))
