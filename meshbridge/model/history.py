"""What happened to an app, in a row each: what the journal keeps of events for longer than the events themselves."""

import hashlib
from functools import lru_cache

import orjson

from meshbridge.appmesh.dialect import DISABLED, status_of
from meshbridge.model.events import Envelope, EventType

__all__ = ["AppChange", "change_of", "lane_id"]

AppChange = tuple[int, int, float, int, int | None, int | None, int, str | None, float | None]
"""One event that is not output, without its body: (offset, lane, at, type, value, pid, reconciled, process, began).

* lane: :func:`lane_id` of its daemon and app
* at: the daemon's unix seconds
* value: of EXIT the exit code, of HEALTH 0 for healthy, of STATUS 1 for enabled, of GAP how many events are missing
* began: of GAP, when the last event before it came in

A plain tuple, since a timeline reads hundreds of thousands.
"""

_STATUS, _STDOUT = EventType.STATUS, EventType.STDOUT
_VALUES = {EventType.EXIT: "exit_code", EventType.HEALTH: "health", EventType.GAP: "missed"}


@lru_cache(maxsize=16_384)
def lane_id(daemon: str, app: str) -> int:
    """A number for an app of a daemon: made of the names alone, so that no table has to be asked for it.

    No daemon can choose a name that has the number of another's app: it is the beginning of a cryptographic hash.
    """
    digest = hashlib.blake2b(f"{daemon}\0{app}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def change_of(envelope: Envelope) -> AppChange | None:
    """The row of an event; None for output, and for an event whose data can't be read."""
    event = envelope.event
    kind = event.type
    if kind is _STDOUT:
        return None
    try:
        data = orjson.loads(event.body)["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    value = pid = None
    if isinstance(data, dict):
        value, pid = data.get(_VALUES.get(kind, "")), data.get("pid")
        if kind is _STATUS:
            value = 0 if status_of(data) == DISABLED else 1
    return (
        envelope.offset,
        lane_id(event.daemon, event.app),
        event.timestamp,
        int(kind),
        value if type(value) is int else None,
        pid if type(pid) is int else None,
        int(event.reconciled),
        event.process_uuid,
        None,
    )
