"""Drives one sink: reads the journal from the sink's cursor, offers batches, and acts on how each write ends.

The contract, with the table of endings, is in :mod:`meshbridge.sinks.base`. A sink's cursor moves only over events
that are acknowledged, left out by ``when``, or kept as dead letters; so whatever happens, the next offer begins with
the first event that is none of these.
"""

import random
import threading
import time
from collections.abc import Callable

from meshbridge import telemetry
from meshbridge.events import Envelope
from meshbridge.journal import Journal
from meshbridge.routing import Route
from meshbridge.sinks.base import Gone, NotConnected, Refused, Retry, Sink, SinkError
from meshbridge.sinks.options import SinkOptions
from meshbridge.status import SinkState, SinkStatus

__all__ = ["Courier"]

_CONNECT_SECONDS = 6.0
_CLOSE_SECONDS = 2.0
_IDLE_SECONDS = 1.0

_MOVES: dict[SinkState, frozenset[SinkState]] = {
    SinkState.STOPPED: frozenset({SinkState.CONNECTING}),
    SinkState.CONNECTING: frozenset({SinkState.UP, SinkState.WAITING, SinkState.GONE, SinkState.STOPPED}),
    SinkState.UP: frozenset({SinkState.WAITING, SinkState.GONE, SinkState.STOPPED}),
    SinkState.WAITING: frozenset({SinkState.WAITING, SinkState.CONNECTING, SinkState.UP, SinkState.STOPPED}),
    SinkState.GONE: frozenset({SinkState.STOPPED}),
}


class Courier:
    """See the module's text.

    Threads: one, ``courier-<name>``, makes every call to the sink. ``start``, ``stop`` and ``status`` may be called
    by any other.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        journal: Journal,
        options: SinkOptions,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._sink = sink
        self._journal = journal
        self._options = options
        self._route = Route(options.when)
        self._chance = chance
        self._delivery_seconds = telemetry.delivery_observer(name)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # Written by the courier's thread alone, read by any.
        self._state = SinkState.STOPPED
        self._delivered = 0
        self._failed = 0
        self._last_error: str | None = None
        self._last_error_at: float | None = None
        # The courier's thread's own.
        self._cursor = 0
        self._batch: list[Envelope] = []  # offered and not yet all acknowledged
        self._batch_end = 0  # where the cursor goes once it is
        self._offer = 0  # how many of it go into one write: fewer once something was refused
        self._connected = False
        self._attempts = 0  # failed ones in a row

    def start(self) -> None:
        """Begins to deliver from the sink's cursor."""
        telemetry.declare_sink(self.name)
        self._cursor = self._journal.cursor(self.name, from_start=self._options.start == "start")
        self._thread = threading.Thread(target=self._run, name=f"courier-{self.name}", daemon=True)
        self._thread.start()

    def request_stop(self) -> None:
        """Asks the courier to end after the write at hand; :meth:`stop` waits for it."""
        self._stop.set()
        self._journal.wake()

    def stop(self, timeout_seconds: float) -> bool:
        """Ends after the write at hand; False when that takes longer than ``timeout_seconds``."""
        self.request_stop()
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def status(self) -> SinkStatus:
        lag_events, lag_seconds = self._journal.lag(self.name)
        return SinkStatus(
            sink=self.name,
            state=self._state,
            delivered=self._delivered,
            failed=self._failed,
            lag_events=lag_events,
            lag_seconds=lag_seconds,
            dead_letters=self._journal.dead_letters(self.name),
            last_error=self._last_error,
            last_error_at=self._last_error_at,
        )

    # --- the courier's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._move(SinkState.CONNECTING)
        try:
            while not self._stop.is_set():
                try:
                    self._turn()
                except Gone as gone:
                    self._settle(gone.acknowledged)
                    self._note(gone)
                    telemetry.sink_gone(self.name, str(gone))
                    self._move(SinkState.GONE)
                    self._stop.wait()
                except Refused as refused:
                    self._settle(refused.acknowledged)
                    self._note(refused)
                    self._refuse(refused)
                except SinkError as error:
                    if isinstance(error, NotConnected):
                        self._connected = False
                    self._settle(error.acknowledged)
                    self._fail(error)
                except Exception as bug:  # noqa: BLE001 a sink's bug must not end its delivery, let alone the service
                    telemetry.sink_bug(self.name)
                    self._connected = False
                    self._fail(SinkError(f"unexpected {bug!r}", reason="bug"))
        finally:
            self._close()
            self._move(SinkState.STOPPED)

    def _turn(self) -> None:
        """Connects, or offers a batch, or idles."""
        if not self._connected:
            self._sink.connect(_CONNECT_SECONDS)
            self._connected = True
            telemetry.sink_connected(self.name)
            if not self._batch:  # else the write that failed must go through first: the wait between tries is to grow
                self._up()
        if not self._batch and not self._next_batch():
            self._sink.idle()
            self._journal.wait(self._cursor, _IDLE_SECONDS)
            return
        if self._batch:
            offered = self._batch[: self._offer]
            self._sink.write(offered, self._options.write_seconds)
            self._settle(len(offered))
            self._up()

    def _next_batch(self) -> bool:
        """Reads the journal; False when there is nothing behind the cursor."""
        limits = self._options.batch
        envelopes = self._journal.read(self._cursor, limits.max_events)
        if envelopes and limits.max_wait and len(envelopes) < limits.max_events:
            envelopes = self._fill(envelopes[0], limits.max_events, limits.max_wait)
        if not envelopes:
            return False
        wanted = [envelope for envelope in envelopes if self._route.wants(envelope.event)]
        if len(wanted) < len(envelopes):
            telemetry.events_filtered(self.name, len(envelopes) - len(wanted))
        self._batch, self._batch_end, self._offer = wanted, envelopes[-1].offset, len(wanted)
        if not wanted:
            self._advance(self._batch_end)
        return True

    def _fill(self, first: Envelope, max_events: int, max_wait: float) -> list[Envelope]:
        """Waits for more events until the batch is full or its first event has waited long enough."""
        deadline = time.monotonic() + max_wait
        while True:
            envelopes = self._journal.read(first.offset - 1, max_events)
            left = deadline - time.monotonic()
            if len(envelopes) >= max_events or left <= 0 or self._stop.is_set() or not envelopes:
                return envelopes
            self._journal.wait(envelopes[-1].offset, left)

    def _settle(self, acknowledged: int) -> None:
        """The first ``acknowledged`` events of the batch are at the far end: the cursor moves past them."""
        if acknowledged <= 0:
            return
        now = time.time()
        for envelope in self._batch[:acknowledged]:
            self._delivery_seconds.observe(max(0.0, now - envelope.event.received_at))
        self._delivered += acknowledged
        telemetry.events_delivered(self.name, acknowledged)
        self._drop_front(acknowledged)

    def _drop_front(self, count: int) -> None:
        last = self._batch[count - 1].offset
        del self._batch[:count]
        self._offer = self._offer - count if self._offer > count else len(self._batch)
        self._advance(last if self._batch else self._batch_end)

    def _advance(self, offset: int) -> None:
        self._cursor = offset
        self._journal.commit(self.name, offset)

    def _refuse(self, refused: Refused) -> None:
        """One alone is kept as a dead letter; of several, half are offered again until the culprit is alone."""
        self._failed += 1
        if self._offer > 1 and len(self._batch) > 1:
            self._offer = max(1, self._offer // 2)
            return
        envelope = self._batch[0]
        self._journal.add_dead_letter(self.name, envelope, refused.reason, str(refused))
        telemetry.dead_letter(self.name, envelope.event.id, str(refused))
        self._drop_front(1)

    def _fail(self, error: SinkError) -> None:
        """Counts and tells, gives up on what is too old, and waits before the next attempt."""
        self._attempts += 1
        self._failed += 1
        self._note(error)
        wish = error.after_seconds if isinstance(error, Retry) else None
        seconds = self._options.retry.delay(self._attempts, self._chance()) if wish is None else wish
        telemetry.sink_failed(self.name, error.reason, str(error), first=self._attempts == 1, retry_seconds=seconds)
        self._give_up_on_old(error)
        self._move(SinkState.WAITING)
        self._stop.wait(seconds)
        if not self._connected and not self._stop.is_set():
            self._move(SinkState.CONNECTING)

    def _give_up_on_old(self, error: SinkError) -> None:
        age = self._options.retry.give_up_after
        while age is not None and self._batch and time.time() - self._batch[0].event.received_at > age:
            envelope = self._batch[0]
            self._journal.add_dead_letter(self.name, envelope, "gave_up", str(error))
            telemetry.dead_letter(self.name, envelope.event.id, f"older than {age:g} s: {error}")
            self._drop_front(1)

    def _up(self) -> None:
        if self._attempts:
            telemetry.sink_recovered(self.name, self._journal.lag(self.name)[0])
        self._attempts = 0
        if self._state is not SinkState.UP:
            self._move(SinkState.UP)

    def _note(self, error: SinkError) -> None:
        self._last_error, self._last_error_at = str(error), time.time()

    def _move(self, state: SinkState) -> None:
        if state not in _MOVES[self._state]:
            raise AssertionError(f"courier {self.name}: {self._state} -> {state} is not in the table")
        self._state = state

    def _close(self) -> None:
        try:
            self._sink.close(_CLOSE_SECONDS)
        except Exception:  # noqa: BLE001 what was acknowledged is safe; the rest is offered again after the start
            telemetry.sink_bug(self.name)
