"""What must hold after a power cut, by opening what it left with the real program."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from meshbridge.journal import Journal, JournalError, JournalOptions, verify_directory
from meshbridge.model.events import Envelope
from meshbridge.sinks.file import FileOptions
from meshbridge.sinks.mqtt.memory import KnownTopics, client_id_of
from tests.powercut.replay import Mark
from tests.powercut.script import FILE

__all__ = ["Promises", "findings"]


@dataclass(slots=True)
class Promises:
    """What was promised before the cut."""

    durable: int = 0  # events 1 to this are in the journal
    seen: int = 0  # by a sink
    seen_is_durable: bool = True
    client_id: str = ""
    topics: set[str] = field(default_factory=set)

    def take(self, mark: Mark) -> None:
        match mark.word:
            case "durable":
                self.durable = int(mark.value)
            case "seen":
                self.seen = max(self.seen, int(mark.value))
            case "client-id":
                self.client_id = mark.value
            case "topic":
                self.topics.add(mark.value)


def findings(root: Path, promises: Promises) -> list[str]:
    """What does not hold; empty where all does."""
    directory = root / "journal"
    if not directory.exists():
        return ["the journal's directory is gone"] if promises.durable else []
    found = _verify_findings(directory)
    damaged = len([*directory.glob("*.damaged-*")])
    journal = Journal(JournalOptions(path=directory))
    try:
        journal.open()
    except Exception as error:  # noqa: BLE001 whatever it is, it is a finding
        return [*found, f"the journal does not open: {error!r}"]
    try:
        if len([*directory.glob("*.damaged-*")]) != damaged:
            found.append("the journal was damaged")
        found += _event_findings(journal, promises)
        found += _memory_findings(journal, promises)
        found += _file_findings(journal, root / "out" / "events.jsonl")
    finally:
        journal.close()
    return found


def _verify_findings(directory: Path) -> list[str]:
    try:
        return [f"verify: {problem}" for problem in verify_directory(directory).problems]
    except JournalError as error:
        return [] if "there is no journal" in str(error) else [f"verify fails: {error}"]
    except Exception as error:  # noqa: BLE001
        return [f"verify fails: {error!r}"]


def _behind(journal: Journal, name: str) -> list[Envelope]:
    after, events = journal.cursor(name, from_start=True), []
    while envelopes := journal.read(after, 500):
        events += envelopes
        after = envelopes[-1].offset
    return events


def _event_findings(journal: Journal, promises: Promises) -> list[str]:
    found = []
    behind = [int(envelope.event.sequence or 0) for envelope in _behind(journal, "look")]
    if behind != sorted(set(behind)):
        found.append("events out of order, or twice")
    kept = journal.last_sequence("node-a")
    last = int(kept[1] or 0) if kept else 0
    if last < promises.durable:
        found.append(f"{promises.durable - last} events lost that were in the journal")
    if promises.seen_is_durable and last < promises.seen:
        found.append(f"{promises.seen - last} events lost that a sink had seen")
    missing = {*range(1, last + 1)} - {*range(1, promises.seen + 1)} - {*behind}
    if missing:
        found.append(f"{len(missing)} events lost that no sink had seen")
    return found


def _memory_findings(journal: Journal, promises: Promises) -> list[str]:
    found = []
    memory = journal.memory("broker")
    if promises.client_id and client_id_of("broker", memory) != promises.client_id:
        found.append("another client id")
    known = KnownTopics(memory)
    known.load()
    if missing := promises.topics - {*known}:
        found.append(f"{len(missing)} retained topics forgotten")
    return found


def _file_findings(journal: Journal, path: Path) -> list[str]:
    path.parent.mkdir(exist_ok=True)
    sink = FileOptions.model_validate(_file_settings(path)).build("file", journal.path)
    sink.use_memory(journal.memory("file"))
    behind = _behind(journal, "file")
    try:
        sink.connect(10.0)
        for start in range(0, len(behind), 20):
            sink.write(behind[start : start + 20], 10.0)
    finally:
        sink.close(10.0)
    kept = journal.last_sequence("node-a")
    last = int(kept[1] or 0) if kept else 0
    return _line_findings(path, last)


def _file_settings(path: Path) -> Mapping[str, object]:
    return {**FILE, "path": str(path), "rotate": None}


def _line_findings(path: Path, last: int) -> list[str]:
    there: set[int] = set()
    olds = {file.name.removesuffix(".gz") for file in path.parent.iterdir() if file != path}
    for name in [*sorted(olds), path.name]:
        plain = path.with_name(name)
        packed = path.with_name(f"{name}.gz")
        if name.endswith(".part"):
            continue
        try:
            content = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
        except (OSError, EOFError) as error:
            return [f"old file {packed.name} can't be read: {error}"]
        for line in content.splitlines(keepends=True):
            try:
                there.add(int(orjson.loads(line)["sequence"]))
            except (ValueError, KeyError, TypeError):
                return [f"file {name} has a torn line: {line[:40]!r}"]
            if not line.endswith(b"\n"):
                return [f"file {name} ends in half a line"]
    missing = {*range(1, last + 1)} - there
    return [f"{len(missing)} events are missing from the file, from {min(missing)}"] if missing else []
