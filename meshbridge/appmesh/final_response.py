"""HTTP responses without the interim ones before them (RFC 9110, 15.2), and within a time.

A server may send any number of 1xx responses (102 Processing, 103 Early Hints) before the one that answers a request.
The standard library's client skips 100 alone and takes each of the others for the answer.

A socket's timeout is for each read, so a server that sends a byte now and then never meets it, neither in the head of a
response nor in its body: :func:`ends_by` limits them as a whole.
"""

import contextlib
import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["FinalResponse", "ends_by"]

_FIRST_FINAL, _SWITCHING_PROTOCOLS = 200, 101
_MAX_INTERIM = 100  # of one request; a server that sends more never answers


_limit = threading.local()  # .deadline: of the responses that this thread reads


@contextlib.contextmanager
def ends_by(deadline: float) -> Iterator[None]:
    """Reads of responses in the block, by this thread, raise ``TimeoutError`` from ``deadline`` (monotonic) on."""
    before = getattr(_limit, "deadline", None)
    _limit.deadline = deadline if before is None else min(before, deadline)
    try:
        yield
    finally:
        _limit.deadline = before


class _Limited(io.RawIOBase):
    """What a response is read from: each read gets what is left of the time."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any) -> int | None:
        deadline = getattr(_limit, "deadline", None)
        if deadline is None:
            return self._raw.readinto(buffer)
        timeout, left = self._sock.gettimeout(), deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left if timeout is None else min(timeout, left))
        try:
            return self._raw.readinto(buffer)
        finally:
            self._sock.settimeout(timeout)

    def close(self) -> None:
        self._raw.close()
        super().close()


class FinalResponse(http.client.HTTPResponse):
    """For ``response_class`` of an ``http.client.HTTPConnection``, or of a class made from it."""

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.fp = io.BufferedReader(_Limited(self.fp.detach(), sock))

    def begin(self) -> None:
        """Reads status and headers of the final response; 101, which ends HTTP on the connection, counts as one.

        Raises:
            http.client.HTTPException: there is none.

        """
        for _ in range(_MAX_INTERIM):
            super().begin()
            if self.status >= _FIRST_FINAL or self.status == _SWITCHING_PROTOCOLS:
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # what makes begin() read the next one
        raise http.client.HTTPException(f"more than {_MAX_INTERIM} interim responses")
