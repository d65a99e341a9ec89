"""What the API answers about an event, for a bridge that runs and for a journal whose bridge does not."""

from typing import Any

import orjson

from meshbridge.admin.interface import Asked
from meshbridge.config.load import Settings
from meshbridge.delivery import event_from_json, explain, new_route
from meshbridge.journal import DeadLetter, Journal
from meshbridge.model.events import Event

__all__ = ["explained"]


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
