"""What the journal holds, and what becomes of an event."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from meshbridge.cli.control import speaking, speaking_of_journal
from meshbridge.cli.options import ConfigOption, JsonOption, load_settings
from meshbridge.cli.output import FAILED, WRONG_USAGE, fail, show, show_json
from meshbridge.cli.tables import age, print_table, size

__all__ = ["explain", "stats", "verify"]

_BRIDGE = "/api/v1/bridge"
_VERIFY_SECONDS = 3600.0  # all of it is read


def stats(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show how much the journal keeps, since when, and where each sink stands in it."""
    with speaking_of_journal(config) as client:
        found = client.get(f"{_BRIDGE}/journal")
    if as_json:
        show_json(found, indent=2)
        return
    oldest = found["oldest_received_at"]
    kept = (
        ""
        if oldest is None
        else f", the oldest {age(time.time() - oldest)} old (kept for {age(found['max_age_seconds'])})"
    )
    show(f"{found['path']}: {found['events']} events{kept}")
    show(f"{size(found['bytes'])} of at most {size(found['max_bytes'])}")
    if found["held_events"]:
        show(f"{found['held_events']} events in memory, since the disk cannot be written: {found['last_error']}")
    if found["sinks"]:
        rows = [
            (name, str(one["offset"]), str(one["lag_events"]), str(one["dead_letters"]))
            for name, one in found["sinks"].items()
        ]
        print_table(("SINK", "OFFSET", "WAITING", "DEAD"), rows)


def verify(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Read all of the journal and compare each event with its checksum. Exit code 1 when something is damaged.

    A bridge that runs mends what is damaged; the journal of one that does not is left as it is.
    """
    from meshbridge.admin.client import NotRunningError

    with speaking(config, _VERIFY_SECONDS) as client:
        try:
            found = client.post(f"{_BRIDGE}/journal/verify")
        except NotRunningError:
            found = _verify_closed(config)
    if as_json:
        show_json(found, indent=2)
    else:
        for problem in found["problems"]:
            show(problem)
        verdict = f"{found['damaged']} damaged" if found["damaged"] or found["problems"] else "none damaged"
        show(f"{found['path']}: {found['events']} events read in {found['seconds']:.1f} s, {verdict}")
    if found["damaged"] or found["problems"]:
        raise typer.Exit(FAILED)


def _verify_closed(config: Path | None) -> dict[str, Any]:
    settings = load_settings(config)
    from dataclasses import asdict

    from meshbridge.journal import JournalError
    from meshbridge.service.offline import verify_closed

    try:
        return asdict(verify_closed(settings))
    except JournalError as error:
        fail(str(error))


def explain(
    event: Annotated[
        str | None, typer.Argument(help="Id of an event that the journal keeps; or the payload of a command.")
    ] = None,
    *,
    letter: Annotated[
        int | None, typer.Option(min=1, help="Id of a dead letter: what its sink would send now.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="An event as JSON, from the daemon or as a CloudEvent; - reads it."),
    ] = None,
    daemon: Annotated[str | None, typer.Option("--daemon", "-d", help="Whose event the file's is.")] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--command", metavar="TOPIC", help="Explain a command at this topic; the argument is its payload."
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what becomes of an event: which sinks it goes to, by which rule, and what each would get. Sends nothing.

    With --command TOPIC PAYLOAD: what a command that arrives at this topic would do, or which rule refuses it.
    """
    if command is not None:
        _explain_command(command, event, config, as_json=as_json)
        return
    if sum(one is not None for one in (event, letter, file)) != 1:
        fail("give the id of an event, or --letter, or --file", WRONG_USAGE)
    asked = {"id": event, "letter": letter, "event": None if file is None else _read(file), "daemon": daemon}
    with speaking_of_journal(config) as client:
        found = client.post(f"{_BRIDGE}/explain", asked)
    if as_json:
        show_json(found, indent=2)
        return
    if not found:
        show("there are no sinks")
    for one in found:
        _show(one)


def _explain_command(topic: str, payload: str | None, config: Path | None, *, as_json: bool) -> None:
    if payload is None:
        fail("give the payload of the command: --command TOPIC PAYLOAD", WRONG_USAGE)
    with speaking_of_journal(config) as client:
        found = client.post(f"{_BRIDGE}/explain-command", {"topic": topic, "payload": payload})
    if as_json:
        show_json(found, indent=2)
        return
    if not found:
        show("no sink can receive commands")
    for one in found:
        show(f"{one['sink']}: {'carried out' if one['wanted'] else 'refused'}, by {one['rule']}")
        if one["action"]:
            show(f"  {one['command']} of {one['app']} on {one['daemon']}: {one['action']}")
        if one["hint"]:
            show(f"  {one['hint']}")
        if one["result_topic"]:
            show(f"  answer: the Response Topic of the message, else {one['result_topic']}")


def _read(file: Path) -> Any:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        fail(f"{file}: cannot be read: {error.strerror}", WRONG_USAGE)
    except ValueError as error:
        fail(f"{file}: no JSON: {error}", WRONG_USAGE)


def _show(one: dict[str, Any]) -> None:
    show(f"{one['sink']}: {'goes there' if one['wanted'] else 'left out'}, by {one['rule']}")
    if one["refused"]:
        show(f"  no destination would accept it: {one['refused']}")
    for message in one["messages"]:
        show(f"  to {message['to']}")
        for name, value in message["headers"].items():
            show(f"  {name}: {value}")
        show(f"  {message.get('body') or message.get('body_base64', '')}")
