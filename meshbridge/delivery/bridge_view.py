"""What is wrong with the bridge and what apps have written, for a sink that tells people about it."""

from collections.abc import Callable, Sequence

import orjson

from meshbridge.journal import Journal
from meshbridge.model.events import Envelope, Event, EventType
from meshbridge.model.problems import BridgeProblem

__all__ = ["BridgeFeed"]

_EVENTS = 10_000  # looked at before the one in question: the output of an app that has just ended is near
_READ_EVENTS = 1_000  # in one go


class BridgeFeed:
    """What :class:`meshbridge.sinks.bridge_view.BridgeView` asks for."""

    def __init__(self, journal: Journal, problems: Callable[[], Sequence[BridgeProblem]]) -> None:
        self._journal = journal
        self.problems = problems

    def output_before(self, envelope: Envelope, lines: int) -> list[str]:
        """Of the same process, where that is known."""
        text, end = "", envelope.offset
        lowest = max(0, end - 1 - _EVENTS)
        while end - 1 > lowest and text.count("\n") <= lines:
            after = max(lowest, end - 1 - _READ_EVENTS)
            read = [one for one in self._journal.read(after, _READ_EVENTS) if one.offset < end]
            text = "".join([_text(one.event) for one in read if _is_output_of(one.event, envelope.event)]) + text
            end = after + 1
        return text.rstrip().splitlines()[-lines:]


def _is_output_of(event: Event, of: Event) -> bool:
    if event.type is not EventType.STDOUT or (event.daemon, event.app) != (of.daemon, of.app):
        return False
    return event.process_uuid == of.process_uuid or event.process_uuid is None or of.process_uuid is None


def _text(event: Event) -> str:
    data = orjson.loads(event.data)
    return str(data.get("output", "")) if isinstance(data, dict) else ""
