"""The composition root: builds the parts, starts and stops them in order.

Start: journal, listeners, couriers, links; so no event is lost meanwhile. Stop: admin requests are refused,
then links (nothing new comes in), the journal writes what it was handed, couriers finish the write at hand, and the
journal keeps their cursors. What is not delivered by then is delivered after the next start.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler

from meshbridge import telemetry
from meshbridge.admin.api import control_api, token_api
from meshbridge.admin.control import ControlSocket
from meshbridge.admin.interface import Bridge, ReloadRefusedError
from meshbridge.admin.listener import AdminListener
from meshbridge.config.load import ConfigError, Settings
from meshbridge.exporter import Exporter, Sources
from meshbridge.journal import Journal
from meshbridge.model.figures import SAMPLE_SECONDS
from meshbridge.model.problems import BridgeProblem
from meshbridge.service.command_audit import CommandAudit
from meshbridge.service.explanation import explained, explained_command
from meshbridge.service.notify import Notifier
from meshbridge.service.observer import Observer
from meshbridge.service.reload import Changes, changes, put_in_force, still_in_force
from meshbridge.service.supervisor import Parts, PartsError, end
from meshbridge.service.watchdog import Look, Watchdog, journal_look, link_look, sink_look, thread_look

__all__ = ["Service"]

_STARTED = b"\0"  # the number of no signal
_STOP_SECONDS = 9.5  # of the 10 that an operator is promised
_PRUNE_SECONDS = 30
_FIGURES_SECONDS = 60
_IDLE_CHECK_SECONDS = 60
_CERTIFICATES_SECONDS = 3600


class Service:
    """One running bridge. ``start`` and ``stop`` belong to one thread; ``run`` calls both. ``reload`` is for any."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings] | None = None,
        *,
        configuration: str | None = None,
    ) -> None:
        """``load``: reads the settings again, for :meth:`reload`; without it they stay as they are.

        ``configuration``: the absolute path of their file, or ENVIRONMENT_ALONE; commands that mean another one are
        refused. None: not known, none is.
        """
        self._settings = settings
        self._load = load or (lambda: settings)
        self.journal = Journal(settings.journal)
        self._audit = CommandAudit(settings.admin.audit_file)
        self.parts = Parts(self.journal, self._audit.write, self._problems)
        self.observer = Observer(self.parts, self.journal, lambda: self._missing_threads() if self._started else ())
        self.exporter = Exporter(
            settings.exporter,
            Sources(
                daemons=lambda: [link.requests for link in self.parts.links],
                links=self.parts.link_statuses,
                sinks=self.parts.sink_statuses,
                journal=self.journal.status,
                ready=self._not_ready,
            ),
        )
        self.bridge = Bridge(
            sinks=lambda: self.parts.couriers,
            links=self.parts.link_statuses,
            journal=self.journal,
            explain=lambda asked: explained(asked, self.journal, self._settings),
            explain_command=lambda asked: explained_command(asked, self.journal, self._settings),
            commands=self.parts.recent_commands,
            reload=self.reload,
            problems=self.observer.problems,
            figures=self.observer.figures,
            configuration=configuration,
            client=self.parts.client,
        )
        self._control = ControlSocket(settings.journal.path, control_api(self.bridge, settings.admin))
        self.admin: AdminListener | None = None
        if settings.admin.enabled:
            api = token_api(self.bridge, settings.admin, lambda: self._settings.admin.tokens)
            self.admin = AdminListener(settings.admin, api)
        self._scheduler = BackgroundScheduler(
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1}, daemon=True
        )
        self._notifier = Notifier(os.environ)
        self._started = False
        self._ending = threading.Event()  # set once, when the bridge is to stop
        self._reloading = threading.Lock()  # one reload at a time, and none while the bridge starts or stops

    def start(self) -> None:
        """Starts every part.

        Raises:
            JournalError: the journal can't be opened.
            PartsError: a sink can't be built.
            OSError: an address can't be listened on.

        """
        self.journal.open()
        try:
            self.exporter.start()
            if self.admin is not None:
                self.admin.start()
            self.parts.start(self._settings)
        except BaseException:
            if self.admin is not None:
                self.admin.stop(1.0)
            self.exporter.stop(1.0)
            self.journal.close()
            raise
        try:
            self._control.start()
        except OSError as error:  # a directory whose file system has no sockets, say: events go on
            telemetry.control_socket_missing(error)
        now = datetime.now(UTC)
        self._scheduler.add_job(self.journal.prune, "interval", seconds=_PRUNE_SECONDS)
        self._scheduler.add_job(self.parts.figures.measure, "interval", seconds=_FIGURES_SECONDS)
        self._scheduler.add_job(self._close_idle_clients, "interval", seconds=_IDLE_CHECK_SECONDS)
        self._scheduler.add_job(self.observer.sample, "interval", seconds=SAMPLE_SECONDS, next_run_time=now)
        self._scheduler.add_job(
            lambda: self.observer.check_certificates(self._settings),
            "interval",
            seconds=_CERTIFICATES_SECONDS,
            next_run_time=now,
        )
        self._scheduler.start()
        self._started = True
        host, port = self.exporter.address
        telemetry.service_started(
            daemons=len(self.parts.links),
            sinks=len(self.parts.couriers),
            exporter=f"{host}:{port}",
            admin="off" if self.admin is None else self.admin.address,
            journal=str(self.journal.path),
        )

    def _problems(self) -> Sequence[BridgeProblem]:
        return self.observer.problems()

    def _close_idle_clients(self) -> None:
        for link in self.parts.links:
            link.client.close_idle()

    def reload(self) -> dict[str, Any]:
        """Reads the settings again and puts in force what has changed. Says what has been done, by names:
        ``{"daemons": {"added", "changed", "removed"}, "sinks": {…}, "need_restart"}``.

        Raises:
            ReloadRefusedError: they can't be used; then nothing has changed.

        """
        with self._reloading:
            if self._ending.is_set() or not self._started:
                raise ReloadRefusedError(["the bridge is starting or stopping"])
            self._notifier.reloading()
            try:
                return self._put_in_force(self._load())
            except (ConfigError, PartsError) as error:
                refused = ReloadRefusedError(error.problems if isinstance(error, ConfigError) else [str(error)])
                telemetry.settings_refused(refused.problems)
                self.observer.reload_failed(refused.problems[0])
                raise refused from error
            except ReloadRefusedError:
                raise
            except Exception as error:
                self.observer.reload_failed(f"unexpected {error!r}")
                raise
            finally:
                self._notifier.ready()

    def _put_in_force(self, settings: Settings) -> dict[str, Any]:
        present = self._settings
        found = changes(present, settings, listening=self.admin is not None)
        settings = put_in_force(present, settings, found)
        hanging = self.parts.exchange(settings, found, ending=self._ending)
        if self._ending.is_set():
            raise ReloadRefusedError(["the bridge is stopping"])
        if settings.log != present.log:
            telemetry.configure_logging(settings.log.level, settings.log.format)
        self._settings = still_in_force(present, settings, hanging)
        self.observer.reloaded()
        done = _told(found, hanging)
        telemetry.settings_reloaded(**done)
        return done

    def stop(self) -> None:
        """Stops every part, within ten seconds whatever the destinations do."""
        deadline = time.monotonic() + _STOP_SECONDS
        self._ending.set()
        with self._reloading:  # one under way sees that the bridge ends
            self._started = False
        self._control.stop(_left(deadline, 1.0))  # while all that it could be asked about is still there
        if self.admin is not None:
            self.admin.stop(_left(deadline, 1.0))
        self._scheduler.shutdown(wait=False)
        links, couriers = self.parts.links, self.parts.couriers
        self.parts.request_stop()
        slow = [f"link {link.name}" for link in end(links, _left(deadline, 3.0))]
        self.journal.flush(_left(deadline, 2.0))
        slow += [f"sink {courier.name}" for courier in end(couriers, _left(deadline, 8.0))]
        self.exporter.stop(_left(deadline, 1.0))
        waiting = {status.sink: status.lag_events for status in (courier.status() for courier in couriers)}
        self.journal.close()
        telemetry.service_stopped(undelivered=waiting, **({"abandoned": ", ".join(slow)} if slow else {}))

    def run(self) -> None:
        """Starts, reloads at each SIGHUP until SIGTERM or SIGINT, and stops. To be called from the main thread.

        Raises:
            JournalError, PartsError, OSError: as :meth:`start`.

        """
        watchdog = Watchdog(self._notifier, self._looks, self._summary)
        received: list[str] = []

        def on_end(number: int, _frame: FrameType | None) -> None:
            received.append(signal.Signals(number).name)
            self._ending.set()  # a reload under way stops where it is

        def on_reload(_number: int, _frame: FrameType | None) -> None:
            """The byte in the pipe says it all."""

        # A signal that comes just before a lock is waited for does not end that wait; a byte in a pipe does.
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        fd_before = signal.set_wakeup_fd(waker)
        handlers = {signal.SIGTERM: on_end, signal.SIGINT: on_end, signal.SIGHUP: on_reload}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            # A reload that was asked for while the process started: `meshbridge.__main__` has it wait.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            self._start_or_stop(wake, waker)
            self._notifier.ready()
            watchdog.start()
            try:
                while not received:
                    if os.read(wake, 1) == bytes([signal.SIGHUP]):
                        self._reload_or_say_why()
            finally:
                self._notifier.stopping()
                watchdog.stop()
                telemetry.service_stopping(received[0] if received else "error")
                self.stop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(fd_before)
            os.close(wake)
            os.close(waker)

    def _start_or_stop(self, wake: int, waker: int) -> None:
        """Starts in a thread of its own, so that a stop is obeyed in time whatever the start waits for.

        The byte of a SIGHUP that comes meanwhile is put back: the reload follows.
        """
        failures: list[BaseException] = []

        def begin() -> None:
            try:
                self.start()
            except BaseException as error:  # noqa: BLE001 for the caller
                failures.append(error)
            finally:
                os.write(waker, _STARTED)

        thread = threading.Thread(target=begin, name="start", daemon=True)
        thread.start()
        reload = False
        while (byte := os.read(wake, 1)) != _STARTED:
            reload = reload or byte == bytes([signal.SIGHUP])
            if self._ending.is_set():
                thread.join(_STOP_SECONDS)
                if thread.is_alive():
                    telemetry.start_abandoned()
                    os._exit(0)  # the journal survives that, as it survives a power cut
        if failures:
            raise failures[0]
        if reload:
            os.write(waker, bytes([signal.SIGHUP]))

    def _reload_or_say_why(self) -> None:
        try:
            self.reload()
        except ReloadRefusedError:
            pass  # the log has said why
        except Exception as error:  # noqa: BLE001 whatever it is, events go on
            telemetry.reload_failed(error)

    def _looks(self) -> Sequence[Look]:
        """Each part as it is now, for the watchdog."""
        looks = [journal_look(self.journal.status(), settled=self.journal.flush(0.0))]
        # Of a daemon without events nothing runs by itself.
        looks += [link_look(link.status(), alive=link.alive) for link in self.parts.links if link.has_events]
        looks += [thread_look(name) for name in self._missing_threads()]
        return looks + [sink_look(courier.status(), courier.max_wait_seconds) for courier in self.parts.couriers]

    def _summary(self) -> str:
        """One line for ``systemctl status``."""
        links, sinks = (
            [link.status() for link in self.parts.links],
            [courier.status() for courier in self.parts.couriers],
        )
        waiting = max((sink.lag_events for sink in sinks), default=0)
        refused = self.observer.reload_error
        return (
            f"{sum(link.up for link in links)} of {len(links)} daemons up, "
            f"{sum(sink.up for sink in sinks)} of {len(sinks)} sinks up, {waiting} events waiting"
            + (f"; reload refused, the old settings stay in force: {refused}" if refused else "")
        )

    def _not_ready(self) -> Sequence[str]:
        reasons = []
        if not self._started:
            reasons.append("starting or stopping")
        status = self.journal.status()
        if not status.open:
            reasons.append("the journal is not open")
        if self._started:
            reasons += [f"thread {name} is not running" for name in self._missing_threads()]
        return reasons

    def _missing_threads(self) -> list[str]:
        """Of those that must run: each is restarted, or the watchdog has the bridge restarted."""
        threads = [thread for link in self.parts.links for thread in link.threads]
        threads += [thread for courier in self.parts.couriers for thread in courier.threads]
        missing = [thread.name for thread in threads if thread.missing]
        return missing if self.journal.running else [*missing, "journal"]


def _left(deadline: float, at_most: float) -> float:
    return max(0.1, min(at_most, deadline - time.monotonic()))


def _told(found: Changes, hanging: Sequence[str]) -> dict[str, Any]:
    return {
        **{
            kind: {"added": list(of.added), "changed": list(of.changed), "removed": list(of.removed)}
            for kind, of in (("daemons", found.daemons), ("sinks", found.sinks))
        },
        "need_restart": [*found.need_restart, *hanging],
    }
