"""What a client registers or runs, checked as the daemon checks it: each fault has an answer of its own (measured)."""

import re
from collections.abc import Mapping
from typing import Any

from meshbridge.emulator.durations import duration
from meshbridge.emulator.errors import RequestRefused

NAME = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
MAX_COMMAND_CHARACTERS = 2048
BEYOND_NUMBERS = 2**37
"""Times beyond cannot be shown: they are of the year 6325 and later."""
RESERVED = "agent"
ACTIONS = frozenset({"restart", "standby", "keepalive", "remove"})
LEAST_CPU_SHARES, MOST_CPU_SHARES = 2, 262_144

_TEXTS = ("name", "command", "description", "working_dir", "docker_image", "health_check_cmd")
_FLAGS = ("shell", "session_login")
_NUMBERS = ("status", "stdout_cache_num", "permission", "start_time", "end_time")


def read_definition(given: Any) -> dict[str, Any]:
    """An app's definition as the daemon keeps it.

    Raises:
        RequestRefused: 400, or 412 for a cron expression.
        TypeError: a value of another type; the daemon answers that with 500.

    """
    if given is None:
        raise RequestRefused(400, "Empty json input")
    if not isinstance(given, dict):
        raise TypeError("no object")
    definition = {name: value for name, value in given.items() if value is not None}
    for name in _TEXTS:
        _of_type(definition, name, str)
    for name in _FLAGS:
        _of_type(definition, name, bool)
    for name in _NUMBERS:
        _number(definition, name)
    for name in ("env", "sec_env"):
        _variables(definition, name)
    _times(definition)
    _behavior(definition)
    _limits(definition)
    return definition


def check_name(definition: Mapping[str, Any]) -> None:
    """Raises RequestRefused: 400, no name that an app can be registered under."""
    if definition.get("name") == RESERVED:
        raise RequestRefused(400, "REST service application is not allowed to <EDIT>")
    if not NAME.fullmatch(str(definition.get("name") or "")):
        raise RequestRefused(400, "application name must be 1-128 characters using only letters, digits, '_' or '-'")


def check_command(definition: Mapping[str, Any]) -> None:
    """Raises RequestRefused: 400, nothing to run, or too much."""
    if not definition.get("command") and not definition.get("docker_image"):
        raise RequestRefused(400, "no command line provide")
    if len(str(definition.get("command") or "")) >= MAX_COMMAND_CHARACTERS:
        raise RequestRefused(400, "command line length should less than 2048")


def _of_type(definition: dict[str, Any], name: str, kind: type) -> None:
    value = definition.get(name)
    if value is not None and not isinstance(value, kind):
        raise TypeError(name)
    if isinstance(value, str):
        definition[name] = value.partition("\0")[0]  # where a C string ends


def _number(definition: dict[str, Any], name: str) -> None:
    value = definition.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < BEYOND_NUMBERS:
        raise TypeError(name)
    definition[name] = int(value)


def _variables(definition: dict[str, Any], name: str) -> None:
    """A list counts by its places, anything else as one variable without a name."""
    value = definition.get(name)
    if value is None:
        return
    if isinstance(value, list):
        value = {str(place): item for place, item in enumerate(value)}
    elif not isinstance(value, dict):
        value = {"": value}
    if not all(isinstance(item, str) for item in value.values()):
        raise TypeError(name)
    definition[name] = {key.partition("\0")[0]: item.partition("\0")[0] for key, item in value.items()}


def _times(definition: dict[str, Any]) -> None:
    interval = definition.get("start_interval_seconds")
    if interval is None:
        definition.pop("cron", None)  # it says how to read the interval, and is not looked at without
    else:
        if not isinstance(interval, str | int | float) or isinstance(interval, bool):
            raise TypeError("start_interval_seconds")
        definition["start_interval_seconds"] = interval if isinstance(interval, str) else str(int(interval))
        _of_type(definition, "cron", bool)
    retention = definition.get("retention")
    if retention is not None:
        duration(retention)
        definition["retention"] = str(retention)
    daily = definition.get("daily_limitation")
    if daily is None:
        return
    if not isinstance(daily, dict) or not {"daily_start", "daily_end"} <= daily.keys():
        raise RequestRefused(400, "should both have daily_start and daily_end parameter")
    definition["daily_limitation"] = {"daily_start": daily["daily_start"], "daily_end": daily["daily_end"]}
    for name in ("daily_start", "daily_end"):
        _number(definition["daily_limitation"], name)


def _behavior(definition: dict[str, Any]) -> None:
    behavior = definition.get("behavior")
    if not isinstance(behavior, dict):
        definition.pop("behavior", None)
        return
    action = behavior.get("exit")
    if action is not None and not isinstance(action, str):
        raise TypeError("exit")
    control = behavior.get("control") or {}
    if not isinstance(control, dict):
        raise TypeError("control")
    for code, what in control.items():
        if not re.fullmatch(r"-?\d+", code, re.ASCII):
            raise RequestRefused(400, "invalid control code")
        if what not in ACTIONS:
            raise RequestRefused(400, "invalid action input")
    if action is not None and action not in ACTIONS:
        raise RequestRefused(400, "invalid action input")


def _limits(definition: dict[str, Any]) -> None:
    limit = definition.get("resource_limit")
    if not isinstance(limit, dict):
        definition.pop("resource_limit", None)
        return
    known = {name: limit[name] for name in ("cpu_shares", "memory_mb", "memory_virt_mb") if limit.get(name) is not None}
    for name in known:
        _number(known, name)
    shares, memory, virtual = (known.get(name, 0) for name in ("cpu_shares", "memory_mb", "memory_virt_mb"))
    if min(shares, memory, virtual) < 0:
        raise RequestRefused(400, "resource limits cannot be negative")
    if shares and not LEAST_CPU_SHARES <= shares <= MOST_CPU_SHARES:
        raise RequestRefused(400, "cpu_shares must be between 2 and 262144")
    if virtual and (not memory or virtual < memory):
        raise RequestRefused(400, "memory_virt_mb requires positive memory_mb and must be greater than or equal to it")
    definition["resource_limit"] = {
        "cpu_shares": shares,
        "memory_mb": memory,
        **({"memory_virt_mb": virtual} if virtual else {}),
    }
