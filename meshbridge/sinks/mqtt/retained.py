"""What should stand retained at a broker, against what stands there. No network.

A retained message outlives the bridge that sent it: one that is no longer wanted is replaced by an empty one, which
makes the broker forget it. So every topic is remembered before it is first used (``KnownTopics``), and one that is
remembered and not wanted after a restart is cleared.
"""

from collections.abc import Callable, Collection, Iterable
from itertools import islice

from meshbridge.sinks.mqtt.memory import KnownTopics

__all__ = ["Retained"]


class Retained:
    """The messages that are wanted, those that are due, and those without an answer."""

    def __init__(self, known: KnownTopics) -> None:
        self._known = known
        self._wanted: dict[str, bytes] = {}
        self._due: dict[str, None] = {}
        self._in_flight: dict[int, tuple[str, int]] = {}  # packet id -> topic, and bytes of the packet

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def busy(self) -> bool:
        """Whether something is to be sent, or an answer to come."""
        return bool(self._due or self._in_flight)

    def put(self, topic: str, payload: bytes) -> None:
        if self._wanted.get(topic) != payload:
            self._wanted[topic] = payload
            self._due[topic] = None

    def topics(self, chosen: Callable[[str], bool]) -> set[str]:
        """Those of the topics where something is wanted, or may stand at the broker, that are chosen."""
        return {topic for topic in (*self._wanted, *self._known) if chosen(topic)}

    def drop(self, topic: str) -> None:
        if self._wanted.pop(topic, None) is not None or topic in self._known:
            self._due[topic] = None

    def again(self, topics: Iterable[str]) -> None:
        """These are sent once more, as far as they are wanted."""
        self._due.update(dict.fromkeys(topic for topic in topics if topic in self._wanted))

    def connected(
        self,
        wanted: dict[str, bytes],
        left_alone: Collection[str],
        clear_first: Callable[[str], int] = lambda _topic: 0,
    ) -> None:
        """A broker that may remember everything or nothing: all that is wanted is sent, all else that may be there is
        cleared, but for what is ``left_alone``; topics in the order of ``clear_first``.
        """
        self._known.load()
        self._wanted = wanted
        self._in_flight.clear()
        self._due = dict.fromkeys(wanted)
        unwanted = [topic for topic in self._known if topic not in left_alone and topic not in wanted]
        self._due.update(dict.fromkeys(sorted(unwanted, key=clear_first)))

    def take(self, count: int) -> list[tuple[str, bytes]]:
        """Up to ``count`` messages that are due; an empty one clears. Each is to be sent, or it is forgotten."""
        topics = list(islice(self._due, max(0, count)))
        for topic in topics:
            del self._due[topic]
        self._known.add(topic for topic in topics if topic in self._wanted)
        return [(topic, self._wanted.get(topic, b"")) for topic in topics]

    def sent(self, packet_id: int, topic: str, size: int = 0) -> None:
        self._in_flight[packet_id] = topic, size

    def sizes_in_flight(self) -> dict[str, int]:
        """The bytes of each packet without an answer, by topic."""
        return dict(self._in_flight.values())

    def settle(self, packet_id: int, *, taken: bool) -> str | None:
        """The broker has answered; gives the topic."""
        topic, _ = self._in_flight.pop(packet_id, (None, 0))
        if topic is None or not taken or topic in self._wanted:
            return topic
        # Answers come in order, so this one was for the empty message unless that is still under way.
        if topic not in self._due and topic not in self.sizes_in_flight():
            self._known.remove(topic)
        return topic
