"""Bytes and frames of App Mesh's TCP transport (docs/protocol.md, 'TCP framing').

A frame is an 8-byte header, big-endian, and a body: magic ``0x07C707F8`` (u32), length of the body (u32).
Length 0 is the end-of-file mark of a file transfer. Nothing here does I/O.
"""

import struct
from collections.abc import Iterator

MAGIC = 0x07C707F8
HEADER_BYTES = 8
MAX_BODY_BYTES = 100 * 1024 * 1024  # the reference SDK's TCP_MAX_BLOCK_SIZE; 3.x daemons send up to 1 GiB

_HEADER = struct.Struct("!II")
END_OF_FILE = _HEADER.pack(MAGIC, 0)


class FramingError(ValueError):
    """The peer sent bytes that are no frame; the connection cannot be used any further."""


def encode_frame(body: bytes | bytearray | memoryview) -> bytes:
    """One frame around ``body``; an empty body gives the end-of-file mark."""
    return b"".join((_HEADER.pack(MAGIC, len(body)), body))


class FrameDecoder:
    """Turns received bytes, in whatever pieces they come, into the bodies of frames.

    Call :meth:`feed` with what was received, then iterate :meth:`frames`. After a :class:`FramingError`
    the decoder refuses everything: the place where the next frame begins is unknown.

    It holds at most one incomplete frame, so its memory is bounded by ``max_body_bytes``.
    """

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        # Most reads hold whole frames, which are cut from the bytes that were read. Only a frame that waits for its
        # rest is gathered in a bytearray. What stands before _position was given.
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._error: FramingError | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes what was received."""
        if not self._buffer:
            self._buffer = bytes(data)
            return
        if isinstance(self._buffer, bytes):
            self._buffer = bytearray(self._buffer[self._position :])
        else:
            del self._buffer[: self._position]
        self._buffer += data
        self._position = 0

    @property
    def buffered_bytes(self) -> int:
        """How many received bytes wait for the rest of their frame."""
        return len(self._buffer) - self._position

    def frames(self) -> Iterator[bytes]:
        """The bodies that are complete, in order; ``b""`` is an end-of-file mark.

        Raises:
            FramingError: wrong magic, or a body longer than allowed. Frames before the fault are given first.

        """
        if self._error is not None:
            raise self._error
        while True:
            buffer, begin = self._buffer, self._position + HEADER_BYTES
            if len(buffer) < begin:
                return
            magic, length = _HEADER.unpack_from(buffer, self._position)
            if magic != MAGIC:
                self._error = FramingError(
                    f"bad magic 0x{magic:08x} where a frame should start (expected 0x{MAGIC:08x}): "
                    "is this App Mesh's TCP port?"
                )
                raise self._error
            if length > self._max_body_bytes:
                self._error = FramingError(f"frame of {length} bytes; at most {self._max_body_bytes} are allowed")
                raise self._error
            end = begin + length
            if len(buffer) < end:
                return
            if end == len(buffer):
                self._buffer, self._position = b"", 0  # a large frame's memory is not kept until the next one
            else:
                self._position = end
            if isinstance(buffer, bytes):
                yield buffer[begin:end]
            else:
                with memoryview(buffer) as view:
                    body = bytes(view[begin:end])
                yield body
