"""What should stand retained at a broker, against what stands there. No network.

A retained message outlives the bridge that sent it: one that nobody wants any more is replaced by an empty one, which
makes the broker forget it. So every topic is written down before it is first used (:class:`KnownTopics`), and one that
was written down and is wanted by nobody after a restart is cleared.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path

__all__ = ["KnownTopics", "Retained"]


class KnownTopics:
    """The topics where something of this sink may be retained, in a file, one a line; None: in memory alone.

    The file is never short of a topic while the bridge is killed at any moment, and may have some too many.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._topics: dict[str, None] = {}
        if path is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                self._topics = dict.fromkeys(filter(None, path.read_text(encoding="utf-8").split("\n")))
        self._too_many = False

    def __contains__(self, topic: str) -> bool:
        return topic in self._topics

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, topics: Iterable[str]) -> None:
        new = [topic for topic in topics if topic not in self._topics]
        if not new:
            return
        self._topics.update(dict.fromkeys(new))
        if self._path is not None:
            # A disk that takes nothing costs no more than a topic that stays, should the app go while no bridge runs.
            with contextlib.suppress(OSError):
                self._path.touch(mode=0o600)
                with self._path.open("a", encoding="utf-8") as file:
                    file.writelines(f"{topic}\n" for topic in new)

    def remove(self, topic: str) -> None:
        self._too_many = self._topics.pop(topic, "") is None or self._too_many

    def save(self) -> None:
        """Writes the file anew where it has topics too many."""
        if self._path is None or not self._too_many:
            return
        beside = self._path.with_name(f"{self._path.name}.new")
        with contextlib.suppress(OSError):
            beside.touch(mode=0o600)
            beside.write_text("".join(f"{topic}\n" for topic in self._topics), encoding="utf-8")
            beside.replace(self._path)
            self._too_many = False


class Retained:
    """The messages that are wanted, those that are due, and those without an answer."""

    def __init__(self, known: KnownTopics) -> None:
        self._known = known
        self._wanted: dict[str, bytes] = {}
        self._due: dict[str, None] = {}
        self._in_flight: dict[int, str] = {}

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

    def drop(self, topic: str) -> None:
        if self._wanted.pop(topic, None) is not None or topic in self._known:
            self._due[topic] = None

    def again(self, topics: Iterable[str]) -> None:
        """These are sent once more, as far as they are wanted."""
        self._due.update(dict.fromkeys(topic for topic in topics if topic in self._wanted))

    def connected(self, wanted: dict[str, bytes], left_alone: Collection[str]) -> None:
        """A broker that may remember everything or nothing: all that is wanted is sent, all else that may be there is
        cleared, but for what is ``left_alone``.
        """
        self._known.save()
        self._wanted = wanted
        self._in_flight.clear()
        self._due = dict.fromkeys(wanted)
        self._due.update(dict.fromkeys(topic for topic in self._known if topic not in left_alone))

    def take(self, count: int) -> list[tuple[str, bytes]]:
        """Up to ``count`` messages that are due; an empty one clears. Each is to be sent, or it is forgotten."""
        topics = list(islice(self._due, max(0, count)))
        for topic in topics:
            del self._due[topic]
        self._known.add(topic for topic in topics if topic in self._wanted)
        return [(topic, self._wanted.get(topic, b"")) for topic in topics]

    def sent(self, packet_id: int, topic: str) -> None:
        self._in_flight[packet_id] = topic

    def settle(self, packet_id: int, *, taken: bool) -> str | None:
        """The broker has answered; gives the topic."""
        topic = self._in_flight.pop(packet_id, None)
        if topic is None or not taken or topic in self._wanted:
            return topic
        # Answers come in order, so this one was for the empty message unless that is still under way.
        if topic not in self._due and topic not in self._in_flight.values():
            self._known.remove(topic)
        return topic

    def end(self) -> None:
        self._known.save()
