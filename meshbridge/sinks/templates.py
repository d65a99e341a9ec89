"""Bodies made by a template of the operator's (Jinja2), so that Slack, Teams or Alertmanager can be fed.

A template sees the fields of one event by name, and ``events``, a list of all that the body is for; see
:func:`fields_of`. It runs in Jinja2's immutable sandbox, and a name that isn't there is an error, not an empty text:
``data.exit_code | default("")`` says that it may be missing.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from meshbridge.model.events import Event, cloudevent_attributes
from meshbridge.sinks.base import Refused

__all__ = ["BodyTemplate", "fields_of"]


def fields_of(event: Event) -> dict[str, Any]:
    """What a template knows of an event: its CloudEvents attributes, and what meshbridge calls the same things.

    ``id source type subject time run`` as in the CloudEvents form; ``daemon``, ``app``, ``event`` (``start``, …),
    ``sequence`` (a number, or none), ``process_uuid``, ``reconciled``, ``timestamp``; ``data``, the daemon's.
    """
    attributes: dict[str, Any] = dict(cloudevent_attributes(event))
    return attributes | {
        "subject": attributes.get("subject"),
        "daemon": event.daemon,
        "app": event.app,
        "event": event.type.label,
        "sequence": event.sequence,
        "process_uuid": event.process_uuid,
        "reconciled": event.reconciled,
        "timestamp": event.timestamp,
        "data": orjson.loads(event.data),
    }


class BodyTemplate:
    """A compiled template."""

    def __init__(self, source: str, *, json: bool) -> None:
        """``json`` says that the body must be JSON, and then it is looked at before it is sent.

        Raises:
            ValueError: the template has a mistake; the text says in which line.

        """
        # Here, since few use templates, and the library costs a start 60 ms and 2 MiB.
        from jinja2 import StrictUndefined, TemplateError  # noqa: PLC0415
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

        # The bodies are JSON or text for a machine, not HTML: `tojson` is what escapes in them.
        environment = ImmutableSandboxedEnvironment(autoescape=False, undefined=StrictUndefined)
        self._json = json
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            raise ValueError(f"template{f' line {line}' if line else ''}: {error}") from error

    def render(self, events: Sequence[Event]) -> bytes:
        """The body for these events.

        Raises:
            Refused: the template can't make one of them.

        """
        fields = [fields_of(event) for event in events]
        try:
            body = self._template.render(fields[0] | {"events": fields}).encode()
        except Exception as error:
            raise Refused(f"template fails for event {events[0].id}: {error}", reason="template") from error
        if self._json:
            try:
                orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise Refused(
                    f"template gives no JSON for event {events[0].id}: {error}; write texts as {{{{ … | tojson }}}}",
                    reason="template",
                ) from error
        return body
