"""Publishes events to an MQTT broker (MQTT 5 and 3.1.1), and beside them, retained, the present state of every app.

Events go out in windows, many packets in one send (:mod:`meshbridge.sinks.mqtt.publishing`), over a connection that is
driven here, by the thread that sends (:mod:`meshbridge.sinks.mqtt.connection`). What is retained is worked out by
:mod:`meshbridge.sinks.mqtt.states`; it takes the room that events leave, is sent and not waited for in ``write``, and
its acknowledgements move no cursor.
"""

import contextlib
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from meshbridge import telemetry
from meshbridge.fields import Duration, Format, Size
from meshbridge.model.events import Envelope, Event, EventType, cloudevent_attributes, encode
from meshbridge.sinks.base import Found, NotConnected, Preview, Refused, Retry, SinkError
from meshbridge.sinks.commands import CommandDesk, CommandOptions
from meshbridge.sinks.denied import DeniedOptions, DeniedPlaces
from meshbridge.sinks.memory import Memory, VolatileMemory
from meshbridge.sinks.mqtt import home_assistant
from meshbridge.sinks.mqtt.answers import FAILURE, Meaning, label_of, meaning_of, name_of
from meshbridge.sinks.mqtt.arrivals import Arrivals
from meshbridge.sinks.mqtt.commands import Commands, CommandTopics, Subscription
from meshbridge.sinks.mqtt.connection import CLOSED_BY_BROKER, BrokerConnection, BrokerOptions, Will
from meshbridge.sinks.mqtt.incoming import IncomingMessage
from meshbridge.sinks.mqtt.leftovers import Leftovers
from meshbridge.sinks.mqtt.memory import KnownTopics, adopt_files, client_id_of
from meshbridge.sinks.mqtt.publishing import (
    PUBREC,
    PublishFlight,
    as_text,
    packed_properties,
    publish,
    pubrel,
    topic_level,
)
from meshbridge.sinks.mqtt.retained import Retained
from meshbridge.sinks.mqtt.states import OFFLINE, StateMessages, Topics
from meshbridge.sinks.mqtt.suspects import Suspects
from meshbridge.sinks.options import PlaceTemplate, SinkOptions
from meshbridge.sinks.splitting import encoded_parts
from meshbridge.sinks.states import AppStates

__all__ = ["MqttOptions", "MqttSink"]

_CONTENT_TYPE = "content type"
_WINDOW = 256  # messages in flight, unless the broker wants fewer; more gains nothing on a local broker
# At QoS 2 a 3.1.1 broker can't say how many it takes, and mosquitto's default disconnects a client above this.
_QOS_2_WINDOW = 20
_FIRST_PACKET_ID, _LAST_PACKET_ID = 1000, 65535  # those below are paho's, for what it sends itself
_MAX_TOPIC_BYTES = 65_535  # 1.5.4
_MAX_PACKET_BYTES = 268_435_455  # 2.1.4
_HEAD_BYTES = 16  # at most, of a PUBLISH: type, lengths, packet id (3.3.1)
_PART_BYTES = 16  # more than the number of a part adds to an event's id
_LEAST_OUTPUT_BYTES = 512  # of a part: what is not its text takes about as much
_MAX_CONDEMNED = 1000
_STATES_SHARE = 4  # retained messages have this part of the window at most, so that events always move
_REPLIES_SHARE = 2  # likewise replies to commands: people wait for them
_STATES_EVERY_SECONDS = 0.25  # while events flow: of an app that prints in each batch, the state is not asked each time
_STATES_CONNECT_SECONDS = 2.0  # for the states of all apps; what is left goes out beside the events
_STATES_IDLE_SECONDS = 0.05


class MqttOptions(SinkOptions, BrokerOptions, DeniedOptions):
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
    commands: CommandOptions | None = Field(
        default=None, description="commands and tasks from the broker to apps; null: none are taken"
    )
    message_expiry: Duration | None = Field(
        default=None,
        ge=1,
        le=0xFFFFFFFF,
        description="protocol 5: brokers drop an event that was not delivered for so long",
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
        connection = BrokerConnection(self, f"meshbridge-check-{uuid.uuid4().hex[:7]}")
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
        untried = f"the right to publish to {', '.join(self._topics_used())}"
        return Found(f"{place} lets this bridge in (MQTT {self.protocol})", untried=untried)

    def leftovers(self) -> Leftovers:
        """What bridges have left at this broker, under the levels of ``topic``."""
        properties = packed_properties("application/json", {}) if self.protocol == "5" else b""
        client_id = f"meshbridge-clear-{uuid.uuid4().hex[:7]}"
        return Leftovers(self, Topics.beside(self.topic, client_id), client_id, properties)

    def is_same_place(self, other: SinkOptions) -> bool:
        return isinstance(other, MqttOptions) and other.url == self.url

    def probe_commands(self, daemons: Collection[str], timeout_seconds: float) -> Found | None:
        """See :class:`meshbridge.sinks.commands.CommandProbe`."""
        if self.commands is None:
            return None
        filters = sorted(one.filter for one in CommandTopics(self.commands).subscriptions(daemons))
        if self.commands.share is not None:  # it would take commands away from a bridge
            return Found("commands are allowed", untried=f"the subscription to {', '.join(filters)}")
        connection = BrokerConnection(self, f"meshbridge-check-{uuid.uuid4().hex[:7]}")
        deadline = time.monotonic() + timeout_seconds
        try:
            connection.open(timeout_seconds)
            for one in filters:
                connection.subscribe(one, no_local=True)
            while connection.open_filters and time.monotonic() < deadline:
                connection.pump(deadline)
                connection.check()
        finally:
            connection.close(timeout_seconds)
        if connection.refused_filters:
            raise NotConnected(
                f"broker {connection.place} refuses the subscription to {', '.join(sorted(connection.refused_filters))}"
                "; set commands to null, or allow it at the broker",
                reason="refused",
            )
        return Found(f"broker {connection.place} takes the subscriptions for commands")

    def _topics_used(self) -> list[str]:
        places = dict.fromkeys(("daemon", "app", "event"), "+")
        topics = [self.topic.format(**places)]
        if self.state_topics:
            topics += Topics.beside(self.topic, "").patterns
        if self.home_assistant:
            topics.append(home_assistant.TOPICS)
        return topics

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
        self._connection = BrokerConnection(options, self._client_id)
        self._window = _WINDOW
        self._largest_packet = _MAX_PACKET_BYTES
        self._packet_id = _FIRST_PACKET_ID
        self._topic = lru_cache(maxsize=8192)(self._make_topic)
        self._expiry = None if options.message_expiry is None else int(options.message_expiry)
        self._states: StateMessages | None = None
        self._state_properties = packed_properties("application/json", {}) if self._v5 else b""
        self._states_due_at = 0.0  # monotonic seconds; while events flow
        self._denied = DeniedPlaces(options)
        self._suspects = Suspects()
        self._is_loss_judged = False  # of the last connection
        self._output_limit: int | None = None  # of a STDOUT payload: what the broker's refusals have shown
        self._state_limit: int | None = None  # of a retained packet, likewise: from here on none is sent
        self._condemned: dict[str, str] = {}  # by event id: the broker closes the connection on them
        self._refused_topics: set[str] = set()  # retained ones that the log has named
        self._commands: Commands | None = None
        self._command_topics = None if options.commands is None else CommandTopics(options.commands)
        self._arrivals: Arrivals | None = None
        self._subscribed: set[Subscription] = set()
        self._subscribed_daemons: tuple[str, ...] | None = None  # None: nothing is subscribed to yet
        self._connection.on_message = self._hear

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
            states if options.state_topics else None,
            topics,
            known,
            with_home_assistant=options.home_assistant,
            commands=self._command_topics,
        )
        if options.state_topics:
            self._connection.will = Will(topics.bridge, OFFLINE)

    @property
    def command_options(self) -> CommandOptions | None:
        """See :class:`meshbridge.sinks.commands.CommandSource`."""
        return self._options.commands

    def place_of(self, name: str) -> str:
        return topic_level(name)

    def command_place(self, topic: str) -> tuple[str, str, bool] | None:
        return None if self._command_topics is None else self._command_topics.parsed(topic)

    def result_topic(self, daemon: str, app: str) -> str:
        assert self._command_topics is not None
        return self._command_topics.result(daemon, app)

    def take_commands(self, desk: CommandDesk) -> None:
        assert self._options.commands is not None
        self._commands = Commands(self._options.commands, desk, is_v5=self._v5)
        self._arrivals = Arrivals(self._name, self._connection.fileno, desk.wake)

    # --- the contract --------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        try:
            self._connection.open(timeout_seconds)
        except NotConnected:
            self._suspects.forget()
            raise
        window = _QOS_2_WINDOW if self._options.qos == 2 else _WINDOW  # noqa: PLR2004 QoS 2
        self._window = min(window, self._connection.receive_maximum or window)
        self._largest_packet = min(self._connection.max_packet_bytes or _MAX_PACKET_BYTES, _MAX_PACKET_BYTES)
        if self._options.home_assistant:
            self._connection.subscribe(home_assistant.STATUS_TOPIC, with_retained=True)
        self._subscribed, self._subscribed_daemons = set(), None
        self._is_loss_judged = False
        with self._blaming():
            if self._commands is not None:
                self._commands.lost()
                self._follow_daemons(self._commands)
            if self._states is not None:
                self._states.begin()
                self._publish_states(min(deadline, time.monotonic() + _STATES_CONNECT_SECONDS))

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        with self._blaming():
            self._connection.check()
        deadline = time.monotonic() + timeout_seconds
        done = 0
        while done < len(batch):
            rest = batch[done:] if done else batch
            flight = PublishFlight(len(rest))
            try:
                self._deliver(rest, flight, deadline)
                refusal = None if flight.end == len(rest) else self._refusal(rest[flight.end].event, flight)
            except NotConnected as lost:
                refusal = self._loss(lost, rest, flight)
            done += flight.acknowledged
            if refusal is not None:
                refusal.acknowledged = done
                raise refusal
        with self._blaming(done):
            self._publish_replies()
            if self._states is not None and time.monotonic() >= self._states_due_at:
                self._publish_states(0.0)

    @contextlib.contextmanager
    def _blaming(self, acknowledged: int = 0) -> Iterator[None]:
        """Where the connection ends with no event in flight, something beside the events may be to blame."""
        try:
            yield
        except NotConnected as lost:
            self._culprit(lost, {})
            lost.acknowledged = acknowledged
            raise

    def _deliver(self, batch: Sequence[Envelope], flight: PublishFlight, deadline: float) -> None:
        """Sends until all are acknowledged, or one is refused and all before it are acknowledged.

        Raises:
            NotConnected: the connection is lost.

        """
        while flight.acknowledged < flight.end:
            packets = self._next_packets(batch, flight)
            if packets:
                self._connection.send(b"".join(packets), deadline)
            if self._options.qos == 0:
                flight.handed_over()
            elif flight.packets or flight.acknowledged < flight.end:
                self._wait(deadline, flight)
        if flight.end < len(batch):
            self._drain(deadline, flight)
        self._note_taken(batch, flight)

    def _note_taken(self, batch: Sequence[Envelope], flight: PublishFlight) -> None:
        if self._suspects.careful or self._denied:
            for envelope in batch[: flight.acknowledged]:
                self._suspects.answered(envelope.event.id)
                self._denied.allowed(self._topic_of(envelope.event))

    def idle(self) -> None:
        with self._blaming():
            self._connection.check()
            self._connection.pump(time.monotonic())
            self._publish_replies()
            if self._states is not None:
                self._publish_states(time.monotonic() + _STATES_IDLE_SECONDS)
            self._connection.check()
        if self._arrivals is not None:
            self._arrivals.looked()

    def close(self, timeout_seconds: float) -> None:
        if self._arrivals is not None:
            self._arrivals.stop()
        last_words = b""
        if self._connection.will is not None:  # which a good-bye takes back
            last_words = self._retained(self._connection.will.topic, self._connection.will.payload)
        self._connection.close(timeout_seconds, last_words)

    def kept_topics(self) -> set[str]:
        """See :class:`meshbridge.sinks.base.Clearing`."""
        return set() if self._states is None else self._states.retained.topics(lambda _topic: True)

    def clear(self, keep: Collection[str], timeout_seconds: float) -> int:
        """See :class:`meshbridge.sinks.base.Clearing`."""
        if self._states is None:
            return 0
        deadline = time.monotonic() + timeout_seconds
        self._connection.will = None
        retained = self._states.retained
        try:
            self._connection.open(timeout_seconds)
            self._commands = None  # what is to be answered is not answered here
            retained.connected({}, keep, home_assistant.discovery_first)
            self._send_states(retained, deadline)
        finally:
            self._connection.close(1.0)
        return len(retained.topics(lambda topic: topic not in keep))

    def preview(self, event: Event) -> list[Preview]:
        topic = self._topic(event.daemon, event.app, event.type.label).decode()
        return [
            Preview(topic, {**self._named(part), "qos": str(self._options.qos)}, payload)
            for part, payload in self._parts(event)
        ]

    # --- events --------------------------------------------------------------------------------------------------

    def _next_packets(self, batch: Sequence[Envelope], flight: PublishFlight) -> list[bytes]:
        """As many PUBLISH packets as the window has room for."""
        packets: list[bytes] = []
        try:
            room = self._room(flight)
            while flight.sent < flight.end and len(flight.packets) < room:
                if flight.parts:
                    packets.append(self._packet(*flight.parts.popleft()))
                    flight.begin_part(self._packet_id)
                    room = self._room(flight)
                    continue
                event = batch[flight.sent].event
                if self._condemned:
                    self._see_whether_condemned(event)
                payload = encode(event, self._options.format)
                packet = self._packet(event, payload)
                if len(payload) <= self._payload_limit(event) and len(packet) <= self._largest_packet:
                    packets.append(packet)
                    flight.begin(self._packet_id)
                else:
                    flight.divide(self._parts(event))
                    room = self._room(flight)
        except Refused as refused:
            flight.refuse(refused)  # told once those before it are safe
        return packets

    def _see_whether_condemned(self, event: Event) -> None:
        if condemned := self._condemned.get(event.id):
            raise Refused(condemned, reason="hung_up")

    def _room(self, flight: PublishFlight) -> int:
        """How many messages of events may be in flight."""
        if not self._options.qos:
            return self._window
        # The parts of an event go out one by one where their size is a guess: of one that is refused, and divided
        # again, those before it have arrived, and none behind it.
        guessing = bool(flight.parts) and self._output_limit is not None
        return (1 if guessing or self._suspects.careful else self._window) - self._in_flight_beside

    @property
    def _in_flight_beside(self) -> int:
        """Messages without an answer that are no events."""
        states = 0 if self._states is None else self._states.retained.in_flight
        return states + (0 if self._commands is None else self._commands.in_flight)

    def _room_beside(self, share: int) -> int:
        """How many messages that are no events may be sent now, if all of them may have this part of the window."""
        room = 1 if self._suspects.careful else max(1, self._window // share)
        return max(0, room - self._in_flight_beside)

    def _payload_limit(self, event: Event) -> int:
        if self._output_limit is not None and event.type is EventType.STDOUT:
            return min(self._options.max_payload_bytes, self._output_limit)
        return self._options.max_payload_bytes

    def _packet(self, event: Event, payload: bytes) -> bytes:
        """An event or a part of one as a PUBLISH, under the next packet id.

        Raises:
            Refused: no broker would take it.

        """
        topic = self._topic(event.daemon, event.app, event.type.label)
        properties = self._properties(event) if self._v5 else b""
        if len(topic) > _MAX_TOPIC_BYTES:
            raise Refused(f"topic of {len(topic)} bytes; MQTT has {_MAX_TOPIC_BYTES}", reason="invalid")
        return publish(topic, payload, self._options.qos, self._next_packet_id(), properties)

    def _parts(self, event: Event) -> list[tuple[Event, bytes]]:
        """The parts of an event that is too large for this broker or these settings, each with its payload.

        Raises:
            Refused: it can't be divided.

        """
        beside = _HEAD_BYTES + len(self._topic(event.daemon, event.app, event.type.label))
        if self._v5:
            beside += len(self._properties(event)) + _PART_BYTES
        limit = min(self._payload_limit(event), self._largest_packet - beside)
        return encoded_parts(event, limit, lambda part: encode(part, self._options.format))

    def _properties(self, event: Event) -> bytes:
        user = self._named(event)
        content_type = user.pop(_CONTENT_TYPE)
        return packed_properties(content_type, {name: as_text(value) for name, value in user.items()}, self._expiry)

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

    def _topic_of(self, event: Event) -> str:
        return self._topic(event.daemon, event.app, event.type.label).decode()

    # --- refusals ------------------------------------------------------------------------------------------------

    def _refusal(self, event: Event, flight: PublishFlight) -> SinkError | None:
        """What the broker's answer to the first event that it did not take means; None: it is to be divided."""
        if len(flight.reasons) - flight.end == 1:  # it is a dead letter now, and sent again where that is retried
            self._condemned.pop(event.id, None)
        if flight.refused is not None:
            return flight.refused
        reason = flight.reasons[flight.end]
        assert reason is not None
        topic, name = self._topic_of(event), name_of(reason)
        message = f"broker {self._connection.place} refused event {event.id}: {name} (topic {topic})"
        match meaning_of(reason):
            case Meaning.TOO_LARGE:
                size = self._sent_bytes(event)
                if self._divide_from_now_on(event, size):
                    return None
                return Refused(f"{message}: {size} bytes; set max_payload_bytes to what it takes", reason="too_large")
            case Meaning.DENIED:
                return self._denied.refusal(topic, message)
            case Meaning.MESSAGE:
                return Refused(message, reason=label_of(reason))
        return Retry(message, reason=label_of(reason))

    def _loss(self, lost: NotConnected, batch: Sequence[Envelope], flight: PublishFlight) -> SinkError:
        """What a lost connection means: mostly that, and where one message is to blame, the end of that message."""
        self._note_taken(batch, flight)
        events = {batch[place].event.id: batch[place].event for place in set(flight.packets.values())}
        culprit = self._culprit(lost, events)
        event = events.get(culprit or "")
        if event is None:
            return lost
        size, topic = self._sent_bytes(event), self._topic_of(event)
        message = (
            f"broker {self._connection.place} closes the connection on event {event.id} (topic {topic}, {size} bytes)"
        )
        if self._divide_from_now_on(event, size):
            return NotConnected(f"{message}: it is divided", reason=lost.reason)
        message = f"{message}; set max_payload_bytes to what it takes, or allow the topic there"
        if len(flight.reasons) - flight.acknowledged > 1:  # it is offered again, until it is alone
            if len(self._condemned) >= _MAX_CONDEMNED:
                self._condemned.clear()
            self._condemned[event.id] = message
        return Refused(message, reason="hung_up")

    def _culprit(self, lost: NotConnected, events: Mapping[str, Event]) -> str | None:
        """The message to blame for the end of the connection, once it is known. One that is retained is dealt with."""
        if lost.reason not in CLOSED_BY_BROKER or self._is_loss_judged:
            return None
        self._is_loss_judged = True
        retained = {} if self._states is None else self._states.retained.sizes_in_flight()
        replies = [] if self._commands is None else self._commands.keys_in_flight
        culprit = self._suspects.hung_up([*events, *retained, *replies])
        if self._commands is not None and culprit in replies:
            self._commands.blame(culprit)
        if culprit in retained:
            self._state_limit = retained[culprit]
            self._name_refused_topic(culprit, f"the broker closes the connection on it ({retained[culprit]} bytes)")
        return culprit

    def _sent_bytes(self, event: Event) -> int:
        """Of the largest payload that was sent for it."""
        return min(len(encode(event, self._options.format)), self._payload_limit(event))

    def _divide_from_now_on(self, event: Event, size: int) -> bool:
        """Whether output is divided into smaller parts than the one that was refused."""
        if event.type is not EventType.STDOUT or size // 2 < _LEAST_OUTPUT_BYTES:
            return False
        self._output_limit = size // 2
        telemetry.output_limit_found(self._connection.place, size, self._output_limit)
        return True

    # --- acknowledgements ----------------------------------------------------------------------------------------

    def _wait(self, deadline: float, flight: PublishFlight) -> None:
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
                self._settle_beside(packet_id, reason)
        if releases:
            connection.send(b"".join(releases), deadline)

    def _drain(self, deadline: float, flight: PublishFlight) -> None:
        """Waits for what is in flight behind a refused message, so that no late answer is taken for another's."""
        with contextlib.suppress(NotConnected):
            while flight.packets:
                self._wait(deadline, flight)

    # --- commands ------------------------------------------------------------------------------------------------

    def _hear(self, message: IncomingMessage) -> bool:
        """A message that the broker sent: a command, or one of Home Assistant's, which are rare."""
        if self._commands is not None and self._commands.take(message):
            return True
        if self._states is not None:
            self._states.hear(message.topic, message.payload)
        return False

    def _follow_daemons(self, commands: Commands) -> None:
        """Subscribes to the commands of the daemons as they are now."""
        daemons = tuple(commands.desk.daemons())
        if daemons == self._subscribed_daemons:  # as after nearly every write
            return
        self._subscribed_daemons = daemons
        wanted = commands.topics.subscriptions(daemons)
        for gone in self._subscribed - wanted:
            self._connection.unsubscribe(gone.filter)
        for new in wanted - self._subscribed:
            self._connection.subscribe(new.filter, no_local=not new.is_shared)
        self._subscribed = wanted

    def _publish_replies(self) -> None:
        """Sends the replies that are ready, as far as there is room.

        Raises:
            NotConnected: the connection is lost.

        """
        if self._commands is None:
            return
        self._follow_daemons(self._commands)
        acks, self._connection.acks = self._connection.acks, []
        for _, packet_id, reason in acks:
            self._settle_beside(packet_id, reason)
        room = self._room_beside(_REPLIES_SHARE)
        packets = list(self._commands.packets(self._next_packet_id, room, self._largest_packet))
        if packets:
            self._connection.offer(b"".join(packets))

    def _next_packet_id(self) -> int:
        self._packet_id = self._packet_id + 1 if self._packet_id < _LAST_PACKET_ID else _FIRST_PACKET_ID
        return self._packet_id

    def _settle_beside(self, packet_id: int, reason: int) -> None:
        key = None if self._commands is None else self._commands.settle(packet_id, reason)
        if key is None:
            self._settle_state(packet_id, reason)
        else:
            self._suspects.answered(key)

    # --- states --------------------------------------------------------------------------------------------------

    def _publish_states(self, until: float) -> None:
        """Sends what has changed, as far as there is room; waits for acknowledgements, and so for room, until then.

        Raises:
            NotConnected: the connection is lost.

        """
        assert self._states is not None
        self._states.gather()
        self._send_states(self._states.retained, until)
        self._states_due_at = time.monotonic() + _STATES_EVERY_SECONDS

    def _send_states(self, retained: Retained, until: float) -> None:
        connection = self._connection
        while True:
            acks, connection.acks = connection.acks, []
            for _, packet_id, reason in acks:
                self._settle_beside(packet_id, reason)
            packets = []
            for topic, payload in retained.take(self._room_beside(_STATES_SHARE)):
                packet = self._retained(topic, payload)
                if len(packet) > self._largest_packet:
                    self._name_refused_topic(topic, f"larger than {self._largest_packet} bytes")
                    continue
                if self._state_limit is not None and len(packet) >= self._state_limit:
                    self._name_refused_topic(topic, f"as large as one that the broker refused ({len(packet)} bytes)")
                    continue
                retained.sent(self._packet_id, topic, len(packet))
                packets.append(packet)
            if packets:
                connection.offer(b"".join(packets))
            if not retained.busy or time.monotonic() >= until:
                break
            connection.pump(until)
            connection.check()

    def _retained(self, topic: str, payload: bytes) -> bytes:
        return publish(topic.encode(), payload, 1, self._next_packet_id(), self._state_properties, retain=True)

    def _settle_state(self, packet_id: int, reason: int) -> None:
        if self._states is None:
            return
        topic = self._states.retained.settle(packet_id, taken=reason < FAILURE)
        if topic is None:
            return
        self._suspects.answered(topic)
        if reason >= FAILURE:
            self._name_refused_topic(topic, name_of(reason))
        elif self._refused_topics:
            self._refused_topics.discard(topic)

    def _name_refused_topic(self, topic: str, why: str) -> None:
        """In the log, once until it is taken."""
        if topic not in self._refused_topics:
            self._refused_topics.add(topic)
            telemetry.mqtt_state_refused(self._connection.place, topic, why)
