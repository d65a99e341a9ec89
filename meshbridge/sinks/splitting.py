"""Divides a large STDOUT event into parts that each fit a limit of the destination. Pure: no I/O, no clock.

Only output can be divided: every other event is a few hundred bytes, and half a state means nothing.

* **Where.** Between two characters, so neither a UTF-8 sequence nor a JSON escape is cut; and not inside an ANSI escape
  sequence of the app's (colours), which a terminal would print as rubbish.
* **Ids.** ``<id of the event>/<part>``, parts from 0, in order; a consumer that knows the first keeps the rest apart.
* **Positions.** ``position`` counts bytes of the daemon's file. A later part's is the event's plus the bytes of the
  text before it, as long as that text has no U+FFFD: each of these may stand for one to three bytes that were no UTF-8
  (docs/protocol.md, 'STDOUT'), so behind the first one no position can be known, and the parts there have none.
* ``finished`` is true in the last part alone.
* Equal input gives equal parts, so a part that is sent again has the same id and the same text.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from meshbridge.model.events import Event, EventType
from meshbridge.sinks.base import Refused

__all__ = ["Encode", "encoded_parts", "split"]

Encode = Callable[[Event], bytes]
"""What goes over the wire for an event, or as much of it as the limit counts."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ESCAPE_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*)?\Z")
_LONGEST_ESCAPE = 32  # characters looked back for one; longer ones are no colours
_AIM = 0.97  # of the limit, at the first guess: escapes are seldom spread evenly


def split(event: Event, max_bytes: int, encode: Encode) -> list[Event]:
    """The event itself where its encoding fits ``max_bytes``, else its parts, each of which does.

    ``encode`` is asked for a few encodings of each part, and must not give less for a longer text.

    Raises:
        Refused: it doesn't fit and can't be divided.

    """
    return [part for part, _ in encoded_parts(event, max_bytes, encode)]


def encoded_parts(event: Event, max_bytes: int, encode: Encode) -> list[tuple[Event, bytes]]:
    """Like :func:`split`, each part with its encoding, so that it is encoded once.

    Raises:
        Refused: it doesn't fit and can't be divided.

    """
    encoded = encode(event)
    if len(encoded) <= max_bytes:
        return [(event, encoded)]
    output = _Output.of(event)
    if output is None:
        raise _too_large(event, len(encoded), max_bytes)
    parts: list[tuple[Event, bytes]] = []
    start, text, overhead = 0, output.text, len(encode(output.part(0, 0, 0)))
    ratio = max(1.0, (len(encoded) - overhead) / len(text))
    while start < len(text):
        end = min(len(text), start + int((max_bytes - overhead) / ratio * _AIM) + 1)
        while True:
            end = _before_escape(text, start, end)
            part = output.part(len(parts), start, end)
            encoded = encode(part)
            if len(encoded) <= max_bytes:
                break
            if end - start <= 1:
                raise _too_large(event, len(encoded), max_bytes)
            # A bigger part shrinks to what should fit by its own density, and by one character at least.
            density = max(1.0, (len(encoded) - overhead) / (end - start))
            end = min(end - 1, max(start + 1, start + int((max_bytes - overhead) / density * _AIM)))
        parts.append((part, encoded))
        start = end
    return parts


def _too_large(event: Event, size: int, max_bytes: int) -> Refused:
    return Refused(
        f"event {event.id} takes {size} bytes, cannot be divided, and the limit is {max_bytes}", reason="too_large"
    )


def _before_escape(text: str, start: int, end: int) -> int:
    """Moves ``end`` in front of an ANSI escape that it would cut; where that leaves nothing, it stays."""
    if end < len(text):
        looked = max(start, end - _LONGEST_ESCAPE)
        begun = _ESCAPE_BEGUN.search(text, looked, end)
        if begun is not None and begun.start() > start:
            return begun.start()
    return end


class _Output:
    """A STDOUT event, taken apart so that parts can be made of it."""

    def __init__(self, event: Event, fields: dict[str, Any]) -> None:
        self._event = event
        self._fields = fields
        self.text: str = fields["data"]["output"]
        position = fields["data"].get("position")
        self._position = position if isinstance(position, int) else None
        replaced = self.text.find(_REPLACEMENT)
        self._known = len(self.text) if replaced < 0 else replaced  # up to here every character's bytes are known
        self._counted = (0, 0)  # characters and their bytes, so that the front isn't counted for every part

    @classmethod
    def of(cls, event: Event) -> "_Output | None":
        if event.type is not EventType.STDOUT:
            return None
        fields = orjson.loads(event.body)
        data = fields["data"]
        if not isinstance(data, dict) or not isinstance(data.get("output"), str) or len(data["output"]) < 2:  # noqa: PLR2004 one character can't be divided
            return None
        return cls(event, fields)

    def part(self, number: int, start: int, end: int) -> Event:
        data = dict(self._fields["data"])
        data["output"] = self.text[start:end]
        if end < len(self.text) and "finished" in data:
            data["finished"] = False
        if start:
            position = self._position_at(start)
            if position is None:
                data.pop("position", None)
            else:
                data["position"] = position
        event = self._event
        key = event.key if event.sequence is None or event.key else f"{event.run}/{event.sequence}"
        return replace(event, body=orjson.dumps(self._fields | {"data": data}), key=f"{key}/{number}")

    def _position_at(self, start: int) -> int | None:
        if self._position is None or start > self._known:
            return None
        characters, size = self._counted
        if characters > start:
            characters = size = 0
        size += len(self.text[characters:start].encode())
        self._counted = (start, size)
        return self._position + size
