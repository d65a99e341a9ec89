"""Notices that something has come in while the sink's thread waits for events."""

import select
import threading
from collections.abc import Callable

__all__ = ["Arrivals"]

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 1.0  # after which a wake is repeated: `idle` is called as often by itself


class Arrivals:
    """Wakes the sink's thread when its connection can be read, which costs one thread where commands are on.

    Threads: one, ``mqtt-<name>-arrivals``, begun with the first :meth:`looked`; it reads nothing. All methods are for
    the sink's thread.
    """

    def __init__(self, name: str, descriptor: Callable[[], int], wake: Callable[[], None]) -> None:
        """``descriptor``: that of the socket, -1 where there is none; ``wake``: has ``idle`` called soon."""
        self._name = name
        self._descriptor = descriptor
        self._wake = wake
        self._looked = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def looked(self) -> None:
        """What had come in has been read."""
        self._looked.set()
        if self._thread is None or not self._thread.is_alive():
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, name=f"mqtt-{self._name}-arrivals", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._looked.set()

    def _run(self) -> None:
        stop = self._stop
        while not stop.is_set():
            descriptor = self._descriptor()
            if descriptor < 0:
                stop.wait(_POLL_SECONDS)
                continue
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            if poller.poll(_POLL_SECONDS * 1000):
                self._looked.clear()
                self._wake()
                self._looked.wait(_LOOK_SECONDS)
