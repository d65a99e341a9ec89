"""The output of a run, put together from pushed events and from what is read: each byte once, in order. No I/O.

Events and reads overlap, and events can be missing. What decides is the position, which counts the real bytes. The
text of an event has lost them where they were no UTF-8 (docs/protocol.md, 'STDOUT'), so such an event only says that
there is something to read.
"""

from collections.abc import Callable

from meshbridge.appmesh.exceptions import AppMeshRequestError
from meshbridge.appmesh.tcp_messages import ResponseMessage

__all__ = ["READ_BYTES", "RunOutput"]

READ_BYTES = 1024 * 1024  # asked for at once

_OK = 200
_REPLACEMENT = "\ufffd"
_MAX_CHARACTER_BYTES = 4


class RunOutput:
    """Where a run's output has got to, and who gets it: text and the position of its first byte."""

    def __init__(
        self, fetch: Callable[[int, int], ResponseMessage], handler: Callable[[str, int], None] | None
    ) -> None:
        """``fetch(position, wait_seconds)`` asks the daemon; it waits so long at most for the process to end."""
        self._fetch = fetch
        self._handler = handler
        self.position = 0
        self.exit_code: int | None = None

    def push(self, position: int, text: str) -> bool:
        """Takes the text of an event that begins at ``position``; False when it must be read instead."""
        if _REPLACEMENT in text or position > self.position:
            return False
        data = text.encode("utf-8", "surrogatepass")
        data = data[self.position - position :]
        if data:
            self._deliver(data, final=True)
        return True

    def pull(self, wait_seconds: int = 0) -> None:
        """Reads what there is, and all of it once the process has ended; then :attr:`exit_code` is known.

        Raises:
            AppMeshRequestError: the daemon gives no output (any more).

        """
        while self.read(wait_seconds):
            wait_seconds = 0

    def read(self, wait_seconds: int = 0) -> bool:
        """Reads one piece, of :data:`READ_BYTES` at most; whether it pays to go on at once. As :meth:`pull` raises."""
        response = self._fetch(self.position, wait_seconds)
        if response.http_status != _OK:
            raise AppMeshRequestError(f"no output: status {response.http_status}", status=response.http_status)
        code = response.headers.get("X-Exit-Code", "")
        ended = code.removeprefix("-").isdigit()
        self._deliver(response.body, final=ended)
        if ended and not response.body:
            self.exit_code = int(code)
            return False
        return ended or len(response.body) >= READ_BYTES // 2

    def _deliver(self, data: bytes, *, final: bool) -> None:
        """Hands on whole characters; what may be the beginning of one is read again with its end."""
        if not final:
            data = data[: len(data) - _unfinished(data)]
        if data:
            position, self.position = self.position, self.position + len(data)
            if self._handler is not None:
                self._handler(data.decode("utf-8", "replace"), position)


def _unfinished(data: bytes) -> int:
    """How many bytes at the end of ``data`` begin a UTF-8 character that goes on after it."""
    for length in range(1, min(_MAX_CHARACTER_BYTES, len(data) + 1)):
        first = data[-length]
        if first & 0xC0 != 0x80:  # noqa: PLR2004 not a byte within a character
            needed = 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2 if first >= 0xC0 else 1  # noqa: PLR2004
            return length if needed > length else 0
    return 0
