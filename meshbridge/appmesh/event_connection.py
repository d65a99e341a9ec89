"""Event connections to a daemon's TCP or WSS port: a channel each, and the subscriptions that live and die with it."""

import logging
import threading
from collections import deque
from collections.abc import Callable

from meshbridge.appmesh.channel import Channel, Transport
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshError
from meshbridge.appmesh.subscribe import (
    EVENT_TYPE_DISCONNECTED,
    EVENT_TYPE_MISSED,
    AppEvent,
    EventCallback,
    Listener,
    Subscriptions,
    decode_event,
)
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

__all__ = ["EventConnection", "ReopeningConnection"]

logger = logging.getLogger(__name__)

MAX_QUEUED_EVENTS = 10_000  # the daemon's own bound for a client that does not read
MAX_QUEUED_BYTES = 64 * 1024 * 1024
_DISPATCH_AT_ONCE = 256
_JOIN_SECONDS = 5.0


class EventConnection:
    """One connection: requests, and events to callbacks. An :class:`~meshbridge.appmesh.exchange.Exchange`.

    Callbacks run on one thread of the connection, the dispatcher, in the order in which the events came; they may make
    requests. The thread that reads never waits for them: what they have not taken yet is queued, and of a full queue
    the oldest events are dropped. A callback that lost some gets an event of type ``__missed__`` in their place.

    Threads: from :meth:`attend` on, the channel's reader; from the first callback to the end of the connection, the
    dispatcher. A connection that only carries requests has none.
    """

    def __init__(self, transport: Transport, *, name: str = "appmesh") -> None:
        self._name = name
        self._channel = Channel(
            transport,
            name=f"{name}-reader",
            attended=False,
            on_pushes=self._arrived,
            on_closed=self._on_channel_closed,
        )
        self._wake = threading.Condition(threading.Lock())  # guards all that follows
        self._subscriptions = Subscriptions()
        self._queue: deque[tuple[Listener, AppEvent, int]] = deque()
        self._queued_bytes = 0
        self._missed: dict[Listener, tuple[str, int]] = {}
        self._idle = False
        self._ended = False
        self._closing = False
        self._dispatching = False
        self._dispatcher: threading.Thread | None = None

    def open(self, timeout_seconds: float | None = None) -> None:
        """Connects.

        Raises:
            AppMeshConnectionError: it could not.

        """
        self._channel.open(timeout_seconds)

    @property
    def is_open(self) -> bool:
        return self._channel.is_open

    def attend(self) -> None:
        """Reads at all times from now on: before something is subscribed to."""
        self._channel.attend()

    @property
    def is_finished(self) -> bool:
        """Whether the connection has ended, and every callback has heard of it."""
        with self._wake:
            return self._ended and not self._dispatching

    def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        """The daemon's answer: :meth:`Channel.request`."""
        return self._channel.request(message, timeout_seconds)

    def listen(self, subscription_id: str, callback: EventCallback, *, at_once: bool = False) -> None:
        """Hands the events of a subscription to ``callback``, those that have come already first.

        ``at_once``: on the reading thread, under the connection's lock. It must return at once, and must not ask
        anything over the connection.
        """
        self.attend()
        listener = Listener(callback, at_once)
        with self._wake:
            early = self._subscriptions.listen(subscription_id, listener)
            for event in early:
                self._deliver(listener, event, 0)
            if self._ended:
                self._deliver_end()
            if not at_once and not self._dispatching:
                self._dispatching = True
                self._dispatcher = threading.Thread(target=self._dispatch, name=f"{self._name}-events", daemon=True)
                self._dispatcher.start()
            self._notify()

    def forget(self, subscription_id: str) -> None:
        """Ends what :meth:`listen` began: no event of it is delivered from now on, save one being delivered."""
        with self._wake:
            self._subscriptions.forget(subscription_id)

    def close(self) -> None:
        """Ends the connection and its threads. Callbacks get ``__disconnected__``, not what is still queued."""
        with self._wake:
            self._closing = True
            self._queue.clear()
            self._missed.clear()
            self._queued_bytes = 0
        self._channel.close()
        with self._wake:
            # A channel that was never opened has no reader that could report it.
            self._end()
            dispatcher = self._dispatcher
        if dispatcher is not None and dispatcher is not threading.current_thread():
            dispatcher.join(_JOIN_SECONDS)
            if dispatcher.is_alive():
                logger.warning("an event callback does not return; its thread %s is left to it", dispatcher.name)

    # --- the reading thread --------------------------------------------------------------------------------------

    def _arrived(self, bodies: list[bytes]) -> None:
        events = []
        for body in bodies:
            try:
                events.append((decode_event(body), len(body)))
            except ValueError as error:
                logger.warning("an event from the daemon could not be read: %s", error)
        with self._wake:
            if self._closing:
                return
            route, deliver = self._subscriptions.route, self._deliver
            for event, size in events:
                listener = route(event, size)
                if listener is not None:
                    deliver(listener, event, size)
            self._notify()

    def _on_channel_closed(self, _error: AppMeshError | None) -> None:
        with self._wake:
            self._end()

    # --- with the lock held --------------------------------------------------------------------------------------

    def _deliver(self, listener: Listener, event: AppEvent, size: int) -> None:
        if listener.at_once:
            _call(listener, event)
            return
        self._queue.append((listener, event, size))
        self._queued_bytes += size
        while len(self._queue) > MAX_QUEUED_EVENTS or self._queued_bytes > MAX_QUEUED_BYTES:
            late, lost, lost_bytes = self._queue.popleft()
            self._queued_bytes -= lost_bytes
            _subscription, count = self._missed.get(late, ("", 0))
            if not count:
                logger.warning("an event callback is too slow: events of %s are dropped", lost.subscription_id)
            self._missed[late] = (lost.subscription_id, count + 1)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._deliver_end()
            self._notify()

    def _deliver_end(self) -> None:
        for subscription_id, listener in self._subscriptions.end():
            self._deliver(listener, AppEvent(subscription_id, EVENT_TYPE_DISCONNECTED), 0)

    def _notify(self) -> None:
        if self._idle:
            self._wake.notify_all()

    # --- the dispatcher ------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._ended:
                    self._idle = True
                    self._wake.wait()
                    self._idle = False
                if not self._queue:
                    self._dispatching = False
                    return
                batch = [
                    (listener, AppEvent(subscription_id, EVENT_TYPE_MISSED, data={"missed": count}))
                    for listener, (subscription_id, count) in self._missed.items()
                ]
                self._missed.clear()
                for _ in range(min(len(self._queue), _DISPATCH_AT_ONCE)):
                    listener, event, size = self._queue.popleft()
                    self._queued_bytes -= size
                    batch.append((listener, event))
            for listener, event in batch:
                if listener.active:
                    _call(listener, event)


def _call(listener: Listener, event: AppEvent) -> None:
    try:
        listener.callback(event)
    except Exception:  # noqa: BLE001 foreign code; it must not end the thread
        # Once with its traceback, not for each of the events of a flood.
        log = logger.debug if listener.failing else logger.exception
        log("an event callback failed on %s of %s", event.event_type, event.app_name)
        listener.failing = True
    else:
        listener.failing = False


class ReopeningConnection:
    """An event connection that is opened at first need, and again after a loss. An ``Exchange`` for many threads."""

    def __init__(
        self,
        transport: Callable[[], Transport],
        *,
        name: str = "appmesh",
        connect_timeout_seconds: float | None = None,
    ) -> None:
        """``connect_timeout_seconds``: None for the transport's own."""
        self._transport = transport
        self._name = name
        self._connect_timeout_seconds = connect_timeout_seconds
        self._lock = threading.Lock()  # held while one is opened, so that only one is
        self._attempts = 0
        self._failure: AppMeshConnectionError | None = None  # of the last attempt
        self._current: EventConnection | None = None
        self._lost: list[EventConnection] = []  # ended connections whose callbacks may still have something to hear
        self._closed = threading.Event()

    def current(self) -> EventConnection:
        """The open connection, which takes events from now on.

        Raises:
            AppMeshConnectionError: the daemon cannot be reached, or :meth:`close` was called.

        """
        connection = self._connected()
        connection.attend()
        return connection

    def _connected(self) -> EventConnection:
        current, attempts = self._current, self._attempts
        if current is not None and current.is_open:
            return current
        with self._lock:
            if self._closed.is_set():
                raise AppMeshConnectionError("the client is closed")
            if self._failure is not None and self._attempts > attempts:
                # An attempt failed while this thread waited: many threads don't try one after the other.
                raise AppMeshConnectionError(self._failure.message) from self._failure
            if self._current is not None:
                if self._current.is_open:
                    return self._current
                self._lost = [lost for lost in (*self._lost, self._current) if not lost.is_finished]
                self._current = None
            opening = EventConnection(self._transport(), name=self._name)
            try:
                opening.open(self._connect_timeout_seconds)
                self._failure = None
            except AppMeshConnectionError as error:
                self._failure = error
                raise
            finally:
                self._attempts += 1
            self._current = opening
            if self._closed.is_set():  # meanwhile
                opening.close()
                raise AppMeshConnectionError("the client is closed")
            return opening

    @property
    def present(self) -> EventConnection | None:
        """The connection as it is, open or not; nothing is opened."""
        return self._current

    def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        """The daemon's answer: :meth:`Channel.request`, after connecting where need be."""
        return self._connected().request(message, timeout_seconds)

    def close(self) -> None:
        """Ends the connection, its threads and its subscriptions, for good. One that is being opened ends by itself."""
        self._closed.set()  # without the lock, which is held for as long as a silent daemon is connected to
        for connection in (*self._lost, self._current):
            if connection is not None:
                connection.close()
