"""The links and the couriers of a running bridge: built from settings, exchanged when these change, ended."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from meshbridge import telemetry
from meshbridge.appmesh import AppMeshClient, AppMeshConnectionError
from meshbridge.commands import Desk
from meshbridge.commands.record import Record
from meshbridge.config.load import Settings
from meshbridge.delivery import AppFigures, BridgeFeed, Courier, StateFeed, new_route
from meshbridge.journal import Journal
from meshbridge.link import Link
from meshbridge.model.events import DAEMON_PLACE
from meshbridge.model.problems import BridgeProblem
from meshbridge.model.status import FinishedCommand, LinkStatus, SinkState, SinkStatus
from meshbridge.service.reload import Changes
from meshbridge.sinks.base import Sink
from meshbridge.sinks.bridge_view import BridgeViewer
from meshbridge.sinks.commands import CommandSource
from meshbridge.sinks.memory import Remembering
from meshbridge.sinks.states import StateTeller

__all__ = ["Parts", "PartsError", "end"]

_END_SECONDS = 10.0  # a courier needs no longer for the write at hand and a close
_FLUSH_SECONDS = 2.0  # of a journal that is well; a stop waits for no longer either
_LOOK_SECONDS = 0.02


class _Part(Protocol):
    name: str

    def start(self) -> None: ...
    def request_stop(self) -> None: ...
    def stop(self, timeout_seconds: float) -> bool: ...


_OneKind = TypeVar("_OneKind", bound=_Part)


class PartsError(Exception):
    """A part can't be built from its settings; which one, and why."""


class Parts:
    """See the module's text. All methods but :attr:`links` and :attr:`couriers` are for one thread at a time."""

    def __init__(
        self,
        journal: Journal,
        command_ended: Callable[[FinishedCommand], None] = lambda _finished: None,
        problems: Callable[[], Sequence[BridgeProblem]] = lambda: (),
    ) -> None:
        """``command_ended`` is called with each command that ended, from any thread.

        ``problems``: those of the bridge, for a sink that tells people.
        """
        self._journal = journal
        self._problems = problems
        # Replaced as a whole, so that readers need no lock.
        self.links: tuple[Link, ...] = ()
        self.couriers: tuple[Courier, ...] = ()
        self.figures = AppFigures(lambda: [link.requests for link in self.links])
        self._command_ended = command_ended
        self._desks: dict[str, Desk] = {}
        self._new_desks: dict[str, Desk] = {}  # of couriers that have not begun

    def start(self, settings: Settings) -> None:
        """Builds and starts all of them, couriers first: what comes in is on its way out at once.

        Raises:
            PartsError: one can't be built; then none is started.

        """
        links = self._new_links(settings, settings.daemons)
        couriers = self._new_couriers(settings, settings.sinks)
        self.links, self.couriers = tuple(links), tuple(couriers)
        self._journal.retain_cursors(list(settings.sinks))
        self._start_desks()
        _start([*couriers, *links])

    def exchange(self, settings: Settings, changes: Changes, *, ending: threading.Event) -> list[str]:
        """Ends and begins what has changed; all else goes on untouched.

        The new form of a part begins where its old one has ended: at the sink's cursor, at the daemon's last sequence.
        A pause lasts. ``ending`` cuts it short: nothing begins once it is set.

        Returns:
            The names of those whose old form does not end, and goes on.

        Raises:
            PartsError: a new one can't be built; then nothing has changed.

        """
        new_links = self._new_links(settings, changes.daemons.beginning)
        new_couriers = self._new_couriers(settings, changes.sinks.beginning)
        paused = {courier.name for courier in self.couriers if courier.status().state is SinkState.PAUSED}
        old_links = [link for link in self.links if link.name in changes.daemons.ending]
        old_couriers = [courier for courier in self.couriers if courier.name in changes.sinks.ending]
        hanging_links = end(old_links, _END_SECONDS, ending)
        self._journal.flush(_FLUSH_SECONDS)  # the next link to that daemon asks for its last sequence
        hanging_couriers = end(old_couriers, _END_SECONDS, ending)
        if ending.is_set():
            return []
        hanging = [f"daemons.{link.name}" for link in hanging_links] + [f"sinks.{one.name}" for one in hanging_couriers]
        for name in hanging:
            telemetry.part_hangs(name)
        gone = (set(old_links) - set(hanging_links)) | (set(old_couriers) - set(hanging_couriers))
        self._clear_left([one for one in old_couriers if one in gone], settings)
        links = [link for link in new_links if link.name not in _names(hanging_links)]
        couriers = [courier for courier in new_couriers if courier.name not in _names(hanging_couriers)]
        self.links = _in_order(settings.daemons, [link for link in self.links if link not in gone] + links)
        self.couriers = _in_order(settings.sinks, [one for one in self.couriers if one not in gone] + couriers)
        self._journal.retain_cursors([courier.name for courier in self.couriers])
        for courier in couriers:
            if courier.name in paused:
                courier.pause()
        self._stop_desks(courier.name for courier in old_couriers)
        self._start_desks()
        _start([*couriers, *links])
        return hanging

    def _clear_left(self, ended: Sequence[Courier], settings: Settings) -> None:
        """Sinks that have left, or have gone to another destination, take with them what they left at theirs."""
        for courier in ended:
            new = settings.sinks.get(courier.name)
            if new is None or not courier.options.is_same_place(new):
                stay = [one for one in self.couriers if one not in ended and courier.options.is_same_place(one.options)]
                courier.clear({topic for one in stay for topic in one.kept_topics()})

    def request_stop(self) -> None:
        """Asks all of them to end."""
        self._stop_desks(list(self._desks))
        parts: list[_Part] = [*self.links, *self.couriers]
        for part in parts:
            part.request_stop()

    def recent_commands(self) -> list[FinishedCommand]:
        """The last commands of all sinks, the newest first. For any thread."""
        desks = list(self._desks.values())
        return sorted((one for desk in desks for one in desk.recent()), key=lambda one: one.at, reverse=True)

    def link_statuses(self) -> list[LinkStatus]:
        return [link.status() for link in self.links]

    def sink_statuses(self) -> list[SinkStatus]:
        return [courier.status() for courier in self.couriers]

    def _new_links(self, settings: Settings, names: Iterable[str]) -> list[Link]:
        return [Link(name, settings.daemons[name], self._journal) for name in names]

    def _new_couriers(self, settings: Settings, names: Iterable[str]) -> list[Courier]:
        return [self._new_courier(settings, name) for name in names]

    def _new_courier(self, settings: Settings, name: str) -> Courier:
        options = settings.sinks[name]
        try:
            sink: Sink = options.build(name, settings.journal.path)
            if isinstance(sink, Remembering):
                sink.use_memory(self._journal.memory(name))
        except Exception as error:  # whatever a sink of somebody's own does
            raise PartsError(f"sinks.{name}: cannot be built: {error}") from error
        if isinstance(sink, StateTeller):
            sink.tell_states(StateFeed(self._journal, self.link_statuses, self.figures))
        if isinstance(sink, BridgeViewer):
            sink.view_bridge(BridgeFeed(self._journal, self._problems))
        labels = {name: daemon.labels for name, daemon in settings.daemons.items()}
        courier = Courier(
            name, sink, self._journal, options, new_route=lambda: new_route(options, self._journal, labels)
        )
        if isinstance(sink, CommandSource) and sink.command_options is not None:
            desk = Desk(
                name,
                sink.command_options,
                Record(self._journal.memory(name)),
                daemons=lambda: [link.name for link in self.links],
                known_apps=self._known_apps,
                client=self.client,
                place_of=sink.place_of,
                ended=self._command_ended,
                wake=courier.wake,
            )
            sink.take_commands(desk)
            self._new_desks[name] = desk
        return courier

    def client(self, daemon: str, *, alone: bool = False) -> AbstractContextManager[AppMeshClient]:
        """The SDK's client of a daemon, with its link's login; ``alone``: one that no other caller uses.

        Raises:
            AppMeshConnectionError: there is no such daemon (any more), or the bridge is stopping.

        """
        link = next((link for link in self.links if link.name == daemon), None)
        if link is None:
            raise AppMeshConnectionError(f"there is no daemon {daemon!r} here")
        return link.client.alone() if alone else link.client.use()

    def _known_apps(self, daemon: str) -> list[str]:
        return [app for app in self._journal.app_states(daemon) if app != DAEMON_PLACE]

    def _start_desks(self) -> None:
        """Those of new couriers, whose sinks have no older form any more."""
        for name, desk in self._new_desks.items():
            desk.start()
            self._desks[name] = desk
        self._new_desks = {}

    def _stop_desks(self, names: Iterable[str]) -> None:
        for name in names:
            if (desk := self._desks.pop(name, None)) is not None:
                desk.stop()


def _start(parts: Sequence[_Part]) -> None:
    for part in parts:
        part.start()


def end(parts: Sequence[_OneKind], seconds: float, unless: threading.Event | None = None) -> list[_OneKind]:
    """Ends them all at once, however many; the answer are those that have not, in time or when ``unless`` is set."""
    deadline = time.monotonic() + seconds
    for part in parts:
        part.request_stop()
    unless, left = unless or threading.Event(), list(parts)
    while (left := [part for part in left if not part.stop(0.0)]) and time.monotonic() < deadline:
        if unless.wait(_LOOK_SECONDS):
            break
    return left


def _names(parts: Iterable[Any]) -> set[str]:
    return {part.name for part in parts}


def _in_order(names: Mapping[str, Any], parts: Iterable[Any]) -> tuple[Any, ...]:
    """As in the settings; those that don't end though they are no longer there come last."""
    places = {name: place for place, name in enumerate(names)}
    return tuple(sorted(parts, key=lambda part: places.get(part.name, len(places))))
