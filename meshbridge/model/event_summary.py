"""What a person reads of an event, in a line."""

from collections.abc import Callable, Mapping
from typing import Any

from meshbridge.appmesh.dialect import status_of
from meshbridge.outside import printable

__all__ = ["COLOURS", "printable", "summary"]

COLOURS = {
    "start": "green",
    "exit": "red",
    "stdout": "default",
    "health": "yellow",
    "status": "magenta",
    "removed": "bright_black",
    "gap": "bold red",
}
"""By an event's label, as rich calls them."""


def summary(label: str, data: Mapping[str, Any]) -> str:
    """``exit code 3``; what an app has written stands in one line, its line ends as ⏎."""
    return printable(_SUMMARIES.get(label, _all)(data))


def _all(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in data.items())


def _missed(data: Mapping[str, Any]) -> str:
    missed = data.get("missed")
    return "an unknown number of events missed" if missed is None else f"{missed} events missed"


_SUMMARIES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "stdout": lambda data: str(data.get("output", "")).rstrip("\n").replace("\n", " ⏎ "),
    "start": lambda data: f"pid {data.get('pid')}",
    "exit": lambda data: f"exit code {data.get('exit_code')}",
    "health": lambda data: "healthy" if data.get("health") == 0 else "unhealthy",
    "status": lambda data: str(status_of(data)),
    "gap": _missed,
}
