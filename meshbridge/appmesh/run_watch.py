"""What a thread that waits for a run sees of its events."""

import threading
from dataclasses import dataclass, field

from meshbridge.appmesh.subscribe import EVENT_TYPE_DISCONNECTED, AppEvent

__all__ = ["News", "RunWatch"]

_MAX_PIECES = 1000
_MAX_CHARACTERS = 4 * 1024 * 1024


@dataclass(slots=True)
class News:
    """What has happened since the last look; ``exit_code``, ``removed`` and ``disconnected`` come after the pieces."""

    pieces: list[tuple[int, str]] = field(default_factory=list)
    """Position and text of new output."""
    behind: bool = False
    """There is more output, which must be read."""
    exit_code: int | None = None
    removed: bool = False
    disconnected: bool = False


class RunWatch:
    """Takes a run's events from the thread that reads, which it never holds up, and hands them to the one that waits.

    Output that is not fetched in time is dropped: it can be read again by its position.
    """

    def __init__(self) -> None:
        self._news = threading.Condition(threading.Lock())  # guards all that follows
        self._present = News()
        self._characters = 0
        self._changed = False

    def __call__(self, event: AppEvent) -> None:
        """An event, on the reading thread."""
        with self._news:
            if event.event_type == "STDOUT":
                self._keep(event.data.get("position"), event.data.get("output"))
            elif event.event_type == "EXIT":
                code = event.data.get("exit_code")
                self._present.exit_code = code if isinstance(code, int) else 0
            elif event.event_type == "REMOVED":
                self._present.removed = True
            elif event.event_type == EVENT_TYPE_DISCONNECTED:
                self._present.disconnected = True
            else:
                return
            self._changed = True
            self._news.notify_all()

    def take(self, timeout_seconds: float) -> News:
        """Waits for news, and gives them; what there is when the time is over."""
        with self._news:
            self._news.wait_for(lambda: self._changed, min(max(timeout_seconds, 0), threading.TIMEOUT_MAX))
            news = self._present
            self._present = News([], False, news.exit_code, news.removed, news.disconnected)
            self._characters = 0
            self._changed = False
            return news

    def _keep(self, position: object, text: object) -> None:
        if not isinstance(position, int) or not isinstance(text, str):
            self._present.behind = True
            return
        self._characters += len(text)
        if len(self._present.pieces) >= _MAX_PIECES or self._characters > _MAX_CHARACTERS:
            self._present.pieces.clear()
            self._present.behind = True
            self._characters = 0
            return
        self._present.pieces.append((position, text))
