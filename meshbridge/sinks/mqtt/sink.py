"""Publishes events to an MQTT broker (MQTT 5 and 3.1.1), and beside them, retained, the present state of every app.

Events go out in windows, many packets in one send (:mod:`meshbridge.sinks.mqtt.publishing`), over a connection that is
driven here, by the thread that sends (:mod:`meshbridge.sinks.mqtt.connection`). What is retained is worked out by
:mod:`meshbridge.sinks.mqtt.states`; it takes the room that events leave, is sent and not waited for in ``write``, and
its acknowledgements count for nobody's cursor.
"""

import contextlib
import time
import uuid
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import Field, field_validator, model_validator

from meshbridge import telemetry
from meshbridge.fields import Duration, Format, Size
from meshbridge.model.events import Envelope, Event, cloudevent_attributes, encode
from meshbridge.sinks.base import Found, NotConnected, Preview, Refused, Retry, SinkError
from meshbridge.sinks.memory import Memory, VolatileMemory
from meshbridge.sinks.mqtt.connection import BrokerOptions, Connection, Will
from meshbridge.sinks.mqtt.home_assistant import STATUS_TOPIC
from meshbridge.sinks.mqtt.memory import KnownTopics, adopt_files, client_id_of
from meshbridge.sinks.mqtt.publishing import (
    FAILURE,
    PUBREC,
    Flight,
    packed_properties,
    publish,
    pubrel,
    topic_level,
)
from meshbridge.sinks.mqtt.states import OFFLINE, StateMessages, Topics
from meshbridge.sinks.options import PlaceTemplate, SinkOptions
from meshbridge.sinks.splitting import encoded_parts
from meshbridge.sinks.states import AppStates

__all__ = ["MqttOptions", "MqttSink"]

_CONTENT_TYPE = "content type"
_WINDOW = 256  # messages in flight, unless the broker wants fewer; more gains nothing on a local broker
# At QoS 2 a 3.1.1 broker can't say how many it takes, and mosquitto's default cuts off whoever sends more than this.
_QOS_2_WINDOW = 20
_FIRST_PACKET_ID, _LAST_PACKET_ID = 1000, 65535  # those below are paho's, for what it sends itself
# MQTT 5, 3.4.2.1: what a broker may say to a PUBLISH. These will not change by themselves:
_NEVER = frozenset({0x90, 0x95, 0x99})  # topic name invalid, packet too large, payload format invalid
_MAX_TOPIC_BYTES = 65_535  # 1.5.4
_MAX_PACKET_BYTES = 268_435_455  # 2.1.4
_HEAD_BYTES = 16  # at most, of a PUBLISH: type, lengths, packet id (3.3.1)
_PART_BYTES = 16  # more than the number of a part adds to an event's id
_STATES_SHARE = 4  # retained messages have this part of the window at most, so that events always move
_STATES_EVERY_SECONDS = 0.25  # while events flow: of an app that prints in each batch, the state is not asked each time
_STATES_CONNECT_SECONDS = 2.0  # for the states of all apps; what is left goes out beside the events
_STATES_IDLE_SECONDS = 0.05


class MqttOptions(SinkOptions, BrokerOptions):
    """An MQTT broker."""

    type: Literal["mqtt"]
    topic: PlaceTemplate = Field(default="meshbridge/{daemon}/{app}/{event}", description="topic of an event")
    qos: Literal[0, 1, 2] = Field(
        default=1, description="of events: 0 may lose what was in flight with a connection, 2 costs twice the packets"
    )
    state_topics: bool = Field(
        default=True, description="retained messages with the state of every app, and who is there"
    )
    home_assistant: bool = Field(default=False, description="every app a device of Home Assistant; needs state_topics")
    max_payload_bytes: Size = Field(default=256 * 1024, ge=1024, description="larger STDOUT is divided")
    message_expiry: Duration | None = Field(
        default=None, ge=1, le=0xFFFFFFFF, description="protocol 5: brokers drop an event nobody took for so long"
    )

    @field_validator("qos", mode="before")
    @classmethod
    def _qos_text(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("topic")
    @classmethod
    def _template(cls, value: str) -> str:
        if not value or "+" in value or "#" in value:
            raise ValueError("a topic is not empty and has no + or #")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.format is Format.BINARY and self.protocol != "5":
            raise ValueError("format binary needs the user properties of protocol 5")
        if self.message_expiry is not None and self.protocol != "5":
            raise ValueError("message_expiry needs protocol 5")
        if self.home_assistant and not self.state_topics:
            raise ValueError("home_assistant needs state_topics")
        return self

    def probe(self, timeout_seconds: float) -> Found:
        """Connects and leaves, under a name of its own, so that a running bridge is not disturbed.

        Raises:
            NotConnected: the broker can't be reached, does not let this bridge in, or takes no such messages.

        """
        connection = Connection(self, f"meshbridge-check-{uuid.uuid4().hex[:7]}")
        try:
            connection.open(timeout_seconds)
            place = f"broker {connection.place}"
            if connection.max_qos < self.qos:
                raise NotConnected(
                    f"{place} takes QoS {connection.max_qos} at most; set qos to {connection.max_qos}", reason="refused"
                )
            if self.state_topics and not connection.retains:
                raise NotConnected(f"{place} retains nothing; set state_topics: false", reason="refused")
        finally:
            connection.close(timeout_seconds)
        return Found(f"{place} lets this bridge in (MQTT {self.protocol})")

    def build(self, name: str, state_directory: Path) -> "MqttSink":
        return MqttSink(self, name=name, directory=state_directory)


class MqttSink:
    """See the module's text."""

    def __init__(
        self, options: MqttOptions, client_id: str | None = None, *, name: str = "mqtt", directory: Path | None = None
    ) -> None:
        """``directory``: where an older version may have left files."""
        self._options = options
        self._name = name
        self._directory = directory
        self._memory: Memory = VolatileMemory()
        self._keeps_client_id = not (client_id or options.client_id)
        self._client_id = client_id or options.client_id or client_id_of(name, self._memory)
        self._v5 = options.protocol == "5"
        self._connection = Connection(options, self._client_id)
        self._window = _WINDOW
        self._largest_packet = _MAX_PACKET_BYTES
        self._packet_id = _FIRST_PACKET_ID
        self._topic = lru_cache(maxsize=8192)(self._make_topic)
        self._expiry = None if options.message_expiry is None else int(options.message_expiry)
        self._states: StateMessages | None = None
        self._state_properties = packed_properties("application/json", {}) if self._v5 else b""
        self._states_due_at = 0.0  # monotonic seconds; while events flow

    def use_memory(self, memory: Memory) -> None:
        """See :class:`meshbridge.sinks.memory.Remembering`."""
        self._memory = memory
        if self._directory is not None:
            adopt_files(self._directory, self._name, memory)
        if self._keeps_client_id:
            self._client_id = self._connection.client_id = client_id_of(self._name, memory)

    def tell_states(self, states: AppStates) -> None:
        """See :class:`meshbridge.sinks.states.StateTeller`."""
        options, known = self._options, KnownTopics(self._memory, self._name)
        topics = Topics.beside(options.topic, self._client_id)
        # Also without state topics: those of an earlier configuration are cleared.
        self._states = StateMessages(
            states if options.state_topics else None, topics, known, with_home_assistant=options.home_assistant
        )
        if options.state_topics:
            self._connection.will = Will(topics.bridge, OFFLINE)
        if options.home_assistant:
            self._connection.subscription = STATUS_TOPIC
            self._connection.on_message = self._states.hear

    # --- the contract --------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        self._connection.open(timeout_seconds)
        window = _QOS_2_WINDOW if self._options.qos == 2 else _WINDOW  # noqa: PLR2004 QoS 2
        self._window = min(window, self._connection.receive_maximum or window)
        self._largest_packet = min(self._connection.max_packet_bytes or _MAX_PACKET_BYTES, _MAX_PACKET_BYTES)
        if self._states is not None:
            self._states.begin()
            self._publish_states(min(deadline, time.monotonic() + _STATES_CONNECT_SECONDS))

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        self._connection.check()
        deadline = time.monotonic() + timeout_seconds
        flight = Flight(len(batch))
        try:
            while flight.acknowledged < flight.end:
                packets = self._next_packets(batch, flight)
                if packets:
                    self._connection.send(b"".join(packets), deadline)
                if self._options.qos == 0:
                    flight.handed_over()
                elif flight.packets or not packets:
                    self._wait(deadline, flight)
            if flight.end < len(batch):
                self._drain(deadline, flight)
                raise flight.refused or self._refusal(batch[flight.end].event, flight)
            if self._states is not None and time.monotonic() >= self._states_due_at:
                self._publish_states(0.0)
        except NotConnected as lost:
            lost.acknowledged = flight.acknowledged
            raise

    def idle(self) -> None:
        self._connection.check()
        self._connection.pump(time.monotonic())
        if self._states is not None:
            self._publish_states(time.monotonic() + _STATES_IDLE_SECONDS)
        self._connection.check()

    def close(self, timeout_seconds: float) -> None:
        last_words = b""
        if self._connection.will is not None:  # which a good-bye takes back
            last_words = self._retained(self._connection.will.topic, self._connection.will.payload)
        self._connection.close(timeout_seconds, last_words)

    def preview(self, event: Event) -> list[Preview]:
        topic = self._topic(event.daemon, event.app, event.type.label).decode()
        return [
            Preview(topic, {**self._named(part), "qos": str(self._options.qos)}, payload)
            for part, payload in self._parts(event)
        ]

    # --- events --------------------------------------------------------------------------------------------------

    def _next_packets(self, batch: Sequence[Envelope], flight: Flight) -> list[bytes]:
        """As many PUBLISH packets as the window has room for."""
        packets: list[bytes] = []
        room = self._window
        if self._states is not None and self._options.qos:
            room -= self._states.retained.in_flight
        try:
            while flight.sent < flight.end and len(flight.packets) < room:
                if flight.parts:
                    packets.append(self._packet(*flight.parts.popleft()))
                    flight.begin_part(self._packet_id)
                    continue
                event = batch[flight.sent].event
                payload = encode(event, self._options.format)
                packet = self._packet(event, payload)
                if len(payload) <= self._options.max_payload_bytes and len(packet) <= self._largest_packet:
                    packets.append(packet)
                    flight.begin(self._packet_id)
                else:
                    flight.divide(self._parts(event))
        except Refused as refused:
            flight.refuse(refused)  # told once those before it are safe
        return packets

    def _packet(self, event: Event, payload: bytes) -> bytes:
        """An event or a part of one as a PUBLISH, under the next packet id.

        Raises:
            Refused: no broker would take it.

        """
        topic = self._topic(event.daemon, event.app, event.type.label)
        properties = self._properties(event) if self._v5 else b""
        if len(topic) > _MAX_TOPIC_BYTES:
            raise Refused(f"topic of {len(topic)} bytes; MQTT has {_MAX_TOPIC_BYTES}", reason="invalid")
        self._packet_id = self._packet_id + 1 if self._packet_id < _LAST_PACKET_ID else _FIRST_PACKET_ID
        return publish(topic, payload, self._options.qos, self._packet_id, properties)

    def _parts(self, event: Event) -> list[tuple[Event, bytes]]:
        """The parts of an event that is too large for this broker or these settings, each with its payload.

        Raises:
            Refused: it can't be divided.

        """
        beside = _HEAD_BYTES + len(self._topic(event.daemon, event.app, event.type.label))
        if self._v5:
            beside += len(self._properties(event)) + _PART_BYTES
        limit = min(self._options.max_payload_bytes, self._largest_packet - beside)
        return encoded_parts(event, limit, lambda part: encode(part, self._options.format))

    def _properties(self, event: Event) -> bytes:
        user = self._named(event)
        return packed_properties(user.pop(_CONTENT_TYPE), user, self._expiry)

    def _named(self, event: Event) -> dict[str, str]:
        """The content type, and the user properties, which in binary mode are the attributes."""
        match self._options.format:
            case Format.BINARY:
                attributes = cloudevent_attributes(event)
                return {_CONTENT_TYPE: attributes.pop("datacontenttype"), **attributes}
            case Format.CLOUDEVENTS:
                return {_CONTENT_TYPE: "application/cloudevents+json", "id": event.id}
            case Format.RAW:
                marked = {"replayed": "true"} if event.replayed else {}
                return {_CONTENT_TYPE: "application/json", "id": event.id, **marked}

    def _make_topic(self, daemon: str, app: str, event: str) -> bytes:
        return self._options.topic.format(daemon=topic_level(daemon), app=topic_level(app), event=event).encode()

    def _refusal(self, event: Event, flight: Flight) -> SinkError:
        reason = flight.reasons[flight.end]
        assert reason is not None
        name = _reason_name(reason)
        topic = self._topic(event.daemon, event.app, event.type.label).decode()
        message = f"broker {self._connection.place} refused event {event.id}: {name} (topic {topic})"
        if reason in _NEVER:
            return Refused(message, acknowledged=flight.acknowledged)
        return Retry(message, acknowledged=flight.acknowledged, reason=name.lower().replace(" ", "_"))

    # --- acknowledgements ----------------------------------------------------------------------------------------

    def _wait(self, deadline: float, flight: Flight) -> None:
        """Waits for an acknowledgement, and settles all that have come.

        Raises:
            NotConnected: the connection is lost, or the broker acknowledges nothing in time.

        """
        connection = self._connection
        while not connection.acks:
            connection.check()
            if time.monotonic() >= deadline:
                raise NotConnected(
                    f"broker {connection.place} acknowledges nothing: {len(flight.packets)} messages wait",
                    reason="timeout",
                )
            connection.pump(deadline)
        acks, connection.acks = connection.acks, []
        releases = []
        for kind, packet_id, reason in acks:
            if kind == PUBREC and reason < FAILURE:
                releases.append(pubrel(packet_id))
            elif packet_id in flight.packets:
                flight.settle(packet_id, reason)
            else:
                self._settle_state(packet_id, reason)
        if releases:
            connection.send(b"".join(releases), deadline)

    def _drain(self, deadline: float, flight: Flight) -> None:
        """Waits for what is in flight behind a refused message, so that no late answer is taken for another's."""
        with contextlib.suppress(NotConnected):
            while flight.packets:
                self._wait(deadline, flight)

    # --- states --------------------------------------------------------------------------------------------------

    def _publish_states(self, until: float) -> None:
        """Sends what has changed, as far as there is room; waits for acknowledgements, and so for room, until then.

        Raises:
            NotConnected: the connection is lost.

        """
        assert self._states is not None
        self._states.gather()
        retained, connection = self._states.retained, self._connection
        room = max(1, self._window // _STATES_SHARE)
        while True:
            acks, connection.acks = connection.acks, []
            for _, packet_id, reason in acks:
                self._settle_state(packet_id, reason)
            packets = []
            for topic, payload in retained.take(room - retained.in_flight):
                packet = self._retained(topic, payload)
                if len(packet) > self._largest_packet:
                    telemetry.mqtt_state_refused(connection.place, topic, f"larger than {self._largest_packet} bytes")
                    continue
                retained.sent(self._packet_id, topic)
                packets.append(packet)
            if packets:
                connection.offer(b"".join(packets))
            if not retained.busy or time.monotonic() >= until:
                break
            connection.pump(until)
            connection.check()
        self._states_due_at = time.monotonic() + _STATES_EVERY_SECONDS

    def _retained(self, topic: str, payload: bytes) -> bytes:
        self._packet_id = self._packet_id + 1 if self._packet_id < _LAST_PACKET_ID else _FIRST_PACKET_ID
        return publish(topic.encode(), payload, 1, self._packet_id, self._state_properties, retain=True)

    def _settle_state(self, packet_id: int, reason: int) -> None:
        if self._states is None:
            return
        topic = self._states.retained.settle(packet_id, taken=reason < FAILURE)
        if topic is not None and reason >= FAILURE:
            telemetry.mqtt_state_refused(self._connection.place, topic, _reason_name(reason))


def _reason_name(reason: int) -> str:
    return str(ReasonCode(PacketTypes.PUBACK, identifier=reason))
