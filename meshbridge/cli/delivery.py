"""An operator's hand on delivery: sinks, replays, dead letters."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from meshbridge.cli.control import speaking, speaking_of_journal
from meshbridge.cli.options import ConfigOption, JsonOption, load_settings, moment
from meshbridge.cli.output import FAILED, WRONG_USAGE, fail, new_console, show, show_json
from meshbridge.cli.tables import age, print_table

if TYPE_CHECKING:
    from meshbridge.admin.client import Client

__all__ = ["clear", "commands", "dead_letters", "drop", "pause", "replay", "resume", "retry", "sinks"]

_BRIDGE = "/api/v1/bridge"
_CLEAR_SECONDS = 15.0
_LOOK_SECONDS = 0.2  # at a replay's progress
_PAGE = 1000  # dead letters at a time

SinkOption = Annotated[str | None, typer.Option("--sink", "-s", help="Of this sink only.")]
IdArguments = Annotated[list[int] | None, typer.Argument(help="Ids, as `dead-letters list` shows them.")]
AllOption = Annotated[bool, typer.Option("--all", help="Of every sink.")]


# --- sinks ---------------------------------------------------------------------------------------------------------


def sinks(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show how each sink is, and what waits for it."""
    with speaking(config) as client:
        found = client.get(f"{_BRIDGE}/sinks")
    if as_json:
        show_json(found, indent=2)
        return
    rows = [
        (
            one["sink"],
            one["state"],
            str(one["delivered"]),
            str(one["lag_events"]),
            age(one["lag_seconds"]) if one["lag_events"] else "",
            str(one["dead_letters"]),
            one["last_error"] or "",
        )
        for one in found
    ]
    print_table(("SINK", "STATE", "DELIVERED", "WAITING", "FOR", "DEAD", "LAST ERROR"), rows)


def pause(sink: Annotated[str, typer.Argument(help="Name of the sink.")], config: ConfigOption = None) -> None:
    """Pause delivery to a sink until it is resumed, or the bridge is restarted. Its events are kept."""
    with speaking(config) as client:
        client.post(f"{_BRIDGE}/sinks/{quote(sink, safe='')}/pause")
    show(f"{sink} is paused")


def resume(sink: Annotated[str, typer.Argument(help="Name of the sink.")], config: ConfigOption = None) -> None:
    """Resume delivery to a sink: after a pause, during a wait, or after its destination ended it (HTTP 410)."""
    with speaking(config) as client:
        client.post(f"{_BRIDGE}/sinks/{quote(sink, safe='')}/resume")
    show(f"{sink} goes on")


def clear(
    sink: Annotated[str, typer.Argument(help="Name of the sink whose broker is to be cleared.")],
    every: Annotated[
        bool, typer.Option("--all", help="Also what belongs to the daemons of this configuration.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Clear without a question.")] = False,
    config: ConfigOption = None,
) -> None:
    """Clear retained topics that former bridges, sinks and daemons have left at the broker of an MQTT sink.

    Shows what it finds under the sink's topics: of bridges that are offline, and of daemons that are not in this
    configuration. Answer no where another bridge uses them. Exit code 1 when something is left.
    """
    from meshbridge.sinks.base import SinkError
    from meshbridge.sinks.mqtt.sink import MqttOptions

    settings = load_settings(config)
    options = settings.sinks.get(sink)
    if options is None:
        fail(f"there is no sink {sink!r} in the configuration (there are: {', '.join(settings.sinks)})", WRONG_USAGE)
    if not isinstance(options, MqttOptions):
        fail(f"sink {sink} is not of type mqtt, and leaves nothing at its destination", WRONG_USAGE)
    leftovers = options.leftovers()
    try:
        found = leftovers.find([] if every else list(settings.daemons), _CLEAR_SECONDS)
        for topic in found:
            show(topic)
        if not found:
            show("nothing is left")
            return
        if not yes and not typer.confirm(f"Clear these {len(found)} topics?"):
            raise typer.Exit(FAILED)
        refused = leftovers.clear(found, _CLEAR_SECONDS)
    except SinkError as error:
        fail(str(error))
    show(f"{len(found) - len(refused)} topics cleared")
    if refused:
        fail(f"the broker does not let this user clear {', '.join(refused)}")


def commands(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the last commands that the running bridge received over MQTT, and how each ended. The newest first."""
    with speaking(config) as client:
        found = client.get(f"{_BRIDGE}/commands")
    if as_json:
        show_json(found, indent=2)
        return
    if not found:
        show("no commands")
        return
    now = time.time()
    rows = [
        (
            f"{age(now - one['at'])} ago",
            one["sink"],
            one["daemon"],
            one["app"],
            one["command"],
            one["result"],
            "" if one["duration_seconds"] is None else f"{one['duration_seconds']:.2f} s",
            one["id"] or "",
            one["error"] or "",
        )
        for one in found
    ]
    header = ("ENDED", "SINK", "DAEMON", "APP", "COMMAND", "RESULT", "TOOK", "ID", "ERROR")
    print_table(header, rows, {"ok": "green", "failed": "red"})


# --- replays -------------------------------------------------------------------------------------------------------


def replay(
    *,
    sink: Annotated[str, typer.Option("--sink", "-s", help="Where the events are to go again.")],
    since: Annotated[str | None, typer.Option(help="Kept since: 1h (ago), or 2026-11-25T07:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Kept until, in the same way.")] = None,
    app: Annotated[list[str] | None, typer.Option("--app", "-a", help="Shell pattern of app names; repeat.")] = None,
    event: Annotated[
        list[str] | None, typer.Option("--event", "-e", help="Name of an event such as EXIT; repeat for more.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let kept events pass to a sink again, beside what is new, marked as replayed. Ctrl-C ends it.

    Without --since, all that the journal keeps. Exit code 1 when the sink refused some of them.
    """
    wanted = {
        "since": None if since is None else moment("--since", since),
        "until": None if until is None else moment("--until", until),
        "when": {"events": event or [], "apps": app or []},
    }
    with speaking(config) as client:
        began = client.post(f"{_BRIDGE}/sinks/{quote(sink, safe='')}/replays", wanted)
        try:
            with _progress(shown=sys.stderr.isatty()) as advance:
                end = _followed(client, began["id"], advance)
        except KeyboardInterrupt:
            client.delete(f"{_BRIDGE}/replays/{began['id']}")
            end = _followed(client, began["id"], lambda _status: None)
    if as_json:
        show_json(end, indent=2)
    else:
        show(f"{end['state']}: {_said(end)}")
    if end["refused"]:
        raise typer.Exit(FAILED)


def _followed(client: "Client", replay: str, advance: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    while True:
        status: dict[str, Any] = client.get(f"{_BRIDGE}/replays/{replay}")
        advance(status)
        if status["state"] in {"done", "cancelled"}:
            return status
        time.sleep(_LOOK_SECONDS)


def _said(status: dict[str, Any]) -> str:
    refused = f", {status['refused']} refused: see dead-letters list" if status["refused"] else ""
    return f"{status['sent']} of the {status['total']} events looked at sent again to {status['sink']}{refused}"


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on standard error, for a person."""
    if not shown:
        yield lambda _status: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=new_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def advance(status: dict[str, Any]) -> None:
            progress.update(
                task, total=status["total"], completed=status["looked_at"], description=f"{status['sent']} sent"
            )

        yield advance


# --- dead letters --------------------------------------------------------------------------------------------------


def dead_letters(sink: SinkOption = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the events that a destination has refused for good, and why. With --json, one a line."""
    with speaking_of_journal(config) as client:
        found = list(_letters(client, sink))
    if as_json:
        for letter in found:
            show_json(letter)
    elif not found:
        show("no dead letters")
    else:
        now = time.time()
        rows = [
            (
                str(one["id"]),
                one["sink"],
                f"{age(now - one['refused_at'])} ago",
                one["event"],
                one["type"],
                one["app"],
                "to be retried" if one["retry"] else one["reason"],
                one["error"],
            )
            for one in found
        ]
        print_table(("ID", "SINK", "REFUSED", "EVENT", "TYPE", "APP", "REASON", "ANSWER"), rows)


def _letters(client: "Client", sink: str | None) -> Iterator[dict[str, Any]]:
    after = 0
    while page := client.get(f"{_BRIDGE}/dead-letters", sink=sink, after=after, limit=_PAGE):
        yield from page
        after = page[-1]["id"]


def retry(
    ids: IdArguments = None, sink: SinkOption = None, all_of_them: AllOption = False, config: ConfigOption = None
) -> None:
    """Offer dead letters again: by ids, of a sink, or all. One that is taken is no more."""
    show(f"{_change('retry', ids, sink, config, all_of_them=all_of_them)} to be offered again")


def drop(
    ids: IdArguments = None, sink: SinkOption = None, all_of_them: AllOption = False, config: ConfigOption = None
) -> None:
    """Forget dead letters for good: by ids, of a sink, or all."""
    show(f"{_change('drop', ids, sink, config, all_of_them=all_of_them)} dropped")


def _change(what: str, ids: list[int] | None, sink: str | None, config: Any, *, all_of_them: bool) -> int:
    if not (ids or sink or all_of_them):
        fail("say which: ids, --sink, or --all", WRONG_USAGE)
    with speaking_of_journal(config) as client:
        changed: int = client.post(f"{_BRIDGE}/dead-letters/{what}", {"sink": sink, "ids": ids or []})["changed"]
    if ids and changed < len(set(ids)):
        fail(f"{changed} of {len(set(ids))}: the others are no dead letters{f' of {sink}' if sink else ''} (any more)")
    return changed
