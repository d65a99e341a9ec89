"""Runs the collectors of a scrape, all at once, each in its own thread, and waits no longer than the deadline.

At most one run of a collector is under way for a daemon. A scrape that comes while another's run is still within its
time takes part in it; once that time is over the run counts as hung, and scrapes report failure at once until it has
come back. So whatever a daemon does, there are at most as many threads as daemons times collectors.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from meshbridge import telemetry
from meshbridge.exporter.collectors import Collector, Deadline
from meshbridge.exporter.exposition import Family

__all__ = ["CollectorRun", "Gathering", "Task"]

_KEPT_SECONDS = 150.0  # longer than the two minutes that Prometheus lets pass between scrapes at most, in practice


@dataclass(frozen=True, slots=True)
class Task:
    """A collector to run for a daemon; made only if it has to be run."""

    daemon: str
    collector: str
    make: Callable[[], Collector]


@dataclass(frozen=True, slots=True)
class CollectorRun:
    """How it went."""

    daemon: str
    collector: str
    success: bool
    duration_seconds: float
    families: list[Family] = field(default_factory=list)
    dropped: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    deadline: Deadline
    result: "Future[CollectorRun]"


class Gathering:
    """Shared by all scrapes; any thread may call :meth:`gather`."""

    def __init__(self) -> None:
        self._workers = _Workers()
        self._lock = threading.Lock()  # guards all below
        self._runs: dict[tuple[str, str], _Run] = {}
        self._waiting: set[SimpleQueue[Future[CollectorRun] | None]] = set()
        self._failing: set[tuple[str, str]] = set()
        self._closed = False

    def gather(self, tasks: Iterable[Task], deadline: Deadline) -> list[CollectorRun]:
        """The outcome of each task, in their order. Returns at the deadline at the latest."""
        started = time.monotonic()
        finished: SimpleQueue[Future[CollectorRun] | None] = SimpleQueue()
        with self._lock:
            self._waiting.add(finished)
            if self._closed:
                finished.put(None)
        results = [(task, self._join_or_start(task, deadline)) for task in tasks]
        pending = {result for _, result in results if result is not None}
        for result in pending:
            result.add_done_callback(finished.put)
        try:
            while pending and (done := finished.get(timeout=deadline.remaining_seconds)) is not None:
                pending.discard(done)
        except Empty:
            pass
        finally:
            with self._lock:
                self._waiting.discard(finished)
        waited = time.monotonic() - started
        outcomes = [_outcome(task, result, waited) for task, result in results]
        self._report(outcomes)
        return outcomes

    def close(self) -> None:
        """Ends every wait. Runs that are under way end by their own deadline."""
        with self._lock:
            self._closed = True
            for finished in self._waiting:
                finished.put(None)
        self._workers.close()

    def _join_or_start(self, task: Task, deadline: Deadline) -> "Future[CollectorRun] | None":
        key = (task.daemon, task.collector)
        with self._lock:
            run = self._runs.get(key)
            if run is not None:
                return run.result if run.deadline.remaining_seconds else None
            run = self._runs[key] = _Run(deadline, Future())
        try:
            self._workers.submit(lambda: self._run(task, run))
        except RuntimeError as error:
            # The system gives no more threads; without an end it would count as hung for ever.
            self._end(run, CollectorRun(*key, success=False, duration_seconds=0.0, error=str(error)))
        return run.result

    def _run(self, task: Task, run: _Run) -> None:
        key = (task.daemon, task.collector)
        started = time.monotonic()
        try:
            collector = task.make()
            families = list(collector.collect(run.deadline))
            outcome = CollectorRun(*key, True, time.monotonic() - started, families, collector.dropped)
        except Exception as error:  # noqa: BLE001 whatever a collector raises costs its own series only
            outcome = CollectorRun(*key, False, time.monotonic() - started, error=f"{type(error).__name__}: {error}")
        self._end(run, outcome)

    def _end(self, run: _Run, outcome: CollectorRun) -> None:
        with self._lock:
            del self._runs[outcome.daemon, outcome.collector]
        run.result.set_result(outcome)

    def _report(self, outcomes: Iterable[CollectorRun]) -> None:
        """Logs a fault when it starts and when it ends."""
        for outcome in outcomes:
            key = (outcome.daemon, outcome.collector)
            with self._lock:
                changed = outcome.success == (key in self._failing)
                (self._failing.discard if outcome.success else self._failing.add)(key)
            if changed and outcome.success:
                telemetry.collector_recovered(*key)
            elif changed:
                telemetry.collector_failing(*key, outcome.error)


class _Workers:
    """As many threads as there is work at once, kept for the next scrape: starting hundreds takes longer than their
    work. A standard pool won't do, since the interpreter waits for its threads at exit, and a daemon may hang for ever.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards _free
        self._free = 0  # threads that wait for work, less the work that waits for them

    def submit(self, work: Callable[[], None]) -> None:
        """Runs ``work``, which must not raise, now."""
        with self._lock:
            anyone = self._free > 0
            self._free -= anyone
        if anyone:
            self._work.put(work)
        else:
            threading.Thread(target=self._serve, args=(work,), name="collector", daemon=True).start()

    def close(self) -> None:
        """Ends the threads that are free; the others stay, and end when their work does and nothing comes."""
        with self._lock:
            free, self._free = self._free, 0
        for _ in range(free):
            self._work.put(None)

    def _serve(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            work()
            work = self._next()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            self._free += 1
        try:
            return self._work.get(timeout=_KEPT_SECONDS)
        except Empty:
            with self._lock:
                if self._free > 0:
                    self._free -= 1
                    return None
            return self._work.get()  # it was promised just now


def _outcome(task: Task, result: "Future[CollectorRun] | None", waited: float) -> CollectorRun:
    if result is None:
        return CollectorRun(task.daemon, task.collector, False, 0.0, error="the call of an earlier scrape still hangs")
    if not result.done():
        return CollectorRun(task.daemon, task.collector, False, waited, error="no answer within the scrape's time")
    return result.result()
