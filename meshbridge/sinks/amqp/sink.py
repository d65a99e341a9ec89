"""Publishes events to RabbitMQ (AMQP 0-9-1): persistent messages to an exchange, confirmed by the broker.

* **Acknowledged** means: the broker has confirmed the message. With a quorum queue it is then on the disks of a
  majority, with a durable classic queue on the disk of one node.
* **No queue is bound** for an event: the broker returns the message, since every one is mandatory. ``on_unroutable``
  says what becomes of it.
* **A channel that the broker closes** (no exchange, no permission, too large) takes all unconfirmed messages with it,
  and its error does not say which of them is the cause. They are published again one by one, so that it is known.
"""

import importlib.util
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from meshbridge import telemetry
from meshbridge.fields import Duration, Format, SecretFiles, Size, Tls, strict_certificate_hint
from meshbridge.model.events import Envelope, Event, EventType, cloudevent_attributes, encode
from meshbridge.outside import said
from meshbridge.sinks.amqp.flight import AmqpFlight, AmqpMessage, AmqpOutcome
from meshbridge.sinks.base import Found, NotConnected, Preview, Refused, Retry, SinkError
from meshbridge.sinks.denied import DeniedOptions, DeniedPlaces
from meshbridge.sinks.options import PlaceTemplate, SinkOptions, secret_of
from meshbridge.sinks.splitting import encoded_parts

if TYPE_CHECKING:
    from meshbridge.sinks.amqp.connection import AmqpConnection

__all__ = ["AmqpOptions", "AmqpSink"]

_PORTS = {"amqp": 5672, "amqps": 5671}
_WINDOW = 500  # messages that wait for the broker's confirmation at once
_SHORT_BYTES = 255  # what a short string of AMQP holds: routing keys, message ids
_LEAST_OUTPUT_BYTES = 1024
_NO_EXCHANGE, _REFUSED, _PRECONDITION_FAILED = 404, 403, 406
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in ".*#%")


class AmqpOptions(SinkOptions, SecretFiles, DeniedOptions):
    """RabbitMQ, or another broker of AMQP 0-9-1."""

    type: Literal["amqp"]
    url: str = Field(description="amqp://host[:5672][/virtual-host] or amqps://host[:5671][/virtual-host] (TLS)")
    username: str | None = Field(default=None, description="a user of the broker; null: guest")
    password: SecretStr | None = Field(default=None, description="of username")
    password_file: Path | None = None
    tls: Tls = Field(default=Tls(), description="for amqps://")
    heartbeat: Duration = Field(
        default=30.0, ge=1, le=3600, description="how long a broker may be silent before the connection counts as lost"
    )
    exchange: str = Field(default="meshbridge", min_length=1, max_length=127, description="where events are published")
    declare_exchange: bool = Field(
        default=True, description="make the exchange, of type topic and durable, where there is none"
    )
    routing_key: PlaceTemplate = Field(
        default="{daemon}.{app}.{event}", min_length=1, description="of an event; dots in names become %2E"
    )
    on_unroutable: Literal["wait", "dead-letter", "drop"] = Field(
        default="wait",
        description="an event for which no queue is bound: wait for denied_wait and then dead-letter, dead-letter at"
        " once, or drop (and count)",
    )
    max_message_bytes: Size = Field(default=512 * 1024, ge=1024, description="larger STDOUT is divided")

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("not the address of an AMQP broker: use amqp://host[:port][/virtual-host] or amqps://…")
        if "@" in parts.netloc:
            raise ValueError("name and password stand in username and password, not in the url")
        if parts.query or parts.fragment or "/" in parts.path.removeprefix("/"):
            raise ValueError("the path is the name of a virtual host, with / written as %2F; nothing follows it")
        if parts.port == 0:  # also raises where it is no number
            raise ValueError("port 0 cannot be connected to")
        return value

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.username is not None and self.password is None and self.password_file is None:
            raise ValueError("username needs password or password_file")
        if importlib.util.find_spec("pika") is None:
            raise ValueError("needs the extra amqp: pip install 'meshbridge[amqp]'")
        return self

    def probe(self, timeout_seconds: float) -> Found:
        """Connects, logs in, and looks for the exchange; makes none and publishes nothing.

        Raises:
            NotConnected: the broker cannot be reached, refuses this user, or has no exchange and shall get none.

        """
        sink = AmqpSink("probe", self)
        try:
            has_exchange = sink.look(timeout_seconds)
            untried = "permission to write, and whether a queue is bound: only an event shows them"
            exchange = (
                f"exchange {self.exchange} is there" if has_exchange else f"exchange {self.exchange} will be made"
            )
            return Found(f"{sink.version} accepts this user; {exchange}", untried=untried)
        finally:
            sink.close(timeout_seconds)

    def build(self, name: str, _state_directory: Path) -> "AmqpSink":
        return AmqpSink(name, self)


class AmqpSink:
    """See the module's text."""

    def __init__(self, name: str, options: AmqpOptions) -> None:
        self._name = name
        self._options = options
        self._connection: AmqpConnection | None = None
        parts = urlsplit(options.url)
        self._address = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        self._virtual_host = unquote(parts.path.removeprefix("/")) or "/"
        self._place = f"{self._address[0]}:{self._address[1]}"
        self._denied = DeniedPlaces(options)
        on_unroutable: Any = "wait" if options.on_unroutable == "wait" else "dead-letter"
        self._unroutable = DeniedPlaces(DeniedOptions(on_denied=on_unroutable, denied_wait=options.denied_wait))
        self._output_limit: int | None = None  # of a STDOUT message: what the broker's refusals have shown

    # --- the contract --------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds * 0.9
        if not self.look(timeout_seconds):
            connection = self._connected()
            options = self._options
            if not connection.declare_exchange(options.exchange, deadline, passive=False):
                raise self._failed_to_connect(f"cannot make exchange {options.exchange}")

    def look(self, timeout_seconds: float) -> bool:
        """Connects; whether the exchange is there.

        Raises:
            NotConnected: no connection, or no exchange where none is to be made.

        """
        from meshbridge.sinks.amqp.connection import AmqpConnection  # noqa: PLC0415 only where the extra is there

        self.close(0)
        deadline = time.monotonic() + timeout_seconds * 0.9
        connection = self._connection = AmqpConnection(self._parameters(timeout_seconds))
        if not (connection.wait_open(deadline) and connection.open_channel(deadline)):
            raise self._failed_to_connect("cannot open a channel" if connection.channel_closed else "")
        self.version = f"{connection.version} at {self._place}"
        if connection.declare_exchange(self._options.exchange, deadline, passive=True):
            return True
        if _code_of(connection.channel_closed) != _NO_EXCHANGE or not self._options.declare_exchange:
            raise self._failed_to_connect(f"cannot use exchange {self._options.exchange}")
        if not connection.open_channel(deadline):
            raise self._failed_to_connect("")
        return False

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds * 0.9
        done = 0
        while True:
            try:
                self._write(batch[done:], deadline)
            except SinkError as error:
                done = error.acknowledged = done + error.acknowledged
                if not (error.reason == "too_large" and self._divides_further(batch[done].event, error)):
                    raise
            else:
                return

    def idle(self) -> None:
        """Heartbeats are sent and answered here."""
        self._connected().breathe()
        self._connected()

    def close(self, timeout_seconds: float) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(timeout_seconds)

    def preview(self, event: Event) -> list[Preview]:
        to = f"exchange {self._options.exchange}, routing key "
        return [
            Preview(
                to + one.routing_key, {**one.headers, **{key: str(it) for key, it in one.properties.items()}}, one.body
            )
            for one in self._messages(0, event)
        ]

    # --- connecting ----------------------------------------------------------------------------------------------

    def _parameters(self, timeout_seconds: float) -> Any:
        from pika import ConnectionParameters, PlainCredentials, SSLOptions  # noqa: PLC0415 as in look

        options, (host, port) = self._options, self._address
        secure = None
        if options.url.startswith("amqps:"):
            try:
                secure = SSLOptions(options.tls.context(), host)
            except OSError as error:
                text = f"tls settings cannot be used: {error.strerror or error}"
                raise NotConnected(text, reason="configuration") from error
        password = secret_of(options, "password")
        return ConnectionParameters(
            host=host,
            port=port,
            virtual_host=self._virtual_host,
            credentials=PlainCredentials(options.username or "guest", password or "guest"),
            ssl_options=secure,
            heartbeat=int(options.heartbeat),
            connection_attempts=1,
            socket_timeout=timeout_seconds,
            stack_timeout=timeout_seconds,
            client_properties={"connection_name": f"meshbridge {self._name}"},
        )

    def _connected(self) -> "AmqpConnection":
        connection = self._connection
        if connection is None:
            raise NotConnected(f"not connected to {self._place}")
        if connection.lost is not None:
            raise self._lost(connection.lost)
        return connection

    def _lost(self, error: BaseException, acknowledged: int = 0) -> NotConnected:
        text = f"connection to {self._place} lost: {_text_of(error)}"
        return NotConnected(text, acknowledged=acknowledged, reason="connection_lost")

    def _failed_to_connect(self, what: str) -> NotConnected:
        """Why there is no connection that can be used."""
        connection = self._connection
        assert connection is not None
        closed, lost = connection.channel_closed, connection.lost
        self.close(0)
        if closed is not None:
            return NotConnected(f"{self._place}: {what}: {_text_of(closed)}", reason=_reason_of(_code_of(closed)))
        return self._unreachable(lost) if lost is not None else self._too_slow()

    def _too_slow(self) -> NotConnected:
        return NotConnected(f"{self._place} does not answer in time", reason="timeout")

    def _unreachable(self, error: BaseException) -> NotConnected:
        from pika import exceptions as theirs  # noqa: PLC0415 as in look

        causes = _causes(error)
        for cause in causes:
            if isinstance(cause, ssl.SSLError):
                return self._no_tls(cause)
            if isinstance(cause, theirs.ProbableAuthenticationError | theirs.AuthenticationError):
                who = self._options.username or "guest (set username; guest may connect from the broker's host alone)"
                text, reason = f"refuses user {who}: {_text_of(cause)}", "refused_connection"
            elif isinstance(cause, theirs.ProbableAccessDeniedError):
                text, reason = f"refuses virtual host {self._virtual_host}: {_text_of(cause)}", "refused_connection"
            elif isinstance(cause, theirs.IncompatibleProtocolError):
                text, reason = "does not speak AMQP 0-9-1, or speaks TLS alone (amqps://)", "protocol"
            else:
                continue
            return NotConnected(f"{self._place} {text}", reason=reason)
        if any(isinstance(one, TimeoutError) or "timeout" in type(one).__name__.lower() for one in causes):
            return self._too_slow()
        text = next((one.strerror for one in causes if isinstance(one, OSError) and one.strerror), _text_of(causes[-1]))
        return NotConnected(f"cannot connect to {self._place}: {text}", reason="unreachable")

    def _no_tls(self, error: ssl.SSLError) -> NotConnected:
        text = f"no TLS with {self._place}: {error.reason or 'broken off'}"
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = strict_certificate_hint(error) or "set tls.ca_file to the PEM file of its authority"
            text = f"certificate of {self._place} not trusted: {error.verify_message}; {hint}"
        return NotConnected(text, reason="tls")

    # --- publishing ----------------------------------------------------------------------------------------------

    def _write(self, batch: Sequence[Envelope], deadline: float) -> None:
        connection = self._connected()
        messages, refused = self._messages_of(batch)
        if not connection.run(lambda: not connection.unconfirmed, deadline):  # of a write before
            self._check(connection, AmqpFlight((), 0), deadline)
        flight, window = AmqpFlight(messages, len(batch) if refused is None else refused.acknowledged), _WINDOW
        while True:
            self._publish(connection, flight, window, deadline)
            if connection.channel_closed is None:
                break
            culprit, closed = flight.first_open, connection.channel_closed
            if not connection.open_channel(deadline):
                raise self._lost(connection.lost or closed, flight.acknowledged)
            if culprit is None or culprit.outcome is not None:
                break
            if flight.under_way == 1:
                raise self._at(flight, self._refusal(closed, culprit))
            flight.rewind()
            window = 1
        if (failure := self._failure(flight) or refused) is not None:
            raise failure

    def _publish(self, connection: "AmqpConnection", flight: AmqpFlight, window: int, deadline: float) -> None:
        """Until all is answered, or the channel is closed.

        Raises:
            SinkError: neither, and why.

        """
        exchange, drop = self._options.exchange, self._options.on_unroutable == "drop"
        low = window // 2  # then there is room for more
        while connection.channel_closed is None:
            connection.breathe()  # whether messages are taken at all
            self._check(connection, flight, deadline)
            connection.publish(exchange, flight, window, drop_returned=drop)
            if not flight.under_way:
                return
            has_room = connection.run(lambda: flight.under_way <= low or connection.blocked is not None, deadline)
            if not has_room and connection.channel_closed is None:
                self._check(connection, flight, deadline=0)

    def _check(self, connection: "AmqpConnection", flight: AmqpFlight, deadline: float) -> None:
        if connection.lost is not None:
            raise self._lost(connection.lost, flight.acknowledged)
        if connection.channel_closed is not None:
            return
        if connection.blocked is not None:
            text = f"{self._place} takes no messages for now: {connection.blocked}"
            raise self._at(flight, Retry(text, reason="blocked"))
        if time.monotonic() >= deadline:
            if flight.answers:
                raise self._at(flight, Retry(f"{self._place} is slow", after_seconds=0.0, reason="slow"))
            self.close(0)  # what is under way may be confirmed late: on a new connection it is published again
            raise NotConnected(f"{self._place} confirms nothing in time", reason="timeout")

    @staticmethod
    def _at(flight: AmqpFlight, error: SinkError) -> SinkError:
        error.acknowledged = flight.acknowledged
        return error

    def _failure(self, flight: AmqpFlight) -> SinkError | None:
        """How a write ends whose messages all have an answer; None: they are delivered."""
        returned = {
            one.routing_key: self._unroutable.refusal(
                one.routing_key,
                f"no queue is bound to exchange {self._options.exchange} of {self._place} for {one.routing_key}",
                "no_route",
                remedy="bind one",
            )
            for one in flight.returned
        }
        first = flight.first_open
        if self._denied or self._unroutable:
            for message in flight.confirmed:
                self._denied.allowed(message.routing_key)
                self._denied.allowed(self._options.exchange)
                self._unroutable.allowed(message.routing_key)
        if dropped := flight.dropped:
            telemetry.events_dropped(self._name, "no_route", dropped)
        if first is None:
            return None
        if first.outcome is AmqpOutcome.RETURNED:
            return self._at(flight, returned[first.routing_key])
        text = f"{self._place} did not store event {first.id} (nack): a queue is full, or the broker has a fault"
        return self._at(flight, Retry(text, reason="nack"))

    def _refusal(self, closed: BaseException, message: AmqpMessage) -> SinkError:
        """What it means that the broker has closed the channel on a message."""
        code, text = _code_of(closed), _text_of(closed)
        if code == _NO_EXCHANGE:
            self.close(0)  # a new connection makes it again
            return NotConnected(f"{self._place}: {text}", reason=_reason_of(code))
        if code == _REFUSED:
            place = message.routing_key if "access to topic" in text else self._options.exchange
            return self._denied.refusal(place, f"{self._place} refused event {message.id}: {text}")
        if code == _PRECONDITION_FAILED and "size" in text:
            return Refused(f"{self._place} refused event {message.id}: {text}", reason="too_large")
        if code == _PRECONDITION_FAILED:
            return Refused(f"{self._place} refused event {message.id}: {text}", reason="refused")
        return Retry(f"{self._place} closed the channel: {text}", reason=_reason_of(code))

    def _divides_further(self, event: Event, refused: SinkError) -> bool:
        """Whether output is divided into smaller parts than the one that the broker has found too large."""
        if not isinstance(refused, Refused) or event.type is not EventType.STDOUT:
            return False
        size = min(len(self._encoded(event)), self._limit(event))
        if size // 2 < _LEAST_OUTPUT_BYTES:
            return False
        self._output_limit = size // 2
        telemetry.output_limit_found(self._place, size, self._output_limit)
        return True

    def _limit(self, event: Event) -> int:
        limit = self._options.max_message_bytes
        if self._output_limit is not None and event.type is EventType.STDOUT:
            return min(limit, self._output_limit)
        return limit

    # --- messages ------------------------------------------------------------------------------------------------

    def _messages_of(self, batch: Sequence[Envelope]) -> tuple[list[AmqpMessage], Refused | None]:
        """The messages of a batch, up to the first event that cannot be divided to fit."""
        messages: list[AmqpMessage] = []
        for place, envelope in enumerate(batch):
            try:
                messages += self._messages(place, envelope.event)
            except Refused as refused:
                refused.acknowledged = place
                return messages, refused
        return messages, None

    def _encoded(self, event: Event) -> bytes:
        return encode(event, self._options.format)

    def _messages(self, place: int, event: Event) -> list[AmqpMessage]:
        """The message of an event, or of its parts.

        Raises:
            Refused: it is too large, and cannot be divided.

        """
        parts = encoded_parts(event, self._limit(event), self._encoded)
        key = self._routing_key(event)
        return [
            AmqpMessage(place, number == len(parts), part.id, key, self._headers(part), self._properties(part), body)
            for number, (part, body) in enumerate(parts, 1)
        ]

    def _routing_key(self, event: Event) -> str:
        """The names of the event, each one word; what does not fit into a routing key is cut from the app's name."""
        daemon, app, make = _word(event.daemon), _word(event.app), self._options.routing_key.format
        key = make(daemon=daemon, app=app, event=event.type.label)
        if len(key.encode()) > _SHORT_BYTES:
            over = len(key.encode()) - _SHORT_BYTES
            key = make(daemon=daemon, app=app[: max(1, len(app) - over)], event=event.type.label)
        return key.encode()[:_SHORT_BYTES].decode(errors="ignore")

    def _headers(self, event: Event) -> dict[str, str]:
        """The CloudEvents AMQP binding: ``cloudEvents_`` and the attribute's name, which JMS can select by, too."""
        if self._options.format is not Format.BINARY:
            return {"id": event.id}
        attributes = cloudevent_attributes(event)
        del attributes["datacontenttype"]
        return {f"cloudEvents_{name}": value for name, value in attributes.items()}

    def _properties(self, event: Event) -> dict[str, str | int]:
        structured = self._options.format is Format.CLOUDEVENTS
        properties: dict[str, str | int] = {
            "content_type": "application/cloudevents+json" if structured else "application/json",
            "type": event.type.cloudevents_type,
            "timestamp": max(0, int(event.timestamp)),
            "app_id": "meshbridge",
        }
        if len(event.id.encode()) <= _SHORT_BYTES:  # a reconciled event's id has the app's name; headers have every id
            properties["message_id"] = event.id
        return properties


def _word(name: str) -> str:
    """A name as one word of a routing key: dots and what means something in a binding as ``%2E`` and so on."""
    return quote(name, safe=_PLAIN).replace(".", "%2E")


def _code_of(error: BaseException | None) -> int:
    return int(getattr(error, "reply_code", 0))


_REASONS = {_REFUSED: "not_authorized", _NO_EXCHANGE: "no_exchange", _PRECONDITION_FAILED: "precondition_failed"}


def _reason_of(code: int) -> str:
    return _REASONS.get(code, "channel_closed")


def _text_of(error: BaseException) -> str:
    text = getattr(error, "reply_text", None) or str(error) or type(error).__name__
    return said(str(text))[:300]


def _causes(error: BaseException) -> "list[BaseException]":
    """An error and those in it: pika wraps the one that matters, in attributes and arguments."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting and len(found) < 20:  # noqa: PLR2004 pika nests three
        one = waiting.pop(0)
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [getattr(one, "exception", None), one.__cause__, *one.args, *getattr(one, "exceptions", ())]
    return found
