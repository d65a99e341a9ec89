"""What bridges have left retained at a broker: found there, since nothing else may still know of it, and cleared.

A sink clears what it remembers by itself (:mod:`meshbridge.sinks.mqtt.retained`). This is for the rest: topics of a
bridge that was removed, of a client id that was lost with its journal, of daemons that left a configuration long ago.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from meshbridge.sinks.base import NotConnected
from meshbridge.sinks.mqtt import home_assistant
from meshbridge.sinks.mqtt.answers import FAILURE
from meshbridge.sinks.mqtt.connection import BrokerConnection, BrokerOptions
from meshbridge.sinks.mqtt.incoming import IncomingMessage
from meshbridge.sinks.mqtt.publishing import publish
from meshbridge.sinks.mqtt.states import OFFLINE, Topics

__all__ = ["Leftovers"]

_QUIET_SECONDS = 1.0  # a broker sends what it retains at once after the subscription
_WINDOW = 20
_FIRST_PACKET_ID = 1000  # those below are paho's
_KINDS = ("/state", "/figures", "/availability")


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Finds and clears topics at one broker, under a client id of its own."""

    options: BrokerOptions
    topics: Topics
    client_id: str
    properties: bytes  # of a PUBLISH; empty for 3.1.1

    def find(self, daemons: Collection[str], timeout_seconds: float) -> list[str]:
        """The retained topics of bridges that are offline and of daemons that are not among these, in order.

        Raises:
            NotConnected: the broker can't be reached, or the connection is lost.

        """
        found: dict[str, bytes] = {}
        last = time.monotonic()

        def take(message: IncomingMessage) -> bool:
            nonlocal last
            last = time.monotonic()
            found[message.topic] = message.payload
            return True

        deadline = last + timeout_seconds
        connection = BrokerConnection(self.options, self.client_id)
        connection.on_message = take
        try:
            connection.open(timeout_seconds)
            client, last = connection.client, time.monotonic()
            assert client is not None
            client.subscribe([(f"{self.topics.prefix}/#", 0), (home_assistant.TOPICS, 0)])
            while time.monotonic() < min(deadline, last + _QUIET_SECONDS):
                connection.pump(last + _QUIET_SECONDS)
                connection.check()
        finally:
            connection.close(1.0)
        left = [topic for topic, payload in found.items() if payload and self._is_left(topic, payload, daemons)]
        return sorted(left, key=lambda topic: (home_assistant.discovery_first(topic), topic))

    def _is_left(self, topic: str, payload: bytes, daemons: Collection[str]) -> bool:
        if home_assistant.discovery_first(topic) == 0:
            return home_assistant.is_own(topic) and not any(
                topic.startswith(home_assistant.prefix(daemon)) for daemon in daemons
            )
        if not topic.endswith(_KINDS):
            return False
        if topic.startswith(f"{self.topics.prefix}/bridge/"):
            return payload == OFFLINE
        return not any(topic.startswith(f"{self.topics.daemon(daemon).rpartition('/')[0]}/") for daemon in daemons)

    def clear(self, topics: Iterable[str], timeout_seconds: float) -> list[str]:
        """Clears them, in this order; gives those that the broker did not take.

        Raises:
            NotConnected: the broker can't be reached, the connection is lost, or it does not answer in time.

        """
        deadline = time.monotonic() + timeout_seconds
        waiting, in_flight, refused = list(topics), dict[int, str](), list[str]()
        connection = BrokerConnection(self.options, self.client_id)
        try:
            connection.open(timeout_seconds)
            number = _FIRST_PACKET_ID
            while waiting or in_flight:
                if time.monotonic() >= deadline:
                    raise NotConnected(f"broker {connection.place} acknowledges nothing", reason="timeout")
                packets = []
                while waiting and len(in_flight) < _WINDOW:
                    number = number + 1 if number < 0xFFFF else _FIRST_PACKET_ID  # noqa: PLR2004 MQTT 5, 2.2.1
                    in_flight[number] = waiting.pop(0)
                    topic = in_flight[number].encode()
                    packets.append(publish(topic, b"", 1, number, self.properties, retain=True))
                if packets:
                    connection.send(b"".join(packets), deadline)
                connection.pump(deadline)
                connection.check()
                acks, connection.acks = connection.acks, []
                for _, packet_id, reason in acks:
                    topic_of = in_flight.pop(packet_id, None)
                    if topic_of is not None and reason >= FAILURE:
                        refused.append(topic_of)
        finally:
            connection.close(1.0)
        return refused
