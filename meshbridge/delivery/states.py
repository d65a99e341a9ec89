"""The states of apps, out of the journal, for a sink that tells them."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from meshbridge.appmesh.exceptions import AppMeshError
from meshbridge.journal import Journal
from meshbridge.model.events import DAEMON_PLACE
from meshbridge.model.status import LinkState, LinkStatus
from meshbridge.sinks.states import StateFigures

__all__ = ["AppFigures", "StateFeed"]

_LIST_SECONDS = 10.0


class AppSource(Protocol):
    """A daemon that can be asked for its apps."""

    @property
    def name(self) -> str: ...

    def list_apps(self, timeout_seconds: float) -> list[Any]: ...


class AppFigures:
    """What apps use, for all sinks that ask for it. ``measure`` is housekeeping's, on a thread of its own."""

    def __init__(self, sources: Callable[[], Iterable[AppSource]]) -> None:
        self._sources = sources
        self._wanted = False
        self._latest: Mapping[tuple[str, str], StateFigures] = {}

    def latest(self) -> Mapping[tuple[str, str], StateFigures]:
        self._wanted = True
        return self._latest

    def measure(self) -> None:
        """Asks every daemon, if anybody has asked for figures. One that gives no answer has none."""
        if not self._wanted:
            return
        found: dict[tuple[str, str], StateFigures] = {}
        for source in self._sources():
            with contextlib.suppress(AppMeshError, ValueError):
                for app in source.list_apps(_LIST_SECONDS):
                    if isinstance(app, dict) and isinstance(app.get("name"), str):
                        found[source.name, app["name"]] = _figures(app)
        self._latest = found


def _figures(app: Mapping[str, Any]) -> StateFigures:
    """Figures of a listed app; without a process it has neither key (docs/protocol.md, 'App JSON')."""
    at_rest = None if app.get("pid") else 0
    memory, cpu = app.get("memory", at_rest), app.get("cpu", at_rest)
    return StateFigures(
        memory if isinstance(memory, int) else None, float(cpu) if isinstance(cpu, int | float) else None
    )


class StateFeed:
    """What :class:`meshbridge.sinks.states.AppStates` asks for; one for each sink, since each takes the changes.

    Threads: the links' threads report changes to the journal; everything else is the courier's.
    """

    def __init__(self, journal: Journal, links: Callable[[], Iterable[LinkStatus]], figures: AppFigures) -> None:
        self._journal = journal
        self.figures = figures.latest
        self._links = links
        self._lock = threading.Lock()  # guards _changes
        self._changes: dict[tuple[str, str], str | None] = {}
        journal.state_listeners.append(self._note)

    def _note(self, states: Mapping[tuple[str, str], str | None]) -> None:
        with self._lock:
            self._changes.update(states)

    def everything(self) -> dict[tuple[str, str], str]:
        self._take()  # first: what changes from here on is reported once more
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
