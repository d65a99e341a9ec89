"""Finds the message on which a broker closes the connection instead of an answer. No network.

MQTT 3.1.1 has no other way to refuse a message (one that is too large, a topic that is not allowed), and the connection
ends with a whole window in flight. From then on one message is sent at a time, until all of that window are answered.
The one that ends the connection twice, alone in flight each time, is the culprit: once may be chance.
"""

from collections.abc import Collection

__all__ = ["Suspects"]


class Suspects:
    """Messages by any key: the ids of events, topics of what is retained."""

    def __init__(self) -> None:
        self._keys: set[str] = set()  # in flight when the connection was closed, and not answered since
        self._alone: str | None = None  # what was alone in flight the last time

    @property
    def careful(self) -> bool:
        """Whether only one message may be in flight."""
        return bool(self._keys)

    def hung_up(self, in_flight: Collection[str]) -> str | None:
        """The broker closed the connection; the culprit, once it is known."""
        alone = next(iter(in_flight)) if len(in_flight) == 1 else None
        if alone is not None and alone == self._alone:
            self.answered(alone)
            return alone
        self._alone = alone
        self._keys.update(in_flight)
        return None

    def answered(self, key: str) -> None:
        self._keys.discard(key)
        if key == self._alone:
            self._alone = None

    def forget(self) -> None:
        """The broker can't be reached: it closed the connections since it went down."""
        self._keys.clear()
        self._alone = None
