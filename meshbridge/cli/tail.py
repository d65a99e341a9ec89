"""``meshbridge tail``: events as they come."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshbridge.cli.completion import EVENTS, DaemonOption, app_patterns, one_of
from meshbridge.cli.control import Patience, chosen_daemons, speaking
from meshbridge.cli.options import ConfigOption, JsonOption, moment
from meshbridge.cli.output import (
    WRONG_USAGE,
    RawOption,
    complain,
    fail,
    new_painter,
    show_json_text,
    while_read,
    writing,
)
from meshbridge.outside import printable

if TYPE_CHECKING:
    from meshbridge.admin.client import Client
    from meshbridge.admin.server_sent import ServerSent

__all__ = ["tail"]

_LOST = "lost"  # of the stream: events were deleted before they could be sent
_SILENCE_SECONDS = 45.0  # three heartbeats of the stream

AppFilter = Annotated[
    list[str] | None,
    typer.Option(
        "--app", "-a", help="Name of an app, or a shell pattern; again for more.", autocompletion=app_patterns
    ),
]
EventFilter = Annotated[
    list[str] | None,
    typer.Option("--event", "-e", help=f"{', '.join(EVENTS)}; again for more.", autocompletion=one_of(EVENTS)),
]
SinceOption = Annotated[str | None, typer.Option(help="Begin with kept events: since 10m (ago), or 2026-11-25T07:00Z.")]
Show = Callable[["ServerSent"], None]


def tail(
    *,
    daemon: DaemonOption = None,
    app: AppFilter = None,
    event: EventFilter = None,
    since: SinceOption = None,
    grep: Annotated[
        str | None,
        typer.Option("--grep", "-g", help="Show only output and errors of exits with this text, in any case."),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many events.")] = None,
    raw: RawOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show live events of every daemon until Ctrl-C, and go on where it was when the bridge has restarted.

    With --json, a CloudEvent a line.
    """
    wanted = [name.lower() for name in event or []]
    for name in wanted:
        if name not in EVENTS:
            fail(f"--event: not {name!r} but one of {', '.join(EVENTS)}", WRONG_USAGE)
    begin = None if since is None else moment("--since", since)
    show = _print_json if as_json else _printer(raw=raw)
    with speaking(config, _SILENCE_SECONDS) as client:
        if daemon is not None:
            chosen_daemons(client, daemon)
        query = {"daemon": daemon, "app": app or [], "event": wanted, "since": begin, "text": grep or None}
        try:
            _follow(client, query, show, count)
        except KeyboardInterrupt:
            return


def _follow(client: "Client", query: dict[str, Any], show: Show, count: int | None) -> None:
    """To the last event of ``count``, or for ever. Once it was there, a bridge that is gone is waited for."""
    from meshbridge.admin.server_sent import ServerSentStream

    patience = Patience()
    stream = ServerSentStream()
    while True:
        headers = {} if stream.last_id is None else {"Last-Event-ID": stream.last_id}
        with patience.trying():
            with client.stream("/api/v1/events", headers, **query) as lines:
                patience.fine()
                for sent in stream.read(while_read(lines)):
                    if sent.event == _LOST:
                        complain(_loss(json.loads(sent.data)))
                        continue
                    with writing():
                        show(sent)
                    count = None if count is None else count - 1
                    if count == 0:
                        return
            raise ConnectionResetError("the stream of events has ended")


def _loss(told: dict[str, Any]) -> str:
    if told.get("events") is None:
        return "the journal is another one now: what came before is unknown"
    return f"{told['events']} events are no longer kept, and were not shown"


def _print_json(sent: "ServerSent") -> None:
    show_json_text(sent.data)


def _printer(*, raw: bool) -> Show:
    from meshbridge.model.event_summary import COLOURS, summary

    paint = new_painter()

    def show(sent: "ServerSent") -> None:
        event = json.loads(sent.data)
        data = event.get("data") or {}
        place = printable(f"{event['source'].removeprefix('appmesh://')}/{event.get('subject', '@daemon')}")
        before = (
            (_time(event["time"]), "bright_black"),
            ("  ", ""),
            (f"{place:<24}", "cyan"),
            ("  ", ""),
            (f"{sent.event:<7}", COLOURS.get(sent.event, "default")),
            ("  ", ""),
        )
        after = ("  (found by looking)" if event.get("reconciled") else "", "bright_black")
        for line in _written(data) if sent.event == "stdout" else [summary(sent.event, data)]:
            paint(*before, (line, ""), after, raw=raw)

    return show


def _written(data: dict[str, Any]) -> list[str]:
    """The lines of output in an event."""
    return str(data.get("output", "")).rstrip("\n").split("\n")


def _time(moment: str) -> str:
    """An event's time (RFC 3339) in this host's zone; with its date where that is not today."""
    local = datetime.fromisoformat(moment).astimezone()
    today = datetime.now().astimezone().date()
    return f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M:%S}"
