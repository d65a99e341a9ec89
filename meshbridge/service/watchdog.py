"""Feeds the service manager's watchdog for as long as the pipeline moves, and only then.

Each part of the way of an event is looked at: the links, the journal, the couriers. A part is stuck when it has
something to do and nothing about it has changed for longer than any single step of it may take. A part that rests is
fine: a link that is up, a courier with nothing to deliver or between two attempts, a journal that has written all it
was given or waits for a full disk. Restarting helps none of these; it does help a thread that has died or hangs.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshbridge import telemetry
from meshbridge.model.status import JournalStatus, LinkState, LinkStatus, SinkState, SinkStatus
from meshbridge.service.notify import Notifier

__all__ = ["Look", "Progress", "Watchdog", "journal_look", "link_look", "sink_look", "thread_look"]

# Above every time limit in a link (a login that is refused and tried again: 40 s) and in a courier (6 s).
_PATIENCE_SECONDS = 60.0
_FEEDS_PER_PERIOD = 3  # sd_watchdog_enabled(3) asks for two at least
_STATUS_SECONDS = 1.0  # a changed status is sent so soon


@dataclass(frozen=True, slots=True)
class Look:
    """One part at one moment."""

    name: str
    resting: bool
    mark: Hashable = None
    """Differs from that of the last look when the part has moved."""
    extra_seconds: float = 0.0
    """How much longer than usual this part may take for a step."""


def link_look(status: LinkStatus, *, alive: bool) -> Look:
    """``alive``: whether the link's thread is there (or none is needed)."""
    resting = alive and status.state in {LinkState.UP, LinkState.WAITING}
    return Look(f"link {status.daemon}", resting, (status.state, status.connects, status.last_error_at))


def sink_look(status: SinkStatus, max_wait_seconds: float) -> Look:
    """``max_wait_seconds``: how long the courier may wait for a batch to fill."""
    idle = status.state is SinkState.UP and (status.held or not status.lag_events)
    resting = idle or status.state in {SinkState.WAITING, SinkState.PAUSED, SinkState.GONE}
    mark = (status.state, status.delivered, status.failed, status.lag_events)
    return Look(f"sink {status.sink}", resting, mark, max_wait_seconds)


def thread_look(thread: str) -> Look:
    """Of a thread that should run and does not. One that was restarted is not looked at any more."""
    return Look(f"thread {thread}", resting=False)


def journal_look(status: JournalStatus, *, settled: bool) -> Look:
    """``settled``: whether the journal's thread has written all it was given. Cursors move no offset, but the file."""
    return Look("journal", settled or status.last_error is not None, (status.last_offset, _last_write(status.path)))


def _last_write(directory: str) -> int:
    try:
        return (Path(directory) / "journal.db-wal").stat().st_mtime_ns
    except OSError:
        return 0


class Progress:
    """Tells from look to look which parts are stuck. No clock of its own."""

    def __init__(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._patience = patience_seconds
        self._seen: dict[str, tuple[Hashable, float]] = {}

    def stuck(self, looks: Iterable[Look], now: float) -> list[str]:
        """The names of the parts that have not moved; ``now`` is of a clock that never goes back."""
        names = []
        looks = list(looks)
        present = {look.name for look in looks}
        self._seen = {name: seen for name, seen in self._seen.items() if name in present}
        for look in looks:
            mark, since = self._seen.get(look.name, (None, now))
            if look.resting or mark != look.mark or look.name not in self._seen:
                self._seen[look.name] = (look.mark, now)
            elif now - since > self._patience + look.extra_seconds:
                names.append(look.name)
        return names


class Watchdog:
    """See the module's text.

    Threads: one, ``watchdog``, where there is a manager. It sends the status when it changes, and feeds where that is
    asked for. What it looks at may block it: then nothing is fed.
    :meth:`start` and :meth:`stop` are for the service's thread.
    """

    def __init__(
        self,
        notifier: Notifier,
        looks: Callable[[], Sequence[Look]],
        summary: Callable[[], str],
        progress: Progress | None = None,
    ) -> None:
        self._notifier = notifier
        self._looks = looks
        self._summary = summary
        self._progress = progress or Progress()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._notifier.listens:
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread, unless something blocks it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        period = self._notifier.watchdog_seconds
        feed_seconds = None if period is None else period / _FEEDS_PER_PERIOD
        step = min(_STATUS_SECONDS, feed_seconds or _STATUS_SECONDS)
        next_feed = time.monotonic()
        stuck: list[str] = []
        said = ""
        while True:
            if feed_seconds is not None and time.monotonic() >= next_feed:
                next_feed = time.monotonic() + feed_seconds - step / 2  # a step that comes a little early feeds
                stuck, said = self._feed(stuck)
            elif not stuck and (status := self._summary()) != said:
                self._notifier.status(status)
                said = status
            if self._stop.wait(step):
                return

    def _feed(self, told: list[str]) -> tuple[list[str], str]:
        """Feeds the watchdog unless parts are stuck: their names, and the status that was sent."""
        stuck = self._progress.stuck(self._looks(), time.monotonic())
        status = f"stuck: {', '.join(stuck)}" if stuck else self._summary()
        if not stuck:
            self._notifier.alive(status)
        elif stuck != told:
            telemetry.log.error(
                "pipeline stuck", parts=", ".join(stuck), hint="the service manager restarts the bridge"
            )
            self._notifier.status(status)
        return stuck, status
