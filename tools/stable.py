"""``python -m tools.stable`` writes ``tests/data/stable/``: the names that users rely on, one a line.

docs/stability.md says what each list promises. A test compares them with the code: a new name is added by running this,
and a name that goes needs its entry in CHANGELOG.md.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType

import orjson

import meshbridge.appmesh
from meshbridge.admin.problems import ProblemKind
from meshbridge.journal.tables import SCHEMA_VERSION
from meshbridge.model.events import Event, EventType, cloudevent
from meshbridge.sinks import base
from tools import api, configuration, logs, manpage, metrics

__all__ = ["FOLDER", "LISTS", "kept", "main", "present"]

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "stable"


def _configuration() -> Iterator[str]:
    """``sinks.<name>.url`` for a key of every kind of sink, ``sinks.<name> (mqtt): qos`` for one of a kind alone."""
    for setting in configuration.catalogue():
        yield f"{setting.table}: {setting.key}" if "(" in setting.table else setting.path


def _environment() -> Iterator[str]:
    return (setting.environment for setting in configuration.catalogue())


def _command_line() -> Iterator[str]:
    for command in manpage.commands():
        yield command.name
        for parameter in command.options:
            yield from (f"{command.name} {name}" for name in parameter.names)


def _metrics() -> Iterator[str]:
    return (f"{metric.name}{{{','.join(metric.labels)}}} {metric.type}" for metric in metrics.catalogue())


def _api() -> Iterator[str]:
    for operation in api.operations():
        yield f"{operation.method} {operation.path} {operation.scope or 'open'}"
    yield from (f"problem {kind}" for kind in ProblemKind)


def _logs() -> Iterator[str]:
    return (event.name for event in logs.catalogue())


def _sdk() -> Iterator[str]:
    """Each name with its parameters, without annotations and defaults."""
    for name in meshbridge.appmesh.__all__:
        value = getattr(meshbridge.appmesh, name)
        yield name
        if inspect.isclass(value):
            yield from _methods(name, value)


def _methods(name: str, of: type) -> Iterator[str]:
    for attribute, value in inspect.getmembers_static(of):
        if attribute.startswith("_"):
            continue
        if isinstance(value, classmethod | staticmethod):
            value = value.__func__  # noqa: PLW2901
        if isinstance(value, FunctionType):
            yield f"{name}.{attribute}({', '.join(inspect.signature(value).parameters)})"
        elif not inspect.isroutine(value):
            yield f"{name}.{attribute}"


def _events() -> Iterator[str]:
    """How an event of each type is named and described, by specimens."""
    for kind in EventType:
        body = orjson.dumps({"event_type": kind.name, "app_name": "web", "data": {}})
        for reconciled in (False, True):
            event = Event("node-a", "1700000000", 7, kind, "web", 0.0, body, "uuid", reconciled)
            attributes = orjson.loads(cloudevent(event))
            yield from (f"{kind.name.lower()}: {name} {attributes[name]}" for name in ("id", "source", "type"))
            yield from (f"{kind.name.lower()}: attribute {name}" for name in attributes)


def _sinks() -> Iterator[str]:
    """The interface for sinks of other packages."""
    for name in base.__all__:
        value = getattr(base, name)
        yield name
        yield from _methods(name, value) if inspect.isclass(value) else ()


def _journal() -> Iterator[str]:
    yield f"schema {SCHEMA_VERSION}"


LISTS: Mapping[str, Callable[[], Iterable[str]]] = {
    "api": _api,
    "command-line": _command_line,
    "configuration": _configuration,
    "environment": _environment,
    "events": _events,
    "journal": _journal,
    "logs": _logs,
    "metrics": _metrics,
    "sdk": _sdk,
    "sinks": _sinks,
}


@cache
def present(name: str) -> list[str]:
    """What the code has."""
    return sorted(set(LISTS[name]()))


def kept(name: str) -> list[str]:
    """What the list in the repository has."""
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Writes every list."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in LISTS:
        (FOLDER / f"{name}.txt").write_text("\n".join([*present(name), ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
