"""What an MQTT sink remembers: its client id, and the topics where it has left a retained message.

Everything that is read back is checked as if a stranger had written it: a client id or topic that is not valid in MQTT
makes the broker close the connection. What is not usable is logged and removed, and costs nothing else.

Older versions kept both in files in the journal's directory. :func:`adopt_files` moves their content into the memory.
"""

import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from meshbridge import telemetry
from meshbridge.sinks.base import NotConnected
from meshbridge.sinks.memory import Memory, VolatileMemory

__all__ = ["KnownTopics", "adopt_files", "client_id_of", "is_client_id", "is_topic"]

_CLIENT_ID, _TOPIC = "mqtt-client-id", "mqtt-topic"  # kinds of memory
_MAX_TOPIC_BYTES = 65_535  # MQTT 5, 1.5.4
# MQTT 5, 1.5.4 and 4.7: wildcards are for filters; a broker may close the connection for a control character.
_NOT_IN_A_TOPIC = re.compile(r"[\x00-\x1f\x7f-\x9f+#]")
_CLIENT_ID_FORM = re.compile(r"[!-~]{1,128}")  # this bridge's own have 23 characters
_MAX_FILE_BYTES = 16 * 2**20  # of an older version's: more than 100,000 topics
_DISK_SECONDS = 2.0  # what is not on disk by then is used all the same: a slow disk must not stop a sink


def is_topic(text: str) -> bool:
    """Whether a broker must accept the text as the topic of a message."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= _MAX_TOPIC_BYTES and not _NOT_IN_A_TOPIC.search(text)


def is_client_id(text: str) -> bool:
    return _CLIENT_ID_FORM.fullmatch(text) is not None


def client_id_of(name: str, memory: Memory) -> str:
    """The sink's own client id, so that two bridges never disconnect each other; made at the first call.

    Raises:
        NotConnected: the journal can't answer now.

    """
    kept = memory.load(_CLIENT_ID)
    if kept is None:
        raise NotConnected("the journal is being repaired: try again", reason="journal")
    text = kept.get("", "")
    if is_client_id(text):
        return text
    if text:
        telemetry.sink_memory_unusable(name, "client id", 1)
    client_id = f"meshbridge-{uuid.uuid4().hex[:12]}"  # 23 bytes: what every 3.1.1 broker must take
    memory.save(_CLIENT_ID, {"": client_id}, _DISK_SECONDS)
    return client_id


class KnownTopics:
    """The topics where something of this sink may be retained.

    A topic is on disk before it is first used, so after a crash there may be some too many, never one too few.
    """

    def __init__(self, memory: Memory | None = None, name: str = "mqtt") -> None:
        self._memory = memory or VolatileMemory()
        self._name = name
        self._topics: dict[str, str] = {}  # each with its note
        self._loaded = False

    def load(self) -> None:
        """Reads what is remembered, once; where the journal can't answer, at the next call."""
        if self._loaded or (kept := self._memory.load(_TOPIC)) is None:
            return
        self._loaded = True
        unusable = [topic for topic in kept if not is_topic(topic)]
        if unusable:
            telemetry.sink_memory_unusable(self._name, "retained topics", len(unusable))
            self._memory.save(_TOPIC, dict.fromkeys(unusable))
        self._topics.update({topic: note for topic, note in kept.items() if is_topic(topic)})

    def __contains__(self, topic: str) -> bool:
        return topic in self._topics

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, topics: Iterable[str]) -> None:
        new = [topic for topic in topics if topic not in self._topics]
        if new:
            self._topics.update(dict.fromkeys(new, ""))
            self._memory.save(_TOPIC, dict.fromkeys(new, ""), _DISK_SECONDS)

    def note_of(self, topic: str) -> str:
        return self._topics.get(topic, "")

    def note(self, topic: str, text: str) -> None:
        """Keeps a short text with a topic, which is on disk no later than the next topic that is added."""
        if self._topics.get(topic, "") != text:
            self._topics[topic] = text
            self._memory.save(_TOPIC, {topic: text})

    def remove(self, topic: str) -> None:
        if self._topics.pop(topic, None) is not None:
            self._memory.save(_TOPIC, {topic: None})


# --- files of older versions ---------------------------------------------------------------------------------------


def adopt_files(directory: Path, name: str, memory: Memory) -> None:
    """Moves what an older version wrote in files into the memory, and deletes the files.

    A file with something in it that can't be used stays under another name (``….unusable-<time>``) for a person to look
    at. Nothing here stops the sink: a file that can't be read or deleted is logged, and looked at again at the next
    start.
    """

    def save_client_id(found: list[str]) -> bool:
        # One that is remembered already is newer than a file.
        return not found or memory.load(_CLIENT_ID) != {} or memory.save(_CLIENT_ID, {"": found[0]}, _DISK_SECONDS)

    def save_topics(found: list[str]) -> bool:
        return not found or memory.save(_TOPIC, dict.fromkeys(found, ""), _DISK_SECONDS)

    _adopt(directory / f"mqtt-client-id-{name}", is_client_id, save_client_id)
    _adopt(directory / f"mqtt-topics-{name}", is_topic, save_topics)


def _adopt(file: Path, is_usable: Callable[[str], bool], save: Callable[[list[str]], bool]) -> None:
    try:
        lines = _lines_of(file)
    except FileNotFoundError:
        return
    except OSError as error:
        telemetry.sink_file_left(str(file), error.strerror or str(error))
        _set_aside(file)
        return
    found = [line for line in lines if line is not None and is_usable(line)]
    if not save(found):
        telemetry.sink_file_left(str(file), "its content could not be written to the journal yet")
        return
    telemetry.sink_file_adopted(str(file), len(found), unusable := len(lines) - len(found))
    if unusable:
        _set_aside(file)
        return
    try:
        file.unlink()
    except OSError as error:
        telemetry.sink_file_left(str(file), error.strerror or str(error))


def _lines_of(file: Path) -> list[str | None]:
    """The file's lines that are not empty, None for one that is no UTF-8.

    Raises:
        OSError: it can't be read, is no regular file, or larger than what any older version wrote.

    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(0, "not a regular file")
        if facts.st_size > _MAX_FILE_BYTES:
            raise OSError(0, f"{facts.st_size} bytes; at most {_MAX_FILE_BYTES} are read")
        return [_decoded(line) for line in opened.read(_MAX_FILE_BYTES).split(b"\n") if line]


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


def _set_aside(file: Path) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    try:
        file.rename(file.with_name(f"{file.name}.unusable-{stamp}"))
    except OSError as error:
        telemetry.sink_file_left(str(file), error.strerror or str(error))
