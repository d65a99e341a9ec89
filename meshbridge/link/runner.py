"""The thread that keeps the event connection to one daemon."""

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from meshbridge import telemetry
from meshbridge.appmesh.channel import Channel
from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshConnectionError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshRequestError,
    AppMeshTimeoutError,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.tcp_messages import MessageError
from meshbridge.appmesh.token_keeper import LOOK_SECONDS
from meshbridge.fields import RetryWaits, chance_of_jitter
from meshbridge.journal import Journal
from meshbridge.link.client import DaemonClient
from meshbridge.link.connections import (
    CutOffError,
    LinkClient,
    explain,
    new_exchange,
    new_transport,
    was_disconnected_by_daemon,
)
from meshbridge.link.credentials import Credentials
from meshbridge.link.numbering import Numbering
from meshbridge.link.options import DaemonOptions
from meshbridge.link.permissions import lacking
from meshbridge.link.repair import Repair
from meshbridge.link.requests import DaemonRequests
from meshbridge.link.slow_consumer import Pace
from meshbridge.model.status import LinkState, LinkStatus
from meshbridge.outside import said
from meshbridge.system.supervision import SupervisedThread

__all__ = ["Link"]

# Half-open connections are noticed within 30 s (docs/design.md, 'Reliability'): silent for so long, then asked.
# In between, the token may be seen to, which takes a request, or as long as the issuer may take.
_CONNECT_SECONDS = 8.0
_PROBE_AFTER_SECONDS = 10.0
_SEND_AFTER_SECONDS = 60.0  # a WebSocket over which nothing is sent for 120 s is closed by daemons of 3.x
_REQUEST_SECONDS = 8.0
_LOST = RetryWaits(initial=1.0, max=30.0)  # waits after a lost connection; the first retry is at once
_REFUSED = RetryWaits(initial=5.0, max=300.0)  # after a refusal, which somebody must mend
_STEADY_SECONDS = 5.0  # a connection that lasted so long was a good one: the next retry is at once again
_MAX_MESSAGE_BYTES = 16 * 2**20  # on the event connection, which carries no lists of apps and no output
_MAX_EARLY = 10_000  # events before the answer to the subscribe: what a daemon queues for a client
_MAX_INVALID = 1000  # messages in a row
_MAX_BUG_CHARACTERS = 500
_OWN_RUN_PREFIX = "x-"  # of the names that this bridge gives to runs it can't name

_MOVES: dict[LinkState, frozenset[LinkState]] = {
    LinkState.STOPPED: frozenset({LinkState.CONNECTING}),
    LinkState.CONNECTING: frozenset({LinkState.LOGGING_IN, LinkState.WAITING, LinkState.STOPPED}),
    LinkState.LOGGING_IN: frozenset({LinkState.SUBSCRIBING, LinkState.WAITING, LinkState.STOPPED}),
    LinkState.SUBSCRIBING: frozenset({LinkState.UP, LinkState.WAITING, LinkState.STOPPED}),
    LinkState.UP: frozenset({LinkState.WAITING, LinkState.STOPPED}),
    LinkState.WAITING: frozenset({LinkState.CONNECTING, LinkState.STOPPED}),
}


class Link:
    """One daemon: its event connection, its request connection (:attr:`requests`), and one for people's requests
    (:attr:`client`), all with the same token.

    Threads: ``link-<daemon>`` connects, renews and probes; the channel's own, ``events-<daemon>``, reads, numbers and
    hands events to the journal, and waits for nothing. ``start``, ``stop`` and ``status`` may be called by any
    thread.
    """

    def __init__(
        self,
        daemon: str,
        options: DaemonOptions,
        journal: Journal,
        *,
        chance: Callable[[], float] = chance_of_jitter,
    ) -> None:
        self.name = daemon
        self._options = options
        self._journal = journal
        self._chance = chance
        self._credentials = Credentials(daemon, options, chance=chance)
        self.requests = DaemonRequests(
            daemon,
            lambda seconds: LinkClient(self._new_exchange(seconds), self._credentials, options.forward_to),
        )
        # What is compared with the events must come from the node that sends them.
        self._own_requests = self.requests
        if options.forward_to is not None:
            self._own_requests = DaemonRequests(
                daemon, lambda seconds: LinkClient(self._new_exchange(seconds), self._credentials)
            )
        self.client = DaemonClient(options, self._credentials)
        self._repair = Repair(
            daemon,
            self._own_requests,
            journal,
            options.reconcile_interval,
            self._fence,
            exact_output=options.exact_output,
        )
        self._stop = threading.Event()
        self._wake = threading.Event()  # the link's thread is to look again: stopped, or the connection has ended
        self._thread = SupervisedThread(f"link-{daemon}", self._run, self._stop)
        self._lock = threading.Lock()  # guards _client between the link's thread and stop
        self._client: AppMeshClient | None = None
        # Written by the link's thread (the last five by the reader), read by any.
        self._state = LinkState.STOPPED
        self._connects = 0
        self._connected_since: float | None = None
        self._down_since: float | None = None
        self._last_error: str | None = None
        self._last_error_at: float | None = None
        self._missing: tuple[str, ...] = ()
        self._pace = Pace(0.0)
        self._numbering: Numbering | None = None
        self._early: list[bytes] = []  # pushed before the subscription's id was known; guarded by _reading
        self._reading = threading.Lock()  # held while events are handed on
        self._invalid_in_a_row = 0  # the reader's
        self._last_event_at: float | None = None
        self._received = 0
        self._missed = 0
        self._missed_at: float | None = None

    # --- any thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to connect. A daemon over https:// has no events: only its request connection is used."""
        telemetry.declare_daemon(self.name)
        if not self.has_events:
            return
        self._repair.start()
        self._thread.start()

    def request_stop(self) -> None:
        """Asks the link to end; :meth:`stop` waits for it."""
        self._stop.set()
        self._wake.set()
        self._repair.request_stop()

    def stop(self, timeout_seconds: float) -> bool:
        """Ends the connections; False when the thread takes longer than ``timeout_seconds``."""
        self.request_stop()
        with self._lock:
            client = self._client
        if client is not None:
            client.close()
        self.requests.end()
        self._own_requests.end()
        self.client.close()
        ended = self._repair.stop(timeout_seconds)
        return self._thread.join(timeout_seconds) and ended

    @property
    def has_events(self) -> bool:
        """Over https:// there are none, nor a thread to receive them."""
        return self._options.scheme != "https"

    @property
    def alive(self) -> bool:
        """Whether the link's thread runs."""
        return self._thread.running

    @property
    def threads(self) -> tuple[SupervisedThread, ...]:
        """Those that must run, for as long as the link does."""
        return (self._thread, self._repair.thread) if self.has_events else ()

    def status(self) -> LinkStatus:
        if not self.has_events:
            return self._requests_status()
        numbering = self._numbering
        error, error_at, refusal = self._last_error, self._last_error_at, self._credentials.failure
        if error is None and refusal is not None:  # found out by a request, on a connection of its own
            error, error_at = said(refusal.describe()), self._credentials.failed_at
        return LinkStatus(
            daemon=self.name,
            state=self._state,
            url=self._options.url,
            run=None if numbering is None else numbering.run,
            connected_since=self._connected_since,
            down_since=self._down_since,
            connects=self._connects,
            last_event_at=self._last_event_at,
            last_error=error,
            last_error_at=error_at,
            missing_permissions=self._missing,
            events_received=self._received,
            events_missed=self._missed,
            last_missed_at=self._missed_at,
            events_reconciled=self._repair.reconciled,
            **self._token_status(),
        )

    def _requests_status(self) -> LinkStatus:
        """Of a daemon without events: up when the last request was answered."""
        error = self.requests.last_error
        return LinkStatus(
            daemon=self.name,
            state=LinkState.UP if self.requests.answered else LinkState.CONNECTING,
            url=self._options.url,
            last_error=None if error is None else said(error.describe()),
            last_error_at=None if error is None else self.requests.last_error_at,
            **self._token_status(),
        )

    def _token_status(self) -> dict[str, Any]:
        failure = self._credentials.failure
        return {
            "token_expires_at": self._credentials.expires_at,
            "token_renewed": self._credentials.source.renews,
            "token_error": None if failure is None else said(failure.describe()),
            "token_error_at": None if failure is None else self._credentials.failed_at,
        }

    # --- the link's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._stay_connected()
        finally:
            self._connected_since = None
            self._state = LinkState.STOPPED

    def _stay_connected(self) -> None:
        attempts = 0  # failed ones in a row, or short-lived ones
        told: str | None = None  # the reason that the log has said already
        while not self._stop.is_set():
            self._move(LinkState.CONNECTING)
            started = time.monotonic()
            try:
                self._connect_and_serve()
                error: AppMeshError = AppMeshConnectionError("the connection ended")
            except AppMeshError as failed:
                error = failed
            except Exception as bug:  # noqa: BLE001 whatever a daemon says costs its own connection only
                telemetry.thread_failed(self._thread.name, bug, None)
                error = AppMeshError(f"unexpected {bug!r}"[:_MAX_BUG_CHARACTERS])
            if self._stop.is_set():
                break
            steady = self._state is LinkState.UP and time.monotonic() - started >= _STEADY_SECONDS
            if steady or self._state is LinkState.UP:
                told = None
            attempts = 0 if steady else attempts + 1
            reason, hint = explain(error)
            if isinstance(error, AppMeshDeniedError) and error.permission:
                self._note_missing((*self._missing, error.permission))
            if isinstance(error, AppMeshTimeoutError):
                # What made this connection silent may affect the other: its requests are sent again at once.
                self.requests.close()
                self._own_requests.close()
            seconds = self._delay(reason, attempts)
            self._last_error, self._last_error_at = said(error.describe()), time.time()
            self._connected_since, self._down_since = None, self._down_since or self._last_error_at
            telemetry.link_down(
                self.name, reason, error.describe(), first=told != reason, retry_seconds=seconds, hint=hint
            )
            told = reason
            self._move(LinkState.WAITING)
            self._rest(seconds)

    def _delay(self, reason: str, attempts: int) -> float:
        if seconds := self._credentials.retry_seconds:
            return seconds
        if reason in {"login", "permission", "not_offered"}:
            return _REFUSED.delay(max(1, attempts), self._chance())
        return 0.0 if attempts == 0 else _LOST.delay(attempts, self._chance())

    def _rest(self, seconds: float) -> None:
        """Waits; a secret that has changed after a refusal ends it early."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            refused = self._credentials.failure is not None
            if self._stop.wait(min(left, LOOK_SECONDS) if refused else left):
                return
            if refused and self._credentials.secrets_changed():
                return

    def _connect_and_serve(self) -> None:
        """One connection, from its beginning to its end.

        Raises:
            AppMeshError: why it ended.

        """
        self._wake.clear()
        with self._reading:
            self._early = []
            if self._numbering is not None:
                self._numbering.subscription = None  # it was the last connection's
        ended: list[AppMeshError | None] = []

        def on_closed(error: AppMeshError | None) -> None:
            ended.append(error)
            self._wake.set()

        transport = new_transport(self._options, self._credentials, max_message_bytes=_MAX_MESSAGE_BYTES)
        channel = Channel(
            transport,
            name=f"events-{self.name}",
            on_pushes=self._receive,
            on_closed=on_closed,
            on_invalid=self._invalid,
        )
        with self._lock:
            if self._stop.is_set():
                return
            client = self._client = LinkClient(channel, self._credentials)
        try:
            channel.open(_CONNECT_SECONDS)
            self._pace = Pace(time.monotonic())
            self._subscribe(client)
            while not ended and not self._stop.is_set():
                self._keep_alive(channel, client)
            if ended and ended[0] is not None:
                if was_disconnected_by_daemon(transport) or self._pace.was_behind(time.monotonic()):
                    raise CutOffError from ended[0]
                raise ended[0]
        finally:
            client.close()
            self._repair.disconnected()

    def _subscribe(self, client: AppMeshClient) -> None:
        self._move(LinkState.LOGGING_IN)
        with client.using(timeout_seconds=_REQUEST_SECONDS):
            run = self._name_run(client)
            granted = client.list_own_permissions()
            self._note_missing(lacking(granted, renews=self._options.renews_at_daemon))
            self._numbering, ended_run = self._begin(run)
            self._repair.connecting()
            self._move(LinkState.SUBSCRIBING)
            self._take_early(client.request_subscription("*", self._options.events).subscription_id)
        self._connects += 1
        self._connected_since, self._down_since = time.time(), None
        self._last_error = self._last_error_at = None
        telemetry.link_connected(self.name, run, self._options.url)
        self._move(LinkState.UP)
        self._repair.connected(run, ended_run)

    def _name_run(self, client: AppMeshClient) -> str:
        """The daemon's start time; where it may not be asked for, a name of this bridge's own, kept in the journal."""
        try:
            return str(client.get_start_time())
        except AppMeshDeniedError:
            known = self._journal.last_sequence(self.name)
            own = known is not None and known[0].startswith(_OWN_RUN_PREFIX)
            run = known[0] if known is not None and own else f"{_OWN_RUN_PREFIX}{secrets.token_hex(4)}"
            telemetry.run_unnamed(self.name, run)
            return run

    def _begin(self, run: str) -> tuple[Numbering, tuple[str, int | None] | None]:
        """Where the numbering goes on, and the run that has ended since, with its last sequence."""
        complete = self._options.takes_everything
        if self._numbering is not None:
            # What the journal has yet to write counts as received.
            known: tuple[str, int | None] | None = (self._numbering.run, self._numbering.last)
        else:
            known = self._journal.last_sequence(self.name)
        if known is None:
            return Numbering(self.name, run, None, complete=complete), None
        last_run, last = known
        if last_run == run:
            return Numbering(self.name, run, last, complete=complete), None
        telemetry.run_ended(self.name, last_run, run)
        # The daemon numbers a new run from 0 or 1, and its first events were not received.
        return Numbering(self.name, run, 0, complete=complete), known if complete else None

    def _note_missing(self, missing: tuple[str, ...]) -> None:
        """Says which permissions are missing, once until that changes."""
        missing = tuple(dict.fromkeys(missing))
        if missing and missing != self._missing:
            telemetry.permission_missing(self.name, missing)
        self._missing = missing

    def _keep_alive(self, channel: Channel, client: AppMeshClient) -> None:
        """Waits for the next thing to do, then sees to the token or asks a silent daemon whether it is there."""
        probe_at = channel.last_received + _PROBE_AFTER_SECONDS
        if self._options.scheme == "wss":
            probe_at = min(probe_at, channel.last_sent + _SEND_AFTER_SECONDS)
        due_at = self._credentials.due_at
        if self._wake.wait(max(0.0, min(probe_at, due_at) - time.monotonic())):
            return
        now = time.monotonic()
        try:
            # Whether the daemon is there comes first: to see to the token may take long, again and again.
            if now >= probe_at:
                token = self._credentials.present
                if not self._probe(client) and token is not None:
                    self._credentials.token(channel, refused=token)
            elif now >= due_at:
                self._credentials.attend(channel)
        except AppMeshConnectionError:
            raise
        except AppMeshError as error:
            # The subscription outlives the token (docs/protocol.md, 'Events'): events go on while this is mended.
            self._last_error, self._last_error_at = said(error.describe()), time.time()
        else:
            if self._credentials.failure is None:
                self._last_error = self._last_error_at = None

    def _new_exchange(self, timeout_seconds: float) -> Exchange:
        return new_exchange(self.name, self._options, self._credentials, timeout_seconds)

    def _fence(self) -> None:
        """Returns once every event has come that the daemon sent before: its answer stands behind them."""
        with self._lock:
            client = self._client
        if client is None or self._state is not LinkState.UP:
            raise AppMeshConnectionError("the event connection is down")
        self._probe(client)  # a refusal is an answer, too

    def _probe(self, client: AppMeshClient) -> bool:
        """Whether the daemon takes the token; raises where it gives no answer."""
        with client.using(timeout_seconds=_REQUEST_SECONDS):
            return client.check_token(self._credentials.present or "")

    def _move(self, state: LinkState) -> None:
        if state not in _MOVES[self._state]:
            raise AssertionError(f"link {self.name}: {self._state} -> {state} is not in the table")
        self._state = state

    # --- the reader's thread -------------------------------------------------------------------------------------

    def _receive(self, bodies: list[bytes]) -> None:
        with self._reading:
            numbering = self._numbering
            if numbering is not None and numbering.subscription is not None:
                self._hand_on(numbering, bodies)
            else:
                self._early += bodies
                if len(self._early) > _MAX_EARLY or sum(map(len, self._early)) > _MAX_MESSAGE_BYTES:
                    raise AppMeshConnectionError("the daemon sends events without end before it answers the subscribe")

    def _take_early(self, subscription: str) -> None:
        """Events may come before the answer that names their subscription (docs/protocol.md, 'Messages')."""
        if not subscription:
            raise AppMeshRequestError("the daemon's answer to the subscribe holds no subscription_id")
        with self._reading:
            numbering, early = self._numbering, self._early
            assert numbering is not None
            numbering.subscription, self._early = subscription, []
            if early:
                self._hand_on(numbering, early)

    def _hand_on(self, numbering: Numbering, bodies: list[bytes]) -> None:
        begun, now = time.monotonic(), time.time()
        read = numbering.read(bodies, now)
        if read.events or read.gaps:
            self._repair.receive(read.events, read.gaps, numbering.run)
            self._last_event_at = now
        telemetry.events_received(self.name, read.counts)
        self._received += len(read.events)
        for first, last in read.gaps:
            self._missed += last - first + 1
            self._missed_at = now
            telemetry.gap_found(self.name, first, last)
        for error in read.invalid:
            telemetry.event_invalid(self.name, error)
        self._pace.read(begun, time.monotonic(), len(bodies))
        self._count_invalid(len(read.invalid), good=bool(read.events))

    def _invalid(self, error: MessageError) -> None:
        telemetry.event_invalid(self.name, str(error))
        self._count_invalid(1, good=False)

    def _count_invalid(self, invalid: int, *, good: bool) -> None:
        """A daemon that sends nothing but garbage is left: the waits between connections bound what that costs."""
        self._invalid_in_a_row = 0 if good else self._invalid_in_a_row + invalid
        if self._invalid_in_a_row > _MAX_INVALID:
            self._invalid_in_a_row = 0
            raise AppMeshConnectionError(f"the daemon sent {_MAX_INVALID} messages in a row that are no events")
