"""``meshbridge status``: what is wrong with the running bridge, and what to do about it."""

import time
from collections.abc import Callable
from typing import Any

import typer

from meshbridge.cli.control import speaking
from meshbridge.cli.options import ConfigOption, JsonOption
from meshbridge.cli.output import FAILED, fail, new_painter, show_json
from meshbridge.cli.tables import age, size
from meshbridge.outside import said

__all__ = ["status"]

_MARKS = {"ok": "ok  ", "warning": "warn", "critical": "CRIT"}
_STYLES = {"ok": "green", "warning": "bold yellow", "critical": "bold red"}


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what is wrong with the running bridge, and what to do. Exit code 1 when something is.

    Critical: act now. Warning: act within a day.
    """
    with speaking(config) as client:
        found: dict[str, Any] = client.get("/api/v1/bridge")
    if "problems" not in found:
        fail(f"the running bridge has version {found['version']}, which lists no problems: restart it")
    problems = found["problems"]
    severities = {problem["severity"] for problem in problems}
    verdict = next((one for one in ("critical", "warning") if one in severities), "ok")
    if as_json:
        show_json({"status": verdict, **found}, indent=2)
    else:
        paint = new_painter()
        for problem in problems:
            _show(problem, paint)
        paint(_mark(verdict), (f" {_summary(found)}", ""))
    raise typer.Exit(FAILED if problems else 0)


def _show(problem: dict[str, Any], paint: Callable[..., None]) -> None:
    since = f", since {age(time.time() - problem['since'])}" if problem["since"] else ""
    paint(_mark(problem["severity"]), (f" {said(problem['where'])}{since}: {said(problem['text'])}", ""))
    paint((f"     -> {said(problem['remedy'])} ({problem['runbook']})", ""))


def _mark(severity: str) -> tuple[str, str]:
    return _MARKS[severity], _STYLES[severity]


def _summary(found: dict[str, Any]) -> str:
    journal = found["journal"]
    waiting = max((sink["lag_events"] for sink in found["sinks"]), default=0)
    parts = [
        f"{len(found['problems']) or 'no'} {'problem' if len(found['problems']) == 1 else 'problems'}",
        f"{_up(found['daemons'])} daemons up",
        f"{_up(found['sinks'])} sinks up",
        f"{waiting} events waiting",
        f"journal {size(journal['bytes'])} of {size(journal['max_bytes'])}",
    ]
    return f"meshbridge {found['version']}: {', '.join(parts)}"


def _up(parts: list[dict[str, Any]]) -> str:
    return f"{sum(part['state'] == 'up' for part in parts)} of {len(parts)}"
