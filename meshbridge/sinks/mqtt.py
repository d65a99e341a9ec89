"""Publishes events to an MQTT broker (MQTT 5 and 3.1.1, by paho-mqtt).

paho's network loop is driven here, by the thread that sends, and the window of unacknowledged messages is kept small:
its own thread and a large window are less than half as fast (DESIGN.md, 'Figures to reach').
"""

import contextlib
import select
import ssl
import struct
import time
import uuid
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import Field, SecretStr, field_validator, model_validator

from meshbridge.events import Envelope, Event, cloudevent_attributes, encode
from meshbridge.options import Duration, Format, SecretFiles, Tls
from meshbridge.sinks.base import NotConnected, Refused, Retry, SinkError
from meshbridge.sinks.options import SinkOptions

__all__ = ["MqttOptions", "MqttSink"]

_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_PLACES = frozenset({"daemon", "app", "event"})
_WINDOW = 64  # messages in flight; more gains nothing on a local broker and costs paho time for each
_MAX_POLL_SECONDS = 0.5
# MQTT 5, 3.4.2.1: what a broker may say to a PUBLISH. These will not change by themselves:
_NEVER = frozenset({0x90, 0x95, 0x99})  # topic name invalid, packet too large, payload format invalid
_FAILURE = 0x80  # reason codes from here on are failures
_PACKET_OVERHEAD_BYTES = 16  # fixed header, lengths and packet id of a PUBLISH, at most


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
        self._acks: list[tuple[int, int]] = []  # (packet id, reason code), in the order they came
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
            while self._connack is None:
                if time.monotonic() >= deadline:
                    raise NotConnected(f"broker {self._place} accepts but does not answer", reason="timeout")
                self._pump(deadline)
        except (OSError, ValueError, paho.WebsocketConnectionError) as error:
            self.close(0)
            raise NotConnected(self._explain(error), reason="unreachable") from error
        except SinkError:
            self.close(0)
            raise
        self._raise_if_refused(self._connack)

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        client = self._connected()
        deadline = time.monotonic() + timeout_seconds
        flight = _Flight(len(batch))
        while flight.acknowledged < flight.end:
            try:
                while flight.sent < flight.end and len(flight.packets) < self._window:
                    flight.begin(self._publish(client, batch[flight.sent].event))
            except Refused as refused:
                flight.refuse(refused)  # told once those before it are safe
            except NotConnected as lost:
                lost.acknowledged = flight.acknowledged
                raise
            if flight.packets and not self._acks:
                self._wait(deadline, flight)
            flight.settle(self._acks)
            self._acks.clear()
        if flight.end < len(batch):
            self._drain(deadline, flight)
            raise flight.refused or self._refusal(batch[flight.end].event, flight)

    def idle(self) -> None:
        self._connected()
        self._pump(time.monotonic())
        self._connected()

    def close(self, timeout_seconds: float) -> None:
        client, self._client = self._client, None
        self._connack = self._lost = None
        self._acks.clear()
        if client is None:
            return
        client.on_disconnect = None
        with contextlib.suppress(Exception):
            client.disconnect()
            if timeout_seconds and client.want_write():
                client.loop_write()
        # paho closes its socket only when it is told that it was lost.
        sock = client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    # --- publishing ----------------------------------------------------------------------------------------------

    def _publish(self, client: paho.Client, event: Event) -> int:
        """Hands one message to paho and gives its packet id.

        Raises:
            Refused: no broker, or not this one, would take it.
            NotConnected: the connection is lost.

        """
        topic = self._topic(event.daemon, event.app, event.type.label)
        payload = encode(event, self._options.format)
        properties = self._properties(event) if self._v5 else None
        limit = self._max_packet_bytes
        if limit is not None:
            size = _PACKET_OVERHEAD_BYTES + len(topic.encode()) + len(payload)
            size += len(properties.packed) if properties else 0
            if size > limit:
                raise Refused(f"message of {size} bytes: broker {self._place} takes {limit}", reason="too_large")
        try:
            info = client.publish(topic, payload, self._options.qos, properties=properties)  # type: ignore[arg-type]
        except ValueError as error:
            raise Refused(f"cannot publish to {topic!r}: {error}", reason="invalid") from error
        if self._lost is not None or info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN:
            raise NotConnected(self._lost or f"no connection to broker {self._place}", reason="connection_lost")
        return info.mid

    def _properties(self, event: Event) -> "_PackedProperties":
        if self._options.format is Format.BINARY:
            attributes = cloudevent_attributes(event)
            content_type = attributes.pop("datacontenttype")
            return _PackedProperties(content_type, attributes)
        cloudevents = self._options.format is Format.CLOUDEVENTS
        return _PackedProperties(
            "application/cloudevents+json" if cloudevents else "application/json", {"id": event.id}
        )

    def _make_topic(self, daemon: str, app: str, event: str) -> str:
        return self._options.topic.format(daemon=_level(daemon), app=_level(app), event=event)

    def _refusal(self, event: Event, flight: "_Flight") -> SinkError:
        reason = flight.reasons[flight.end]
        assert reason is not None
        name = str(ReasonCode(PacketTypes.PUBACK, identifier=reason))
        message = f"broker {self._place} refused event {event.id}: {name} (topic {self._topic_of(event)})"
        if reason in _NEVER:
            return Refused(message, acknowledged=flight.acknowledged)
        return Retry(message, acknowledged=flight.acknowledged, reason=name.lower().replace(" ", "_"))

    def _topic_of(self, event: Event) -> str:
        return self._topic(event.daemon, event.app, event.type.label)

    # --- the network loop ----------------------------------------------------------------------------------------

    def _wait(self, deadline: float, flight: "_Flight") -> None:
        """Runs the network loop until an acknowledgement comes.

        Raises:
            NotConnected: the connection is lost, or the broker acknowledges nothing in time.

        """
        while not self._acks:
            if self._lost is not None:
                raise NotConnected(self._lost, acknowledged=flight.acknowledged, reason="connection_lost")
            if time.monotonic() >= deadline:
                raise NotConnected(
                    f"broker {self._place} acknowledges nothing: {len(flight.packets)} messages wait",
                    acknowledged=flight.acknowledged,
                    reason="timeout",
                )
            self._pump(deadline)

    def _drain(self, deadline: float, flight: "_Flight") -> None:
        """Waits for what is in flight behind a refused message, so that no late answer is taken for another's."""
        with contextlib.suppress(NotConnected):
            while flight.packets:
                self._wait(deadline, flight)
                flight.settle(self._acks)
                self._acks.clear()

    def _pump(self, deadline: float) -> None:
        """One turn of paho's loop: waits for the socket until ``deadline``, half a second at most."""
        client = self._client
        assert client is not None
        sock = client.socket()
        if sock is None:
            self._lost = self._lost or f"connection to broker {self._place} lost"
            return
        if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            wanted = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
            self._poller.register(sock, wanted)
            try:
                seconds = min(_MAX_POLL_SECONDS, max(0.0, deadline - time.monotonic()))
                ready = self._poller.poll(int(seconds * 1000) + (1 if seconds else 0))
            finally:
                self._poller.unregister(sock)
        else:
            ready = [(sock.fileno(), select.POLLIN)]
        events = ready[0][1] if ready else 0
        if events & (select.POLLIN | select.POLLERR | select.POLLHUP):
            client.loop_read()
        if client.want_write():
            client.loop_write()
        client.loop_misc()

    def _raise_if_refused(self, connack: ReasonCode) -> None:
        if connack.is_failure:
            self.close(0)
            raise NotConnected(
                f"broker {self._place} refused the connection: {connack} (user {self._options.username!r})",
                reason="refused_connection",
            )

    def _connected(self) -> paho.Client:
        if self._client is None:
            raise NotConnected(f"not connected to broker {self._place}")
        if self._lost is not None:
            raise NotConnected(self._lost, reason="connection_lost")
        return self._client

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
                client.tls_set_context(options.tls.context())
            except OSError as error:
                raise NotConnected(
                    f"cannot load the TLS files of broker {self._place}: {error}", reason="tls"
                ) from error
        if options.username is not None:
            try:
                client.username_pw_set(options.username, options.secret("password"))
            except OSError as error:
                raise NotConnected(f"cannot read password_file: {error}", reason="secret") from error
        # The window is kept here: paho's own accounting walks through all messages in flight at each acknowledgement.
        client.max_inflight_messages_set(0)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        self._connack = reason
        receive_maximum = getattr(properties, "ReceiveMaximum", None)
        self._window = min(_WINDOW, receive_maximum or _WINDOW)
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)

    def _on_disconnect(self, _client: Any, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self._lost = f"connection to broker {self._place} lost: {reason}"

    def _on_publish(self, _client: Any, _userdata: Any, packet_id: int, reason: ReasonCode, _properties: Any) -> None:
        self._acks.append((packet_id, reason.value))

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"certificate of broker {self._place} not trusted: {error.verify_message}; set tls.ca_file to the PEM "
                "file of its authority"
            )
        if isinstance(error, TimeoutError):
            return f"no connection to broker {self._place} in time"
        return f"cannot connect to broker {self._place}: {getattr(error, 'strerror', None) or error}"


class _Flight:
    """The messages of one write: which are sent, which acknowledged, and where the batch ends early."""

    def __init__(self, size: int) -> None:
        self.packets: dict[int, int] = {}  # packet id -> place in the batch, of those in flight
        self.reasons: list[int | None] = [None] * size  # the broker's reason code for each, once it has come
        self.sent = 0
        self.acknowledged = 0  # from the front
        self.end = size  # nothing from here on counts: the first refused one, or the end of the batch
        self.refused: Refused | None = None  # where it was refused here, before it was sent

    def begin(self, packet_id: int) -> None:
        self.packets[packet_id] = self.sent
        self.sent += 1

    def refuse(self, refused: Refused) -> None:
        self.end, self.refused = self.sent, refused
        refused.acknowledged = self.sent  # all before it will be, or another end is found first

    def settle(self, acks: list[tuple[int, int]]) -> None:
        for packet_id, reason in acks:
            place = self.packets.pop(packet_id, None)
            if place is None:
                continue
            self.reasons[place] = reason
            if reason >= _FAILURE and place < self.end:
                self.end, self.refused = place, None
        while self.acknowledged < self.end and self.reasons[self.acknowledged] is not None:
            self.acknowledged += 1


class _PackedProperties:
    """The properties of a PUBLISH (MQTT 5, 3.3.2.3), encoded: paho's own class builds tables for each message."""

    __slots__ = ("packed",)

    def __init__(self, content_type: str, user: dict[str, str]) -> None:
        body = [b"\x03", _utf8(content_type)]
        for key, value in user.items():
            body += (b"\x26", _utf8(key), _utf8(value))
        joined = b"".join(body)
        self.packed = _varint(len(joined)) + joined

    def pack(self) -> bytes:
        """What paho asks of properties."""
        return self.packed


def _utf8(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("!H", len(encoded)) + encoded


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, low = divmod(value, 128)
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _level(name: str) -> str:
    """A name as one level of a topic: separators, wildcards and control characters become ``_``."""
    return "".join("_" if char in "/+#" or ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 else char for char in name)  # noqa: PLR2004
