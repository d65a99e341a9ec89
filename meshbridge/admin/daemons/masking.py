"""What is secret stays with the daemon: in answers it is masked, and a mask that comes back is refused."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from meshbridge.admin.problems import Problem, ProblemKind

__all__ = ["MASK", "masked", "masked_values", "refuse_masks"]

MASK = "********"

# Parts of the names of what is secret: JWTSalt, Password, refresh_token, AWS_SECRET_ACCESS_KEY, …
_SECRET_PARTS = ("password", "passwd", "passphrase", "secret", "token", "salt", "credential", "apikey")
_SECRET_ENDS = frozenset({"key", "keys", "pass", "pwd"})  # as a word at the end: mfa_key, apiKey, DB_PASS
_PUBLIC = "public"
_SECRET_NAMES = frozenset({"sec_env", "secret_env"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PASSWORD_OF_URL = re.compile(
    r"(\b[A-Za-z][A-Za-z0-9+.-]{0,31}://[^\s/:@]*:)[^\s/]+@"
)  # linear: a daemon gives the text


def masked(value: Any) -> Any:
    """``value`` with what its names tell to be secret replaced, however deep; of an object all that is in it.

    Passwords in URLs are replaced wherever they stand.
    """
    if isinstance(value, Mapping):
        return {name: masked_values(part) if _is_secret(str(name)) else masked(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [masked(part) for part in value]
    if isinstance(value, str) and "://" in value:
        return _PASSWORD_OF_URL.sub(rf"\1{MASK}@", value)
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
    elif isinstance(value, str) and MASK in value:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"{where} is masked: give its value, or leave it out",
            kind=ProblemKind.MASKED,
            where=where,
        )


def _is_secret(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    joined = "".join(words)
    if name in _SECRET_NAMES or any(part in joined for part in _SECRET_PARTS):
        return True
    return bool(words) and words[-1] in _SECRET_ENDS and _PUBLIC not in words
