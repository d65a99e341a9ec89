"""What the daemon knows of a client's connection, whatever carries it."""

import asyncio
import ipaddress
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Sender(Protocol):
    """The transport under a connection."""

    def wake(self) -> None:
        """Messages wait in the connection's queue."""

    def abort(self) -> None:
        """Ends the connection at once, telling the client nothing."""


class Connection:
    """One client. Its queue holds what the client has not taken yet, without what lies in the transport's buffers.

    A client that does not read is cut off (docs/protocol.md, 'Events'): over TCP at a number of messages, over WSS at a
    number of bytes. Only the event loop's thread touches it.
    """

    def __init__(
        self, transport: str, *, peer: str = "", max_messages: int | None = None, max_bytes: int | None = None
    ) -> None:
        self.transport = transport
        """``tcp``, ``wss``, ``wss-https`` (REST on the WSS port), ``https`` or ``peer`` (forwarded by another node)."""
        self.is_local = transport != "peer" and (not peer or is_loopback(peer))
        """Whether the other side is a process of this host."""
        self.sender: Sender | None = None
        self.queue: deque[bytes] = deque()
        self.queued_bytes = 0
        self.taken_messages = 0
        """How many messages have gone to the transport: shows progress."""
        self.overrun = False
        """The client did not read, and is being cut off."""
        self.closed = False
        self.principal_id: str | None = None
        """Who opened it, by the token of its WebSocket upgrade (3.x); good for each request on it."""
        self.workers_only = False
        """It was opened without a token, and this daemon (3.x of August) then serves workers only."""
        self.file_frames: Callable[[bytes], None] | None = None
        """Takes the frames that come in while a file is uploaded over TCP."""
        self.sends_file = False
        self.on_closed: list[Callable[[], None]] = []
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._shortened: asyncio.Event | None = None

    @property
    def carries_file(self) -> bool:
        """Whether raw frames of a file go either way."""
        return self.sends_file or self.file_frames is not None

    @property
    def takes_events(self) -> bool:
        return self.transport in {"tcp", "wss"}

    def push(self, message: bytes) -> None:
        """Queues ``message`` for the client; nothing if it is gone or being cut off."""
        if self.closed or self.overrun or self.sender is None:
            return
        self.queue.append(message)
        self.queued_bytes += len(message)
        if (self._max_messages is not None and len(self.queue) > self._max_messages) or (
            self._max_bytes is not None and self.queued_bytes > self._max_bytes
        ):
            self.overrun = True
            self.queue.clear()
            self.queued_bytes = 0
        self.sender.wake()

    def take(self) -> bytes:
        """The next message for the transport.

        Raises:
            IndexError: there is none.

        """
        message = self.queue.popleft()
        self.queued_bytes -= len(message)
        self.taken_messages += 1
        if self._shortened is not None:
            self._shortened.set()
        return message

    async def shorter_than(self, messages: int) -> None:
        """Until fewer than ``messages`` wait in the queue, or the connection is gone."""
        self._shortened = asyncio.Event()
        while len(self.queue) >= messages and not self.closed:
            self._shortened.clear()
            await self._shortened.wait()
        self._shortened = None

    def close(self) -> None:
        """The connection is gone: forget what belongs to it. Called once by the transport."""
        if self.closed:
            return
        self.closed = True
        self.queue.clear()
        self.queued_bytes = 0
        for forget in self.on_closed:
            forget()
        self.on_closed.clear()
        if self._shortened is not None:
            self._shortened.set()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
