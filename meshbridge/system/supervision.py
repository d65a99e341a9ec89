"""Threads that go on: one that ends by an exception is started again, after a wait, and the bridge logs it."""

import threading
import time
from collections.abc import Callable

from meshbridge import telemetry

__all__ = ["SupervisedThread"]

_FIRST_WAIT_SECONDS, _MAX_WAIT_SECONDS = 1.0, 30.0
_STEADY_SECONDS = 60.0  # a thread that ran for so long was fine: the next wait is the first again


class SupervisedThread:
    """Runs ``target`` in a daemon thread until it returns. An exception that it raises is logged and counted.

    ``target`` must be able to run again after an exception. ``stopping`` is set when it is to return for good; it ends
    a wait, too.
    """

    def __init__(
        self,
        name: str,
        target: Callable[[], None],
        stopping: threading.Event,
        *,
        first_wait_seconds: float = _FIRST_WAIT_SECONDS,
    ) -> None:
        self.name = name
        self._target = target
        self._stopping = stopping
        self._first_wait_seconds = first_wait_seconds
        self._running = False  # written by the thread, read by any
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._running = True
        self._thread.start()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Whether the thread has ended within the time; at once for one that was never started."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    @property
    def running(self) -> bool:
        """Whether ``target`` runs: not before the start, not between an exception and the next try, not at the end."""
        return self._running and self._thread.is_alive()

    @property
    def missing(self) -> bool:
        """Whether ``target`` should run and does not."""
        return self._thread.ident is not None and not self._stopping.is_set() and not self.running

    def _run(self) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            try:
                self._target()
            except Exception as error:  # noqa: BLE001 whatever it is: the thread's work must go on
                self._running = False
                failures = 1 if time.monotonic() - started >= _STEADY_SECONDS else failures + 1
                seconds = min(_MAX_WAIT_SECONDS, self._first_wait_seconds * 2.0 ** (min(failures, 10) - 1))
                telemetry.thread_failed(self.name, error, seconds)
            else:
                self._running = False
                return
            if self._stopping.wait(seconds):
                return
            self._running = True
            telemetry.thread_restarted(self.name)
