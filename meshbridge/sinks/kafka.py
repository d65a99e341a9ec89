"""Publishes events to Apache Kafka, by an idempotent producer (librdkafka): acknowledged by all replicas in sync.

The key is the app, so the events of an app stand in one partition, in order. What is not acknowledged when a write's
time is up is taken back, and the producer with it: a new one offers the rest, so that no late one of the old can come
between.
"""

import importlib.util
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from meshbridge import telemetry
from meshbridge.fields import Format, SecretFiles, Size, TextList, Tls
from meshbridge.model.events import Envelope, Event, EventType, cloudevent_attributes, encode
from meshbridge.sinks.base import NotConnected, Preview, Refused, Retry, SinkError
from meshbridge.sinks.denied import DeniedOptions, DeniedPlaces
from meshbridge.sinks.options import PlaceTemplate, SinkOptions, secret_of
from meshbridge.sinks.splitting import encoded_parts

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

__all__ = ["KafkaOptions", "KafkaSink"]

_LEGAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")  # in the name of a topic
_LONGEST_TOPIC = 249
_DEFAULT_PORT = 9092
_LEAST_OUTPUT_BYTES = 1024  # of a part: what is not its text takes about as much
_RECORD_BYTES = 128  # what a record batch of one has around key, value and headers, at most
_UTF8_BYTES = 4  # of a character, at most
_HEADER_BYTES = 10  # around the name and the value of a header
# What guarantees rest on, and what has a key of its own here.
_OWN = frozenset(
    """
    bootstrap.servers metadata.broker.list client.id partitioner message.max.bytes transactional.id
    enable.idempotence acks request.required.acks retries message.send.max.retries max.in.flight
    max.in.flight.requests.per.connection message.timeout.ms delivery.timeout.ms
    security.protocol sasl.username sasl.password sasl.mechanism sasl.mechanisms
    """.split()  # noqa: SIM905 a table
)


class KafkaOptions(SinkOptions, SecretFiles, DeniedOptions):
    """Apache Kafka. The topic has to exist, unless the brokers make topics by themselves."""

    type: Literal["kafka"]
    brokers: TextList = Field(min_length=1, description="host:port of one or more brokers")
    topic: PlaceTemplate = Field(default="meshbridge", description="may have {daemon}, {app} and {event} in it")
    username: str | None = Field(default=None, description="a user of the brokers (SASL)")
    password: SecretStr | None = Field(default=None, description="of username")
    password_file: Path | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="how the password is proven; PLAIN sends it as it is"
    )
    tls: Tls | None = Field(default=None, description="encrypts; {} for the defaults")
    max_message_bytes: Size = Field(default=1_000_000, ge=4096, description="larger STDOUT is divided")
    properties: dict[str, SecretStr] = Field(
        default={}, description="further settings of librdkafka, such as compression.type; never shown"
    )

    @field_validator("topic")
    @classmethod
    def _template(cls, value: str) -> str:
        if not value or set(value) - _LEGAL - set("{}"):
            raise ValueError("a topic has letters, digits, dots, _ and -")
        return value

    @field_validator("properties", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            key: str(one).lower() if isinstance(one, bool) else str(one) if isinstance(one, int | float) else one
            for key, one in value.items()
        }

    @field_validator("properties")
    @classmethod
    def _not_own(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name in value:
            if name in _OWN:
                raise ValueError(f"{name} is set by meshbridge, or has a key of its own")
        return value

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if (self.username is None) != (self.password is None and self.password_file is None):
            raise ValueError("username and password (or password_file) go together")
        if importlib.util.find_spec("confluent_kafka") is None:
            raise ValueError("needs the extra kafka: pip install 'meshbridge[kafka]'")
        return self

    def probe(self, timeout_seconds: float) -> None:
        """Connects, and asks for the topic. Publishes nothing.

        Raises:
            NotConnected: something is not as it should be.

        """
        sink = KafkaSink(self)
        try:
            sink.connect(timeout_seconds)
        finally:
            sink.close(timeout_seconds)

    def build(self, _name: str, _state_directory: Path) -> "KafkaSink":
        return KafkaSink(self)


class KafkaSink:
    """See the module's text. librdkafka has threads of its own; its callbacks run in the calls of the sink."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._producer: Producer | None = None
        self._trouble: KafkaError | None = None  # the last that librdkafka told of
        self._denied = DeniedPlaces(options)
        self._output_limit: int | None = None  # of a STDOUT message: what the brokers' refusals have shown
        self._place = f"Kafka at {','.join(options.brokers)}"

    # --- the contract --------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float) -> None:
        from confluent_kafka import KafkaException, Producer  # noqa: PLC0415 only where the extra is there

        self.close(0)
        self._trouble = None
        settings = self._settings()
        try:
            producer = Producer(settings, logger=_quiet())
        except (KafkaException, ValueError, TypeError) as error:
            raise NotConnected(self._misconfigured(error), reason="configuration") from None
        self._producer = producer
        try:
            self._see_topic(producer, timeout_seconds * 0.7)
        except KafkaException as error:
            producer.poll(0)  # takes the reason in
            lost = self._unreachable(error.args[0], timeout_seconds * 0.2)
            self.close(0)
            raise lost from None
        except SinkError:
            self.close(0)
            raise

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        self._connected()
        deadline = time.monotonic() + timeout_seconds * 0.95
        while True:
            try:
                self._write(batch, deadline)
            except Refused as refused:
                # Of several the brokers refuse all that were in one request: which one is too large is not known.
                if refused.reason != "too_large" or len(batch) > 1 or not self._divide_from_now_on(batch[0].event):
                    raise
            else:
                return

    def _divide_from_now_on(self, event: Event) -> bool:
        """Whether output is divided into smaller parts than the one that was refused."""
        size = min(len(self._record(event)), self._limit(event))
        if event.type is not EventType.STDOUT or size // 2 < _LEAST_OUTPUT_BYTES:
            return False
        self._output_limit = size // 2
        telemetry.output_limit_found(self._place, size, self._output_limit)
        return True

    def _limit(self, event: Event) -> int:
        limit = self._options.max_message_bytes
        if self._output_limit is not None and event.type is EventType.STDOUT:
            return min(limit, self._output_limit)
        return limit

    def _write(self, batch: Sequence[Envelope], deadline: float) -> None:
        producer = self._connected()
        flight = _Flight(len(batch), self._failure)
        self._produce(producer, batch, flight, deadline)
        # Flushed rather than polled: nothing waits for more to come then.
        while flight.under_way and flight.lost is None and (left := deadline - time.monotonic()) > 0:
            producer.flush(min(0.5, left))  # below 0 it would wait for ever
        if flight.under_way:
            self._give_up(flight)
        error = flight.error
        if self._denied:
            for envelope in batch[: flight.acknowledged]:
                self._denied.allowed(self._topic(envelope.event))
        if error is None:
            return
        error.acknowledged = flight.acknowledged
        if isinstance(error, NotConnected):
            self.close(0)
        raise error

    def idle(self) -> None:
        """Librdkafka keeps its connections, and opens lost ones again, by itself."""
        self._connected().poll(0)

    def close(self, timeout_seconds: float) -> None:  # noqa: ARG002 what is not acknowledged is not waited for
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)
            producer.flush(0)

    # --- producing -----------------------------------------------------------------------------------------------

    def _produce(self, producer: "Producer", batch: Sequence[Envelope], flight: "_Flight", deadline: float) -> None:
        """Hands over the batch, as far as it can be."""
        from confluent_kafka import KafkaException  # noqa: PLC0415

        for place, envelope in enumerate(batch):
            topic = self._topic(envelope.event)
            try:
                messages = self._messages(envelope.event)
            except Refused as refused:
                flight.refuse(place, refused)
                return
            for number, (app, headers, value) in enumerate(messages, 1):
                taken = flight.begin(place, topic, last=number == len(messages))
                while True:
                    try:
                        producer.produce(topic, value, app, headers=headers, on_delivery=taken)
                        break
                    except BufferError:  # its queue is full
                        if time.monotonic() >= deadline:
                            flight.withdraw(place)
                            return
                        producer.poll(0.05)
                    except KafkaException as error:
                        taken(error.args[0], None)
                        return
                if self._output_limit is not None and len(messages) > 1:
                    # A guess: of one that is refused, and divided again, none behind it must have arrived.
                    producer.flush(max(0.0, deadline - time.monotonic()))
                    if flight.has_failed(place):
                        return
            producer.poll(0)

    def _give_up(self, flight: "_Flight") -> None:
        progressed = flight.delivered > 0
        what = "is slow" if progressed else "acknowledges nothing"
        reason = f" ({_cause_of(self._trouble)})" if self._trouble is not None else ""
        flight.lost = flight.lost or NotConnected(
            f"{self._place} {what}{reason}: {flight.under_way} messages wait",
            reason="slow" if progressed else "timeout",
        )

    def _failure(self, error: "KafkaError", topic: str) -> SinkError:
        """What librdkafka's verdict on one message means."""
        from confluent_kafka import KafkaError as Codes  # noqa: PLC0415

        text = f"{self._place} did not take an event: {error.name()}"
        if error.fatal():
            return NotConnected(text, reason="fatal")
        if error.code() == Codes.TOPIC_AUTHORIZATION_FAILED:
            return self._denied.refusal(topic, f"{text} (topic {topic})", error.name().lower())
        if error.code() in {Codes.MSG_SIZE_TOO_LARGE, Codes.INVALID_MSG, Codes.INVALID_RECORD, Codes.INVALID_MSG_SIZE}:
            return Refused(text, reason="too_large" if error.code() == Codes.MSG_SIZE_TOO_LARGE else "invalid")
        return Retry(text, reason=error.name().strip("_").lower())

    def _messages(self, event: Event) -> "list[tuple[str, dict[str, str | bytes | None], bytes]]":
        """Key, headers and value of the event, or of its parts.

        Raises:
            Refused: it is too large, and can't be divided.

        """
        headers, value = self._headers(event), encode(event, self._options.format)
        limit = self._limit(event)
        if _overhead(event, headers) + len(value) <= limit:
            return [(event.app, {**headers}, value)]
        messages: list[tuple[str, dict[str, str | bytes | None], bytes]] = []
        for part, record in encoded_parts(event, limit, self._record):
            headers = self._headers(part)
            messages.append((event.app, {**headers}, record[_overhead(part, headers) :]))
        return messages

    def _record(self, event: Event) -> bytes:
        """As many bytes as the message takes, the value at the end: the brokers' limit counts all of them."""
        return bytes(_overhead(event, self._headers(event))) + encode(event, self._options.format)

    def _headers(self, event: Event) -> dict[str, str]:
        """CloudEvents Kafka binding: the content type, and in binary mode the attributes."""
        if self._options.format is not Format.BINARY:
            cloudevents = self._options.format is Format.CLOUDEVENTS
            return {
                "content-type": "application/cloudevents+json" if cloudevents else "application/json",
                "id": event.id,
            }
        attributes = cloudevent_attributes(event)
        headers = {"content-type": attributes.pop("datacontenttype")}
        return headers | {f"ce_{name}": value for name, value in attributes.items()}

    def _topic(self, event: Event) -> str:
        name = self._options.topic.format(daemon=event.daemon, app=event.app, event=event.type.label)
        return "".join(char if char in _LEGAL else "_" for char in name)[:_LONGEST_TOPIC]

    def preview(self, event: Event) -> list[Preview]:
        return [
            Preview(f"{self._topic(event)}, key {key}", {name: str(text) for name, text in headers.items()}, value)
            for key, headers, value in self._messages(event)
        ]

    # --- connecting ----------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        options = self._options
        settings: dict[str, Any] = {name: value.get_secret_value() for name, value in options.properties.items()}
        settings |= {
            "bootstrap.servers": ",".join(options.brokers),
            "client.id": "meshbridge",
            "enable.idempotence": True,  # with it: acks=all, and order held over librdkafka's own attempts
            "partitioner": "murmur2_random",  # the same partition as by the Java client
            "message.max.bytes": options.max_message_bytes + _RECORD_BYTES,
            "error_cb": self._told,
        }
        if options.tls is not None:
            settings["enable.ssl.certificate.verification"] = options.tls.verify
            for name, path in (
                ("ssl.ca.location", options.tls.ca_file),
                ("ssl.certificate.location", options.tls.client_cert),
                ("ssl.key.location", options.tls.client_key or options.tls.client_cert),
            ):
                if path is not None:
                    settings[name] = str(path)
            if (password := secret_of(options.tls, "client_key_password")) is not None:
                settings["ssl.key.password"] = password
        if options.username is not None:
            settings |= {
                "sasl.username": options.username,
                "sasl.password": secret_of(options, "password"),
                "sasl.mechanism": options.sasl_mechanism,
            }
        secure = {(True, True): "SASL_SSL", (True, False): "SASL_PLAINTEXT", (False, True): "SSL"}
        settings["security.protocol"] = secure.get((options.username is not None, options.tls is not None), "PLAINTEXT")
        return settings

    def _see_topic(self, producer: "Producer", timeout_seconds: float) -> None:
        if "{" in self._options.topic:
            producer.list_topics(timeout=timeout_seconds)
            return
        found = producer.list_topics(self._options.topic, timeout=timeout_seconds).topics
        error = found[self._options.topic].error
        if error is not None:
            raise NotConnected(
                f"{self._place} has no topic {self._options.topic} for this bridge: {error.name()}", reason="no_topic"
            )

    def _told(self, error: "KafkaError") -> None:
        """What librdkafka finds; that no broker is left follows from a cause that it has told before."""
        from confluent_kafka import KafkaError as Codes  # noqa: PLC0415

        if self._trouble is None or error.code() != Codes._ALL_BROKERS_DOWN:  # noqa: SLF001
            self._trouble = error

    def _connected(self) -> "Producer":
        if self._producer is None:
            raise NotConnected("not connected to Kafka")
        return self._producer

    def _unreachable(self, error: "KafkaError", timeout_seconds: float) -> NotConnected:
        from confluent_kafka import KafkaError as Codes  # noqa: PLC0415

        told = self._trouble or error
        if told.code() == Codes._AUTHENTICATION:  # noqa: SLF001 the library's names of its own codes begin so
            return NotConnected(f"{self._place} refused user {self._options.username!r}", reason="refused_connection")
        speaks = None
        if told.code() != Codes._RESOLVE and "refused" not in told.str():  # noqa: SLF001
            speaks = _port_speaks(self._options.brokers[0], timeout_seconds)
        if speaks == "HTTP":
            text = f"{self._place} speaks HTTP, not Kafka; set brokers to the broker's own port"
            return NotConnected(text, reason="unreachable")
        if self._options.tls is None and speaks == "TLS":
            return NotConnected(f"{self._place} speaks TLS; set tls", reason="tls")
        if self._options.tls is not None and speaks is None and told.code() == Codes._SSL:  # noqa: SLF001
            return NotConnected(f"{self._place} speaks no TLS; see tls and the port", reason="tls")
        if told.code() == Codes._SSL or "certificate verify failed" in told.str():  # noqa: SLF001
            return NotConnected(f"no TLS with {self._place}, or its certificate is not trusted", reason="tls")
        return NotConnected(f"cannot connect to {self._place}: {_cause_of(told)}", reason="unreachable")

    def _misconfigured(self, error: Exception) -> str:
        """Without the values: what librdkafka says of a setting may repeat it."""
        named = re.search(r'configuration property:? "([\w.]+)"', str(error))
        where = named[1] if named else "the files of tls, and properties"
        return f"librdkafka does not take the settings for {self._place}: see {where}"


_CAUSES = {  # what librdkafka says in many words -> what it means, and what to do
    "Connection refused": "connection refused; see whether the broker runs, and its port",
    "Failed to resolve": "cannot find the host",
    "Network is unreachable": "network is unreachable",
    "No route to host": "no route to host",
    "Connection setup timed out": "no connection in time",
}
_LONGEST_CAUSE = 200


def _cause_of(error: "KafkaError") -> str:
    """Why there is no connection: librdkafka's codes tell only that there is none, its text why."""
    text = " ".join(error.str().split())
    for said, means in _CAUSES.items():
        if said in text:
            return means
    return f"{error.name()}: {text[:_LONGEST_CAUSE]}" if text else error.name()


def _port_speaks(broker: str, timeout_seconds: float) -> str | None:
    """What a port speaks that takes connections and is no broker as set: librdkafka does not tell."""
    host, _, port = broker.rpartition(":")
    address = (host.strip("[]"), int(port)) if port.isdecimal() else (broker, _DEFAULT_PORT)
    try:
        with socket.create_connection(address, timeout_seconds / 2) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if sock.recv(5) == b"HTTP/":
                return "HTTP"
    except OSError:
        pass
    try:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent over it
        with socket.create_connection(address, timeout_seconds / 2) as sock:
            context.wrap_socket(sock, server_hostname=address[0]).close()
    except ssl.SSLCertVerificationError:
        return "TLS"
    except OSError:
        return None
    return "TLS"


def _overhead(event: Event, headers: dict[str, str]) -> int:
    size = sum([len(name) + len(value) * _UTF8_BYTES + _HEADER_BYTES for name, value in headers.items()])
    return size + len(event.app) * _UTF8_BYTES + _RECORD_BYTES


class _Flight:
    """The messages of one write on their way."""

    def __init__(self, size: int, failure: "Callable[[KafkaError, str], SinkError]") -> None:
        self._failure = failure
        self._done = [False] * size
        self._errors: dict[int, SinkError] = {}
        self._end = size  # nothing from here on was handed over
        self.under_way = 0
        self.delivered = 0
        self.lost: NotConnected | None = None

    def begin(self, place: int, topic: str, *, last: bool) -> "Callable[[KafkaError | None, Message | None], None]":
        """Counts a message of the event at ``place``; gives what is to be called with its fate."""
        self.under_way += 1

        def taken(error: "KafkaError | None", _message: "Message | None") -> None:
            self.under_way -= 1
            if error is None:
                self.delivered += 1
                self._done[place] = self._done[place] or (last and place not in self._errors)
                return
            failed = self._failure(error, topic)
            self._errors.setdefault(place, failed)
            self._done[place] = False
            if isinstance(failed, NotConnected):
                self.lost = failed

        return taken

    def has_failed(self, place: int) -> bool:
        """Whether a message of that event was not taken; then nothing behind it is handed over."""
        if place not in self._errors:
            return False
        self._end = place
        return True

    def withdraw(self, place: int) -> None:
        """The message just begun was not handed over, nor is anything behind it."""
        self.under_way -= 1
        self._end = place

    def refuse(self, place: int, refused: Refused) -> None:
        self._end = place
        self._errors[place] = refused

    @property
    def acknowledged(self) -> int:
        return next((place for place in range(self._end) if not self._done[place]), self._end)

    @property
    def error(self) -> SinkError | None:
        """How the write ends; None: all is acknowledged. What holds for the brokers as a whole goes first."""
        if self.lost is not None:
            return self.lost
        acknowledged = self.acknowledged
        if acknowledged == len(self._done):
            return None
        waiting = next((error for error in self._errors.values() if isinstance(error, Retry)), None)
        return waiting or self._errors.get(acknowledged) or Retry("Kafka is slow", after_seconds=0.0, reason="slow")


def _quiet() -> logging.Logger:
    """Librdkafka's own lines: what matters of them is raised, and each attempt would be another."""
    logger = logging.getLogger("meshbridge.librdkafka")
    logger.setLevel(logging.CRITICAL)
    return logger
