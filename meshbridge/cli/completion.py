"""The words that name daemons and apps. A shell completes them with what the running bridge knows."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshbridge.cli.control import journal_directory, of_each

if TYPE_CHECKING:
    from meshbridge.admin.client import Client

__all__ = [
    "EVENTS",
    "AppArgument",
    "AppsArgument",
    "DaemonOption",
    "PatternsArgument",
    "app_patterns",
    "is_harmless",
    "one_of",
]

EVENTS = ("start", "exit", "stdout", "health", "status", "removed", "gap")
_HARMLESS = re.compile(r"[\w@%+=:,./-]+")
_COMPLETION_SECONDS = 2.0  # a person waits for it at the Tab key


def is_harmless(name: str) -> bool:
    """Whether a shell may be offered this name: it puts the word into the line as it is, unquoted."""
    return _HARMLESS.fullmatch(name) is not None


def one_of(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Completes one of ``words``."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _daemons(ctx: typer.Context, incomplete: str) -> list[str]:
    return _known(ctx, incomplete, _names_of_daemons)


def app_patterns(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completes the name of an app that is not among the words yet."""
    given = {name for key in ("names", "patterns", "app") for name in ctx.params.get(key) or ()}

    def names(client: "Client") -> Iterator[str]:
        daemon = ctx.params.get("daemon")
        daemons = [daemon] if daemon else _names_of_daemons(client)
        for _, apps in of_each(client, daemons, "/apps"):
            if isinstance(apps, list):
                yield from (app["name"] for app in apps if app["name"] not in given)

    return _known(ctx, incomplete, names)


def _names_of_daemons(client: "Client") -> list[str]:
    return [link["name"] for link in client.get("/api/v1/daemons")]


def _known(ctx: typer.Context, incomplete: str, ask: Any) -> list[str]:
    """Nothing where no bridge runs, or it is slow: a shell that completes must not complain."""
    from meshbridge.admin.client import Client, NotRunningError, RefusedError

    config = ctx.params.get("config") or os.environ.get("MESHBRIDGE_CONFIG")
    try:
        file = Path(config) if config else None
        client = Client(journal_directory(file), _COMPLETION_SECONDS, file)
        return sorted({name for name in ask(client) if name.startswith(incomplete) and is_harmless(name)})
    except (NotRunningError, RefusedError, OSError, ValueError):
        return []


DaemonOption = Annotated[
    str | None,
    typer.Option(
        "--daemon",
        "-d",
        help="Name of the daemon; without it, whichever has the app, or all.",
        autocompletion=_daemons,
    ),
]
AppArgument = Annotated[str, typer.Argument(help="Name of the app.", show_default=False, autocompletion=app_patterns)]
AppsArgument = Annotated[
    list[str], typer.Argument(help="Names of the apps.", show_default=False, autocompletion=app_patterns)
]
PatternsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Names of apps, or shell patterns such as 'web-*'; default: all.", autocompletion=app_patterns),
]
