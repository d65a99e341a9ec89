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
_MAX_LOOKS = 10  # at what has arrived on an idle connection: late answers, and then the end
_MAX_USELESS = 1000  # messages in a row: late answers to requests that were given up are a few


class Transport(Protocol):
    """What :class:`Channel` needs of a TCP or WSS transport; their docstrings say what each call does."""

    must_be_read: bool
    """Whether it has to be read while no answer is expected, too: the peer's pings have to be answered."""

    def connect(self, timeout_seconds: float | None = None) -> None: ...

    def has_arrived(self) -> bool: ...

    def receive_messages(self, until: float | None = None) -> list[bytes]: ...

    def send_message(self, data: bytes | bytearray | list[object]) -> None: ...

    def settimeout(self, timeout_seconds: float | None) -> None: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class _Waiter:
    """A thread that waits for one answer; a bare lock, since a condition costs more than the rest of a request."""

    __slots__ = ("_woken", "answers", "error", "response")

    def __init__(self) -> None:
        self._woken = threading.Lock()
        self._woken.acquire()
        self.response: ResponseMessage | None = None
        self.answers = 0
        self.error: AppMeshConnectionError | None = None

    def has(self, answers: int) -> bool:
        """Whether that many answers have come, or no more can come."""
        return self.answers >= answers or self.error is not None

    def wait(self, until: float) -> bool:
        """Waits for :meth:`wake`, which does not always mean an answer; False once ``until`` has passed."""
        return self._woken.acquire(timeout=max(0.0, until - time.monotonic()))

    def wake(self) -> None:
        """The caller holds the channel's lock."""
        if self._woken.locked():
            self._woken.release()


class Channel:
    """Requests and pushed events over one connection. An :class:`~meshbridge.appmesh.exchange.Exchange`.

    ``on_pushes`` gets the JSON bodies of the events of one read, in order, on the thread that reads: while it works
    nothing is received, so it hands them on and returns. ``on_closed`` is called once when the connection has ended:
    with the error, or None after :meth:`close`.

    One thread at a time reads: the one that holds the turn. As long as only answers are expected, that is one of the
    threads that wait for an answer. A request then needs no second thread: to wake one and to be woken by it costs more
    than all the rest of a request. A thread that has its own answer passes the turn to one that still waits. From
    :meth:`attend` on, for events, a thread of the channel keeps the turn until the connection ends. It is named
    ``name``, daemonic, and joined by :meth:`close`.

    Any thread may call the rest.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        name: str = "appmesh-reader",
        attended: bool = True,
        on_pushes: Callable[[list[bytes]], None] | None = None,
        on_closed: Callable[[AppMeshError | None], None] | None = None,
        on_invalid: Callable[[MessageError], None] | None = None,
    ) -> None:
        """``attended``: whether :meth:`open` calls :meth:`attend`."""
        self._transport = transport
        self._name = name
        self._attended = attended or transport.must_be_read
        self._on_pushes = on_pushes
        self._on_closed = on_closed
        self._on_invalid = on_invalid
        self._lock = threading.Lock()  # guards the conversation, _ended, _closing and _reader; wakes waiters
        self._turn = threading.Lock()  # held by the thread that reads
        self._turn_of: int | None = None  # that thread's identifier
        self._conversation: Conversation[_Waiter] = Conversation()
        self._ended: AppMeshConnectionError | None = AppMeshConnectionError("not connected")
        self._closing = False
        self._reader: threading.Thread | None = None
        self._useless = 0  # messages in a row that were not asked for; of the thread that reads
        self.last_received = 0.0  # monotonic seconds; when anything at all last came in
        self.last_sent = 0.0  # the same, of what goes out

    def open(self, timeout_seconds: float | None = None) -> None:
        """Connects. A channel is opened once.

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
        if self._attended:
            self.attend()

    def attend(self) -> None:
        """From now on a thread of the channel reads, whether or not an answer is expected."""
        with self._lock:
            if self._reader is None and self._ended is None:
                self._reader = threading.Thread(target=self._read_to_the_end, name=self._name, daemon=True)
                self._reader.start()

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent. Looks at what has arrived where no thread reads: the end, perhaps."""
        for _ in range(_MAX_LOOKS):
            if self._reader is not None or self._ended is not None or not self._turn.acquire(blocking=False):
                break
            if not self._transport.has_arrived():
                self._pass_turn()
                break
            self._read_in_turn(_Waiter(), 1, until=0.0)
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
            self.last_sent = now = time.monotonic()
            answered = self._wait(waiter, 1, now + timeout_seconds)
            if waiter.response is not None and may_be_followed(waiter.response):
                self._wait(waiter, 2, time.monotonic() + _SECOND_ANSWER_SECONDS)
                self._forget(message)
        except BaseException:
            self._forget(message)
            raise
        if not answered:
            self._forget(message)
            raise AppMeshTimeoutError(
                f"no answer to {message.http_method} {message.request_uri} within {timeout_seconds:g} s",
                operation=f"{message.http_method} {message.request_uri}",
            )
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
        if self._turn_of != threading.get_ident():  # a callback may close
            if reader is not None:
                reader.join()
            with self._turn:
                self._end(None)
        self._transport.close()

    # --- who reads -----------------------------------------------------------------------------------------------

    def _wait(self, waiter: _Waiter, answers: int, until: float) -> bool:
        """Until the answers have come, or the end of the connection; False once ``until`` has passed."""
        while not waiter.has(answers):
            if self._reader is None and self._turn.acquire(blocking=False):
                self._read_in_turn(waiter, answers, until)
                break
            if not waiter.wait(until):
                break
        return waiter.has(answers)

    def _read_in_turn(self, waiter: _Waiter, answers: int, until: float) -> None:
        """Reads for all who wait, as long as ``waiter`` does. The caller has acquired the turn."""
        self._turn_of = threading.get_ident()
        try:
            self._read(waiter, answers, until)
        finally:
            self._pass_turn()

    def _pass_turn(self) -> None:
        self._turn_of = None
        self._turn.release()
        self._call_next()

    def _call_next(self) -> None:
        """Wakes a thread that waits, to take the turn.

        For each thread that held the turn, and for one that leaves and may have been woken for it.
        """
        if self._reader is None and self._conversation.is_awaited:
            with self._lock:
                waiter = self._conversation.any_waiter()
                if waiter is not None:
                    waiter.wake()

    def _forget(self, message: RequestMessage) -> None:
        with self._lock:
            self._conversation.forget(message)
        self._call_next()  # this thread may have been called, and not have come to take the turn

    def _read_to_the_end(self) -> None:
        with self._turn:
            self._turn_of = threading.get_ident()
            self._read()

    # --- the thread that reads -----------------------------------------------------------------------------------

    def _read(self, waiter: _Waiter | None = None, answers: int = 1, until: float | None = None) -> None:
        """Reads to the end of the connection; for a ``waiter`` only until it has its answers, or ``until``."""
        error: AppMeshError | None = None
        try:
            while waiter is None or not waiter.has(answers):
                messages = self._transport.receive_messages(until)
                if not messages:
                    break
                self.last_received = time.monotonic()
                self._sort(messages)
                if until is not None and self.last_received >= until:
                    return
            else:
                return
        except AppMeshTimeoutError as late:
            if until is not None and time.monotonic() >= until:
                return
            error = late
        except AppMeshError as lost:
            error = lost
        except Exception as bug:
            logger.exception("the thread that reads from the daemon failed")
            error = AppMeshConnectionError(f"internal error while reading: {bug!r}")
            error.__cause__ = bug
        except BaseException:
            # A signal's handler has raised in a thread that waits: what was being read is lost.
            self._end(AppMeshConnectionError("the thread that read was interrupted"))
            raise
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
            self._hand_over(pushes)
            pushes = []
            with self._lock:
                waiter = self._conversation.take(read)
                if waiter is not None:
                    waiter.response = read
                    waiter.answers += 1
                    waiter.wake()
            if waiter is None:
                logger.debug("unexpected answer to %s", read.request_uri)
                self._count_useless()
            else:
                self._useless = 0
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
            if self._ended is not None:
                return
            closing = self._closing
            ended = AppMeshConnectionError(
                "the connection was closed" if closing else str(error or "the daemon closed the connection")
            )
            ended.__cause__ = error
            self._ended = ended
            for waiter in self._conversation.abandon():
                waiter.error = ended
                waiter.wake()
        with contextlib.suppress(AppMeshError):
            self._transport.close()
        if self._on_closed is not None:
            self._on_closed(None if closing else ended)
