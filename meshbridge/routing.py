"""Which event goes to which sink. Pure: no clock, no I/O."""

from meshbridge.events import Event, EventType
from meshbridge.options import When

__all__ = ["Route"]

_REMEMBERED_APPS = 16_384  # decisions kept; one-off runs have a new name each, so they can't be kept for ever


class Route:
    """What one sink wants, decided once for each kind of event of each app."""

    def __init__(self, when: When) -> None:
        self._when = when
        self._decided: dict[tuple[EventType, str], bool] = {}

    def wants(self, event: Event) -> bool:
        """Whether the sink gets this event."""
        place = (event.type, event.app)
        decided = self._decided.get(place)
        if decided is None:
            if len(self._decided) >= _REMEMBERED_APPS:
                self._decided.clear()
            decided = self._decided[place] = self._when.wants(event.type.label, event.app)
        return decided
