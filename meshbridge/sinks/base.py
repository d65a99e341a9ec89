"""The contract between a sink and its courier.

A **sink** knows how to send to one destination and what its answers mean. Its **courier** (``meshbridge.delivery``)
does the rest, the same for every sink: batches, waits, retries, order, the cursor.

* A sink is used by one thread, its courier's, one call at a time. It MAY use threads of its own inside a call.
* ``connect`` MUST be called, and return, before the first ``write``, and again after ``NotConnected``. It MAY be called
  on a sink that is connected, and then reconnects.
* ``write`` MUST return only when the destination has acknowledged every event of the batch, and MUST return or raise
  within ``timeout_seconds``. It MAY pipeline inside the call, never past it: order holds since calls don't overlap.
* Every :class:`SinkError` MUST say in ``acknowledged`` how many events from the front of the batch are safe.
  Events behind that number MAY have arrived as well: they are offered again, with the same ids.
* ``idle`` is called about once a second while there is nothing to write. It MUST NOT block: keep-alives go out, a lost
  connection is noticed (``NotConnected``), what comes in is taken.
* ``close`` MUST end within ``timeout_seconds`` and MAY be called at any time, more than once, also without ``connect``.
* A sink MUST NOT sleep, retry or batch: that is the courier's.

==================== ============================================= ==================================================
``write`` ends by    meaning                                       the courier
==================== ============================================= ==================================================
return               all acknowledged by the destination           moves the cursor past the batch
``NotConnected``     the connection is lost                        ``connect`` with back-off, offers the rest again
``Retry``            not now                                       waits, offers the rest again
``Later``            not due yet, by the sink's own settings       waits, counts no failure; offers the rest again, with
                                                                   what has come in meanwhile
``Refused``          the first unacknowledged one will never be    a batch of one: dead letter, goes on; a larger one:
                     taken                                         halved and offered again until one is left
``Gone``             the destination ended delivery                sink off, journal kept, logged as an error
any other            a bug in the sink                             traceback once, counted, then as ``Retry``
==================== ============================================= ==================================================
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from meshbridge.model.events import Envelope, Event

__all__ = [
    "Clearing",
    "Found",
    "Gone",
    "Later",
    "NotConnected",
    "Preview",
    "Previewing",
    "Refused",
    "Retry",
    "Sink",
    "SinkError",
]


class SinkError(Exception):
    """How a call to a sink failed.

    ``acknowledged`` counts the events at the front of the batch that are safe; ``reason`` is one short word or two for
    a metric's label, from a small set; the message says the rest to a person.
    """

    reason = "error"

    def __init__(self, message: str, *, acknowledged: int = 0, reason: str | None = None) -> None:
        super().__init__(message)
        self.acknowledged = acknowledged
        if reason is not None:
            self.reason = reason


class NotConnected(SinkError):  # noqa: N818 the name is what happened
    """There is no connection, or it was lost."""

    reason = "not_connected"


class Retry(SinkError):  # noqa: N818
    """The destination can't accept it now; ``after_seconds`` is what it asked for, or None."""

    reason = "busy"

    def __init__(
        self, message: str, *, after_seconds: float | None = None, acknowledged: int = 0, reason: str | None = None
    ) -> None:
        super().__init__(message, acknowledged=acknowledged, reason=reason)
        self.after_seconds = after_seconds


class Later(SinkError):  # noqa: N818
    """Nothing has failed: by the sink's own settings the rest goes out later, in ``after_seconds`` at the latest.

    It is offered again about once a second until then, as a longer batch where more has come in.
    """

    reason = "held"

    def __init__(self, message: str, *, after_seconds: float, acknowledged: int = 0) -> None:
        super().__init__(message, acknowledged=acknowledged)
        self.after_seconds = after_seconds


class Refused(SinkError):  # noqa: N818
    """The first unacknowledged event will never be taken."""

    reason = "refused"


class Gone(SinkError):  # noqa: N818
    """The destination ended delivery for good."""

    reason = "gone"


@dataclass(frozen=True, slots=True)
class Found:
    """What the ``probe`` of a sink's settings MAY return, for ``meshbridge check``: what it saw at the destination.

    A probe connects for real, sends no event and leaves no trace. Where the sink can't work it raises; ``doubt`` is
    for what may be right all the same, and ``remedy`` says what to do then. ``untried`` is what only an event can show.
    """

    text: str = "reachable"
    doubt: str | None = None
    remedy: str | None = None
    untried: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a sink sends for an event, for a person to see: nothing secret is in it."""

    to: str
    headers: Mapping[str, str]
    body: bytes


@runtime_checkable
class Previewing(Protocol):
    """A sink that MAY be asked, without a connection, what it would send for an event: one message, or its parts."""

    def preview(self, event: Event) -> list[Preview]:
        """Gives the messages.

        Raises:
            Refused: no destination would accept it.

        """
        ...


@runtime_checkable
class Clearing(Protocol):
    """A sink that leaves something at its destination that outlasts it, by topics or the like, and can remove it."""

    def kept_topics(self) -> set[str]:
        """Where something of this sink may be left. For any thread."""

    def clear(self, keep: Collection[str], timeout_seconds: float) -> int:
        """Removes all of it but at ``keep``, over a connection of its own; called once, after the last ``close``.

        Returns:
            How much is left, for want of time or of the right.

        Raises:
            SinkError: the destination can't be reached.

        """


class Sink(Protocol):
    """See the module's text for what each call MUST and MAY do."""

    def connect(self, timeout_seconds: float) -> None: ...

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None: ...

    def idle(self) -> None: ...

    def close(self, timeout_seconds: float) -> None: ...
