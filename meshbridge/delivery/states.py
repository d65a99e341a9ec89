"""The states of apps, out of the journal, for a sink that tells them."""

import threading
from collections.abc import Callable, Iterable, Mapping

from meshbridge.events import DAEMON_PLACE
from meshbridge.journal import Journal
from meshbridge.status import LinkState, LinkStatus

__all__ = ["StateFeed"]


class StateFeed:
    """What :class:`meshbridge.sinks.states.AppStates` asks for; one for each sink, since each takes the changes.

    Threads: the journal is told of changes by the links' threads; everything else is the courier's.
    """

    def __init__(self, journal: Journal, links: Callable[[], Iterable[LinkStatus]]) -> None:
        self._journal = journal
        self._links = links
        self._lock = threading.Lock()  # guards _changes
        self._changes: dict[tuple[str, str], str | None] = {}
        journal.state_listeners.append(self._note)

    def _note(self, states: Mapping[tuple[str, str], str | None]) -> None:
        with self._lock:
            self._changes.update(states)

    def everything(self) -> dict[tuple[str, str], str]:
        self._take()  # first: what changes from here on is told once more
        return {
            (link.daemon, app): text
            for link in self._links()
            for app, text in self._journal.app_states(link.daemon).items()
            if app != DAEMON_PLACE
        }

    def changes(self) -> Mapping[tuple[str, str], str | None]:
        if not self._changes:
            return {}
        return {place: text for place, text in self._take().items() if place[1] != DAEMON_PLACE}

    def _take(self) -> dict[tuple[str, str], str | None]:
        with self._lock:
            taken, self._changes = self._changes, {}
        return taken

    def daemons(self) -> dict[str, bool | None]:
        return {link.daemon: _seen(link) for link in self._links()}


def _seen(link: LinkStatus) -> bool | None:
    if link.up:
        return True
    # What a bridge that stops or starts doesn't see says nothing of the daemon.
    unknown = link.state is LinkState.STOPPED or (not link.connects and link.last_error is None)
    return None if unknown else False
