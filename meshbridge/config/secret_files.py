"""Files that are settings: named like a key of the environment, in the folders where secrets are handed over.

``meshbridge_daemons__node_a__password`` in ``/run/secrets`` and ``$CREDENTIALS_DIRECTORY``; beside the configuration
file also without ``meshbridge_``. Other files in these folders (a README, a backup of an editor) are left alone. A file
whose daemon or sink is not in the configuration is left over: it is reported, and never a reason not to start.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SecretFile", "beside", "find", "left_over"]

_PREFIX = "meshbridge_"
_SETTING = re.compile(r"[A-Za-z0-9_-]+")  # neither `password~` nor `password.bak`
NAMED = frozenset({"daemons", "sinks"})
"""Sections whose second part is a name, with "-" written "_"."""


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file, and the path of the setting that it holds: ``("daemons", "node-a", "password")``."""

    path: Path
    setting: tuple[str, ...]


def beside(configuration: Path) -> Path:
    """The folder of a configuration file's secrets: of ``blue.yaml`` ``blue.credentials``, where it is there, else
    ``credentials``.
    """
    own = configuration.with_suffix(".credentials")
    return own if own.is_dir() else configuration.with_name("credentials")


def find(directories: Sequence[Path], own: Path | None, sections: Collection[str]) -> list[SecretFile]:
    """Those that begin like a setting. The first folder that has a setting wins; ``own`` is the last.

    A folder that this user must not read has none: what is missing then is reported with the setting.
    """
    found: dict[tuple[str, ...], SecretFile] = {}
    for directory in (*directories, *(() if own is None else (own,))):
        for file in _files(directory):
            name = file.name.lower()
            if not name.startswith(_PREFIX) and directory != own:
                continue
            setting = _setting(name.removeprefix(_PREFIX))
            if _SETTING.fullmatch(name) and len(setting) > 1 and setting[0] in sections:
                found.setdefault(setting, SecretFile(file, setting))
    return list(found.values())


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(file for file in directory.iterdir() if not file.is_dir())
    except OSError:
        return []


def _setting(name: str) -> tuple[str, ...]:
    path = name.split("__")
    if len(path) > 1 and path[0] in NAMED:
        path[1] = path[1].replace("_", "-")
    return tuple(path)


def left_over(file: SecretFile, settings: Mapping[str, object]) -> bool:
    """Whether its daemon or sink is in none of the other settings."""
    section, name = file.setting[:2]
    present = settings.get(section)
    return section in NAMED and not (isinstance(present, Mapping) and name in present)
