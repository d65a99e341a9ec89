"""Compares what an emulated daemon did with what a journal holds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from meshbridge.emulator import RecordedEvent
from meshbridge.journal import Journal
from meshbridge.model.events import DAEMON_PLACE, Event, EventType

__all__ = ["check_events", "events_of", "holes_not_told", "states_that_differ"]

History = Mapping[str, Sequence[RecordedEvent]]
"""By run, in their order, all that the daemon numbered."""


def events_of(journal: Journal) -> list[Event]:
    """Everything in the journal, in its order."""
    events: list[Event] = []
    after = 0
    while envelopes := journal.read(after, 5000):
        after = envelopes[-1].offset
        events += [envelope.event for envelope in envelopes]
    return events


def check_events(daemon: str, events: Sequence[Event], history: History) -> dict[str, int]:
    """Every live event is there once, in order, with the right id and content; every other number is reported by a gap.

    Gives how many there were of each. The tail of a run that has ended is reported by a gap without numbers.
    """
    live: dict[str, list[Event]] = defaultdict(list)
    told: dict[str, set[int]] = defaultdict(set)
    unknown_tails: set[str] = set()
    for event in events:
        if event.type is EventType.GAP:
            fields = orjson.loads(event.data)
            if fields["last"] is None:
                unknown_tails.add(event.run)
            else:
                numbers = set(range(fields["first"], fields["last"] + 1))
                assert not numbers & told[event.run], f"told twice: {event.id}"
                told[event.run] |= numbers
        elif not event.reconciled:
            live[event.run].append(event)
    runs = list(history)
    assert {event.run for event in events if not event.reconciled} <= set(runs), "a run that never was"
    for run in runs:
        _check_run(daemon, run, live[run], told[run], history[run], first_run=run == runs[0])
    assert set(runs[:-1]) <= unknown_tails, "a run that ended without a word"
    ids = [event.id for event in events if not event.reconciled]
    assert len(ids) == len(set(ids)), "an id was given twice"
    return {
        "runs": len(runs),
        "live": sum(map(len, live.values())),
        "missed": sum(map(len, told.values())),
        "reconciled": sum(event.reconciled for event in events),
    }


def _check_run(
    daemon: str, run: str, live: Sequence[Event], told: set[int], done: Sequence[RecordedEvent], *, first_run: bool
) -> None:
    by_number = {event.sequence: event for event in done if event.sequence}
    numbers: list[int] = []
    for event in live:
        assert event.sequence is not None
        numbers.append(event.sequence)
        real = by_number[event.sequence]
        assert event.id == f"{daemon}/{run}/{event.sequence}"
        assert (event.type.name, event.app) == (real.type, real.app), event.id
        assert orjson.loads(event.data) == orjson.loads(orjson.dumps(real.data)), event.id
    assert numbers == sorted(set(numbers)), f"run {run} is out of order"
    assert not told & set(numbers), f"run {run}: received, and told as missed"
    if numbers:
        first = numbers[0] if first_run else 1
        silent = set(range(first, numbers[-1] + 1)) - set(numbers) - told
        assert not silent, f"run {run}: {sorted(silent)[:20]} were missed silently"


def holes_not_told(journal: Journal, daemon: str) -> list[Any]:
    """Of the daemon's numbering, as the journal keeps them until the next comparison tells them."""
    kept = journal.app_states(daemon).get(DAEMON_PLACE)
    return orjson.loads(kept)["holes"] if kept else []


def states_that_differ(journal: Journal, daemon: str, listed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By app, (what the journal holds, what the daemon says), where that is not the same."""
    kept = {app: orjson.loads(text) for app, text in journal.app_states(daemon).items() if not app.startswith("@")}
    known = {
        app: (state["status"], state["health"], state["running"], state["pid"] if state["running"] else None)
        for app, state in kept.items()
    }
    real = {
        app["name"]: (
            "disabled" if app["status"] == 0 else "enabled",
            app.get("health", 0),
            bool(app.get("pid")),
            app.get("pid") or None,
        )
        for app in listed
    }
    return {
        app: (known.get(app), real.get(app)) for app in known.keys() | real.keys() if known.get(app) != real.get(app)
    }
