"""What is known of commands that were accepted: so that each runs at most once, also after a crash.

A text for each in the journal (kind ``command`` of the sink's memory), written before it runs::

    {"daemon", "app", "command", "id", "reply_to", "correlation", "at", "done"}

``at`` is unix seconds; ``correlation`` is hexadecimal. ``done`` is set once the command has ended and its reply was
acknowledged; such texts are kept for :data:`REMEMBER_SECONDS` to know a repetition.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any

import orjson

from meshbridge.sinks.commands import CommandMessage
from meshbridge.sinks.memory import Memory

__all__ = ["REMEMBER_SECONDS", "Record"]

REMEMBER_SECONDS = 600.0
_KIND = "command"
_WRITE_SECONDS = 5.0


class Record:
    """For the threads of one desk; each call is guarded by the caller's lock, but :meth:`keep`, which waits."""

    def __init__(self, memory: Memory, wall_clock: Callable[[], float] = time.time) -> None:
        self._memory = memory
        self._wall_clock = wall_clock
        self._seen: dict[str, float] = {}  # key -> unix seconds, in order of insertion

    @staticmethod
    def key(message: CommandMessage, identifier: str | None) -> str | None:
        """What repetitions of a message have in common; None where nothing tells them from new commands."""
        digest = hashlib.sha256()
        kind = b"task" if message.is_task else b"command"
        parts: tuple[bytes, ...]
        if identifier is not None:
            parts = (kind, b"id", identifier.encode())
        elif message.correlation is not None:
            parts = (kind, b"correlation", message.correlation)
        elif message.delivery is not None:
            parts = (kind, b"delivery", message.delivery.encode(), message.payload)
        else:
            return None
        for part in (message.daemon.encode(), message.app.encode(), *parts):
            digest.update(len(part).to_bytes(4, "big") + part)
        return digest.hexdigest()[:32]

    def is_repeated(self, key: str, *, certain: bool = True) -> bool:
        """Whether this key was accepted in the last ten minutes; from now on it is.

        Without ``certain`` an equal key may be that of another command, and is none of a repetition.
        """
        now = self._wall_clock()
        self._forget(now)
        if self._seen.pop(key, None) is not None and certain:
            self._seen[key] = now
            return True
        self._seen[key] = now
        return False

    def keep(self, key: str, fields: dict[str, Any]) -> bool:
        """Writes that a command begins. Only when it is on disk (True) may the command run."""
        text = orjson.dumps(fields | {"at": self._wall_clock(), "done": False}).decode()
        return self._memory.save(_KIND, {key: text}, _WRITE_SECONDS)

    def done(self, key: str) -> None:
        """The reply was acknowledged: the text only serves to know a repetition from now on."""
        at = self._seen.get(key, self._wall_clock())
        self._memory.save(_KIND, {key: orjson.dumps({"at": at, "done": True}).decode()})

    def forget(self, key: str) -> None:
        """The command did not begin: the same one may come again."""
        self._seen.pop(key, None)
        self._memory.save(_KIND, {key: None})

    def left_over(self) -> dict[str, dict[str, Any]]:
        """Commands that an earlier process of this bridge began and did not answer, by key. Called once, at first."""
        loaded = self._memory.load(_KIND) or {}
        now = self._wall_clock()
        open_ones: dict[str, dict[str, Any]] = {}
        unusable: dict[str, str | None] = {}
        for key, text in loaded.items():
            fields = _checked(text)
            if fields is None:
                unusable[key] = None
            elif not fields.get("done"):
                open_ones[key] = fields
                self._seen[key] = now
            elif now - fields["at"] <= REMEMBER_SECONDS:
                self._seen[key] = min(fields["at"], now)
            else:
                unusable[key] = None
        if unusable:
            self._memory.save(_KIND, unusable)
        self._seen = dict(sorted(self._seen.items(), key=lambda item: item[1]))
        return open_ones

    def _forget(self, now: float) -> None:
        old = []
        for key, at in self._seen.items():
            if 0 <= now - at <= REMEMBER_SECONDS:
                break
            old.append(key)
        for key in old:
            del self._seen[key]
        if old:
            self._memory.save(_KIND, dict.fromkeys(old))


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
