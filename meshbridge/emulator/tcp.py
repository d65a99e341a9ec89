"""TCP over TLS: frames in, frames out (docs/protocol.md, 'TCP framing')."""

import asyncio
import logging
import socket
import struct

from meshbridge.appmesh.tcp_messages import MessageError, RequestMessage
from meshbridge.appmesh.wire.framing import FrameDecoder, FramingError, encode_frame
from meshbridge.emulator.connection import Connection, is_loopback
from meshbridge.emulator.daemon import Daemon
from meshbridge.emulator.messages import message_answer, read_request, readable_uuid
from meshbridge.emulator.settings import EmulatorOptions

log = logging.getLogger(__name__)

WRITE_BYTES = 256 * 1024
"""How much lies in the transport's buffer at most before messages stay in the connection's queue, where they count."""


class TcpProtocol(asyncio.Protocol):
    """One client's connection. Only the event loop calls it."""

    def __init__(self, daemon: Daemon, options: EmulatorOptions, connections: set["TcpProtocol"]) -> None:
        self._daemon = daemon
        self._connections = connections
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._flush_due = False
        self._requests: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        if options.dialect.bounds_bytes:
            self.connection = Connection("tcp", max_bytes=options.tcp_queue_bytes)
        else:
            self.connection = Connection("tcp", max_messages=options.tcp_queue_messages)
        self.connection.sender = self
        self.lost = asyncio.Event()

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._daemon.stopping:  # its TLS handshake has ended too late for the loop that closes the connections
            transport.abort()
            return
        transport.set_write_buffer_limits(high=WRITE_BYTES)
        self._transport = transport
        self._connections.add(self)
        self.connection.is_local = is_loopback(transport.get_extra_info("peername")[0])

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            for body in self._decoder.frames():
                self._frame(body)
        except (FramingError, MessageError) as error:
            log.debug("connection closed without an answer: %s", error)
            self.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 asyncio's signature
        self._connections.discard(self)
        self.connection.close()
        self.lost.set()
        for request in self._requests:
            request.cancel()

    # --- Sender -------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Many messages of one turn of the loop go out in one write."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Drops the connection so that the client sees a reset, not an end."""
        if self._transport is not None:
            sock: socket.socket | None = self._transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        self._flush_due = False
        connection, transport = self.connection, self._transport
        if transport is None or connection.closed:
            return
        if connection.overrun:
            # What the kernel has can still be read, then the client sees the end of the stream.
            connection.close()
            transport.abort()
            return
        while connection.queue and not self._paused:
            frames: list[bytes] = []
            size = 0
            while connection.queue and size < WRITE_BYTES:
                frame = encode_frame(connection.take())
                frames.append(frame)
                size += len(frame)
            transport.write(b"".join(frames))

    # --- requests -----------------------------------------------------------------------------------------------------

    def _frame(self, body: bytes) -> None:
        if self.connection.file_frames is not None:
            self.connection.file_frames(body)
            return
        try:
            request = read_request(body)
        except MessageError as error:
            uuid = readable_uuid(body) if self._daemon.dialect.answers_bad_messages else ""
            if not uuid:
                raise
            self.connection.push(message_answer(400, f"bad message: {error}").packed(RequestMessage(uuid)))
            return
        task = self._loop.create_task(self._serve(request))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _serve(self, request: RequestMessage) -> None:
        answer = await self._daemon.handle(request, self.connection)
        self.connection.push(answer.packed(request))
        if answer.then is None:
            return
        try:
            await answer.then()
        except OSError as error:  # the file has gone, or the disk is full: the client sees the connection end
            log.warning("file transfer broke off: %s", error)
            self.abort()
