"""Drives one sink: reads the journal from the sink's cursor, offers batches, and acts on how each write ends.

The contract, with the table of endings, is in :mod:`meshbridge.sinks.base`. A sink's cursor moves only over events
that are acknowledged, left out by a rule, or kept as dead letters; so whatever happens, the next offer begins with
the first event that is none of these. Replays and dead letters to be offered again take turns with what is new.
"""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from meshbridge import telemetry
from meshbridge.delivery.breaker import Breaker
from meshbridge.delivery.routing import Route
from meshbridge.delivery.work import LettersWork, LiveWork, ReplayWork, Work
from meshbridge.fields import When, chance_of_jitter
from meshbridge.journal import Journal, steady_now
from meshbridge.model.status import BreakerState, RecentError, ReplayStatus, SinkState, SinkStatus
from meshbridge.outside import said
from meshbridge.sinks.base import Clearing, Gone, Later, NotConnected, Refused, Retry, Sink, SinkError
from meshbridge.sinks.options import SinkOptions
from meshbridge.system.supervision import SupervisedThread

__all__ = ["Courier"]

# A stop must be through within 10 s (docs/design.md), whatever the destination does: one write and one close fit in.
_CONNECT_SECONDS = 6.0
_CLOSE_SECONDS = 2.0
_IDLE_SECONDS = 1.0
_CLEAR_SECONDS = 3.0  # of a sink that is removed: a reload waits for it
_BRIEF_SECONDS = 10.0  # a connection that is lost so soon, again and again, is no recovery
_LEAST_SECONDS = 0.1  # between attempts, also where the destination asks for no wait at all: never a hot loop
_STRIKES = 3  # unforeseen errors on the same event, in a row
_MAX_BUG_CHARACTERS = 500
_REMEMBERED_REPLAYS = 20  # that have ended, to be asked about
_REMEMBERED_ERRORS = 10

_STOPPED, _CONNECTING, _UP, _WAITING, _PAUSED, _GONE = (
    SinkState.STOPPED, SinkState.CONNECTING, SinkState.UP, SinkState.WAITING, SinkState.PAUSED, SinkState.GONE,
)  # fmt: skip
_MOVES: dict[SinkState, frozenset[SinkState]] = {
    _STOPPED: frozenset({_CONNECTING}),
    _CONNECTING: frozenset({_CONNECTING, _UP, _WAITING, _PAUSED, _GONE, _STOPPED}),
    _UP: frozenset({_UP, _WAITING, _PAUSED, _GONE, _STOPPED}),
    _WAITING: frozenset({_WAITING, _CONNECTING, _UP, _PAUSED, _GONE, _STOPPED}),
    _PAUSED: frozenset({_CONNECTING, _UP, _STOPPED}),
    _GONE: frozenset({_CONNECTING, _STOPPED}),
}


class Courier:
    """See the module's text.

    Threads: one, ``courier-<name>``, makes every call to the sink. All methods are for other threads.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        journal: Journal,
        options: SinkOptions,
        *,
        new_route: Callable[[], Route] | None = None,
        chance: Callable[[], float] = chance_of_jitter,
    ) -> None:
        self.name = name
        self._sink = sink
        self._journal = journal
        self._options = options
        self._new_route = new_route or (lambda: Route(options))  # each pass has its own: they remember
        self._chance = chance
        self._delivery_seconds = telemetry.delivery_observer(name)
        self._stop = threading.Event()
        self._wake = threading.Event()  # the wait between attempts, of a pause or after Gone is to end
        self._paused = False
        self._paused_since: float | None = None
        self._held = False  # by the sink's own settings, since the last write
        self._revived = False  # by an operator, after the destination ended delivery
        self._thread = SupervisedThread(f"courier-{name}", self._run, self._stop)
        self._lock = threading.Lock()  # guards _replays
        self._replays: list[ReplayWork] = []
        self._replay_count = 0
        # Written by the courier's thread alone, read by any.
        self._state = SinkState.STOPPED
        self._breaker = Breaker()
        self._delivered = 0
        self._failed = 0
        self._failing_since: float | None = None
        self._errors: tuple[RecentError, ...] = ()
        # The courier's thread's own.
        self._live: LiveWork
        self._letters = LettersWork(name, journal, options.batch.max_events)
        self._work: Work | None = None  # whose batch is under way
        self._beside_next = False  # the next turn is a replay's or a dead letter's
        self._connected = False
        self._connected_at = 0.0  # monotonic seconds
        self._brief_losses = 0  # connections in a row that were lost within seconds
        self._letters_in_a_row = 0
        self._idled_at = 0.0  # monotonic seconds: when the sink was last called
        self._bug: str | None = None  # that the log has the traceback of
        self._writing = False  # the sink has a batch
        self._suspect, self._strikes = 0, 0  # offset of an event on which the sink failed, and how often in a row

    # --- any thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to deliver from the sink's cursor."""
        telemetry.declare_sink(self.name)
        cursor = self._journal.cursor(self.name, from_start=self._options.start == "start")
        self._live = LiveWork(
            self.name, self._journal, self._new_route(), self._options.batch, cursor=cursor, flush=self._stop.is_set
        )
        self._thread.start()

    @property
    def options(self) -> SinkOptions:
        return self._options

    def kept_topics(self) -> set[str]:
        """Where the sink may have left something at its destination."""
        return self._sink.kept_topics() if isinstance(self._sink, Clearing) else set()

    def clear(self, keep: Collection[str]) -> None:
        """Removes what the sink has left at its destination, but at ``keep``. Once the courier has ended."""
        if not isinstance(self._sink, Clearing):
            return
        try:
            left, why = self._sink.clear(keep, _CLEAR_SECONDS), "not all of it was acknowledged in time"
        except SinkError as error:
            left, why = len(self.kept_topics() - set(keep)), str(error)
        except Exception as bug:  # noqa: BLE001 as in a write
            left, why = 1, repr(bug)
        telemetry.sink_cleared(self.name, left, why)

    def request_stop(self) -> None:
        """Asks the courier to end after the write at hand; :meth:`stop` waits for it."""
        self._stop.set()
        self._look_again()

    def stop(self, timeout_seconds: float) -> bool:
        """Ends after the write at hand; False when that takes longer than ``timeout_seconds``."""
        self.request_stop()
        return self._thread.join(timeout_seconds)

    @property
    def threads(self) -> tuple[SupervisedThread, ...]:
        """Those that must run, for as long as the courier does."""
        return (self._thread,)

    @property
    def max_wait_seconds(self) -> float:
        """How long a batch may wait to be filled."""
        return self._options.batch.max_wait

    def pause(self) -> None:
        """Offers nothing more after the write at hand, until :meth:`resume` or the next start."""
        if not self._paused:
            self._paused, self._paused_since = True, time.time()
        self._look_again()

    def resume(self) -> None:
        """Ends a pause, or a wait between attempts; or resumes a sink whose destination ended delivery."""
        self._paused, self._paused_since = False, None
        self._revived = True
        self._look_again()

    def replay(
        self, *, since: float | None = None, until: float | None = None, when: When | None = None
    ) -> ReplayStatus:
        """Begins a pass over kept events beside the cursor; ``since`` and ``until`` are unix seconds."""
        with self._lock:
            self._replay_count += 1
            work = ReplayWork(
                f"{self.name}-{self._replay_count}",
                self.name,
                self._journal,
                self._new_route(),
                when=when or When(),
                since=since,
                until=until,
                max_events=self._options.batch.max_events,
            )
            ended = [one for one in self._replays if one.ended]
            for one in ended[:-_REMEMBERED_REPLAYS]:
                self._replays.remove(one)
            self._replays.append(work)
        self._look_again()
        return work.status()

    def replays(self) -> list[ReplayStatus]:
        """Those under way, and the last that have ended."""
        with self._lock:
            return [work.status() for work in self._replays]

    def cancel_replay(self, replay: str) -> bool:
        """Ends a replay after the batch at hand; False where there is none under way of that id."""
        with self._lock:
            found = [work for work in self._replays if work.id == replay and not work.ended]
        for work in found:
            work.cancel()
        self._look_again()
        return bool(found)

    def retry_letters(self) -> None:
        """Dead letters of this sink have been marked to be offered again."""
        self._letters.look_again()
        self._look_again()

    def status(self) -> SinkStatus:
        lag_events, lag_seconds = self._journal.lag(self.name)
        errors = self._errors
        return SinkStatus(
            sink=self.name,
            state=self._state,
            delivered=self._delivered,
            failed=self._failed,
            lag_events=lag_events,
            lag_seconds=lag_seconds,
            dead_letters=self._journal.dead_letters(self.name),
            last_error=errors[-1].error if errors else None,
            last_error_at=errors[-1].last_at if errors else None,
            breaker=self._breaker.state,
            failing_since=self._failing_since,
            paused_since=self._paused_since,
            held=self._held,
            errors=errors,
        )

    def wake(self) -> None:
        """Has the sink's ``idle`` called now, unless a write is under way."""
        self._look_again()

    def _look_again(self) -> None:
        self._wake.set()
        self._journal.wake()

    # --- the courier's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._move(_CONNECTING)
        try:
            while True:
                self._writing = False
                self._wake.clear()  # first: what comes after this look ends the turn's waits
                if self._stop.is_set():
                    return
                try:
                    self._turn()
                except Gone as gone:
                    self._settle(gone.acknowledged)
                    self._end(gone)
                except Refused as refused:
                    self._settle(refused.acknowledged)
                    self._note(refused)
                    self._refuse(refused)
                except SinkError as error:
                    if self._writing:
                        self._strikes = 0
                    if isinstance(error, NotConnected):
                        self._note_loss()
                    self._settle(error.acknowledged)
                    self._fail(error)
                except Exception as bug:  # noqa: BLE001 a sink's bug must not end its delivery, let alone the service
                    text = f"unexpected {bug!r}"[:_MAX_BUG_CHARACTERS]
                    self._tell_bug(text)
                    self._connected = False
                    if not self._blame(text):
                        self._fail(SinkError(text, reason="bug"))
        finally:
            self._close()
            self._connected = False
            self._state = _STOPPED

    def _turn(self) -> None:
        """Rests while paused; connects, offers a batch, or idles."""
        if self._paused:
            self._rest()
            return
        if not self._connected:
            self._move(_CONNECTING)
            self._sink.connect(_CONNECT_SECONDS)
            self._connected, self._connected_at = True, time.monotonic()
            if not self._is_flapping:
                telemetry.sink_connected(self.name)
            if self._work is None:  # else the write that failed must go through first: until then waits grow
                self._up()
        work = self._work = self._work or self._next_work()
        if work is None:
            self._idle()
            self._live.wait(_IDLE_SECONDS, unless=self._wake.is_set)
            return
        if work.batch:
            offered = work.offered
            self._writing, self._held = True, False
            try:
                self._sink.write(offered, self._options.write_seconds)
            except Later as later:
                self._writing = False
                self._hold(later)
                return
            self._writing, self._strikes = False, 0
            self._idled_at = time.monotonic()
            self._letters_in_a_row = 0
            self._settle(len(offered))
            self._up()
        elif time.monotonic() - self._idled_at >= _IDLE_SECONDS:  # much is left out by a rule
            self._idle()
        if not work.batch:
            self._work = None

    def _hold(self, later: Later) -> None:
        """The sink's own settings have the rest wait; meanwhile it grows by what comes in."""
        self._strikes, self._held = 0, True
        self._settle(later.acknowledged)
        self._up()
        self._wait(min(max(later.after_seconds, _LEAST_SECONDS), _IDLE_SECONDS))
        if self._work is not None and not self._stop.is_set():
            self._work.top_up()

    def _idle(self) -> None:
        self._sink.idle()
        self._idled_at = time.monotonic()
        self._up()

    def _next_work(self) -> Work | None:
        """Whose turn it is and who has something: new events, and beside them one batch at a time of all else."""
        beside = self._beside()
        self._beside_next = not self._beside_next and bool(beside)
        candidates: list[Work] = [*beside, self._live] if self._beside_next else [self._live, *beside]
        return next((work for work in candidates if work.refill()), None)

    def _beside(self) -> list[Work]:
        with self._lock:
            return [self._letters, *(work for work in self._replays if not work.ended)]

    def _rest(self) -> None:
        """Keeps the connection while paused."""
        if self._state is not _PAUSED:
            self._move(_PAUSED)
            telemetry.sink_paused(self.name)
        self._keep_connection()
        self._wait(_IDLE_SECONDS)
        if not self._paused:
            telemetry.sink_resumed(self.name)
            self._move(_UP if self._connected else _CONNECTING)

    def _keep_connection(self) -> None:
        """While nothing is offered: a broker wants its keep-alive, and what comes in is not to wait."""
        if not self._connected:
            return
        try:
            self._sink.idle()
        except SinkError as error:
            self._connected = False
            self._note(error)
        except Exception as bug:  # noqa: BLE001 as in a write
            self._connected = False
            self._tell_bug(f"unexpected {bug!r}"[:_MAX_BUG_CHARACTERS])

    def _wait(self, seconds: float) -> None:
        """Until a stop, a pause, a resume, or the time is over."""
        if not self._stop.is_set():
            self._wake.wait(seconds)
        self._wake.clear()

    def _settle(self, acknowledged: int) -> None:
        """The first ``acknowledged`` events of the batch are acknowledged."""
        work = self._work
        if acknowledged <= 0 or work is None:
            return
        now = time.time()
        if work is self._live:
            for envelope in work.batch[:acknowledged]:
                self._delivery_seconds.observe(max(0.0, now - envelope.event.received_at))
        self._delivered += acknowledged
        telemetry.events_delivered(self.name, acknowledged)
        work.settle(acknowledged)
        if not work.batch:
            self._work = None

    def _refuse(self, refused: Refused) -> None:
        work = self._work
        self._failed += 1
        self._strikes = 0
        self._up()  # it answers
        if work is None or not work.batch:
            return
        event_id = work.batch[0].event.id
        if work.refuse(refused) and work is self._live:
            self._tell_letter(event_id, str(refused))
        if not work.batch:
            self._work = None

    def _blame(self, bug: str) -> bool:
        """Narrows an unforeseen error down to one event; whether this one became a dead letter.

        An event on which a sink fails so three times in a row, alone, would fail for ever, and hold up all others.
        """
        work = self._work
        if not self._writing or work is None or not work.batch:
            return False
        if work.divide():
            return False
        culprit = work.batch[0]
        self._strikes = self._strikes + 1 if culprit.offset == self._suspect else 1
        self._suspect = culprit.offset
        if self._strikes < _STRIKES:
            return False
        self._failed += 1
        telemetry.sink_failed(self.name, "bug", bug, first=False, retry_seconds=0.0)
        work.dead_letter("bug", bug)
        if work is self._live:
            self._tell_letter(culprit.event.id, bug)
        if not work.batch:
            self._work = None
        return True

    def _tell_letter(self, event_id: str, error: str) -> None:
        self._letters_in_a_row += 1
        telemetry.dead_letter(self.name, event_id, error, self._letters_in_a_row)

    def _fail(self, error: SinkError) -> None:
        """Counts and tells, gives up on what is too old, and waits before the next attempt."""
        self._failed += 1
        self._note(error)
        self._failing_since = self._failing_since or time.time()
        if self._breaker.failed():
            telemetry.breaker_opened(self.name, self._breaker.failures, str(error))
        if self._connected and self._breaker.state is BreakerState.OPEN:
            self._close()
            self._connected = False
        attempts = self._breaker.failures
        requested = error.after_seconds if isinstance(error, Retry) else None
        seconds = (
            self._options.retry.delay(attempts, self._chance()) if requested is None else max(requested, _LEAST_SECONDS)
        )
        telemetry.sink_failed(self.name, error.reason, str(error), first=attempts == 1, retry_seconds=seconds)
        self._give_up_on_old(error)
        self._move(_WAITING)
        self._wait_between_attempts(seconds)
        self._breaker.try_again()

    def _wait_between_attempts(self, seconds: float) -> None:
        """Not cut short by a replay that begins meanwhile, or the like."""
        deadline = time.monotonic() + seconds
        self._revived = False
        while not (self._stop.is_set() or self._paused or self._revived):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._keep_connection()
            self._wait(min(left, _IDLE_SECONDS))

    def _give_up_on_old(self, error: SinkError) -> None:
        age, work = self._options.retry.give_up_after, self._work
        while age is not None and work is self._live and work.batch:
            event = work.batch[0].event
            if steady_now() - event.received_at <= age:
                return
            work.dead_letter("gave_up", str(error))
            self._tell_letter(event.id, f"older than {age:g} s: {error}")
        if work is not None and not work.batch:
            self._work = None

    def _end(self, gone: Gone) -> None:
        """The destination ended delivery: nothing is offered until an operator resumes the sink."""
        self._note(gone)
        self._failing_since = self._failing_since or time.time()
        telemetry.sink_gone(self.name, str(gone))
        self._close()
        self._move(_GONE)
        self._revived = False
        while not (self._stop.is_set() or self._revived):
            self._wait(_IDLE_SECONDS)
        self._connected = False
        if self._revived and not self._stop.is_set():
            telemetry.sink_resumed(self.name)
            self._move(_CONNECTING)

    def _note_loss(self) -> None:
        if self._connected:
            brief = time.monotonic() - self._connected_at < _BRIEF_SECONDS
            self._brief_losses = self._brief_losses + 1 if brief else 0
        self._connected = False

    @property
    def _is_flapping(self) -> bool:
        """Whether connections were lost within seconds, again and again, and this one has not lasted longer yet."""
        return self._brief_losses > 1 and time.monotonic() - self._connected_at < _BRIEF_SECONDS

    def _up(self) -> None:
        if self._is_flapping:  # no recovery: the waits go on growing
            self._move(_UP)
            return
        if self._breaker.failures:
            telemetry.sink_recovered(self.name, self._journal.lag(self.name)[0])
        if self._breaker.succeeded():
            telemetry.breaker_closed(self.name)
        self._bug = self._failing_since = None
        self._move(_UP)

    def _tell_bug(self, bug: str) -> None:
        """While it is being handled."""
        if bug != self._bug:
            self._bug = bug
            telemetry.sink_bug(self.name)

    def _note(self, error: SinkError) -> None:
        text, now = said(str(error)), time.time()
        *earlier, last = self._errors or (None,)
        if last is not None and last.error == text:
            self._errors = (*earlier, replace(last, last_at=now, count=last.count + 1))
        else:
            self._errors = (*self._errors, RecentError(text, now, now))[-_REMEMBERED_ERRORS:]

    def _move(self, state: SinkState) -> None:
        if state not in _MOVES[self._state]:
            raise AssertionError(f"courier {self.name}: {self._state} -> {state} is not in the table")
        self._state = state

    def _close(self) -> None:
        try:
            self._sink.close(_CLOSE_SECONDS)
        except Exception:  # noqa: BLE001 what was acknowledged is safe; the rest is offered again after the start
            telemetry.sink_bug(self.name)
