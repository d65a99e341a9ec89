"""What a client can do only over TCP and WSS: events."""

import contextlib
import logging
import math
import threading
import time

from meshbridge.appmesh import paths
from meshbridge.appmesh.app import App
from meshbridge.appmesh.app_run import AppRun, OutputHandler
from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.event_connection import EventConnection, ReopeningConnection
from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshConnectionError, AppMeshError, AppMeshRequestError
from meshbridge.appmesh.run_watch import News, RunWatch
from meshbridge.appmesh.subscribe import EventCallback, SubscriptionResult

__all__ = ["TransportClientMixin"]

logger = logging.getLogger(__name__)

_RUN_EVENTS = ["STDOUT", "EXIT", "REMOVED"]
_REMOVED_EXIT_CODE = -1  # as the official SDK has it; a signal's code is lower than that, or the daemon's own 9


class TransportClientMixin(AppMeshClient):
    """The operations that need a connection which stays: subscriptions, and what is built on them.

    Events are handed to callbacks on one thread of the connection, in order; a callback may make requests. One that
    is too slow loses the oldest of its events beyond 10,000 (or 64 MiB) that wait, and gets an event of type
    ``__missed__`` in their place. When the connection ends, each callback gets a last event, of type
    ``__disconnected__``: subscribe again then.
    """

    supports_events = True
    # For ever: the answer to a request that was given up would be a lost task.
    _FETCH_SECONDS = threading.TIMEOUT_MAX / 2
    _events: ReopeningConnection

    def add_app(
        self,
        app: App,
        subscribe_events: list[str] | None = None,
        callback: EventCallback | None = None,
        *,
        unsafe: bool = False,
    ) -> App:
        """Registers an application, and subscribes to its events in the same step: none is lost in between.

        ``callback`` gets them, those first that came before the daemon's answer did. ``unsafe`` and what is raised are
        as over HTTPS.
        """
        if not subscribe_events:
            return self._add_app(app, None, unsafe=unsafe)
        connection = self._events.current()
        registered = self._add_app(app, subscribe_events, over=connection, unsafe=unsafe)
        if registered.subscription_id and callback is not None:
            connection.listen(registered.subscription_id, callback)
        return registered

    def subscribe(
        self, app_name: str, events: list[str] | None = None, callback: EventCallback | None = None
    ) -> SubscriptionResult:
        """Subscribes to the events of an application, or of all with ``*``; without ``events``, to all six types.

        Without a ``callback`` they are dropped, after up to 1,000 were kept for one that may come.
        """
        connection = self._events.current()
        result = self.request_subscription(app_name, events, over=connection)
        if callback is not None:
            connection.listen(result.subscription_id, callback)
        return result

    def unsubscribe(self, subscription_id: str) -> None:
        """Ends a subscription; its callback gets no more events from here on.

        Raises:
            AppMeshRequestError: 404 where there is no such subscription (any more).

        """
        connection = self._events.present
        if connection is not None:
            connection.forget(subscription_id)
        self._request("DELETE", paths.SUBSCRIBE, query={"subscription_id": subscription_id}, over=connection)

    def wait_for_async_run(  # type: ignore[override] # the reference names the second parameter differently than over HTTPS
        self, run: AppRun, stdout_handler: OutputHandler = None, timeout: int = 0
    ) -> int | None:
        """Waits for a run to end and gives its exit code; the run is then removed from the daemon.

        Its output comes as it is written: by events, and by reading what they lack. ``stdout_handler`` gets each piece
        and the position of its first byte, on the calling thread. Where events cannot be had (a run on another node,
        no permission to subscribe) the daemon is asked again and again, as over HTTPS.

        Returns:
            The exit code as the daemon reports it (one of 2.2.1: 9 where it killed the process itself, 0 after any
            other signal); -1 when the application was removed meanwhile; None when ``timeout`` seconds passed (0:
            never), or the daemon does not know the run (any more).

        Raises:
            AppMeshConnectionError: the connection was lost. The run goes on.

        """
        with run.forward_to():
            if self.forward_to:
                return self._poll_run(run, stdout_handler, timeout)
            deadline = time.monotonic() + timeout if timeout > 0 else math.inf
            connection = self._events.current()
            try:
                subscription = self.request_subscription(run.app_name, _RUN_EVENTS, over=connection)
            except AppMeshAuthError as error:
                logger.debug("the run %s is followed by asking: %s", run.app_name, error)
                return self._poll_run(run, stdout_handler, timeout)
            except AppMeshRequestError as error:
                logger.warning("the run %s cannot be followed: %s", run.app_name, error)
                return None
            watch = RunWatch()
            connection.listen(subscription.subscription_id, watch, at_once=True)
            try:
                return self._follow(run, watch, stdout_handler, deadline)
            finally:
                connection.forget(subscription.subscription_id)
                with contextlib.suppress(AppMeshError):
                    self._end_subscription(connection, subscription.subscription_id)

    def _follow(self, run: AppRun, watch: RunWatch, handler: OutputHandler, deadline: float) -> int | None:
        output = self._run_output(run, handler)
        news = News(behind=True)  # the first read is of what was written before the subscription
        while True:
            behind = news.behind
            for position, text in news.pieces:
                behind = not output.push(position, text) or behind
            if behind or news.exit_code is not None:
                try:
                    output.pull()
                except AppMeshRequestError as error:
                    # Right after a removal there is no output any more, but the event that reports it is on its way.
                    logger.debug("no output of %s: %s", run.app_name, error)
            code = output.exit_code if output.exit_code is not None else news.exit_code
            if code is not None:
                if not news.removed:
                    self._delete_run(run)
                return code
            if news.removed:
                return _REMOVED_EXIT_CODE
            if news.disconnected:
                raise AppMeshConnectionError(f"the connection was lost while waiting for {run.app_name}")
            if time.monotonic() >= deadline:
                return None
            news = watch.take(deadline - time.monotonic())

    def _end_subscription(self, connection: EventConnection, subscription_id: str) -> None:
        if connection.is_open:
            self._request("DELETE", paths.SUBSCRIBE, query={"subscription_id": subscription_id}, over=connection)
