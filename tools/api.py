"""``python -m tools.api`` writes the tables of operations in ``api.md`` from the API itself."""

import asyncio
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

from fastapi import FastAPI, Request

from meshbridge.admin.application import new_application
from meshbridge.admin.auth import Scope
from meshbridge.admin.interface import Bridge
from meshbridge.admin.options import AdminOptions
from meshbridge.admin.problems import MEANINGS, Problem
from meshbridge.journal import Journal, JournalOptions

__all__ = ["PAGE", "Operation", "operations", "updated"]

PAGE = Path(__file__).parents[1] / "docs" / "api.md"

_PROBLEMS = re.compile(r"(<!-- problems -->\n).*?(<!-- end -->)", re.DOTALL)
_TABLE = re.compile(r"(<!-- areas: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Operation:
    """One line of a table; ``scope`` is None where anybody may."""

    area: str
    method: str
    path: str
    scope: Scope | None
    sdk: tuple[str, ...]
    summary: str


def operations() -> list[Operation]:
    """All that the API's description has."""
    asked: list[Scope] = []

    def gate(_request: Request, scope: Scope) -> None:
        asked.append(scope)
        if len(asked) > 1:  # the first to ask is the door, on behalf of every call
            raise Problem(HTTPStatus.FORBIDDEN, "only asked")

    with tempfile.TemporaryDirectory() as directory:
        options = AdminOptions(audit_file=Path(directory) / "audit.log")  # to be asked is nothing for the log
        application = new_application(_nobodys(Path(directory)), gate, options)
        found = []
        for path, methods in application.openapi()["paths"].items():
            for method, described in methods.items():
                asked.clear()
                asyncio.run(_ask(application, method.upper(), re.sub(r"\{\w+\}", "x", path)))
                (area,) = described.get("tags", ["bridge"])
                scope = asked[1] if len(asked) > 1 else None
                sdk = tuple(described.get("x-sdk", ()))
                found.append(Operation(area, method.upper(), path, scope, sdk, _meaning(described)))
    return found


def _meaning(described: dict[str, Any]) -> str:
    text = str(described.get("description", described.get("summary", "")))
    return " ".join(text.split("\n\n", maxsplit=1)[0].split()).replace("|", r"\|").replace("``", "`")


def _nobodys(directory: Path) -> Bridge:
    def nothing(*_: object, **__: object) -> NoReturn:
        raise LookupError("nothing is here")

    journal = Journal(JournalOptions(path=directory))
    return Bridge(sinks=list, links=list, journal=journal, explain=nothing, reload=nothing, client=nothing)


async def _ask(application: FastAPI, method: str, path: str) -> None:
    """One call, of which only the gate matters."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: object) -> None:
        pass

    head = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [], "http_version": "1.1"}
    await application({**head, "scheme": "http", "server": None, "client": None, "root_path": ""}, receive, send)


def updated(page: str) -> str:
    """The page with new tables; each stands after a comment that names its areas.

    Raises:
        LookupError: an area has no table, or a table no area.

    """
    by_area: dict[str, list[Operation]] = {}
    for operation in operations():
        by_area.setdefault(operation.area, []).append(operation)
    named = [area for found in _TABLE.finditer(page) for area in found[2].split()]
    if sorted(named) != sorted(by_area):
        raise LookupError(f"api.md has tables of {sorted(named)}, and the API the areas {sorted(by_area)}")

    def table(found: re.Match[str]) -> str:
        return found[1] + _table(one for area in found[2].split() for one in by_area[area]) + found[3]

    return _PROBLEMS.sub(lambda found: found[1] + _problems() + found[2], _TABLE.sub(table, page))


def _problems() -> str:
    lines = ["| kind | what it means, and what to do |", "| --- | --- |"]
    lines += [f'| <a id="{kind}"></a>`{kind}` | {meaning} |' for kind, meaning in MEANINGS.items()]
    return "\n".join([*lines, ""])


def _table(found: Iterable[Operation]) -> str:
    lines = ["| operation | scope | SDK | what it does |", "| --- | --- | --- | --- |"]
    for one in found:
        sdk = " ".join(f"`{method}`" for method in one.sdk)
        lines.append(f"| `{one.method} {one.path}` | {one.scope or 'none'} | {sdk} | {one.summary} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
