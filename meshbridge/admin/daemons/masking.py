"""What is secret stays with the daemon: in answers it is masked, and a mask that comes back is refused."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from meshbridge.admin.problems import Problem

__all__ = ["MASK", "masked", "masked_values", "refuse_masks"]

MASK = "********"

# Parts of the names of what is secret, in lower case: JWTSalt, Password, key of a user, JWT_SECRET, refresh_token, …
_SECRET_PARTS = ("password", "passwd", "secret", "token", "salt", "credential", "privatekey", "apikey")
_SECRET_NAMES = frozenset({"key", "mfa_key", "sec_env"})


def masked(value: Any) -> Any:
    """``value`` with what its names tell to be secret replaced, however deep; of an object all that is in it."""
    if isinstance(value, Mapping):
        return {name: masked_values(part) if _is_secret(str(name)) else masked(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [masked(part) for part in value]
    return value


def masked_values(value: Any) -> Any:
    """All texts and numbers of ``value`` replaced; names, and what is empty, stay."""
    if isinstance(value, Mapping):
        return {name: masked_values(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [masked_values(part) for part in value]
    return value if value is None or value == "" or isinstance(value, bool) else MASK


def refuse_masks(value: Any, where: str = "") -> None:
    """Raises a Problem where ``value`` holds a mask: to send back what was read must not overwrite a secret."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            refuse_masks(part, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            refuse_masks(part, f"{where}.{number}")
    elif value == MASK:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"{where} is masked: give its value, or leave it out",
            kind="masked",
            where=where,
        )


def _is_secret(name: str) -> bool:
    name = name.lower()
    return name in _SECRET_NAMES or any(part in name for part in _SECRET_PARTS)
