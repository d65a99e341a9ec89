"""The TCP transport: one blocking TLS connection that carries frames (docs/protocol.md, 'TCP framing')."""

import time
from collections import deque

from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshTimeoutError
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify, TlsStream, client_context
from meshbridge.appmesh.wire.framing import (
    END_OF_FILE,
    HEADER_BYTES,
    MAGIC,
    MAX_BODY_BYTES,
    FrameDecoder,
    FramingError,
    encode_frame,
)

__all__ = ["TCPTransport"]


class TCPTransport:
    """A TLS connection to a daemon's TCP port. One thread receives; any thread may send or close."""

    TCP_MAX_BLOCK_SIZE = MAX_BODY_BYTES
    TCP_MESSAGE_HEADER_LENGTH = HEADER_BYTES
    TCP_MESSAGE_MAGIC = MAGIC
    CONNECT_TIMEOUT_SECONDS = 30.0
    must_be_read = False

    def __init__(
        self,
        address: tuple[str, int],
        ssl_verify: SslVerify,
        ssl_client_cert: ClientCert = None,
        *,
        max_message_bytes: int | None = None,
    ) -> None:
        """``address`` is (host, port), of either IP version; nothing is connected yet.

        ``ssl_verify``: True for the system's authorities, False for no verification, or a CA bundle or directory.
        ``ssl_client_cert``: a PEM file with certificate and key, or the two files.
        ``max_message_bytes``: a larger one ends the connection; None for ``TCP_MAX_BLOCK_SIZE``.
        """
        self._max_message_bytes = self.TCP_MAX_BLOCK_SIZE if max_message_bytes is None else max_message_bytes
        self.address = address
        self._ssl_verify = ssl_verify
        self._ssl_client_cert = ssl_client_cert
        self._stream: TlsStream | None = None
        self._decoder = FrameDecoder(self._max_message_bytes)
        self._received: deque[bytes] = deque()

    def connect(self, timeout_seconds: float | None = None) -> None:
        """Connects, or reconnects.

        Raises:
            AppMeshConnectionError: it could not; the message says why.

        """
        self.close()
        context = client_context(self._ssl_verify, self._ssl_client_cert)
        self._stream = TlsStream.connect(self.address, context, timeout_seconds or self.CONNECT_TIMEOUT_SECONDS)
        self._decoder = FrameDecoder(self._max_message_bytes)
        self._received.clear()

    def connected(self) -> bool:
        """Whether :meth:`connect` has succeeded and :meth:`close` was not called since."""
        return self._stream is not None

    @property
    def is_connected(self) -> bool:
        """As :meth:`connected`."""
        return self.connected()

    def settimeout(self, timeout_seconds: float | None) -> None:
        """How long one receive or send may wait; None, the default: for ever."""
        self._connected_stream().settimeout(timeout_seconds)

    def has_arrived(self) -> bool:
        """Whether there is something to receive, or the end of the connection. For the thread that receives."""
        return bool(self._received) or self._stream is None or self._stream.has_arrived()

    def receive_messages(self, until: float | None = None) -> list[bytes]:
        """Waits for at least one frame and gives the bodies of all that have arrived; ``[]`` at the end of the stream.

        An empty body is the end-of-file mark of a file transfer. ``until``: in monotonic seconds; what of a frame has
        arrived by then is kept for the next call.

        Raises:
            AppMeshTimeoutError: no frame within the timeout, or ``until`` then.
            AppMeshConnectionError: the connection is lost, or the peer sends no frames.

        """
        if self._received:
            messages = list(self._received)
            self._received.clear()
            return messages
        stream = self._stream or self._connected_stream()
        try:
            while True:
                data = stream.read_some(until)
                if not data:
                    return []
                self._decoder.feed(data)
                if messages := list(self._decoder.frames()):
                    return messages
                if until is not None and time.monotonic() >= until:
                    raise AppMeshTimeoutError("nothing but a part of a frame received in time")
        except FramingError as error:
            raise AppMeshConnectionError(f"{self.address[0]}:{self.address[1]} sent {error}") from error

    def receive_message(self) -> bytearray | None:
        """The next frame's body; None for the end-of-file mark of a file transfer.

        Raises:
            AppMeshTimeoutError: nothing within the timeout.
            AppMeshConnectionError: the connection is lost or ended.

        """
        if not self._received:
            messages = self.receive_messages()
            if not messages:
                raise AppMeshConnectionError("the daemon closed the connection")
            self._received.extend(messages)
        body = self._received.popleft()
        return bytearray(body) if body else None

    def send_message(self, data: bytes | bytearray | list[object]) -> None:
        """Sends ``data`` as one frame; an empty list (or nothing) is the end-of-file mark.

        Raises:
            AppMeshTimeoutError: the peer does not take it within the timeout.
            AppMeshConnectionError: the connection is lost.

        """
        stream = self._stream or self._connected_stream()
        stream.sendall(END_OF_FILE if isinstance(data, list) or not data else encode_frame(data))

    def interrupt(self) -> None:
        """Makes a thread that receives see the end of the stream."""
        if self._stream is not None:
            self._stream.shutdown()

    def close(self) -> None:
        """Ends the connection; harmless when there is none."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _connected_stream(self) -> TlsStream:
        if self._stream is None:
            raise AppMeshConnectionError(f"not connected to {self.address[0]}:{self.address[1]}")
        return self._stream
