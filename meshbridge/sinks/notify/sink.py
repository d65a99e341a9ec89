"""Writes messages for people to a chat, by mail or as a push, over Apprise.

* **Acknowledged** means: the service has taken a message that tells of the event, or the event is a repetition that the
  next message counts. What waits for its group, for the end of the quiet hours or for the bound on messages
  stays in the journal, not acknowledged (``Later``): a bridge that is killed meanwhile tells it after its start.
* **Not from events**: problems of the bridge and ``resolved`` are noticed in ``idle`` and ``write``, and are known in
  memory alone. A restart forgets them; a problem that lasts is then told again.
* **Refused** by the service: a dead letter, where the answer speaks of the message. All else is tried again.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from meshbridge.model.events import Envelope, Event
from meshbridge.sinks.base import Later, NotConnected, Preview, Refused, Retry
from meshbridge.sinks.bridge_view import BridgeView
from meshbridge.sinks.notify.groups import Groups, Hold, Nothing, NoticeLimits, Send
from meshbridge.sinks.notify.message import NoticeWriter, sign_of
from meshbridge.sinks.notify.options import NotifyOptions, quiet_until
from meshbridge.sinks.notify.service import Background, NotifyService
from meshbridge.sinks.options import secret_of

__all__ = ["NotifySink"]

_LOOK_SECONDS = 1.0  # between two looks at the bridge


class NotifySink:
    """See the module's text. ``clock`` is monotonic."""

    def __init__(
        self,
        name: str,
        options: NotifyOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        local_time: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._name = name
        self._options = options
        self._clock = clock
        self._local_time = local_time
        self._service: NotifyService | None = None
        self._view: BridgeView | None = None
        self._look_at = clock()
        self._background = Background(f"notify-{name}")
        self._sending: Send | None = None  # what the background sends
        self._groups = Groups(
            NoticeLimits(
                group_wait=options.group_wait,
                repeat_interval=options.repeat_interval,
                resolve_after=options.resolve_after,
                resolved=options.resolved,
                per_hour=options.max_per_hour,
                most_events=options.batch.max_events,
            )
        )
        title, body = options.templates()
        self._templates = [one for one in (title, body) if one is not None]
        self._writer = NoticeWriter(
            title, body, most_entries=options.max_entries, lines=options.output_lines, output=self._output
        )

    def view_bridge(self, view: BridgeView) -> None:
        """See :class:`meshbridge.sinks.bridge_view.BridgeViewer`."""
        self._view = view

    # --- the contract --------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float) -> None:
        self._service = None
        service = NotifyService(secret_of(self._options, "url") or "")
        service.reach(timeout_seconds * 0.9)
        self._service = service

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds * 0.9
        service = self._connected()
        self._background.wait(deadline - time.monotonic())
        if self._background.is_busy:
            raise Retry(f"{service.name} is still busy with the message before", after_seconds=1.0, reason="slow")
        self._end_background()
        self._look_at_bridge()
        signed = [(one, sign_of(one.event, every_exit=bool(self._options.when.exit_codes))) for one in batch]
        found = self._groups.events(signed, self._clock(), self._quiet_until())
        if isinstance(found, Nothing):
            return
        if isinstance(found, Hold):
            after = found.until - self._clock()
            raise Later("not due yet", after_seconds=after, acknowledged=found.done)
        try:
            message = self._writer.write(found.entries, [one.event for one in batch])
            service.send(message, max(0.1, deadline - time.monotonic()))
        except Refused:
            if len(batch) == 1:
                self._groups.refused(found, batch, self._clock())
            raise
        self._groups.sent(found, self._clock())
        self._groups.dealt_with(batch)

    def idle(self) -> None:
        """What is not told by an event is sent in the background."""
        service = self._connected()
        if self._background.is_busy:
            return
        self._end_background()
        self._look_at_bridge()
        found = self._groups.time_passes(self._clock(), self._quiet_until())
        if isinstance(found, Send):
            message = self._writer.write(found.entries, ())
            self._sending = found
            self._background.start(lambda: service.send(message, self._options.write_seconds))

    def close(self, timeout_seconds: float) -> None:
        self._service = None
        self._background.wait(timeout_seconds)
        for template in self._templates:
            template.close()

    def preview(self, event: Event) -> list[Preview]:
        """As if the event came alone, and were due."""
        groups, envelope = Groups(NoticeLimits(group_wait=0.0)), Envelope(0, event)
        sign = sign_of(event, every_exit=bool(self._options.when.exit_codes))
        found = groups.events([(envelope, sign)], 0.0, None)
        if not isinstance(found, Send):
            return []
        message = self._writer.write(found.entries, [event])
        url = self._options.url
        scheme = "" if url is None else url.get_secret_value().partition("://")[0]
        to = f"the service of {scheme}://…" if scheme else "the service of url_file"
        return [Preview(to, {"title": message.title, "type": message.tone.value}, message.body.encode())]

    # --- parts of it ---------------------------------------------------------------------------------------------

    def _connected(self) -> NotifyService:
        if self._service is None:
            raise NotConnected("not connected to the service")
        return self._service

    def _end_background(self) -> None:
        """Takes the end of what was sent in the background.

        Raises:
            SinkError: the service did not take it; it is tried again, unless it was refused for good.

        """
        if self._sending is None or not self._background.has_ended:
            return
        sending, self._sending = self._sending, None
        try:
            self._background.take()
        except Refused as refused:
            self._groups.refused(sending, (), self._clock())  # not again until it is to be repeated
            raise Retry(str(refused), after_seconds=0.0, reason=refused.reason) from refused
        self._groups.sent(sending, self._clock())

    def _look_at_bridge(self) -> None:
        now = self._clock()
        if self._view is None or not self._options.problems or now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        wanted = [
            one
            for one in self._view.problems()
            if one.kind in self._options.problems and one.sink != self._name  # this sink cannot tell of itself
        ]
        self._groups.problems(wanted, now)

    def _output(self, envelope: Envelope, lines: int) -> list[str]:
        return [] if self._view is None or not lines else self._view.output_before(envelope, lines)

    def _quiet_until(self) -> float | None:
        seconds = quiet_until(self._options.quiet_hours, self._local_time())
        return None if seconds is None else self._clock() + seconds
