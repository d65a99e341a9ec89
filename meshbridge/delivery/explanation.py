"""What becomes of an event: which sinks get it, by which rule, and what each would be sent. Sends nothing."""

import base64
import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from meshbridge.delivery.routing import Route
from meshbridge.journal import steady_now
from meshbridge.model.events import Event, EventType, PushError, decode_push, encode
from meshbridge.sinks.base import Preview, Previewing, Refused
from meshbridge.sinks.options import SinkOptions

__all__ = ["Explanation", "ExplanationError", "event_from_json", "explain"]


class ExplanationError(ValueError):
    """What was given is no event; the message says why."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One sink's part. ``refused``: why no destination would accept it."""

    sink: str
    wanted: bool
    rule: str
    messages: tuple[Preview, ...] = ()
    refused: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For the API and ``--json``. A body that is no text is in base64, under ``body_base64``."""
        fields = dataclasses.asdict(self)
        for message in fields["messages"]:
            body: bytes = message.pop("body")
            try:
                message["body"] = body.decode()
            except UnicodeDecodeError:
                message["body_base64"] = base64.b64encode(body).decode()
        return fields


def explain(event: Event, sinks: Mapping[str, Any], new_route: Callable[[SinkOptions], Route]) -> list[Explanation]:
    """What each sink would make of ``event``; ``sinks`` are their options, by name."""
    return [_explained(event, name, options, new_route(options)) for name, options in sinks.items()]


def _explained(event: Event, name: str, options: Any, route: Route) -> Explanation:
    decision = route.decide(event)
    if not decision.wanted:
        return Explanation(name, wanted=False, rule=decision.rule)
    shaped = route.shape(event)
    with tempfile.TemporaryDirectory(prefix="meshbridge-explain-") as nowhere:  # no sink's own files are touched
        sink = options.build(name, Path(nowhere))
    try:
        if isinstance(sink, Previewing):
            messages = tuple(sink.preview(shaped))
        else:
            messages = (Preview(name, {}, encode(shaped, options.format)),)
    except Refused as refused:
        return Explanation(name, wanted=True, rule=decision.rule, refused=str(refused))
    return Explanation(name, wanted=True, rule=decision.rule, messages=messages)


def event_from_json(text: bytes, daemon: str) -> Event:
    """An event from JSON as the daemon sends it, or in its CloudEvents form.

    Raises:
        ExplanationError: it is neither.

    """
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ExplanationError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ExplanationError(f"an event is a JSON object, not {type(fields).__name__}")
    if "specversion" in fields:
        return _from_cloudevent(fields)
    if "event_type" not in fields or "app_name" not in fields:
        raise ExplanationError("an event has app_name, event_type and data (or is a CloudEvent with specversion)")
    body = {"data": {}, "sequence": 1, "timestamp": int(steady_now()), **fields}
    body["event_type"] = str(body["event_type"]).upper()
    try:
        return decode_push(daemon, "1", orjson.dumps(body), steady_now(), {})
    except PushError as error:
        cause = error.__cause__
        why = f"{cause.args[0]} is missing" if isinstance(cause, KeyError) else str(cause)
        raise ExplanationError(f"no event of App Mesh: {why}") from error


def _from_cloudevent(fields: dict[str, Any]) -> Event:
    kind = next((one for one in EventType if one.cloudevents_type == fields.get("type")), None)
    if kind is None:
        raise ExplanationError(f"unknown type {fields.get('type')!r}")
    daemon = str(fields.get("source", "")).removeprefix("appmesh://")
    run, _, number = str(fields.get("id", "")).removeprefix(f"{daemon}/").rpartition("/")
    app = str(fields.get("subject", "@daemon"))
    body = {"app_name": app, "data": fields.get("data", {}), "event_type": kind.name, "timestamp": int(steady_now())}
    event = Event(daemon, run, None, kind, app, steady_now(), orjson.dumps(body), received_at=steady_now())
    if number.isdecimal() and not fields.get("reconciled"):
        return dataclasses.replace(event, sequence=int(number), run=str(fields.get("run", run)))
    key = str(fields.get("id", "")).removeprefix(f"{daemon}/")
    return dataclasses.replace(
        event, key=key, reconciled=bool(fields.get("reconciled")), run=str(fields.get("run", ""))
    )
