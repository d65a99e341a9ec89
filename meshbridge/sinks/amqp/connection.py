"""One AMQP connection with one channel in confirm mode, over pika's ``SelectConnection``.

pika's loop runs only inside a call of this class, until what the call waits for has come or its time is over. So
nothing happens between the calls of a sink, and every call ends in time (docs/adr/0019).
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshbridge.sinks.amqp.flight import AmqpFlight, AmqpMessage

if TYPE_CHECKING:
    from pika import BasicProperties
    from pika.adapters.select_connection import IOLoop
    from pika.channel import Channel
    from pika.connection import ConnectionParameters

__all__ = ["AmqpConnection"]

_CLOSE_SECONDS = 0.3  # for a broker that does not answer, at most
_DROPPED_SECONDS = 0.2


class AmqpConnection:
    """For one thread. The attributes say what the broker has reported by the end of the last call."""

    def __init__(self, parameters: "ConnectionParameters") -> None:
        """Begins to connect; :meth:`run` goes on with it."""
        from pika import SelectConnection  # noqa: PLC0415 only where the extra is there

        logging.getLogger("pika").setLevel(logging.CRITICAL)  # whatever it says comes as an error, too
        self.lost: BaseException | None = None
        """Why there is no connection (any more)."""
        self.channel_closed: BaseException | None = None
        """Why the broker has closed the channel."""
        self.blocked: str | None = None
        """Why the broker takes no messages for now."""
        self.version = ""
        self._channel: Channel | None = None
        self._is_ready = False  # the channel is in confirm mode
        self._tag = 0  # of the last message on this channel
        self._unconfirmed: dict[int, tuple[AmqpFlight, AmqpMessage]] = {}
        self._drop_returned = False
        self._until: Callable[[], bool] = lambda: False
        self._sockets: set[int] = set()
        self._loop = _new_loop(self._sockets)
        self._connection = SelectConnection(
            parameters, self._opened, self._ended, self._ended, custom_ioloop=self._loop
        )
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool], deadline: float) -> bool:
        """Sends and receives until a condition holds, the connection or the channel is gone, or it is too late.

        Returns:
            Whether the condition holds.

        """
        self._until = until
        while not (until() or self._is_gone) and (left := deadline - time.monotonic()) > 0:
            timer = self._loop.call_later(left, self._loop.stop)
            self._start_loop()
            self._loop.remove_timeout(timer)
        return until()

    def breathe(self) -> None:
        """Takes what has come, sends what is due, heartbeats too, and waits for nothing."""
        if not self._is_gone:
            self._until = lambda: False
            self._loop.call_later(0, self._loop.stop)
            self._start_loop()

    def _start_loop(self) -> None:
        try:
            self._loop.start()
        except Exception as error:  # noqa: BLE001 pika lets through whatever it cannot decode
            self.lost = self.lost or error

    @property
    def _is_gone(self) -> bool:
        return self.lost is not None or self.channel_closed is not None

    def _look(self) -> None:
        """Called after each thing that the broker said."""
        if self._is_gone or self._until():
            self._loop.stop()

    def _ended(self, _connection: Any, reason: BaseException) -> None:
        self.lost = self.lost or reason
        self._look()

    def _opened(self, _connection: Any) -> None:
        properties = getattr(self._connection, "server_properties", None) or {}
        self.version = f"{properties.get('product', 'broker')} {properties.get('version', '')}".strip()
        self._look()

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked = str(frame.method.reason) or "no reason given"
        self._look()

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = None
        self._look()

    # --- the channel ---------------------------------------------------------------------------------------------

    def wait_open(self, deadline: float) -> bool:
        return self.run(lambda: bool(self._connection.is_open), deadline)

    def open_channel(self, deadline: float) -> bool:
        """A new channel in confirm mode. Whatever the last one had not confirmed is unknown."""
        self.channel_closed, self._is_ready, self._tag = None, False, 0
        self._unconfirmed.clear()

        def opened(channel: "Channel") -> None:
            channel.add_on_close_callback(self._on_channel_closed)
            channel.add_on_return_callback(self._on_return)
            channel.confirm_delivery(self._on_answer, callback=ready)

        def ready(_frame: Any) -> None:
            self._is_ready = True
            self._look()

        try:
            self._channel = self._connection.channel(on_open_callback=opened)
        except Exception as error:  # noqa: BLE001 pika's, of a connection that has just ended
            self.lost = self.lost or error
            return False
        return self.run(lambda: self._is_ready, deadline)

    def declare_exchange(self, name: str, deadline: float, *, passive: bool) -> bool:
        """Makes a durable topic exchange; ``passive``: looks whether there is one of that name, of any kind."""
        from pika.exchange_type import ExchangeType  # noqa: PLC0415 as in __init__

        declared: list[Any] = []

        def done(frame: Any) -> None:
            declared.append(frame)
            self._look()

        assert self._channel is not None
        kind = ExchangeType.topic
        self._channel.exchange_declare(name, kind, passive=passive, durable=True, callback=done)
        return self.run(lambda: bool(declared), deadline)

    def _on_channel_closed(self, channel: "Channel", reason: BaseException) -> None:
        if channel is self._channel:
            self.channel_closed = reason
            self._look()

    # --- messages ------------------------------------------------------------------------------------------------

    @property
    def unconfirmed(self) -> int:
        """How many messages the broker has not answered, also those of earlier writes."""
        return len(self._unconfirmed)

    def publish(self, exchange: str, flight: AmqpFlight, window: int, *, drop_returned: bool) -> None:
        """Hands over what may be under way at once. Needs :meth:`run` to go on."""
        from pika import BasicProperties  # noqa: PLC0415 as in __init__
        from pika.delivery_mode import DeliveryMode  # noqa: PLC0415

        assert self._channel is not None
        self._drop_returned = drop_returned
        while not self._is_gone and self.blocked is None and (message := flight.take(window)) is not None:
            self._tag += 1
            self._unconfirmed[self._tag] = (flight, message)
            properties = BasicProperties(
                delivery_mode=DeliveryMode.Persistent,
                headers=message.headers,
                **message.properties,
            )
            try:
                self._channel.basic_publish(exchange, message.routing_key, message.body, properties, mandatory=True)
            except Exception as error:  # noqa: BLE001 as in open_channel
                self.lost = self.lost or error

    def _on_return(self, _channel: Any, _method: Any, properties: "BasicProperties", _body: bytes) -> None:
        headers = properties.headers or {}
        returned = str(headers.get("id") or headers.get("cloudEvents_id"))
        for flight, message in self._unconfirmed.values():
            if message.id == returned:
                flight.note_return(returned)
                return

    def _on_answer(self, frame: Any) -> None:
        from pika.spec import Basic  # noqa: PLC0415 as in __init__

        method = frame.method
        last, nacked = int(method.delivery_tag), isinstance(method, Basic.Nack)
        tags = [last]
        if method.multiple:
            tags = [tag for tag in self._unconfirmed if tag <= last or not last]
        for tag in tags:
            entry = self._unconfirmed.pop(tag, None)
            if entry is not None:
                entry[0].settle(entry[1], nacked=nacked, drop_returned=self._drop_returned)
        self._look()

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self, timeout_seconds: float) -> None:
        """Ends the connection, with a word to the broker where the time allows it."""
        self.channel_closed = self._channel = None
        with contextlib.suppress(Exception):  # it has just ended
            if not (self._connection.is_closed or self._connection.is_closing):
                self._connection.close()
        self.run(self._is_closed, time.monotonic() + min(timeout_seconds, _CLOSE_SECONDS))
        if not self._is_closed():
            self._shut_down_sockets()
            self.run(self._is_closed, time.monotonic() + _DROPPED_SECONDS)
        self._loop.close()

    def _is_closed(self) -> bool:
        return bool(self._connection.is_closed)

    def _shut_down_sockets(self) -> None:
        for fd in self._sockets:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                sock.shutdown(socket.SHUT_RDWR)


def _new_loop(sockets: set[int]) -> "IOLoop":
    """A loop of pika that keeps in ``sockets`` what it watches: a connection to a silent broker can be ended then."""
    from pika.adapters.select_connection import IOLoop  # noqa: PLC0415 as in __init__

    class WatchedLoop(IOLoop):  # type: ignore[misc]  # pika tells mypy nothing
        def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
            sockets.add(fd)
            super().add_handler(fd, handler, events)

        def remove_handler(self, fd: int) -> None:
            sockets.discard(fd)
            super().remove_handler(fd)

    return WatchedLoop()
