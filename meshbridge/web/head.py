"""The head of a request: found, bounded, and refused where two servers could read it differently.

Stricter than RFC 9112 has to be, so that nothing can be smuggled past a proxy: lines end with CRLF (2.2 lets a server
take a bare LF), no header is folded (5.2), and Content-Length does not stand beside Transfer-Encoding (6.3). h11 checks
the rest.
"""

import re
from http import HTTPStatus

__all__ = ["BadRequestError", "HeadReader"]

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]|\r?\Z")
_END = b"\r\n\r\n"
_LONE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_FOLDED = re.compile(rb"\r\n[ \t]")
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:", re.IGNORECASE)
_CODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)


class BadRequestError(Exception):
    """A request that gets this status and this line, and no other answer."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class HeadReader:
    """Collects one head; what follows it is kept for the body."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._data = bytearray()
        self._searched = 0  # so that a head that comes in drops is not searched from its beginning each time

    def __bool__(self) -> bool:
        """Whether anything of a head has come."""
        return bool(self._data)

    def add(self, data: bytes) -> None:
        self._data += data
        while self._data.startswith(b"\r\n"):  # before a request line empty ones are ignored (RFC 9112, 2.2)
            del self._data[:2]
            self._searched = 0

    def take(self) -> tuple[bytes, bytes] | None:
        """(head, what has come after it), once the head is whole.

        Raises:
            BadRequestError: it is too large, or not to be trusted.

        """
        end = self._data.find(_END, max(0, self._searched - len(_END)))
        self._searched = len(self._data)
        size = self._searched if end < 0 else end + len(_END)
        if size > self._most:
            raise BadRequestError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"request line and headers exceed {self._most} bytes"
            )
        head = bytes(self._data[:size])
        if not _METHOD.match(head):  # such as TLS on a plain port, which would never end a line
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "this is not HTTP")
        # A CR at the very end may be followed by its LF.
        if _LONE_LINE_END.search(head, 0, size if end >= 0 or not head.endswith(b"\r") else size - 1):
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "lines must end with CRLF")
        if end < 0:
            return None
        if _FOLDED.search(head):
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "folded headers are not supported")
        if _LENGTH.search(head) and _CODING.search(head):
            raise BadRequestError(
                HTTPStatus.BAD_REQUEST, "Content-Length and Transfer-Encoding must not be sent together"
            )
        return head, bytes(self._data[size:])
