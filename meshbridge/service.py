"""The composition root: builds the parts, starts and stops them in order.

Start: journal, couriers, exporter, links; so nothing comes in that could not be kept. Stop, the other way round: links
(nothing new comes in), the journal writes what it was handed, couriers finish the write at hand, and the journal keeps
their cursors. What is not delivered by then is delivered after the next start.
"""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import FrameType
from typing import Any

import orjson
from apscheduler.schedulers.background import BackgroundScheduler

from meshbridge import telemetry
from meshbridge.appmesh import AppMeshClient, AppMeshConnectionError
from meshbridge.config import Settings
from meshbridge.delivery import AppFigures, Courier, StateFeed
from meshbridge.exporter import Exporter, Sources
from meshbridge.journal import Journal
from meshbridge.link import Link
from meshbridge.notify import Notifier
from meshbridge.routing import Route
from meshbridge.sinks.base import Sink
from meshbridge.sinks.options import SinkOptions
from meshbridge.sinks.states import StateTeller
from meshbridge.status import LinkStatus
from meshbridge.watchdog import Look, Watchdog, journal_look, link_look, sink_look

__all__ = ["Service"]

_STOP_SECONDS = 9.5  # of the 10 that an operator is promised
_PRUNE_SECONDS = 30
_FIGURES_SECONDS = 60
_IDLE_CHECK_SECONDS = 60


class Service:
    """One running bridge. ``start`` and ``stop`` belong to one thread; ``run`` calls both."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        state_directory = settings.journal.path
        self.journal = Journal(settings.journal)
        self.links = [Link(name, options, self.journal) for name, options in settings.daemons.items()]
        self.couriers: list[Courier] = []
        self.exporter = Exporter(
            settings.exporter,
            Sources(
                daemons=lambda: [link.requests for link in self.links],
                links=self._link_statuses,
                sinks=lambda: [courier.status() for courier in self.couriers],
                journal=self.journal.status,
                ready=self._not_ready,
            ),
        )
        self._state_directory = state_directory
        self._figures = AppFigures(lambda: [link.requests for link in self.links])
        self._scheduler = BackgroundScheduler(
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1}, daemon=True
        )
        self._started = False

    def start(self) -> None:
        """Starts every part.

        Raises:
            JournalError: the journal can't be opened.
            OSError: the exporter's address can't be listened on.

        """
        self.journal.open()
        try:
            self.couriers = [
                Courier(
                    name,
                    self._sink(name, options),
                    self.journal,
                    options,
                    new_route=partial(self._route, options),
                )
                for name, options in self._settings.sinks.items()
            ]
            self.exporter.start()
        except BaseException:
            self.journal.close()
            raise
        self.journal.retain_cursors(list(self._settings.sinks))
        for courier in self.couriers:
            courier.start()
        for link in self.links:
            link.start()
        self._scheduler.add_job(self.journal.prune, "interval", seconds=_PRUNE_SECONDS)
        self._scheduler.add_job(self._figures.measure, "interval", seconds=_FIGURES_SECONDS)
        self._scheduler.add_job(self._close_idle_clients, "interval", seconds=_IDLE_CHECK_SECONDS)
        self._scheduler.start()
        self._started = True
        host, port = self.exporter.address
        telemetry.service_started(
            daemons=len(self.links), sinks=len(self.couriers), exporter=f"{host}:{port}", journal=str(self.journal.path)
        )

    def _link_statuses(self) -> list[LinkStatus]:
        return [link.status() for link in self.links]

    def client(self, daemon: str) -> AbstractContextManager[AppMeshClient]:
        """The SDK's client of a daemon, with its link's login.

        Raises:
            AppMeshConnectionError: there is no such daemon (any more), or the bridge is stopping.

        """
        link = next((link for link in self.links if link.name == daemon), None)
        if link is None:
            raise AppMeshConnectionError(f"there is no daemon {daemon!r} here")
        return link.client.use()

    def _close_idle_clients(self) -> None:
        for link in self.links:
            link.client.close_idle()

    def _sink(self, name: str, options: Any) -> Sink:
        sink: Sink = options.build(name, self._state_directory)
        if isinstance(sink, StateTeller):
            sink.tell_states(StateFeed(self.journal, self._link_statuses, self._figures))
        return sink

    def _route(self, options: SinkOptions) -> Route:
        labels = {name: daemon.labels for name, daemon in self._settings.daemons.items()}
        return Route(options, owner=self._owner, labels=labels)

    def _owner(self, daemon: str, app: str) -> str | None:
        state = self.journal.app_state(daemon, app)
        return None if state is None else orjson.loads(state).get("owner")

    def stop(self) -> None:
        """Stops every part, within ten seconds whatever the far ends do."""
        deadline = time.monotonic() + _STOP_SECONDS
        self._started = False
        self._scheduler.shutdown(wait=False)
        for link in self.links:
            link.request_stop()
        for courier in self.couriers:
            courier.request_stop()
        slow = [f"link {link.name}" for link in self.links if not link.stop(_left(deadline, 3.0))]
        self.journal.flush(_left(deadline, 2.0))
        slow += [f"sink {courier.name}" for courier in self.couriers if not courier.stop(_left(deadline, 8.0))]
        self.exporter.stop(_left(deadline, 1.0))
        self.journal.close()
        waiting = {status.sink: status.lag_events for status in (courier.status() for courier in self.couriers)}
        telemetry.service_stopped(undelivered=waiting, **({"abandoned": ", ".join(slow)} if slow else {}))

    def run(self) -> None:
        """Starts, waits for SIGTERM or SIGINT, and stops. To be called from the main thread.

        Raises:
            JournalError, OSError: as :meth:`start`.

        """
        notifier = Notifier(os.environ)
        watchdog = Watchdog(notifier, self._looks, self._summary)
        received: list[str] = []

        def on_signal(number: int, _frame: FrameType | None) -> None:
            received.append(signal.Signals(number).name)

        # A signal that comes just before a lock is waited for does not end that wait; a byte in a pipe does.
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        fd_before = signal.set_wakeup_fd(waker)
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            notifier.ready()
            watchdog.start()
            try:
                while not received:
                    os.read(wake, 1)
            finally:
                notifier.stopping()
                watchdog.stop()
                telemetry.service_stopping(received[0] if received else "error")
                self.stop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(fd_before)
            os.close(wake)
            os.close(waker)

    def _looks(self) -> Sequence[Look]:
        """Each part as it is now, for the watchdog."""
        https = {name for name, options in self._settings.daemons.items() if options.scheme == "https"}
        looks = [journal_look(self.journal.status(), settled=self.journal.flush(0.0))]
        looks += [
            link_look(link.status(), alive=link.alive)
            for link in self.links
            if link.name not in https  # nothing of it runs by itself
        ]
        waits = {name: options.batch.max_wait for name, options in self._settings.sinks.items()}
        return looks + [sink_look(courier.status(), waits[courier.name]) for courier in self.couriers]

    def _summary(self) -> str:
        """One line for ``systemctl status``."""
        links, sinks = [link.status() for link in self.links], [courier.status() for courier in self.couriers]
        waiting = max((sink.lag_events for sink in sinks), default=0)
        return (
            f"{sum(link.up for link in links)} of {len(links)} daemons up, "
            f"{sum(sink.up for sink in sinks)} of {len(sinks)} sinks up, {waiting} events waiting"
        )

    def _not_ready(self) -> Sequence[str]:
        reasons = []
        if not self._started:
            reasons.append("starting or stopping")
        status = self.journal.status()
        if not status.open:
            reasons.append("the journal is not open")
        return reasons


def _left(deadline: float, at_most: float) -> float:
    return max(0.1, min(at_most, deadline - time.monotonic()))
