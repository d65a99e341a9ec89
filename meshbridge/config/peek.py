"""A glance at the configuration: some keys of one part, from the file and the environment, without loading all of it.

It is for commands that run every minute, or that must work while somebody mends the rest of the file; and loading the
settings takes three times as long.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["part_of", "read_file"]


def part_of(config: Path | None, environ: Mapping[str, str], part: str, keys: Sequence[str]) -> dict[str, Any]:
    """A part of the file with the environment's ``keys`` (docs/design.md, 'Configuration'). Nothing is checked.

    Raises:
        OSError, ValueError: the file can't be read.

    """
    name = f"MESHBRIDGE_{part.upper()}"
    found: dict[str, Any] = {}
    for given in (read_file(config).get(part), json.loads(environ.get(name) or "{}")):
        if not isinstance(given, dict | None):
            raise ValueError(f"{part}: holds {type(given).__name__}, not settings")  # noqa: TRY004 as of what can't be read
        found |= given or {}
    for key in keys:
        if value := environ.get(f"{name}__{key.upper()}"):
            found[key] = value
    return found


def read_file(path: Path | None) -> dict[str, Any]:
    """What a file holds; nothing where there is none.

    Raises:
        OSError, ValueError: it can't be read.

    """
    if path is None:
        return {}
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return tomllib.loads(text)
    import yaml  # noqa: PLC0415 where there is a file of it

    from meshbridge.model.strict_yaml import load_yaml  # noqa: PLC0415 as above

    try:
        loaded = load_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no YAML") from error
    return loaded if isinstance(loaded, dict) else {}
