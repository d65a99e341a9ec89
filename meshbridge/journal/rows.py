"""An event as a row of the database, with a checksum, and back."""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from meshbridge.journal.errors import DamageError
from meshbridge.model.events import Envelope, Event, EventType

__all__ = ["COLUMNS", "PLACES", "Row", "envelope_of", "event_bytes", "row_of"]

Row = tuple[object, ...]

COLUMNS = (
    "offset, received_at, type, daemon, run, sequence, app, timestamp, process_uuid, key, reconciled, body, checksum"
)
PLACES = "(" + ",".join("?" * 13) + ")"
_ROW_OVERHEAD_BYTES = 120  # of a row beside its body, for accounting in memory
_U32 = 0xFFFFFFFF


def event_bytes(event: Event) -> int:
    """About what an event takes, in memory or on disk."""
    return len(event.body) + _ROW_OVERHEAD_BYTES


@lru_cache(maxsize=4096)
def _seed(daemon: str, run: str, app: str) -> int:
    return zlib.crc32(f"{daemon}\0{run}\0{app}".encode())


def _checksum(offset: int, event: Event) -> int:
    """Of everything that makes an event what it is. SQLite finds damage in its own structure, not in what it holds."""
    seed = _seed(event.daemon, event.run, event.app)
    if event.process_uuid or event.key:
        seed = zlib.crc32(f"{event.process_uuid}\0{event.key}".encode(), seed)
    # Odd factors: a changed bit in any of the three changes the seed, and a changed seed the checksum.
    seed += offset * 2654435761 + (event.sequence or 0) * 40503 + event.type
    return zlib.crc32(event.body, seed & _U32)


def row_of(offset: int, event: Event) -> Row:
    return (
        offset,
        event.received_at,
        int(event.type),
        event.daemon,
        event.run,
        event.sequence,
        event.app,
        event.timestamp,
        event.process_uuid,
        event.key or None,
        event.reconciled,
        event.body,
        _checksum(offset, event),
    )


def envelope_of(row: Sequence[Any]) -> Envelope:
    """The event of a row; one from before there were checksums is taken as it is.

    Raises:
        DamageError: it is not what was written.

    """
    offset, received_at, kind, daemon, run, sequence, app, timestamp, process_uuid, key, reconciled, body, checksum = (
        row
    )
    try:
        event = Event(
            daemon,
            run,
            sequence,
            _TYPES[kind],
            app,
            timestamp,
            body,
            process_uuid,
            bool(reconciled),
            received_at,
            key or "",
        )
        if checksum is None or checksum == _checksum(offset, event):
            return Envelope(offset, event)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamageError(f"the event at offset {offset} can't be read: {error!r}") from error
    raise DamageError(f"the event at offset {offset} is not the one that was written: its checksum differs")


_TYPES = {int(kind): kind for kind in EventType}
