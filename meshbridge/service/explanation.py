"""What the API answers about an event or a command, for a bridge that runs and for a journal whose bridge does not."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from meshbridge.admin.interface import Asked, AskedCommand
from meshbridge.commands import explain_command
from meshbridge.config.load import Settings
from meshbridge.delivery import event_from_json, explain, new_route
from meshbridge.journal import DeadLetter, Journal
from meshbridge.model.events import DAEMON_PLACE, Event
from meshbridge.sinks.commands import CommandSource

__all__ = ["explained", "explained_command"]


def explained(asked: Asked, journal: Journal, settings: Settings) -> list[dict[str, Any]]:
    """What each sink would get of the event, in the order of the settings; of a dead letter, its own sink alone.

    Raises:
        LookupError: the journal keeps no such event, or there is no such daemon.
        ExplanationError: what was given is no event.

    """
    sinks = settings.sinks
    if asked.letter is not None:
        letter = _letter(asked.letter, journal)
        event, sinks = letter.envelope.event, {name: sinks[name] for name in sinks if name == letter.sink}
    else:
        event = _event(asked, journal, settings)
    labels = {name: daemon.labels for name, daemon in settings.daemons.items()}
    explanations = explain(event, sinks, lambda options: new_route(options, journal, labels))
    return [one.as_json() for one in explanations]


def _letter(number: int, journal: Journal) -> DeadLetter:
    found = journal.letters.find(after=number - 1, limit=1)
    if not found or found[0].id != number:
        raise LookupError(f"there is no dead letter {number}")
    return found[0]


def explained_command(asked: AskedCommand, journal: Journal, settings: Settings) -> list[dict[str, Any]]:
    """What each sink that can receive commands would do with one, in the order of the settings."""
    found = []
    for name, options in settings.sinks.items():
        with tempfile.TemporaryDirectory(prefix="meshbridge-explain-") as nowhere:  # no sink's own files are touched
            sink = options.build(name, Path(nowhere))
        if isinstance(sink, CommandSource):
            explanation = explain_command(
                name,
                sink,
                asked.topic,
                asked.payload.encode("utf-8", "surrogateescape"),
                daemons=settings.daemons,
                known_apps=lambda daemon: [app for app in journal.app_states(daemon) if app != DAEMON_PLACE],
            )
            found.append(asdict(explanation))
    return found


def _event(asked: Asked, journal: Journal, settings: Settings) -> Event:
    if asked.id is not None:
        envelope = journal.find(asked.id)
        if envelope is None:
            raise LookupError(f"the journal keeps no event {asked.id!r}: ids look like node-a/1795590121/42")
        return envelope.event
    daemon = asked.daemon or next(iter(settings.daemons))
    if daemon not in settings.daemons:
        raise LookupError(f"there is no daemon {daemon!r} here (there are: {', '.join(settings.daemons)})")
    return event_from_json(orjson.dumps(asked.event), daemon)
