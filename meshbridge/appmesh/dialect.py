"""Three dialects, one model: what daemons of each generation say of an app, in the house's own words.

| | 2.x, and 3.x of August 2026 | 3.x of October 2026 |
| --- | --- | --- |
| enabled | ``status`` 1, 0, and 2 for a one-off run | ``enabled``, a boolean |
| owner | ``owner``; August: ``owner_principal_id`` | ``owner_display_name``, ``owner_principal_id`` |
| schedule | ``start_interval_seconds``, with ``cron: true`` a cron expression | ``interval`` or ``cron_schedule`` |
| ``STATUS`` events | ``status``, ``previous_status``, texts | ``enabled``, ``previous_enabled``, booleans |

A dialect is recognised by the fields that are there, never by a version. No I/O here.
"""

import re
from collections.abc import Container, Mapping
from typing import Any

__all__ = [
    "DISABLED",
    "ENABLED",
    "enabled_of",
    "house_fields",
    "is_generated",
    "is_october",
    "is_one_off",
    "owner_of",
    "request_fields",
    "schedule_of",
    "status_data",
    "status_of",
]

ENABLED, DISABLED = "enabled", "disabled"
_STATUS_ONE_OFF = 2
_RENAMED = {
    "stdout_cache_num": "stdout_backup_count",
    "retention": "stop_grace_period",
    "sec_env": "secret_env",
}
"""What a client sets: names of 2.x, and those of October 2026."""
_NEITHER_SENT = frozenset({"owner", "status", "enabled", "cron", "start_interval_seconds", "interval", "cron_schedule"})
_GENERATED = re.compile(r"(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[0-9A-Za-z]{11}")
_COUNTED = re.compile(r".+_[0-9]+")

Fields = Mapping[str, Any]


def is_october(fields: Fields) -> bool:
    """Whether an app is described in the dialect of October 2026."""
    return "enabled" in fields


def enabled_of(fields: Fields) -> bool | None:
    """Whether the daemon may start the app; None where it does not say. A one-off run is enabled while it is there."""
    status = fields.get("status")
    if isinstance(status, int) and "enabled" not in fields:
        return status != 0
    enabled = fields.get("enabled")
    return enabled or is_one_off(fields) if isinstance(enabled, bool) else None


def owner_of(fields: Fields) -> str:
    """The owner as people know them; ``""`` where the daemon does not say."""
    owner = fields.get("owner") or fields.get("owner_display_name") or fields.get("owner_principal_id")
    return owner if isinstance(owner, str) else ""


def schedule_of(fields: Fields) -> int | str | None:
    """A cron expression of six fields, seconds, or an ISO 8601 duration; None for an app without a schedule."""
    for key in ("cron_schedule", "interval", "start_interval_seconds"):
        value = fields.get(key)
        if isinstance(value, int | str) and value and not isinstance(value, bool):
            return value
    return None


def is_generated(name: str) -> bool:
    """Whether a name looks like one that a daemon makes for a one-off run of a command."""
    return _GENERATED.fullmatch(name) is not None


def is_one_off(fields: Fields, names: Container[str] = ()) -> bool:
    """Whether the app is a one-off run. ``names``: of all apps of the daemon, where they are known.

    Before October 2026 ``status`` 2 marks one. Since then nothing does: a run is known by its generated name (11
    letters and digits, or ``<app>_<n>``), and by having run though it is not enabled.
    """
    if "enabled" not in fields:
        return fields.get("status") == _STATUS_ONE_OFF
    if fields.get("enabled") or not isinstance(name := fields.get("name"), str):
        return False
    if is_generated(name):
        return bool(fields.get("last_start_time") or fields.get("pid"))
    if _COUNTED.fullmatch(name) is None:
        return False
    started_once = fields.get("starts") == 1 and name.rpartition("_")[0] in names
    return bool(fields.get("pid")) or started_once


def house_fields(fields: Fields) -> dict[str, Any]:
    """The daemon's own fields, and beside them what is the same at every daemon: ``enabled``, ``owner``, …"""
    return {
        **fields,
        "enabled": enabled_of(fields),
        "one_off": is_one_off(fields),
        "owner": owner_of(fields),
        "schedule": schedule_of(fields),
    }


# --- STATUS events ---------------------------------------------------------------------------------------------------


def status_of(data: Fields) -> str | None:
    """``enabled`` or ``disabled``, as a ``STATUS`` event of either dialect says; None where it says neither."""
    enabled = data.get("enabled")
    if isinstance(enabled, bool):
        return ENABLED if enabled else DISABLED
    status = data.get("status")
    return status if isinstance(status, str) else None


def status_data(status: str, previous: str, *, october: bool) -> dict[str, Any]:
    """The data of a ``STATUS`` event, in the daemon's own dialect."""
    if october:
        return {"enabled": status == ENABLED, "previous_enabled": previous == ENABLED}
    return {"previous_status": previous, "status": status}


# --- registering -----------------------------------------------------------------------------------------------------


def request_fields(fields: Fields, *, october: bool) -> dict[str, Any]:
    """An app to register, set in the words of any dialect (or both), in those that the daemon takes."""
    sent = {key: value for key, value in fields.items() if key not in _NEITHER_SENT}
    for older, newer in _RENAMED.items():
        key, other = (newer, older) if october else (older, newer)
        if other in sent:
            sent.setdefault(key, sent.pop(other))
            sent.pop(other, None)
    sent |= _schedule(fields, october=october)
    enabled = fields.get("enabled", None if fields.get("status") is None else fields["status"] != 0)
    if enabled is not None:
        sent |= {"enabled": bool(enabled)} if october else {"status": fields.get("status", int(enabled))}
    if not october and fields.get("owner"):
        sent["owner"] = fields["owner"]  # October's daemons refuse one
    if isinstance(behavior := sent.get("behavior"), Mapping):
        sent["behavior"] = _behavior(behavior, october=october)
    return sent


def _schedule(fields: Fields, *, october: bool) -> dict[str, Any]:
    cron = fields.get("cron_schedule") or (fields.get("start_interval_seconds") if fields.get("cron") else None)
    interval = None if cron else fields.get("interval") or fields.get("start_interval_seconds")
    if cron:
        return {"cron_schedule": cron} if october else {"cron": True, "start_interval_seconds": cron}
    if interval:
        return {"interval": interval} if october else {"start_interval_seconds": interval}
    return {}


def _behavior(behavior: Fields, *, october: bool) -> dict[str, Any]:
    key, other = ("exit_code_actions", "control") if october else ("control", "exit_code_actions")
    translated = dict(behavior)
    if other in translated:
        actions = translated.pop(other)
        translated.setdefault(key, actions)
    return translated
