"""A connection to a daemon that many threads share: requests in flight together, pushed events apart from answers."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshError, AppMeshTimeoutError
from meshbridge.appmesh.tcp_messages import MessageError, RequestMessage, ResponseMessage
from meshbridge.appmesh.wire.conversation import Conversation, may_be_followed

__all__ = ["Channel", "Transport"]

logger = logging.getLogger(__name__)

_SECOND_ANSWER_SECONDS = 1.0  # a daemon sends it right after the first
_MAX_USELESS = 1000  # messages in a row: late answers to requests that were given up are a few


class Transport(Protocol):
    """What :class:`Channel` needs of a TCP or WSS transport; their docstrings say what each call does."""

    def connect(self, timeout_seconds: float | None = None) -> None: ...

    def receive_messages(self) -> list[bytes]: ...

    def send_message(self, data: bytes | bytearray | list[object]) -> None: ...

    def settimeout(self, timeout_seconds: float | None) -> None: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class _Waiter:
    """A thread that waits for one answer; a bare lock, since a condition costs more than the rest of a request."""

    __slots__ = ("_arrived", "error", "response")

    def __init__(self) -> None:
        self._arrived = threading.Lock()
        self._arrived.acquire()
        self.response: ResponseMessage | None = None
        self.error: AppMeshConnectionError | None = None

    def wait(self, timeout_seconds: float) -> bool:
        return self._arrived.acquire(timeout=timeout_seconds)

    def wake(self) -> None:
        """Set :attr:`response` or :attr:`error` before: a thread that was woken and has not looked yet sees both."""
        if self._arrived.locked():
            self._arrived.release()


class Channel:
    """Requests and pushed events over one connection. An :class:`~meshbridge.appmesh.exchange.Exchange`.

    ``on_pushes`` gets the JSON bodies of the events of one read, in order, on the channel's own thread: while it
    works nothing is received, so it hands them on and returns. ``on_closed`` is called once, on that thread, when the
    connection has ended: with the error, or None after :meth:`close`.

    Threads: one, ``name``, reads from :meth:`open` to the end of the connection; it is daemonic, and joined by
    :meth:`close`. Any thread may call the rest.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        name: str = "appmesh-reader",
        on_pushes: Callable[[list[bytes]], None] | None = None,
        on_closed: Callable[[AppMeshError | None], None] | None = None,
        on_invalid: Callable[[MessageError], None] | None = None,
    ) -> None:
        self._transport = transport
        self._name = name
        self._on_pushes = on_pushes
        self._on_closed = on_closed
        self._on_invalid = on_invalid
        self._lock = threading.Lock()  # guards the conversation, _ended and _closing
        self._conversation: Conversation[_Waiter] = Conversation()
        self._ended: AppMeshConnectionError | None = AppMeshConnectionError("not connected")
        self._closing = False
        self._reader: threading.Thread | None = None
        self._useless = 0  # messages in a row that were not asked for; the reader's
        self.last_received = 0.0  # monotonic seconds; when anything at all last came in
        self.last_sent = 0.0  # the same, of what goes out

    def open(self, timeout_seconds: float | None = None) -> None:
        """Connects and begins to read. A channel is opened once.

        Raises:
            AppMeshConnectionError: there is no connection to be had; the message says why.

        """
        self._transport.connect(timeout_seconds)
        self.last_received = self.last_sent = time.monotonic()
        with self._lock:
            if self._closing:
                self._transport.close()
                raise AppMeshConnectionError("the connection was closed")
            self._ended = None
            self._reader = threading.Thread(target=self._read, name=self._name, daemon=True)
            self._reader.start()

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._ended is None

    def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        """The daemon's answer, whatever its status.

        Raises:
            AppMeshTimeoutError: no answer within ``timeout_seconds``; if it comes later, it is thrown away.
            AppMeshConnectionError: there is no connection, or it was lost before the answer.

        """
        waiter = _Waiter()
        with self._lock:
            if self._ended is not None:
                raise AppMeshConnectionError(str(self._ended)) from self._ended
            data = self._conversation.ask(message, waiter)
        try:
            self._transport.send_message(data)
            self.last_sent = time.monotonic()
            answered = waiter.wait(timeout_seconds)
        except BaseException:
            with self._lock:
                self._conversation.forget(message)
            raise
        if not answered:
            with self._lock:
                self._conversation.forget(message)
            raise AppMeshTimeoutError(
                f"no answer to {message.http_method} {message.request_uri} within {timeout_seconds:g} s",
                operation=f"{message.http_method} {message.request_uri}",
            )
        if waiter.response is not None and may_be_followed(waiter.response):
            waiter.wait(_SECOND_ANSWER_SECONDS)
            with self._lock:
                self._conversation.forget(message)
        if waiter.response is None:
            assert waiter.error is not None
            raise AppMeshConnectionError(str(waiter.error)) from waiter.error
        return waiter.response

    def close(self) -> None:
        """Ends the connection and the reading thread; every waiting request gets :class:`AppMeshConnectionError`."""
        with self._lock:
            self._closing = True
            reader = self._reader
        self._transport.interrupt()
        if reader is not None and reader is not threading.current_thread():
            reader.join()
        self._transport.close()

    # --- the reading thread --------------------------------------------------------------------------------------

    def _read(self) -> None:
        error: AppMeshError | None = None
        try:
            while messages := self._transport.receive_messages():
                self.last_received = time.monotonic()
                self._sort(messages)
        except AppMeshError as lost:
            error = lost
        except Exception as bug:
            logger.exception("the thread that reads from the daemon failed")
            error = AppMeshConnectionError(f"internal error while reading: {bug!r}")
            error.__cause__ = bug
        self._end(error)

    def _sort(self, messages: list[bytes]) -> None:
        """Answers to those who wait for them, events to ``on_pushes``, many in one list.

        Who gets an answer knows that all events that came before it were handed over.
        """
        pushes: list[bytes] = []
        for message in messages:
            try:
                read = Conversation.read(message)
            except MessageError as invalid:
                self._hand_over(pushes)  # before what follows may end the connection
                pushes = []
                if self._on_invalid is None:
                    logger.warning("a message from the daemon could not be read: %s", invalid)
                else:
                    self._on_invalid(invalid)
                self._count_useless()
                continue
            if isinstance(read, bytes):
                pushes.append(read)
                continue
            with self._lock:
                waiter = self._conversation.take(read)
            if waiter is None:
                logger.debug("unexpected answer to %s", read.request_uri)
                self._hand_over(pushes)
                pushes = []
                self._count_useless()
            else:
                self._useless = 0
                self._hand_over(pushes)
                pushes = []
                waiter.response = read
                waiter.wake()
        self._hand_over(pushes)

    def _hand_over(self, pushes: list[bytes]) -> None:
        if pushes and self._on_pushes is not None:
            self._useless = 0
            self._on_pushes(pushes)
        elif pushes:
            self._count_useless(len(pushes))

    def _count_useless(self, messages: int = 1) -> None:
        """A daemon that sends without end what was not asked for is left, or it would keep this thread busy."""
        self._useless += messages
        if self._useless > _MAX_USELESS:
            raise AppMeshConnectionError(f"the daemon sent {_MAX_USELESS} messages in a row that were not asked for")

    def _end(self, error: AppMeshError | None) -> None:
        with self._lock:
            closing = self._closing
            ended = AppMeshConnectionError(
                "the connection was closed" if closing else str(error or "the daemon closed the connection")
            )
            ended.__cause__ = error
            self._ended = ended
            waiters = self._conversation.abandon()
        for waiter in waiters:
            waiter.error = ended
            waiter.wake()
        with contextlib.suppress(AppMeshError):
            self._transport.close()
        if self._on_closed is not None:
            self._on_closed(None if closing else ended)
