"""Writes the message about some entries: what an event means in words, title and body by template."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from meshbridge.model.event_summary import printable, summary
from meshbridge.model.events import DAEMON_PLACE, Envelope, Event, EventType
from meshbridge.model.problems import BridgeProblemKind
from meshbridge.sinks.notify.groups import Entry, NoticeKind, Sign
from meshbridge.sinks.templates import BodyTemplate, fields_of

__all__ = ["NoticeMessage", "NoticeWriter", "Tone", "sign_of"]

_KILLED_BY_DAEMON = 9  # disabled, restarted or replaced: an end that was wanted
_MAX_LINE_CHARACTERS = 300
_MAX_TITLE_CHARACTERS = 250


class Tone(StrEnum):
    """What kind of news a message is: services show it as a colour or a picture."""

    FAILURE = "failure"
    SUCCESS = "success"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class NoticeMessage:
    """What a service gets."""

    title: str
    body: str
    tone: Tone


def sign_of(event: Event, *, every_exit: bool) -> Sign:
    """What an event says of its app. ``every_exit``: the settings choose which exits fail."""
    data = _data(event)
    if event.type is EventType.EXIT:
        code = data.get("exit_code")
        if every_exit or code not in {0, _KILLED_BY_DAEMON}:
            return Sign.FAILED
        return Sign.WELL if code == 0 else Sign.ENDED
    if event.type is EventType.HEALTH:
        return Sign.WELL if data.get("health") == 0 else Sign.UNHEALTHY
    return Sign.GONE if event.type is EventType.REMOVED else Sign.OTHER


class NoticeWriter:
    """Turns entries into a message."""

    def __init__(
        self,
        title: BodyTemplate | None,
        body: BodyTemplate | None,
        *,
        most_entries: int,
        lines: int,
        output: Callable[[Envelope, int], list[str]],
    ) -> None:
        """``output``: the last lines of what the process of an event had written."""
        self._title = title
        self._body = body
        self._most = most_entries
        self._lines = lines
        self._output = output

    def write(self, entries: Sequence[Entry], events: Sequence[Event]) -> NoticeMessage:
        """The message; ``events`` are all that it is for.

        Raises:
            Refused, Retry: a template can't make it.

        """
        shown = [self._fields(entry) for entry in entries[: self._most]]
        names = {"entries": shown, "total": len(entries), "more": len(entries) - len(shown)}
        title, body = _title(shown, len(entries)), _body(shown, len(entries) - len(shown))
        if self._title is not None or self._body is not None:
            known = [fields_of(event) for event in events] or [{}]
            known[0] |= names | {"title": title, "body": body}
            what = events[0].id if events else "none (a problem of the bridge)"
            title = _rendered(self._title, known, what, title)
            body = _rendered(self._body, known, what, body)
        return NoticeMessage(" ".join(title.split())[:_MAX_TITLE_CHARACTERS], body.rstrip("\n"), _tone(entries))

    def _fields(self, entry: Entry) -> dict[str, Any]:
        event = entry.envelope.event if entry.envelope is not None else None
        known: dict[str, Any] = {} if event is None else fields_of(event)
        is_end = entry.kind is NoticeKind.FAILED and entry.envelope is not None
        output = self._output(entry.envelope, self._lines) if is_end and entry.envelope is not None else []
        return known | {
            "kind": entry.kind.value,
            "text": _text(entry, event),
            "detail": "" if entry.kind is NoticeKind.RESOLVED else _detail(entry, event),
            "count": entry.count,
            "output": [printable(line)[:_MAX_LINE_CHARACTERS] for line in output],
            "problem": entry.problem.kind.value if entry.problem is not None else None,
        }


def _rendered(template: BodyTemplate | None, fields: list[dict[str, Any]], what: str, otherwise: str) -> str:
    return otherwise if template is None else template.render_fields(fields, what).decode(errors="replace")


def _title(entries: Sequence[Mapping[str, Any]], total: int) -> str:
    return f"{entries[0]['text']}, and {total - 1} more" if total > 1 else str(entries[0]["text"])


def _body(entries: Sequence[Mapping[str, Any]], more: int) -> str:
    lines: list[str] = []
    for entry in entries:
        often = f" ({entry['count']} times in the last hour)" if entry["count"] > 1 else ""
        lines += [f"{entry['text']}{often}", *filter(None, [entry["detail"]])]
        lines += [f"| {line}" for line in entry["output"]]
    return "\n".join(lines + ([f"and {more} more"] if more else []))


def _data(event: Event) -> dict[str, Any]:
    data = orjson.loads(event.data)
    return data if isinstance(data, dict) else {}


def _tone(entries: Sequence[Entry]) -> Tone:
    kinds = {entry.kind for entry in entries}
    if kinds & {NoticeKind.FAILED, NoticeKind.UNHEALTHY, NoticeKind.PROBLEM}:
        return Tone.FAILURE
    return Tone.SUCCESS if kinds == {NoticeKind.RESOLVED} else Tone.INFO


def _text(entry: Entry, event: Event | None) -> str:
    """A sentence without its full stop."""
    if entry.problem is not None:
        return _resolved_problem(entry) if entry.kind is NoticeKind.RESOLVED else _problem(entry)
    assert event is not None
    where = f"{printable(event.app)} on {event.daemon}"
    if entry.kind is NoticeKind.RESOLVED:
        return f"Resolved: {where}" + (" was removed" if event.type is EventType.REMOVED else " is well again")
    if entry.kind is NoticeKind.UNHEALTHY:
        return f"{where} is unhealthy"
    data = _data(event)
    if entry.kind is NoticeKind.FAILED:
        code = data.get("exit_code")
        return f"{where} exited" + ("" if code is None else f" with code {code}")
    if event.app == DAEMON_PLACE:
        return f"{event.type.label} of daemon {event.daemon}: {summary(event.type.label, data)}"
    return f"{where}: {event.type.label} {summary(event.type.label, data)}".rstrip()


def _problem(entry: Entry) -> str:
    assert entry.problem is not None
    if entry.problem.kind is BridgeProblemKind.DAEMON_DOWN:
        return f"{entry.problem.where} is down"
    return f"{entry.problem.where}: {entry.problem.kind.replace('_', ' ')}"


def _resolved_problem(entry: Entry) -> str:
    assert entry.problem is not None
    if entry.problem.kind is BridgeProblemKind.DAEMON_DOWN:
        return f"Resolved: {entry.problem.where} is up again"
    return f"Resolved: {entry.problem.where}: {entry.problem.kind.replace('_', ' ')}"


def _detail(entry: Entry, event: Event | None) -> str:
    if entry.problem is not None:
        return f"{printable(entry.problem.text)} {entry.problem.remedy}"
    if event is not None and event.type is EventType.EXIT:
        return printable(str(_data(event).get("last_error") or ""))[:_MAX_LINE_CHARACTERS]
    return ""
