"""Publishes events to an MQTT broker (MQTT 5 and 3.1.1).

paho-mqtt connects, authenticates and keeps the connection alive; its network loop is driven here, by the thread that
sends. Publishing itself goes past it (:mod:`meshbridge.sinks.mqtt_publishing`): the packets of a whole window leave in
one send, and of what comes in only packets that are no acknowledgements are handed to paho.
"""

import contextlib
import select
import ssl
import time
import uuid
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import Field, SecretStr, field_validator, model_validator

from meshbridge.events import Envelope, Event, cloudevent_attributes, encode
from meshbridge.options import Duration, Format, SecretFiles, Tls
from meshbridge.sinks.base import NotConnected, Refused, Retry, SinkError
from meshbridge.sinks.mqtt_publishing import (
    FAILURE,
    PUBREC,
    Acknowledgements,
    Flight,
    packed_properties,
    publish,
    pubrel,
)
from meshbridge.sinks.mqtt_tap import Tap
from meshbridge.sinks.options import SinkOptions

__all__ = ["MqttOptions", "MqttSink"]

_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_PLACES = frozenset({"daemon", "app", "event"})
_WINDOW = 256  # messages in flight, unless the broker wants fewer; more gains nothing on a local broker
# At QoS 2 a 3.1.1 broker can't say how many it takes, and mosquitto's default cuts off whoever sends more than this.
_QOS_2_WINDOW = 20
_MAX_POLL_SECONDS = 0.5
_FIRST_PACKET_ID, _LAST_PACKET_ID = 1000, 65535  # those below are paho's, for what it sends itself
# MQTT 5, 3.4.2.1: what a broker may say to a PUBLISH. These will not change by themselves:
_NEVER = frozenset({0x90, 0x95, 0x99})  # topic name invalid, packet too large, payload format invalid
_MAX_TOPIC_BYTES = 65_535  # 1.5.4
_MAX_PACKET_BYTES = 268_435_455  # 2.1.4


class MqttOptions(SinkOptions, SecretFiles):
    """An MQTT broker."""

    type: Literal["mqtt"]
    url: str = Field(description="mqtt://, mqtts://, ws:// or wss:// host[:port][/path]")
    protocol: Literal["5", "3.1.1"] = Field(default="5", description="MQTT version")
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    tls: Tls = Field(default=Tls(), description="for mqtts:// and wss://")
    keepalive: Duration = Field(default=60.0, ge=5, le=65535)
    client_id: str | None = Field(default=None, description="default: meshbridge-<random, kept beside the journal>")
    topic: str = Field(default="meshbridge/{daemon}/{app}/{event}", description="topic of an event")
    qos: Literal[0, 1, 2] = 1

    @field_validator("protocol", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    @field_validator("qos", mode="before")
    @classmethod
    def _qos_text(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError(
                f"not the address of a broker: {value!r} (use mqtt://host:1883, mqtts://, ws:// or wss://)"
            )
        if parts.username or parts.password:
            raise ValueError("name and password stand in username and password, not in the url")
        _ = parts.port  # raises ValueError itself
        return value

    @field_validator("topic")
    @classmethod
    def _template(cls, value: str) -> str:
        places = {place for _, place, _, _ in Formatter().parse(value) if place is not None}
        if unknown := places - _PLACES:
            raise ValueError(f"unknown place {{{min(unknown)}}}: use {{daemon}}, {{app}} and {{event}}")
        if not value or "+" in value or "#" in value:
            raise ValueError("a topic is not empty and has no + or #")
        return value

    @model_validator(mode="after")
    def _has_properties(self) -> Self:
        if self.format is Format.BINARY and self.protocol != "5":
            raise ValueError("format binary needs the user properties of protocol 5")
        return self

    def probe(self, timeout_seconds: float) -> None:
        """Connects and leaves, under a name of its own, so that a running bridge is not disturbed.

        Raises:
            NotConnected: the broker can't be reached, or does not let this bridge in.

        """
        sink = MqttSink(self, f"meshbridge-check-{uuid.uuid4().hex[:7]}")
        try:
            sink.connect(timeout_seconds)
        finally:
            sink.close(timeout_seconds)

    def build(self, name: str, state_directory: Path) -> "MqttSink":
        return MqttSink(self, self.client_id or _kept_client_id(state_directory / f"mqtt-client-id-{name}"))


def _kept_client_id(path: Path) -> str:
    """A client id of this bridge's own, so that two bridges never evict each other and a restart stays the same."""
    with contextlib.suppress(OSError):
        if kept := path.read_text(encoding="ascii").strip():
            return kept
    client_id = f"meshbridge-{uuid.uuid4().hex[:12]}"  # 23 bytes: what every 3.1.1 broker must take
    with contextlib.suppress(OSError):
        path.write_text(client_id + "\n", encoding="ascii")
    return client_id


class MqttSink:
    """See the module's text. One connection; a fresh session each time, since the journal remembers, not the broker."""

    def __init__(self, options: MqttOptions, client_id: str) -> None:
        self._options = options
        self._client_id = client_id
        self._url = urlsplit(options.url)
        self._v5 = options.protocol == "5"
        self._client: paho.Client | None = None
        self._poller = select.poll()
        self._window = _WINDOW
        self._max_packet_bytes: int | None = None
        self._connack: ReasonCode | None = None
        self._lost: str | None = None  # why the connection ended, once it has
        self._tap: Tap | None = None
        self._incoming = Acknowledgements()
        self._acks: list[tuple[int, int, int]] = []  # (packet type, packet id, reason code), in the order they came
        self._packet_id = _FIRST_PACKET_ID
        self._topic = lru_cache(maxsize=8192)(self._make_topic)

    @property
    def _place(self) -> str:
        port = self._url.port or _DEFAULT_PORTS[self._url.scheme]
        return f"{self._url.hostname}:{port}"

    # --- the contract --------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float) -> None:
        self.close(0)
        deadline = time.monotonic() + timeout_seconds
        client = self._new_client()
        client.connect_timeout = timeout_seconds
        host, port = self._url.hostname or "", self._url.port or _DEFAULT_PORTS[self._url.scheme]
        try:
            client.connect(host, port, keepalive=int(self._options.keepalive))
            self._client = client
            self._tap = Tap(client)
            while self._connack is None:
                if time.monotonic() >= deadline:
                    raise NotConnected(f"broker {self._place} accepts but does not answer", reason="timeout")
                self._pump(deadline)
                if self._connack is None:  # a broker that refuses says so, and then goes
                    self._raise_if_lost(0)
        except (OSError, ValueError, paho.WebsocketConnectionError) as error:
            self.close(0)
            raise NotConnected(self._explain(error), reason="unreachable") from error
        except SinkError:
            self.close(0)
            raise
        self._raise_if_refused(self._connack)

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        self._connected()
        deadline = time.monotonic() + timeout_seconds
        flight = Flight(len(batch))
        while flight.acknowledged < flight.end:
            packets = self._next_packets(batch, flight)
            if packets:
                self._send(b"".join(packets), deadline, flight.acknowledged)
            if self._options.qos == 0:
                flight.handed_over()
            elif flight.packets:
                self._wait(deadline, flight)
        if flight.end < len(batch):
            self._drain(deadline, flight)
            raise flight.refused or self._refusal(batch[flight.end].event, flight)

    def idle(self) -> None:
        self._connected()
        self._pump(time.monotonic())
        self._connected()

    def close(self, timeout_seconds: float) -> None:
        client, self._client = self._client, None
        self._connack = self._lost = self._tap = None
        self._incoming = Acknowledgements()
        if client is None:
            return
        client.on_disconnect = None
        sock = client.socket()
        with contextlib.suppress(Exception):
            if timeout_seconds:
                client.disconnect()  # sends at once
        if sock is not None:  # paho closes its socket only when it is told that it was lost
            with contextlib.suppress(OSError):
                sock.close()

    # --- publishing ----------------------------------------------------------------------------------------------

    def _next_packets(self, batch: Sequence[Envelope], flight: Flight) -> list[bytes]:
        """As many PUBLISH packets as the window has room for."""
        packets: list[bytes] = []
        try:
            while flight.sent < flight.end and len(flight.packets) < self._window:
                packets.append(self._packet(batch[flight.sent].event))
                flight.begin(self._packet_id)
        except Refused as refused:
            flight.refuse(refused)  # told once those before it are safe
        return packets

    def _packet(self, event: Event) -> bytes:
        """One event as a PUBLISH, under the next packet id.

        Raises:
            Refused: no broker, or not this one, would take it.

        """
        topic = self._topic(event.daemon, event.app, event.type.label)
        payload = encode(event, self._options.format)
        properties = self._properties(event) if self._v5 else b""
        if len(topic) > _MAX_TOPIC_BYTES:
            raise Refused(f"topic of {len(topic)} bytes; MQTT has {_MAX_TOPIC_BYTES}", reason="invalid")
        self._packet_id = self._packet_id + 1 if self._packet_id < _LAST_PACKET_ID else _FIRST_PACKET_ID
        packet = publish(topic, payload, self._options.qos, self._packet_id, properties)
        limit = min(self._max_packet_bytes or _MAX_PACKET_BYTES, _MAX_PACKET_BYTES)
        if len(packet) > limit:
            raise Refused(f"message of {len(packet)} bytes: broker {self._place} takes {limit}", reason="too_large")
        return packet

    def _properties(self, event: Event) -> bytes:
        match self._options.format:
            case Format.BINARY:
                attributes = cloudevent_attributes(event)
                return packed_properties(attributes.pop("datacontenttype"), attributes)
            case Format.CLOUDEVENTS:
                return packed_properties("application/cloudevents+json", {"id": event.id})
            case Format.RAW:
                return packed_properties("application/json", {"id": event.id})

    def _make_topic(self, daemon: str, app: str, event: str) -> bytes:
        return self._options.topic.format(daemon=_level(daemon), app=_level(app), event=event).encode()

    def _refusal(self, event: Event, flight: Flight) -> SinkError:
        reason = flight.reasons[flight.end]
        assert reason is not None
        name = str(ReasonCode(PacketTypes.PUBACK, identifier=reason))
        topic = self._topic(event.daemon, event.app, event.type.label).decode()
        message = f"broker {self._place} refused event {event.id}: {name} (topic {topic})"
        if reason in _NEVER:
            return Refused(message, acknowledged=flight.acknowledged)
        return Retry(message, acknowledged=flight.acknowledged, reason=name.lower().replace(" ", "_"))

    # --- the network ---------------------------------------------------------------------------------------------

    def _send(self, data: bytes, deadline: float, acknowledged: int) -> None:
        """Hands ``data`` to the socket; acknowledgements that come meanwhile are kept.

        Raises:
            NotConnected: the connection is lost, or the broker takes nothing in time.

        """
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                self._raise_if_lost(acknowledged)
                tap = self._tap
                assert tap is not None
                try:
                    sent += tap.send(view[sent:])
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    if time.monotonic() >= deadline:
                        raise NotConnected(
                            f"broker {self._place} takes nothing", acknowledged=acknowledged, reason="timeout"
                        ) from None
                    self._pump(deadline, to_write=True)
                except OSError as error:
                    self._lost = f"connection to broker {self._place} lost: {error.strerror or error}"

    def _wait(self, deadline: float, flight: Flight) -> None:
        """Waits for an acknowledgement, and settles all that have come.

        Raises:
            NotConnected: the connection is lost, or the broker acknowledges nothing in time.

        """
        while not self._acks:
            self._raise_if_lost(flight.acknowledged)
            if time.monotonic() >= deadline:
                raise NotConnected(
                    f"broker {self._place} acknowledges nothing: {len(flight.packets)} messages wait",
                    acknowledged=flight.acknowledged,
                    reason="timeout",
                )
            self._pump(deadline)
        acks, self._acks = self._acks, []
        releases = []
        for kind, packet_id, reason in acks:
            if kind == PUBREC and reason < FAILURE:
                releases.append(pubrel(packet_id))
            else:
                flight.settle(packet_id, reason)
        if releases:
            self._send(b"".join(releases), deadline, flight.acknowledged)

    def _drain(self, deadline: float, flight: Flight) -> None:
        """Waits for what is in flight behind a refused message, so that no late answer is taken for another's."""
        with contextlib.suppress(NotConnected):
            while flight.packets:
                self._wait(deadline, flight)

    def _pump(self, deadline: float, *, to_write: bool = False) -> None:
        """Waits for the socket until ``deadline``, half a second at most; takes what has come, and lets paho work."""
        client, tap = self._client, self._tap
        assert client is not None
        assert tap is not None
        if client.socket() is None:
            self._lost = self._lost or f"connection to broker {self._place} lost"
            return
        if not tap.has_buffered():
            seconds = min(_MAX_POLL_SECONDS, max(0.0, deadline - time.monotonic()))
            writing = to_write or client.want_write()
            self._poller.register(tap, select.POLLIN | (select.POLLOUT if writing else 0))
            try:
                self._poller.poll(int(seconds * 1000) + (1 if seconds else 0))
            finally:
                self._poller.unregister(tap)
        self._read(client, tap)
        if client.want_write():
            client.loop_write()
        client.loop_misc()

    def _read(self, client: paho.Client, tap: Tap) -> None:
        try:
            data = tap.read()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._lost = f"connection to broker {self._place} lost: {error.strerror or error}"
            return
        if not data:
            self._lost = self._lost or f"broker {self._place} closed the connection"
            return
        acks, others = self._incoming.take(data)
        self._acks += acks
        if others:
            tap.give(others)
            while tap.holds_packets() and client.socket() is not None:
                client.loop_read()

    def _raise_if_lost(self, acknowledged: int) -> None:
        if self._lost is not None:
            raise NotConnected(self._lost, acknowledged=acknowledged, reason="connection_lost")

    def _raise_if_refused(self, connack: ReasonCode) -> None:
        if connack.is_failure:
            self.close(0)
            raise NotConnected(
                f"broker {self._place} refused the connection: {connack} (user {self._options.username!r})",
                reason="refused_connection",
            )

    def _connected(self) -> None:
        if self._client is None:
            raise NotConnected(f"not connected to broker {self._place}")
        self._raise_if_lost(0)

    # --- paho ----------------------------------------------------------------------------------------------------

    def _new_client(self) -> paho.Client:
        options = self._options
        websockets = self._url.scheme in {"ws", "wss"}
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
            transport="websockets" if websockets else "tcp",
            reconnect_on_failure=False,
            clean_session=None if self._v5 else True,
        )
        if websockets:
            client.ws_set_options(path=self._url.path or "/mqtt")
        if self._url.scheme in {"mqtts", "wss"}:
            try:
                context = options.tls.context()
                context.sslsocket_class = _ClosingSocket
                client.tls_set_context(context)
            except OSError as error:
                raise NotConnected(
                    f"cannot load the TLS files of broker {self._place}: {error}", reason="tls"
                ) from error
        if options.username is not None:
            try:
                client.username_pw_set(options.username, options.secret("password"))
            except OSError as error:
                raise NotConnected(f"cannot read password_file: {error}", reason="secret") from error
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        return client

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        self._connack = reason
        receive_maximum = getattr(properties, "ReceiveMaximum", None)
        window = _QOS_2_WINDOW if self._options.qos == 2 else _WINDOW  # noqa: PLR2004 QoS 2
        self._window = min(window, receive_maximum or window)
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)

    def _on_disconnect(self, _client: Any, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self._lost = f"connection to broker {self._place} lost: {reason}"

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"certificate of broker {self._place} not trusted: {error.verify_message}; set tls.ca_file to the PEM "
                "file of its authority"
            )
        if isinstance(error, TimeoutError):
            return f"no connection to broker {self._place} in time"
        return f"cannot connect to broker {self._place}: {getattr(error, 'strerror', None) or error}"


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, where paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _level(name: str) -> str:
    """A name as one level of a topic: separators, wildcards and control characters become ``_``."""
    return "".join("_" if char in "/+#" or ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 else char for char in name)  # noqa: PLR2004
