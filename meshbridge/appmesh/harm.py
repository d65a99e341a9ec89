"""What a request would do to a daemon of 2.x that the daemon itself does not refuse.

Measured on 2.2.1. A daemon saves its state as YAML and does not quote text, so text that YAML reads as a number, a
boolean or null has another type after the next start. An app with such a text is lost then, and such a label, user or
description keeps the daemon from starting. ``docs/daemons.md`` lists all that is known, by version.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshbridge.appmesh.exceptions import AppMeshUnsafeError

__all__ = [
    "AppMeshUnsafeWarning",
    "Harm",
    "harms_of_app",
    "harms_of_configuration",
    "harms_of_label",
    "harms_of_user",
    "refuse_harm",
]

logger = logging.getLogger(__name__)

_CALLER = 4  # of the client's method, up to which a warning is shown

# Read back as text: 0x10, 1e3, 1_000, 2026-01-01, ~, yes, and the empty text.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
_APP_TEXTS = ("name", "command", "description", "working_dir", "docker_image", "health_check_cmd")
_USER_TEXTS = ("email", "group", "exec_user")
_KEPT_AS_DIGITS = frozenset({"PosixTimezone"})  # "8" by default, and read back as text
_WAYS_OUT = {
    "name": "use a name with a letter that is not a word of YAML",
    "command": "write it with its path, for example /usr/bin/true",
    "health_check_cmd": "write it with its path, for example /usr/bin/true",
}


class AppMeshUnsafeWarning(UserWarning):
    """The daemon takes the request, and loses it at its next start."""


@dataclass(frozen=True, slots=True)
class Harm:
    """One value that must not be sent."""

    where: str
    """For example ``env.PORT``."""
    found: str
    reason: str
    hint: str
    stops_daemon: bool
    """Whether the daemon ends, or does not start again; else only the app is lost."""

    def __str__(self) -> str:
        return f"{self.where}: {self.found!r} {self.reason}: {self.hint}"


def harms_of_app(app: Mapping[str, Any]) -> list[Harm]:
    """Of the JSON form of an application that is to be registered."""
    found = [
        _lost_app(field, text, _WAYS_OUT.get(field, "use a text that is not only a number or a word of YAML"))
        for field in _APP_TEXTS
        if (text := _ambiguous(app.get(field)))
    ]
    env = app.get("env")
    if isinstance(env, Mapping):
        hint = "put it into sec_env, or write a blank before it, which the daemon trims"
        found += [_lost_app(f"env.{name}", text, hint) for name, value in env.items() if (text := _ambiguous(value))]
    kept = app.get("stdout_cache_num")
    if isinstance(kept, int) and kept < 0:
        reason = "ends the daemon at once, and again at each start"
        found.append(Harm("stdout_cache_num", str(kept), reason, "use 0 or more", stops_daemon=True))
    return found


def harms_of_label(value: str) -> list[Harm]:
    """Of the value of a label; its name does no harm."""
    return _stopping("value", value, "write a letter before it, for example v1")


def harms_of_user(user: Mapping[str, Any]) -> list[Harm]:
    """Of the JSON form of a user; a name and roles of digits do no harm."""
    hint = "use a text that is not only a number or a word of YAML"
    return [harm for field in _USER_TEXTS for harm in _stopping(field, user.get(field), hint)]


def harms_of_configuration(changes: Mapping[str, Any]) -> list[Harm]:
    """Of changes to a daemon's configuration, labels among them."""
    hint = "use a text that is not only a number or a word of YAML"
    return [harm for where, value in _texts(changes, "") for harm in _stopping(where, value, hint)]


def refuse_harm(harms: Sequence[Harm], operation: str, *, unsafe: bool) -> None:
    """Warns of what only costs the thing itself; ``unsafe`` makes an error a warning, too.

    Raises:
        AppMeshUnsafeError: the daemon would end, or not start again.

    """
    for harm in harms:
        if harm.stops_daemon and not unsafe:
            raise AppMeshUnsafeError(f"{harm}; unsafe=True sends it all the same", operation=operation)
    for harm in harms:
        logger.warning("%s", harm)
        warnings.warn(str(harm), AppMeshUnsafeWarning, stacklevel=_CALLER)


def _texts(value: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for name, part in value.items():
        where = f"{place}.{name}" if place else str(name)
        if isinstance(part, Mapping):
            yield from _texts(part, where)
        elif name not in _KEPT_AS_DIGITS:
            yield where, part


def _stopping(where: str, value: object, hint: str) -> list[Harm]:
    text = _ambiguous(value)
    if text is None:
        return []
    reason = f"is read as {_kind(text)} at the daemon's next start, and the daemon does not start then"
    return [Harm(where, text, reason, hint, stops_daemon=True)]


def _lost_app(where: str, text: str, hint: str) -> Harm:
    reason = f"is read as {_kind(text)} at the daemon's next start, and the app is lost then"
    return Harm(where, text, reason, hint, stops_daemon=False)


def _ambiguous(value: object) -> str | None:
    return value if isinstance(value, str) and _kind(value) else None


def _kind(text: str) -> str:
    """What YAML makes of ``text``; empty where it stays text."""
    if _NUMBER.fullmatch(text):
        return "a number"
    return {"true": "a boolean", "false": "a boolean", "null": "null"}.get(text, "")
