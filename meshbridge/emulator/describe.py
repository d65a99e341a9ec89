"""The app JSON that the daemon reports (docs/protocol.md, 'App JSON'). A field without a value is left out."""

import json
import time
from typing import Any

from meshbridge.emulator import clock, procfs
from meshbridge.emulator.application import CLIENT_FIELDS, ONE_OFF, Application


def describe(app: Application, processes: procfs.Snapshot, *, arguments: bool) -> dict[str, Any]:
    """The app as it is now. ``arguments``: whether the process tree shows command lines (``get_app`` does)."""
    definition = app.definition
    shown: dict[str, Any] = {
        name: definition[name] for name in CLIENT_FIELDS if definition.get(name) not in (None, "", {}, 0)
    }
    shown["behavior"] = behavior(definition)
    if "start_interval_seconds" in definition:
        shown["start_interval_seconds"] = str(definition["start_interval_seconds"])
    if "daily_limitation" in shown:
        shown["daily_limitation"] = _daily(shown["daily_limitation"])
    if "metadata" in shown:
        shown["metadata"] = _parsed(shown["metadata"])
    shown |= {
        "name": app.name,
        "owner": app.owner,
        "status": app.status if app.listed_status is None else app.listed_status,
        "health": app.health,
        "starts": app.starts,
        "last_error": app.last_error or None,
        "return_code": app.return_code,
        "stdout_cache_size": app.output.count or None,
    }
    for name, moment in (
        ("register_time", app.register_time),
        ("last_start_time", app.last_start_time),
        ("last_exit_time", app.last_exit_time),
        ("next_start_time", app.next_start_time),
        ("start_time", app.schedule.start_time),
        ("end_time", app.schedule.end_time),
    ):
        if moment is not None:
            shown[name] = moment
            shown[f"{name}_TEXT"] = clock.text(moment)
    if app.process is not None and app.process.running:
        shown |= _process(app, app.process.pid, processes, arguments=arguments)
    return {name: value for name, value in shown.items() if value is not None}


def behavior(definition: dict[str, Any]) -> dict[str, Any]:
    given = definition.get("behavior") or {}
    control = given.get("control")
    return {**({"control": control} if control else {}), "exit": given.get("exit") or "standby"}


def shown_in_metrics(app: Application) -> bool:
    """One-off runs have no series."""
    return app.status != ONE_OFF


def cpu_percent(app: Application, cpu_seconds: float) -> float:
    """Since it was last asked for; 0 the first time, like the daemon."""
    now = time.monotonic()
    previous, app.cpu_sample = app.cpu_sample, (now, cpu_seconds)
    if previous is None or now <= previous[0]:
        return 0.0
    return max(0.0, cpu_seconds - previous[1]) / (now - previous[0]) * 100


def _process(app: Application, pid: int, processes: procfs.Snapshot, *, arguments: bool) -> dict[str, Any]:
    usage = processes.usage(pid)
    return {
        "pid": pid,
        "pid_user": procfs.process_user(pid),
        "pstree": processes.tree_text(pid, arguments=arguments),
        "memory": usage.memory_bytes,
        "cpu": cpu_percent(app, usage.cpu_seconds),
        "fd": usage.open_fds,
        "task_id": app.tasks.task_id,
        "task_status": app.tasks.status,
    }


def _daily(limits: dict[str, int]) -> dict[str, Any]:
    texts = {f"{name}_TEXT": clock.text(second)[11:] for name, second in limits.items()}
    return {**limits, **texts}


def _parsed(metadata: Any) -> Any:
    """Text that is JSON comes back as what it says."""
    if not isinstance(metadata, str):
        return metadata
    try:
        return json.loads(metadata)
    except ValueError:
        return metadata
