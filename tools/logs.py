"""``python -m tools.logs`` writes the table of ``docs/logs.md`` from the calls that log."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from meshbridge import telemetry

__all__ = ["PAGE", "LogEvent", "catalogue", "updated"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "logs.md"
_BEGIN, _END = "<!-- log events: begin -->\n", "<!-- log events: end -->\n"
_LEVELS = ("error", "warning", "info", "debug", "exception")
_UNSAID = frozenset({"exc_info", "hint"})


class LogEvent(NamedTuple):
    """One kind of line in the log."""

    name: str
    level: str
    fields: tuple[str, ...]
    hint: str


def catalogue() -> list[LogEvent]:
    """Every event that the product logs, by name; one that is logged at several levels stands at the highest."""
    found: dict[str, LogEvent] = {}
    for path in sorted((ROOT / "meshbridge").rglob("*.py")):
        if "emulator" in path.parts or path.name == "demo.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            for event in _events(call):
                before = found.get(event.name)
                found[event.name] = event if before is None else _merged(before, event)
    return sorted(found.values())


def _events(call: ast.Call) -> Iterator[LogEvent]:
    """``log.warning("daemon restarted", daemon=…)``, also where the level or the name is chosen by a condition."""
    levels = list(_levels(call.func))
    if not levels or not call.args:
        return
    keywords = {word.arg: word.value for word in call.keywords if word.arg is not None}
    for name in _texts(call.args[0]):
        level = min(levels, key=_LEVELS.index)
        level = "error" if level == "exception" else level
        yield LogEvent(name, level, tuple(key for key in keywords if key not in _UNSAID), _hint(keywords))


def _levels(function: ast.expr) -> Iterator[str]:
    if isinstance(function, ast.IfExp):
        yield from _levels(function.body)
        yield from _levels(function.orelse)
    elif isinstance(function, ast.Attribute) and function.attr in _LEVELS:
        owner = function.value
        if (isinstance(owner, ast.Name) and owner.id == "log") or (
            isinstance(owner, ast.Attribute) and owner.attr == "log"
        ):
            yield function.attr


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def _hint(keywords: Mapping[str, ast.expr]) -> str:
    node = keywords.get("hint")
    if isinstance(node, ast.Name) and isinstance(value := getattr(telemetry, node.id, None), str):
        return value
    return next(_texts(node), "") if node is not None else ""


def _merged(one: LogEvent, other: LogEvent) -> LogEvent:
    level = min(one.level, other.level, key=_LEVELS.index)
    return LogEvent(one.name, level, tuple(dict.fromkeys(one.fields + other.fields)), one.hint or other.hint)


def _table() -> str:
    rows = ["| event | level | fields | what to do |", "| --- | --- | --- | --- |"]
    for event in catalogue():
        fields = ", ".join(f"`{field}`" for field in event.fields)
        rows.append(f"| `{event.name}` | {event.level} | {fields} | {event.hint} |")
    return "\n".join(rows) + "\n"


def updated(page: str) -> str:
    """The page with the table as it is now."""
    head, rest = page.split(_BEGIN)
    return head + _BEGIN + "\n" + _table() + "\n" + _END + rest.split(_END)[1]


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
