"""Keeps what is known of a daemon's apps, and repairs what events did not tell: compares with the daemon's list after a
connect, after a hole, on a timer, and looks at single apps where events contradict.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence

from meshbridge import telemetry
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshDeniedError, AppMeshError
from meshbridge.journal import Journal
from meshbridge.link.fetch import fetch
from meshbridge.link.output import Missing
from meshbridge.link.reconcile import Apps, Comparison
from meshbridge.link.requests import DaemonRequests
from meshbridge.model.events import Event, EventType
from meshbridge.system.supervision import SupervisedThread

__all__ = ["Repair"]

_LIST_SECONDS = 60.0  # an answer for 10,000 apps is 6 MB
_LOOK_AFTER_SECONDS = 3.0  # events that mix when an app is registered again have all come by then
_RETRY_SECONDS = 5.0
# After a comparison, so many times as long as it took, before holes or contradictions may cause the next one.
_FILL_REST = 4.0  # the same, after output was asked for
_REST, _LEAST_REST_SECONDS, _MAX_REST_SECONDS = 20.0, 1.0, 60.0
_BACKFILL_BYTES = 8 * 2**20  # held in memory at once
_COLLECT_SECONDS = 0.5  # a daemon collects output for 200 ms before it sends it (docs/protocol.md, 'STDOUT')
_CROWDED_SECONDS = 1.0  # until it is looked again whether there is room for output
_SINGLE_LOOKS = 20  # with more apps than this to look at, the whole list is cheaper


class Repair:
    """One daemon's apps, and the thread that compares them.

    Threads: ``repair-<daemon>`` asks the daemon, on the request connection, and compares. The link's reader calls
    :meth:`receive`, which only notes; the lock is never held while anything is waited for.
    """

    def __init__(
        self,
        daemon: str,
        requests: DaemonRequests,
        journal: Journal,
        interval_seconds: float,
        fence: Callable[[], None],
        *,
        exact_output: bool = False,
    ) -> None:
        """``fence`` returns once all events have come that the daemon sent before it was called."""
        self._daemon = daemon
        self._fence = fence
        self._requests = requests
        self._journal = journal
        self._interval_seconds = interval_seconds
        self._exact_output = exact_output
        self.reconciled = 0  # events that were synthesized; read by any thread
        self._lock = threading.Lock()  # guards all below; an event and a comparison never interleave
        self._wake = threading.Condition(self._lock)
        self._apps: Apps | None = None
        self._compared = False  # whether the list was compared since the last connect
        self._compare_at: float | None = None  # monotonic seconds; None: not before the next connect
        self._look_at: dict[str, float] = {}  # app -> when, monotonic seconds
        self._fill_at = 0.0  # monotonic seconds: when output may be asked for again; the thread's own
        self._not_before = 0.0  # monotonic seconds: when the whole list may be asked for again
        self._ending = threading.Event()
        self._thread = SupervisedThread(f"repair-{daemon}", self._run, self._ending)

    # --- the link's threads --------------------------------------------------------------------------------------

    def start(self) -> None:
        self._apps = Apps(self._daemon, self._journal.app_states(self._daemon), exact=self._exact_output)
        self._thread.start()

    def request_stop(self) -> None:
        self._ending.set()
        with self._lock:
            self._wake.notify()

    @property
    def thread(self) -> SupervisedThread:
        return self._thread

    def stop(self, timeout_seconds: float) -> bool:
        """Ends the thread; False when that takes longer. The request connection must be closed before."""
        self.request_stop()
        return self._thread.join(timeout_seconds)

    def connecting(self) -> None:
        """The subscription comes next; whatever happened since the last one was not received."""
        with self._lock:
            assert self._apps is not None
            self._apps.interrupted()

    def connected(self, run: str, ended_run: tuple[str, int | None] | None) -> None:
        """The subscription is there: from now on events are seen, so everything before can be compared.

        ``ended_run`` is the run before, and its last sequence, where the daemon was restarted since.
        """
        with self._lock:
            assert self._apps is not None
            self._apps.run = run
            if ended_run is not None:
                last_run, last = ended_run
                self._apps.hole(last_run, None if last is None else last + 1, None)
            self._compare_at = time.monotonic()
            self._wake.notify()

    def disconnected(self) -> None:
        """Events are no longer seen: comparisons wait for the next connection."""
        with self._lock:
            self._compare_at = None
            self._look_at.clear()
            self._compared = False

    def receive(self, events: Sequence[Event], holes: Sequence[tuple[int, int]], run: str) -> None:
        """Notes what live events say, and hands them to the journal with the states that they make."""
        with self._lock:
            apps = self._apps
            assert apps is not None
            for first, last in holes:
                apps.hole(run, first, last)
            surplus = apps.tell_surplus_holes(time.time())
            now = time.monotonic()
            if self._journal.crowded:
                events = self._without_output(apps, events)
            for event in events:
                if self._observe(apps, event):
                    self._look_at.setdefault(event.app, now + _LOOK_AFTER_SECONDS)
            for missing in apps.outputs.take_given_up():
                telemetry.output_lost(self._daemon, missing.app, missing.start, missing.end)
            if holes:
                self._compare_at = min(self._compare_at or math.inf, self._paced(now))
            if holes or self._look_at or apps.outputs.due:
                self._wake.notify()
            self._journal.submit([*surplus, *events] if surplus else events, apps.changes())

    def _observe(self, apps: Apps, event: Event) -> bool:
        """Whether the app is to be looked at; yes, where the event says something unexpected."""
        try:
            return apps.observe(event)
        except Exception as bug:  # noqa: BLE001 the other events of the same read must go on
            telemetry.thread_failed(f"events-{self._daemon}", bug, None)
            return True

    def _without_output(self, apps: Apps, events: Sequence[Event]) -> list[Event]:
        """All but the output that can be had later."""
        kept = [event for event in events if event.type is not EventType.STDOUT or not apps.leave_out(event)]
        telemetry.output_postponed(self._daemon, len(events) - len(kept))
        return kept

    # --- the repairing thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._ending.is_set() and (wait := self._seconds_to_wait()) != 0.0:
                    self._wake.wait(wait)
                if self._ending.is_set():
                    return
                now = time.monotonic()
                missing = self._missing()
                due = [app for app, at in self._look_at.items() if at <= now]
                if len(due) > _SINGLE_LOOKS and self._compare_at is not None:
                    self._compare_at = min(self._compare_at, self._paced(now))
                    due = []  # the whole list has them
                whole = self._compare_at is not None and self._compare_at <= now
                if whole:
                    self._compare_at = now + self._interval_seconds
                    due = [app for app, at in self._look_at.items() if at <= now]
                for app in due:  # those that are not due yet wait for events that are still to come
                    del self._look_at[app]
            if whole:
                self._compare_all()
            else:
                for app in due:
                    self._compare_one(app)
            if missing:
                begun = time.monotonic()
                self._backfill(missing)
                ended = time.monotonic()
                self._fill_at = ended + min(_MAX_REST_SECONDS, (ended - begun) * _FILL_REST)

    def _missing(self) -> list[Missing]:
        """Output to ask for; not before the list has told which processes are still those that were known."""
        if self._apps is None or not self._compared or self._journal.crowded or time.monotonic() < self._fill_at:
            return []
        return self._apps.outputs.take_due()

    def _seconds_to_wait(self) -> float | None:
        """Until the next thing is due; None: until something happens."""
        times = list(self._look_at.values())
        if len(times) > _SINGLE_LOOKS and self._compare_at is not None:
            # Asked for one by one they would cost more than the list, which must wait for its time.
            times = [max(sorted(times)[_SINGLE_LOOKS], self._not_before)]
        if self._compared and self._apps is not None and self._apps.outputs.due:
            times.append(max(self._fill_at, time.monotonic() + (_CROWDED_SECONDS if self._journal.crowded else 0.0)))
        if self._compare_at is not None:
            times.append(self._compare_at)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _paced(self, now: float) -> float:
        """When the whole list may be asked for: a daemon with holes in its numbers must not keep this thread busy."""
        return max(now, self._not_before)

    def _compare_all(self) -> None:
        begun = time.monotonic()
        try:
            self._compare_with_list()
        finally:
            ended = time.monotonic()
            rest = min(_MAX_REST_SECONDS, max(_LEAST_REST_SECONDS, (ended - begun) * _REST))
            with self._lock:
                self._not_before = ended + rest

    def _compare_with_list(self) -> None:
        mark = self._mark()
        try:
            listed = self._requests.list_apps(_LIST_SECONDS)
            self._fence()
        except AppMeshError as error:
            self._give_up(error)
            return
        self._take(lambda apps: apps.compare(listed, mark, time.time()))
        with self._lock:
            self._compared = self._compare_at is not None
            self._wake.notify()

    def _compare_one(self, app: str) -> None:
        mark = self._mark()
        try:
            fields = self._requests.get_app(app, _LIST_SECONDS)
            self._fence()
        except AppMeshError as error:
            self._give_up(error)
            return
        self._take(lambda apps: apps.compare_one(app, fields, mark, time.time()))

    def _mark(self) -> int:
        with self._lock:
            assert self._apps is not None
            return self._apps.mark()

    def _give_up(self, error: AppMeshError) -> None:
        """No answer: tried again while the connection lasts. Where it is not allowed, the holes are reported."""
        telemetry.reconcile_failed(self._daemon, str(error))
        with self._lock:
            assert self._apps is not None
            self._apps.give_up()
            if isinstance(error, AppMeshDeniedError):
                self._journal.submit(self._apps.tell_holes(0, time.time()), self._apps.changes())
            elif self._compare_at is not None:
                self._compare_at = time.monotonic() + _RETRY_SECONDS

    def _take(self, compare: Callable[[Apps], Comparison]) -> None:
        with self._lock:
            assert self._apps is not None
            try:
                found = compare(self._apps)
            except Exception:
                self._apps.give_up()
                raise
            due = time.monotonic() + _LOOK_AFTER_SECONDS
            for app in found.look_again:
                self._look_at.setdefault(app, due)
            self._journal.submit(found.events, self._apps.changes())
        if found.invalid:
            telemetry.reconcile_failed(self._daemon, f"{found.invalid} listed apps could not be read")
        reconciled = sum(event.reconciled for event in found.events)
        if reconciled:
            self.reconciled += reconciled
            telemetry.events_reconciled(self._daemon, reconciled)

    # --- output --------------------------------------------------------------------------------------------------

    def _backfill(self, missing: list[Missing]) -> None:
        """Asks for bytes that no event brought, some at a time, so that memory stays bounded."""
        while missing:
            fetched: list[tuple[Missing, bytes | None]] = []
            size = 0
            try:
                while missing and size < _BACKFILL_BYTES:
                    data = self._fetch(missing[0])
                    fetched.append((missing.pop(0), data))
                    size += len(data or b"")
                self._settle()
            except AppMeshConnectionError:
                with self._lock:
                    assert self._apps is not None
                    self._apps.outputs.ask_again([wanted for wanted, _ in fetched] + missing)
                    self._compared = False  # not before the next comparison has had an answer
                return
            self._fill(fetched, size)

    def _fetch(self, missing: Missing) -> bytes | None:
        try:
            return fetch(self._requests, missing)
        except AppMeshConnectionError:
            raise
        except AppMeshError as error:
            telemetry.reconcile_failed(self._daemon, f"output of {missing.app}: {error}")
            return None

    def _fill(self, fetched: list[tuple[Missing, bytes | None]], size: int) -> None:
        events: list[Event] = []
        with self._lock:
            assert self._apps is not None
            for wanted, data in fetched:
                if data is None:
                    self._apps.outputs.give_up(wanted)
                    telemetry.output_lost(self._daemon, wanted.app, wanted.start, wanted.end)
                else:
                    events += self._apps.fill(wanted, data, time.time())
            self._journal.submit(events, self._apps.changes())
        if events:
            self.reconciled += len(events)
            telemetry.output_backfilled(self._daemon, len(events), size)

    def _settle(self) -> None:
        """Waits for what the daemon had collected and not yet sent when the file was read.

        Raises:
            AppMeshConnectionError: the event connection is down.

        """
        with self._lock:
            if self._wake.wait_for(self._ending.is_set, _COLLECT_SECONDS):
                raise AppMeshConnectionError("stopping")
        self._fence()
