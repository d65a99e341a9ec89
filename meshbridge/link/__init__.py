"""The link to one App Mesh daemon.

Two connections: the **event connection** logs in, asks for the daemon's start time, subscribes, and from then on only
reads, renews and probes; the **request connection**, opened at first need, carries everything else, so that a large
answer never stands before an event.

:class:`~meshbridge.link.runner.Link` is the thread that keeps the event connection; :mod:`~meshbridge.link.numbering`
turns pushed messages into numbered events and finds the holes; :mod:`~meshbridge.link.credentials` keeps the token. All
that is asked of the daemon goes through the SDK, by a :class:`~meshbridge.link.connections.LinkClient`.
"""

from meshbridge.link.connections import explain
from meshbridge.link.options import DaemonOptions
from meshbridge.link.requests import DaemonRequests
from meshbridge.link.runner import Link

__all__ = ["DaemonOptions", "DaemonRequests", "Link", "explain"]
