"""Files of secrets: one verdict on each that cannot be used, or that looks wrong."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel

from meshbridge.fields import SecretFileError, SecretFiles, doubts_about
from meshbridge.model.status import Grade, Verdict

__all__ = ["check_leftovers", "check_secret_files"]


def check_secret_files(subject: str, options: BaseModel) -> Iterator[Verdict]:
    """Of a part's settings; nothing where each file is in order."""
    for key, path in _secret_files(options, ""):
        try:
            doubts = doubts_about(path)
        except SecretFileError as error:
            remedy = f"make {key} a text file that holds the secret and that this user can read"
            yield Verdict(subject, key, Grade.FAILED, f"cannot read {key} {error}", remedy)
            continue
        if doubts:
            remedy = f"chmod o-r {path}" if len(doubts) == 1 and "can read it" in doubts[0] else f"write {path} again"
            yield Verdict(subject, key, Grade.WARNING, f"{key} {path}: {'; '.join(doubts)}", remedy)


def check_leftovers(files: Iterable[Path]) -> Iterator[Verdict]:
    """Of files whose daemon or sink is not in the configuration."""
    for file in files:
        said = f"{file} is not used: its daemon or sink is not in the configuration"
        yield Verdict("configuration", "secrets", Grade.WARNING, said, "remove the file, or correct its name")


def _secret_files(settings: BaseModel, prefix: str) -> Iterator[tuple[str, Path]]:
    """(key, path) of each secret that stands in a file, in nested settings too."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _secret_files(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and name == "secret_files":  # a webhook takes several
            yield from ((f"{prefix}{field.alias or name}", path) for path in value)
        elif isinstance(value, Path) and isinstance(settings, SecretFiles) and _is_secret(settings, name):
            yield f"{prefix}{name}", value


def _is_secret(settings: SecretFiles, name: str) -> bool:
    return name.endswith("_file") and name.removesuffix("_file") in settings.secret_keys() and name != "template_file"
