"""The WSS transport: one message of msgpack in each binary WebSocket message (docs/protocol.md, 'WSS')."""

import struct
import time
from http import HTTPStatus
from typing import Any

import websocket
from websocket._abnf import frame_buffer

from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshError, AppMeshTimeoutError, AppMeshTokenError
from meshbridge.appmesh.tls_stream import ClientCert, SslVerify, TlsStream, client_context

__all__ = ["WSSTransport"]

_SUBPROTOCOL = "appmesh-ws"
# Fragments and pings without a whole message: so many in so short a time. Daemons send a message as one frame.
_MAX_FRAMES, _FRAMES_SECONDS = 5_000, 60.0
_PING_OR_PONG = frozenset({websocket.ABNF.OPCODE_PING, websocket.ABNF.OPCODE_PONG})
_DATA = frozenset({websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_CONT})
_LENGTH_16, _LENGTH_64 = 126, 127  # RFC 6455, 5.2: these 7-bit lengths announce 2 or 8 bytes of length


class WSSTransport:
    """A WebSocket over TLS. One thread receives (and answers pings); any thread may send or close."""

    WSS_CONNECT_TIMEOUT = 30
    WSS_MAX_BLOCK_SIZE = 104857600
    WSS_MESSAGE_TIMEOUT = 60
    must_be_read = True  # the daemon's pings are answered only then

    def __init__(
        self,
        address: tuple[str, int],
        ssl_verify: SslVerify,
        ssl_client_cert: ClientCert = None,
        *,
        max_message_bytes: int | None = None,
    ) -> None:
        """As :class:`~meshbridge.appmesh.tcp_transport.TCPTransport`; ``address`` is that of the WSS port."""
        self.address = address
        self._ssl_verify = ssl_verify
        self._ssl_client_cert = ssl_client_cert
        self._max_message_bytes = self.WSS_MAX_BLOCK_SIZE if max_message_bytes is None else max_message_bytes
        self._bearer_token: str | None = None
        self._stream: TlsStream | None = None
        self._socket: websocket.WebSocket | None = None
        self.close_code: int | None = None
        """By which code the daemon closed the connection (RFC 6455, 7.4)."""

    def set_bearer_token(self, token: str | None) -> None:
        """The token that the next :meth:`connect` shows: daemons of 3.x let its owner ask on the whole connection."""
        self._bearer_token = token

    def connect(self, timeout_seconds: float | None = None) -> None:
        """Connects and upgrades, or reconnects, all within ``timeout_seconds``.

        Raises:
            AppMeshTokenError: the daemon refuses the token of :meth:`set_bearer_token`.
            AppMeshConnectionError: it could not; the message says why.

        """
        self.close()
        timeout = timeout_seconds or self.WSS_CONNECT_TIMEOUT
        deadline = time.monotonic() + timeout
        host, port = self.address
        stream = TlsStream.connect(self.address, client_context(self._ssl_verify, self._ssl_client_cert), timeout)
        stream.set_deadline(deadline)  # of the whole upgrade, which websocket-client reads byte by byte
        try:
            connection = websocket.create_connection(
                f"wss://[{host}]:{port}/" if ":" in host else f"wss://{host}:{port}/",
                socket=stream,
                subprotocols=[_SUBPROTOCOL],
                enable_multithread=True,
                skip_utf8_validation=True,
                suppress_origin=True,
                redirect_limit=0,
                fire_cont_frame=True,  # fragments one by one, to be counted before they are put together
                header=[f"Authorization: Bearer {self._bearer_token}"] if self._bearer_token else [],
            )
        except AppMeshTimeoutError as error:
            stream.close()
            raise AppMeshConnectionError(f"no WebSocket with {host}:{port} in time") from error
        except (websocket.WebSocketException, AppMeshError, OSError) as error:
            stream.close()
            if self._bearer_token and getattr(error, "status_code", None) == HTTPStatus.UNAUTHORIZED:
                raise AppMeshTokenError(
                    f"{host}:{port} refused the token at the upgrade", status=HTTPStatus.UNAUTHORIZED
                ) from error
            raise AppMeshConnectionError(f"{host}:{port} refused the WebSocket: {error}") from error
        connection.frame_buffer = _BoundedFrames(connection._recv, self._max_message_bytes)  # noqa: SLF001 no public hook
        stream.set_deadline(None)
        self._stream, self._socket, self.close_code = stream, connection, None

    def connected(self) -> bool:
        """Whether :meth:`connect` has succeeded and :meth:`close` was not called since."""
        return self._socket is not None

    @property
    def is_connected(self) -> bool:
        """As :meth:`connected`."""
        return self.connected()

    def abort(self) -> None:
        """As :meth:`interrupt`, by its name in the SDK of 3.x."""
        self.interrupt()

    def settimeout(self, timeout_seconds: float | None) -> None:
        """How long one receive or send may wait; None, the default: for ever."""
        if self._stream is not None:
            self._stream.settimeout(timeout_seconds)

    def has_arrived(self) -> bool:
        """Whether there is something to receive, or the end of the connection. For the thread that receives."""
        return self._stream is None or self._stream.has_arrived()

    def receive_messages(self, until: float | None = None) -> list[bytes]:
        """Waits for a message and gives it with all others that have arrived; ``[]`` at the end of the connection.

        ``until`` must be None: where something must be read at all times, a thread waits without end.

        Raises:
            AppMeshTimeoutError: nothing within the timeout.
            AppMeshConnectionError: the connection is lost.

        """
        assert until is None
        messages: list[bytes] = []
        while not messages or _holds_a_frame(self._connected_stream().buffered):
            message = self.receive_message()
            if not message:
                break
            messages.append(bytes(message))
        return messages

    def receive_message(self) -> bytearray | None:
        """The next message; empty at the end of the connection. Pings are answered on the way.

        Raises:
            AppMeshTimeoutError: nothing within the timeout.
            AppMeshConnectionError: the connection is lost.

        """
        connection = self._socket
        if connection is None:
            raise AppMeshConnectionError(f"not connected to {self.address[0]}:{self.address[1]}")
        try:
            return self._gather(connection)
        except websocket.WebSocketTimeoutException as error:
            raise AppMeshTimeoutError("nothing received in time") from error
        except websocket.WebSocketConnectionClosedException:
            return bytearray()
        except (websocket.WebSocketException, OSError) as error:
            raise AppMeshConnectionError(f"connection lost while reading: {error}") from error

    def _gather(self, connection: websocket.WebSocket) -> bytearray:
        """A binary message from its fragments; empty for what ends the connection."""
        message, frames, since = bytearray(), 0, time.monotonic()
        while True:
            opcode, frame = connection.recv_data_frame(control_frame=True)
            frames += 1
            if frames > _MAX_FRAMES:
                if time.monotonic() - since < _FRAMES_SECONDS:
                    raise websocket.WebSocketPayloadException(f"{frames} frames in a row without a whole message")
                frames, since = 0, time.monotonic()
            if opcode in _PING_OR_PONG:
                continue  # the library has answered
            data = frame.data
            if opcode == websocket.ABNF.OPCODE_CLOSE and len(data) >= 2:  # noqa: PLR2004 RFC 6455, 5.5.1
                self.close_code = int.from_bytes(data[:2], "big")
            if opcode not in _DATA:
                return bytearray()
            if len(message) + len(data) > self._max_message_bytes:
                raise websocket.WebSocketPayloadException(
                    f"a message of more than {self._max_message_bytes} bytes in fragments"
                )
            message += data
            if frame.fin:
                return message

    def send_message(self, data: bytes | bytearray | list[object]) -> None:
        """Sends ``data`` as one binary message. WebSocket needs no end-of-file mark: an empty list sends nothing.

        Raises:
            AppMeshTimeoutError: the peer does not take it within the timeout.
            AppMeshConnectionError: the connection is lost.

        """
        connection = self._socket
        if connection is None:
            raise AppMeshConnectionError(f"not connected to {self.address[0]}:{self.address[1]}")
        if isinstance(data, list):
            return
        try:
            connection.send_binary(bytes(data))
        except (websocket.WebSocketException, OSError) as error:
            raise AppMeshConnectionError(f"connection lost while sending: {error}") from error

    def interrupt(self) -> None:
        """Makes a thread that receives see the end of the connection."""
        if self._stream is not None:
            self._stream.shutdown()

    def close(self) -> None:
        """Ends the connection; harmless when there is none."""
        stream, self._stream = self._stream, None
        self._socket = None
        if stream is not None:
            stream.close()

    def _connected_stream(self) -> TlsStream:
        if self._stream is None:
            raise AppMeshConnectionError(f"not connected to {self.address[0]}:{self.address[1]}")
        return self._stream


def _holds_a_frame(received: bytes) -> bool:
    """Whether ``received`` begins with a whole, unmasked WebSocket frame (RFC 6455, 5.2)."""
    if len(received) < 2:  # noqa: PLR2004 the two bytes every frame begins with
        return False
    length, header = received[1] & 0x7F, 2
    if length == _LENGTH_16 and len(received) >= 4:  # noqa: PLR2004
        (length,), header = struct.unpack_from("!H", received, 2), 4
    elif length == _LENGTH_64 and len(received) >= 10:  # noqa: PLR2004
        (length,), header = struct.unpack_from("!Q", received, 2), 10
    elif length >= _LENGTH_16:
        return False
    return len(received) >= header + length


class _BoundedFrames(frame_buffer):  # type: ignore[misc, unused-ignore] # untyped in some releases
    """websocket-client's frame parser, which refuses a frame before it is read when it is too large."""

    def __init__(self, receive: Any, max_bytes: int) -> None:
        super().__init__(receive, skip_utf8_validation=True)
        self._max_bytes = max_bytes

    def recv_length(self) -> None:
        super().recv_length()
        if self.length is not None and self.length > self._max_bytes:
            raise websocket.WebSocketPayloadException(
                f"message of {self.length} bytes; at most {self._max_bytes} are allowed"
            )
