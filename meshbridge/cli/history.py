"""``meshbridge history``: which processes of apps ran, and how each ended."""

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshbridge.cli.completion import PatternsArgument
from meshbridge.cli.control import speaking_of_journal
from meshbridge.cli.options import ConfigOption, JsonOption, moment
from meshbridge.cli.output import WRONG_USAGE, complain, fail, show, show_json
from meshbridge.cli.tables import age, print_table

if TYPE_CHECKING:
    from meshbridge.admin.client import Client

__all__ = ["history"]

_PAGE = 1000
_HEADER = ("DAEMON", "APP", "START", "END", "RAN", "EXIT", "RESTARTS", "NOTE")
_STYLES = {"running": "green", "from a comparison": "bright_black"}


def history(
    patterns: PatternsArgument = None,
    *,
    daemon: Annotated[str | None, typer.Option("--daemon", "-d", help="Of this daemon only; a shell pattern.")] = None,
    since: Annotated[str, typer.Option(help="Running since then: 24h (ago), or 2026-11-25T07:00Z.")] = "24h",
    until: Annotated[str | None, typer.Option(help="Started until then, in the same way.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the processes of apps that ran in a time, the last start at the end, and how each ended.

    RESTARTS counts how often the app was started again after a failure, in the hour up to that start. Where no bridge
    runs, the journal is read itself.
    """
    begin = moment("--since", since)
    end = None if until is None else moment("--until", until)
    if begin >= (time.time() if end is None else end):
        fail("--since is not before --until", WRONG_USAGE)
    query = {"app": patterns or [], "daemon": daemon, "since": begin, "until": end, "limit": _PAGE}
    with speaking_of_journal(config) as client:
        runs, complete, cut = _all(client, query)
    if as_json:
        show_json(runs, indent=2)
    elif runs:
        print_table(_HEADER, [_row(run) for run in runs], _STYLES)
    else:
        show("no process ran in that time, as far as the journal tells")
    if not complete:
        complain("events of an older meshbridge are still being read: more may follow in a minute")
    if cut:
        complain("more happened than one question looks at: only the end is shown, so choose a shorter time")


def _all(client: "Client", query: dict[str, Any]) -> tuple[list[dict[str, Any]], bool, bool]:
    """All pages, the earliest start first."""
    found: list[dict[str, Any]] = []
    after, complete = None, True
    while True:
        page = client.get("/api/v1/bridge/history", **query, before=after)
        found += page["runs"]
        after, complete = page["next"], complete and page["complete"]
        if after is None:
            return found[::-1], complete, page["cut"]


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    code = run["exit_code"]
    ended = run["end"] is not None
    return (
        run["daemon"],
        run["app"],
        _time(run["start"]),
        _time(run["end"]) if ended else "running",
        "?" if run["duration"] is None else age(run["duration"]),
        "" if not ended else "?" if code is None else str(code),
        str(run["restarts"]),
        "from a comparison" if run["reconciled"] else "",
    )


def _time(unix: float | None) -> str:
    if unix is None:
        return "?"
    try:
        return f"{datetime.fromtimestamp(unix).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):  # a daemon's clock may say anything
        return f"{unix:.0f}"
