"""Which event goes to which sink, and in what shape. Pure: no clock but the events' own, no I/O.

What a rule leaves out is gone for that sink: its cursor moves on, and the event is counted. The rules in order:

* ``when``: the event's type, the app's name and owner, the exit code, the labels of the daemon
* ``sample``: a share of STDOUT, chosen by the event's id, so that two bridges choose the same
* ``rate_limit``: so many STDOUT events a second for each app, by the time at which they came in
* ``reshape``: fields of ``data`` dropped and added
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import orjson

from meshbridge.fields import Reshape, Selection, When, matches
from meshbridge.model.events import Event, EventType

__all__ = ["Decision", "Owner", "Route"]

_REMEMBERED_APPS = 16_384  # decisions kept; one-off runs have a new name each, so they can't be kept for ever
_SAMPLE_STEPS = 2**32
_BURST_SECONDS = 2.0  # what an app has not used of its rate is good for so long
# Events after which an app may be another's.
_MAY_CHANGE_OWNER = frozenset({EventType.STATUS, EventType.REMOVED, EventType.START})

Owner = Callable[[str, str], str | None]
"""Who owns an app, by daemon and app; None where that is not known."""


class Decision(NamedTuple):
    """What becomes of an event, and by which rule."""

    wanted: bool
    rule: str


class Route:
    """What one sink wants, decided once for each kind of event of each app. For one thread, the courier's."""

    def __init__(
        self,
        options: Selection,
        *,
        owner: Owner = lambda _daemon, _app: None,
        labels: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """``labels``: those of each daemon, by its name."""
        self._when = options.when
        self._sample = options.sample
        self._rate = options.rate_limit
        self._reshape = options.reshape
        self._owner = owner
        self._labels = labels or {}
        self._decided: dict[tuple[EventType, str, str], Decision] = {}
        self._owners: dict[tuple[str, str], str] = {}
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}  # (events left, as of when)

    def take(self, event: Event) -> Event | None:
        """The event as the sink gets it; None where it does not."""
        return self.shape(event) if self.decide(event).wanted else None

    def decide(self, event: Event) -> Decision:
        """Whether the sink gets this event, and by which rule. Counts against the rate."""
        place = (event.type, event.daemon, event.app)
        decision = self._decided.get(place)
        if decision is None:
            if len(self._decided) >= _REMEMBERED_APPS:
                self._decided.clear()
            decision = self._decided[place] = self._by_place(event)
        if not decision.wanted:
            return decision
        if self._when.owners and not (owned := self._by_owner(event)).wanted:
            return owned
        if event.type is EventType.EXIT and self._when.exit_codes:
            code = exit_code(event)
            if code is None or not self._when.wants_exit(code):
                return Decision(wanted=False, rule=f"when.exit_codes: {code} is not in it")
        if event.type is EventType.STDOUT:
            return self._by_amount(event, decision)
        return decision

    def shape(self, event: Event) -> Event:
        """The event with ``reshape`` applied."""
        return event if self._reshape is None else reshaped(event, self._reshape)

    def _by_place(self, event: Event) -> Decision:
        """By what is the same for all events of a type and an app."""
        when = self._when
        if refusal := when.refusal(event.type.label, event.app):
            return Decision(wanted=False, rule=refusal)
        labels = self._labels.get(event.daemon, {})
        for key, pattern in when.labels.items():
            value = labels.get(key)
            if value is None or not fnmatchcase(value, pattern):
                has = "has none" if value is None else f"has {value}"
                return Decision(wanted=False, rule=f"when.labels.{key}: {event.daemon} {has}, wanted is {pattern}")
        return Decision(wanted=True, rule=_said(when))

    def _by_owner(self, event: Event) -> Decision:
        place = (event.daemon, event.app)
        owner = self._owners.get(place)
        if owner is None and (owner := self._owner(*place)):
            if len(self._owners) >= _REMEMBERED_APPS:
                self._owners.clear()
            self._owners[place] = owner
        if event.type in _MAY_CHANGE_OWNER:
            self._owners.pop(place, None)
        if owner and matches(owner, self._when.owners):
            return Decision(wanted=True, rule="")
        whose = f"of {owner}" if owner else "of an unknown owner"
        return Decision(wanted=False, rule=f"when.owners: {event.app} is {whose}")

    def _by_amount(self, event: Event, decision: Decision) -> Decision:
        if self._sample < 1 and zlib.crc32(event.id.encode()) >= self._sample * _SAMPLE_STEPS:
            return Decision(wanted=False, rule=f"sample: {self._sample:g} of STDOUT, and not this one")
        if self._rate is None:
            return decision
        place, most = (event.daemon, event.app), max(1.0, self._rate * _BURST_SECONDS)
        left, as_of = self._buckets.get(place, (most, event.received_at))
        left = min(most, left + max(0.0, event.received_at - as_of) * self._rate)
        wanted = left >= 1
        if place not in self._buckets and len(self._buckets) >= _REMEMBERED_APPS:
            self._buckets.clear()
        self._buckets[place] = (left - wanted, event.received_at)
        if wanted:
            return decision
        return Decision(wanted=False, rule=f"rate_limit: over {self._rate:g} STDOUT events a second of {event.app}")


def exit_code(event: Event) -> int | None:
    """Of an EXIT; None where the daemon does not know it."""
    try:
        return int(orjson.loads(event.data)["exit_code"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def reshaped(event: Event, reshape: Reshape) -> Event:
    """An event whose ``data`` has lost and gained fields. Its id stays, and so does what it says of itself."""
    fields: dict[str, Any] = orjson.loads(event.body)
    data = fields.get("data")
    if not isinstance(data, dict):
        return event
    for path in reshape.drop:
        _drop(data, path.split("."))
    data.update(reshape.add)
    return dataclasses.replace(event, body=orjson.dumps(fields))


def _drop(data: dict[str, Any], path: list[str]) -> None:
    *way, last = path
    for key in way:
        below = data.get(key)
        if not isinstance(below, dict):
            return
        data = below
    data.pop(last, None)


def _said(when: When) -> str:
    """What a person reads of a ``when`` that lets something through."""
    said = when.model_dump(exclude_defaults=True)
    if not said:
        return "when: everything"
    return "when: " + ", ".join(f"{key} {_text(value)}" for key, value in said.items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {one}" for key, one in value.items()) + "}"
    return "[" + ", ".join(map(str, value)) + "]"
