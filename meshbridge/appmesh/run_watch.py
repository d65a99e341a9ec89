"""What a thread that waits for a run sees of its events."""

import threading

from meshbridge.appmesh.subscribe import EVENT_TYPE_DISCONNECTED, AppEvent

__all__ = ["RunWatch"]

_MAX_PIECES = 1000
_MAX_CHARACTERS = 4 * 1024 * 1024


class RunWatch:
    """Takes a run's events from the thread that reads, which it never holds up, and hands them to the one that waits.

    Output that is not fetched in time is dropped: it can be read again by its position.
    """

    def __init__(self) -> None:
        self._news = threading.Condition(threading.Lock())  # guards all that follows
        self._pieces: list[tuple[int, str]] = []
        self._characters = 0
        self._behind = False
        self._changed = False
        self.exit_code: int | None = None
        self.removed = False
        self.disconnected = False

    def __call__(self, event: AppEvent) -> None:
        """An event, on the reading thread."""
        with self._news:
            if event.event_type == "STDOUT":
                self._keep(event.data.get("position"), event.data.get("output"))
            elif event.event_type == "EXIT":
                code = event.data.get("exit_code")
                self.exit_code = code if isinstance(code, int) else 0
            elif event.event_type == "REMOVED":
                self.removed = True
            elif event.event_type == EVENT_TYPE_DISCONNECTED:
                self.disconnected = True
            else:
                return
            self._changed = True
            self._news.notify_all()

    def take(self, timeout_seconds: float) -> tuple[list[tuple[int, str]], bool]:
        """Waits for news: (position and text of new output, whether there is more that must be read)."""
        with self._news:
            self._news.wait_for(lambda: self._changed, min(max(timeout_seconds, 0), threading.TIMEOUT_MAX))
            pieces, self._pieces = self._pieces, []
            behind, self._behind = self._behind, False
            self._characters = 0
            self._changed = False
            return pieces, behind

    def _keep(self, position: object, text: object) -> None:
        if not isinstance(position, int) or not isinstance(text, str):
            self._behind = True
            return
        self._characters += len(text)
        if len(self._pieces) >= _MAX_PIECES or self._characters > _MAX_CHARACTERS:
            self._pieces.clear()
            self._characters = 0
            self._behind = True
            return
        self._pieces.append((position, text))
