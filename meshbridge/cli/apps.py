"""Apps: what there is, how each is, and whether it may run."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshbridge.cli.app_view import STYLES, RunsOption, Seen, look
from meshbridge.cli.completion import AppArgument, AppsArgument, DaemonOption, PatternsArgument
from meshbridge.cli.control import app_path, locate, speaking
from meshbridge.cli.options import ConfigOption, JsonOption
from meshbridge.cli.output import FAILED, complain, show, show_json
from meshbridge.cli.tables import age, print_table

if TYPE_CHECKING:
    from meshbridge.admin.client import Client

__all__ = ["app", "apps", "disable", "enable"]

_HEADER = ("DAEMON", "APP", "STATE", "HEALTH", "PID", "UP", "STARTS", "EXIT", "OWNER")


def apps(
    patterns: PatternsArgument = None,
    *,
    daemon: DaemonOption = None,
    runs: RunsOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the apps of every daemon, with their state.

    Exit code 1 where a daemon can't be asked; the others' apps are listed all the same.
    """
    with speaking(config) as client:
        found, silent = look(client, daemon, patterns or [], runs=runs)
    if as_json:
        show_json([{"daemon": one.daemon, **one.fields} for one in found], indent=2)
    else:
        print_table(_HEADER, [_row(one) for one in found], STYLES)
    for problem in silent:
        complain(problem)
    raise typer.Exit(FAILED if silent else 0)


def _row(one: Seen) -> list[str]:
    fields = one.fields
    return [
        one.daemon,
        one.name,
        one.state,
        one.health,
        str(fields.get("pid") or "-"),
        age(time.time() - one.started) if one.started is not None else "-",
        str(fields.get("starts", "-")),
        str(fields.get("return_code", "-")),
        str(fields.get("owner") or "-"),
    ]


def app(
    name: AppArgument, *, daemon: DaemonOption = None, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Show all that the daemon says of one app."""
    with speaking(config) as client:
        place = locate(client, name, daemon)
    if as_json:
        show_json({"daemon": place.daemon, **place.app}, indent=2)
        return
    import yaml

    # Of a moment the daemon gives a number and a text.
    texts = {key.removesuffix("_TEXT"): value for key, value in place.app.items() if key.endswith("_TEXT")}
    shown = {key: texts.get(key, value) for key, value in place.app.items() if not key.endswith("_TEXT")}
    summary = {"daemon": place.daemon, "state": Seen(place.daemon, place.app).state, **shown}
    for line in yaml.safe_dump(summary, sort_keys=False, allow_unicode=True).splitlines():
        show(line)


def enable(
    names: AppsArgument, *, daemon: DaemonOption = None, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Let apps run, now and as their settings say."""
    _change(names, daemon, "enable", config, as_json=as_json)


def disable(
    names: AppsArgument, *, daemon: DaemonOption = None, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """End apps, and keep them from being started."""
    _change(names, daemon, "disable", config, as_json=as_json)


def _change(names: Sequence[str], daemon: str | None, verb: str, config: Path | None, *, as_json: bool) -> None:
    with speaking(config) as client:
        places = [locate(client, name, daemon) for name in names]  # all are known before the first is changed
        done, refused = [], []
        for name, place in zip(names, places, strict=True):
            answer = _changed(client, app_path(place.daemon, name, f"/{verb}"))
            if isinstance(answer, dict):
                done.append({"daemon": place.daemon, "app": name, "enabled": answer["enabled"]})
                if not as_json:
                    show(f"{place.daemon}: {name} is {verb}d")
            else:
                refused.append(f"{place.daemon}: {name} is not {verb}d: {answer}")
    if as_json:
        show_json(done, indent=2)
    for problem in refused:
        complain(problem)
    raise typer.Exit(FAILED if refused else 0)


def _changed(client: "Client", path: str) -> dict[str, Any] | str:
    """What became of it, or why it was refused."""
    from meshbridge.admin.client import RefusedError

    try:
        answer: dict[str, Any] = client.post(path)
    except RefusedError as refused:
        return str(refused)
    return answer
