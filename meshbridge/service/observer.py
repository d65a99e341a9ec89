"""Watches the parts of a running bridge: what is wrong with them, and their figures over the last day."""

import threading
import time
from collections.abc import Callable, Sequence

from meshbridge import telemetry
from meshbridge.config.load import Settings
from meshbridge.journal import Journal, JournalError
from meshbridge.model.figures import FigureRing, Figures, Range
from meshbridge.model.problems import LATELY_SECONDS, BridgeProblem, CrashLoop, Observation, problems_of
from meshbridge.model.status import Loss, Verdict
from meshbridge.model.timeline import CRASH_LOOP_RESTARTS
from meshbridge.service.supervisor import Parts

__all__ = ["Observer"]

_LOOK_SECONDS = 2.0  # between two looks for crash loops
_LOOK_SHARE = 20  # one that takes long is made less often: at most so much of a thread


class Observer:
    """``sample`` and ``check_certificates`` are for the scheduler's threads, all else is for any."""

    def __init__(self, parts: Parts, journal: Journal, missing_threads: Callable[[], Sequence[str]]) -> None:
        self._parts = parts
        self._journal = journal
        self._missing_threads = missing_threads
        self.ring = FigureRing()
        self._certificates: list[Verdict] = []
        self._began_at = time.time()
        self._looking = threading.Lock()  # guards the next two
        self._crash_loops: list[CrashLoop] = []
        self._look_at = 0.0  # monotonic seconds
        self.reload_error: str | None = None
        """Why the last reload changed nothing."""
        self._reload_failed_at: float | None = None

    def reload_failed(self, why: str) -> None:
        self.reload_error, self._reload_failed_at = why, time.time()

    def reloaded(self) -> None:
        self.reload_error = self._reload_failed_at = None

    def sample(self) -> None:
        """Takes the figures of this moment."""
        self.ring.sample(self._parts.link_statuses(), self._parts.sink_statuses(), self._journal.status())

    def figures(self, span: Range) -> Figures:
        return self.ring.figures(span, time.time())

    def check_certificates(self, settings: Settings) -> None:
        """Reads when the certificates in files expire."""
        from meshbridge.checks.certificates import check_certificates  # noqa: PLC0415 not needed for the start

        self._certificates = list(check_certificates(settings))

    def problems(self) -> list[BridgeProblem]:
        """What is wrong, the worst first."""
        sinks = self._parts.sink_statuses()
        letters = {sink.sink: self._journal.letters.find(sink.sink, limit=1) for sink in sinks if sink.dead_letters}
        losses = [Loss(*loss) for loss in telemetry.losses()]
        seen = Observation(
            links=self._parts.link_statuses(),
            sinks=sinks,
            journal=self._journal.status(),
            losses=[loss for loss in losses if loss.last_at >= self._began_at],
            oldest_letters={sink: found[0].refused_at for sink, found in letters.items() if found},
            reload_error=self.reload_error,
            reload_failed_at=self._reload_failed_at,
            crash_loops=self._find_crash_loops(),
            certificates=self._certificates,
            missing_threads=self._missing_threads(),
        )
        return problems_of(seen, time.time())

    def _find_crash_loops(self) -> list[CrashLoop]:
        with self._looking:
            began = time.monotonic()
            if began >= self._look_at:
                try:
                    restarts = self._journal.history.restarts(time.time() - LATELY_SECONDS)
                except JournalError:  # which is a problem of its own
                    restarts = {}
                self._crash_loops = [
                    CrashLoop(*place, count)
                    for place, count in sorted(restarts.items())
                    if count >= CRASH_LOOP_RESTARTS
                ]
                took = time.monotonic() - began
                self._look_at = began + max(_LOOK_SECONDS, _LOOK_SHARE * took)
            return self._crash_loops
