"""Delivery: one courier for each sink, which reads the journal and moves the sink's cursor.

**Who does what.** A sink knows its destination and what its answers mean (the contract: :mod:`meshbridge.sinks.base`).
Its courier (``courier``) is the one thread that calls it: it batches, waits, retries, gives up, and reports.
What there is to deliver is *work* (``work``): the live events behind the cursor, a replay beside it, dead letters to
retry. Kinds of work take turns, a batch each; a batch that is under way stays the same until it is through.

**What moves the cursor.** An acknowledgement by the destination; a rule that leaves an event out
(:mod:`meshbridge.delivery.routing`); a dead letter kept in the journal. Nothing else, so a crash costs at most the
batch under way and the one before it, whose cursor may not be on disk yet: they are sent again.

**Failures.** After each the courier waits, longer each time and never in step with another bridge, unless the
destination names a time itself. After some in a row the ``breaker`` opens: the connection is closed, and each wait is
followed by one trial. A courier that waits, or hangs in a write, holds no other up: it shares nothing with the others
but the journal, where readers do not wait for one another longer than one short read.

**An operator's hand.** Pause and resume; replay; dead letters shown, retried, dropped; and ``explanation``, which says
what becomes of an event without sending it.
"""

from meshbridge.delivery.bridge_view import BridgeFeed
from meshbridge.delivery.courier import Courier
from meshbridge.delivery.explanation import Explanation, ExplanationError, event_from_json, explain
from meshbridge.delivery.routes import new_route
from meshbridge.delivery.states import AppFigures, StateFeed

__all__ = [
    "AppFigures",
    "BridgeFeed",
    "Courier",
    "Explanation",
    "ExplanationError",
    "StateFeed",
    "event_from_json",
    "explain",
    "new_route",
]
