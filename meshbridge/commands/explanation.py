"""What would become of a command, and by which rule. Carries nothing out."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from meshbridge.commands.parse import CommandError, parse
from meshbridge.commands.places import app_at, daemon_at
from meshbridge.sinks.commands import CommandMessage, CommandSource, CommandWord

__all__ = ["CommandExplanation", "explain_command"]

_ACTIONS = {
    CommandWord.ENABLE: "enables the app",
    CommandWord.DISABLE: "disables the app",
    CommandWord.RESTART: "disables the app, waits until its process has ended, enables it",
    CommandWord.RUN: "runs the app once, and waits for its end",
    CommandWord.TASK: "hands the payload to the app's process as a task, and waits for its reply",
}


@dataclass(frozen=True, slots=True)
class CommandExplanation:
    """What one sink would do with a command."""

    sink: str
    wanted: bool
    rule: str
    """What decides: the setting, or what is wrong with the message."""
    hint: str | None = None
    daemon: str | None = None
    app: str | None = None
    command: str | None = None
    id: str | None = None
    action: str | None = None
    result_topic: str | None = None
    """Where the answer goes if the message names no Response Topic."""


def explain_command(
    name: str,
    source: CommandSource,
    topic: str,
    payload: bytes,
    *,
    daemons: Collection[str],
    known_apps: Callable[[str], Iterable[str]],
) -> CommandExplanation:
    """What the sink of this name would do with a message. An app that the bridge does not know is looked up later."""
    options = source.command_options
    if options is None:
        return CommandExplanation(name, False, "commands: not set, so none are taken")
    place = source.command_place(topic)
    if place is None:
        return CommandExplanation(name, False, f"commands.topic: it is not like {options.topic}, or …/task beside it")
    daemon, app, is_task = place
    result_topic = source.result_topic(daemon, app)
    try:
        command = parse(CommandMessage(daemon, app, is_task, payload), options)
        daemon = daemon_at(daemon, daemons, source.place_of)
        known = app_at(app, known_apps(daemon), source.place_of)
    except CommandError as error:
        return CommandExplanation(
            name, False, f"{error.result}: {error.error}", error.hint, daemon, app, result_topic=result_topic
        )
    refusal = options.when.refusal(daemon, known or app)
    rule = refusal or f"commands.allow: {command.word} is in it"
    hint = None if known else f"this bridge knows no app {app!r} of {daemon}: the daemon's list decides then"
    return CommandExplanation(
        name,
        refusal is None,
        rule,
        hint,
        daemon,
        known or app,
        command.word.value,
        command.id,
        _ACTIONS[command.word] if refusal is None else None,
        result_topic,
    )
