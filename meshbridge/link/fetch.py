"""Asks the daemon for output that is missing, of the process that it belongs to."""

from meshbridge.appmesh.exceptions import AppMeshRequestError
from meshbridge.link.app_state import INVALID, Listed
from meshbridge.link.output import Missing
from meshbridge.link.requests import DaemonRequests

__all__ = ["fetch"]

_SECONDS = 30.0
_MOST_BYTES = 64 * 2**20  # of one process; a stretch longer than this is no output that anybody reads
_MOST_PIECE_BYTES = 4 * 2**20  # more than a daemon gives at once (docs/protocol.md, 'STDOUT')
_SMALL_BYTES = 64 * 1024
_MOST_SMALL_PIECES = 16  # of one process: more requests than that are not worth what they bring
_TRIES = 3  # a process that is replaced between the questions moves the index of those before it


def fetch(requests: DaemonRequests, missing: Missing) -> bytes | None:
    """The bytes from ``missing.start`` on, as far as they are there; None where the daemon doesn't have them.

    The process is found by its uuid while it is the present or last one; else by how many were started since, which
    holds only if none was started while it was read (docs/protocol.md, 'STDOUT').

    Raises:
        AppMeshError: the daemon gave no answer, or none that helps.

    """
    for _ in range(_TRIES):
        before = _listed(requests, missing.app)
        index = None if before is None else _index(before, missing)
        if before is None or index is None:
            return None
        data = _read(requests, missing, index)
        after = _listed(requests, missing.app)
        if after is not None and (after.started_at, after.starts) == (before.started_at, before.starts):
            return data
    return None


def _listed(requests: DaemonRequests, app: str) -> Listed | None:
    fields = requests.get_app(app, _SECONDS)
    if fields is None:
        return None
    try:
        return Listed.from_json(fields)
    except INVALID as error:
        raise AppMeshRequestError(f"what the daemon says of {app} is no app: {error!r}") from error


def _index(listed: Listed, missing: Missing) -> int | None:
    """Which of the daemon's files is the process's; None where it is not known to be kept."""
    started, listed_start = missing.started_at or 0, listed.started_at or 0
    if started and abs(started - listed_start) <= 1 and missing.starts in {None, listed.starts}:
        return 0
    if missing.starts is None or listed.starts <= missing.starts:
        return None
    return listed.starts - missing.starts


def _read(requests: DaemonRequests, missing: Missing, index: int) -> bytes | None:
    """What is there; where the process still writes, that may be less than all of it.

    Raises:
        AppMeshRequestError: the daemon gives pieces that are too small to be worth asking, or more than was asked for.

    """
    data, small = bytearray(), 0
    while len(data) < _MOST_BYTES:
        piece = requests.get_output(
            missing.app,
            missing.start + len(data),
            index=index,
            process_uuid=missing.process_uuid,
            timeout_seconds=_SECONDS,
        )
        if piece is None:
            return bytes(data) if data else None
        if len(piece) > _MOST_PIECE_BYTES:
            raise AppMeshRequestError(f"output of {missing.app}: a piece of {len(piece)} bytes")
        data += piece
        small += len(piece) < _SMALL_BYTES
        if small > _MOST_SMALL_PIECES and piece:
            if missing.end is None:
                break  # what the process writes from now on comes as events
            raise AppMeshRequestError(f"output of {missing.app}: {small} pieces of less than {_SMALL_BYTES} bytes")
        if not piece or (missing.end is not None and missing.start + len(data) >= missing.end):
            break
    return bytes(data)
