"""What is known of commands that were accepted: so that each runs at most once, also after a crash.

A text for each in the journal (kind ``command`` of the sink's memory)::

    {"daemon", "app", "command", "id", "reply_to", "correlation", "at", "begun", "done"}

It is written when the command is accepted, and must be on disk, with ``begun``, before the command runs. ``at`` is unix
seconds; ``correlation`` is hexadecimal. ``done`` is set once the command has ended and its reply was acknowledged; such
texts are kept for :data:`REMEMBER_SECONDS` to know a repetition, where the sender names its commands.
"""

import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Any

import orjson

from meshbridge.sinks.commands import CommandMessage
from meshbridge.sinks.memory import Memory

__all__ = ["REMEMBER_SECONDS", "Record"]

REMEMBER_SECONDS = 600.0
_KIND = "command"
_WRITE_SECONDS = 5.0
_MAX_SEEN = 100_000
_UNNAMED = "-"  # how the key of a command begins that has no repetition


class Record:
    """For the threads of one desk; each call is guarded by the caller's lock, but :meth:`begin`, which waits."""

    def __init__(
        self,
        memory: Memory,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory = memory
        self._wall_clock = wall_clock
        self._clock = clock  # a step of the wall clock must not make a repetition a new command
        self._seen: dict[str, float] = {}  # key -> monotonic seconds, in order of insertion

    def accept(self, message: CommandMessage, identifier: str | None, fields: dict[str, Any]) -> str | None:
        """Remembers a command; gives its key, None where it repeats one of the last ten minutes."""
        self._forget_old()
        if self.is_repeated(message, identifier):
            return None
        named, delivery = self._named(message, identifier), self._delivery(message)
        key = named or f"{_UNNAMED}{uuid.uuid4().hex}"
        for one in (key, delivery):
            if one is not None:
                self._seen.pop(one, None)
                self._seen[one] = self._clock()
        self._save(key, fields, begun=False)
        return key

    def is_repeated(self, message: CommandMessage, identifier: str | None) -> bool:
        if self._named(message, identifier) in self._seen:
            return True
        return message.is_duplicate and self._delivery(message) in self._seen

    def begin(self, key: str, fields: dict[str, Any]) -> bool:
        """Writes that a command begins. Only when it is on disk (True) may the command run."""
        return self._save(key, fields, begun=True, wait_seconds=_WRITE_SECONDS)

    def _save(self, key: str, fields: dict[str, Any], *, begun: bool, wait_seconds: float = 0.0) -> bool:
        state = {"at": self._wall_clock(), "begun": begun, "done": False}
        return self._memory.save(_KIND, {key: orjson.dumps(fields | state).decode()}, wait_seconds)

    def done(self, key: str) -> None:
        """The reply was acknowledged: the text only serves to know a repetition from now on."""
        if key.startswith(_UNNAMED):
            self.forget(key)
            return
        self._memory.save(_KIND, {key: orjson.dumps({"at": self._wall_clock(), "done": True}).decode()})

    def forget(self, key: str) -> None:
        """The command does not run: the same one may come again."""
        self._seen.pop(key, None)
        self._memory.save(_KIND, {key: None})

    def left_over(self) -> dict[str, dict[str, Any]]:
        """Commands that an earlier process of this bridge accepted and did not answer, by key. Called once, at first.

        Those that did not begin are forgotten with this call.
        """
        loaded = self._memory.load(_KIND) or {}
        now, wall = self._clock(), self._wall_clock()
        open_ones: dict[str, dict[str, Any]] = {}
        seen: dict[str, float] = {}
        gone: dict[str, str | None] = {}
        for key, text in loaded.items():
            fields = _checked(text)
            age = 0.0 if fields is None else max(0.0, wall - fields["at"])
            if fields is None or (fields.get("done") and age > REMEMBER_SECONDS):
                gone[key] = None
                continue
            if not fields.get("done"):
                open_ones[key] = fields
                if fields.get("begun") is False:
                    gone[key] = None
                    continue
                age = 0.0
            seen[key] = now - age
        if gone:
            self._memory.save(_KIND, gone)
        self._seen = dict(sorted(seen.items(), key=lambda item: item[1]))
        return open_ones

    def _forget_old(self) -> None:
        now, old = self._clock(), list[str]()
        for key, at in self._seen.items():
            if now - at <= REMEMBER_SECONDS and len(self._seen) - len(old) < _MAX_SEEN:
                break
            old.append(key)
        for key in old:
            del self._seen[key]
        if old:
            self._memory.save(_KIND, dict.fromkeys(old))

    @staticmethod
    def _named(message: CommandMessage, identifier: str | None) -> str | None:
        """A key of what the sender calls the command: its id, or its correlation data.

        Senders with Response Topics of their own may use the same names.
        """
        sender = (message.reply_to or "").encode()
        if identifier is not None:
            return _digest(message, sender, b"id", identifier.encode())
        return None if message.correlation is None else _digest(message, sender, b"correlation", message.correlation)

    @staticmethod
    def _delivery(message: CommandMessage) -> str | None:
        """A key of the packet, which a broker may use again for another one: it counts only where one is marked."""
        if message.delivery is None:
            return None
        return _digest(message, b"delivery", message.delivery.encode(), message.payload)


def _digest(message: CommandMessage, *parts: bytes) -> str:
    digest = hashlib.sha256()
    kind = b"task" if message.is_task else b"command"
    for part in (kind, message.daemon.encode(), message.app.encode(), *parts):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.hexdigest()[:32]


def _checked(text: str) -> dict[str, Any] | None:
    """The fields of a text, if they are what :meth:`Record.keep` writes: a disk can hold anything."""
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("at"), int | float):
        return None
    texts = ("daemon", "app", "command")
    if fields.get("done") is not True and not all(isinstance(fields.get(name), str) for name in texts):
        return None
    return fields
