"""What is known of one app: from its events, and from the daemon's list. No clock, no I/O."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Self

import orjson

from meshbridge.appmesh import dialect
from meshbridge.appmesh.dialect import DISABLED, ENABLED
from meshbridge.model.events import (
    MAX_NAME_CHARACTERS,
    MAX_SEQUENCE,
    MAX_TIMESTAMP,
    MIN_TIMESTAMP,
    Event,
    EventType,
    is_app_name,
)

__all__ = ["DISABLED", "ENABLED", "HEALTHY", "INVALID", "AppState", "Listed"]

HEALTHY = 0
INVALID = (KeyError, TypeError, ValueError, OverflowError)
"""What :meth:`Listed.from_json` raises of something that is no app."""
_MAX_ERROR_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Listed:
    """One app as the daemon lists it (docs/protocol.md, 'App JSON')."""

    app: str
    status: str
    one_off: bool
    health: int
    pid: int | None  # None while it doesn't run
    starts: int
    started_at: int | None
    exited_at: int | None
    exit_code: int | None
    last_error: str
    registered_at: int | None
    owner: str
    october: bool  # which dialect the daemon speaks (:mod:`meshbridge.appmesh.dialect`)

    @classmethod
    def from_json(cls, fields: dict[str, Any], names: Container[str] = ()) -> Self:
        """Of one element of the daemon's list, of which ``names`` are all.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: it is no app, or a value is out of range.

        """
        _whole(fields.get("status", 1))
        one_off = dialect.is_one_off(fields, names)
        enabled = one_off or dialect.enabled_of(fields) is not False
        return cls(
            app=_name(fields["name"]),
            status=ENABLED if enabled else DISABLED,
            one_off=one_off,
            october=dialect.is_october(fields),
            health=_whole(fields.get("health", HEALTHY)),
            pid=_whole(fields["pid"]) if fields.get("pid") else None,
            starts=_whole(fields.get("starts", 0)),
            started_at=_time(fields, "last_start_time"),
            exited_at=_time(fields, "last_exit_time"),
            exit_code=_whole(fields["return_code"]) if fields.get("return_code") is not None else None,
            last_error=str(fields.get("last_error", ""))[:_MAX_ERROR_CHARACTERS],
            registered_at=_time(fields, "register_time"),
            owner=dialect.owner_of(fields)[:MAX_NAME_CHARACTERS],
        )


def _time(fields: dict[str, Any], key: str) -> int | None:
    if not fields.get(key):
        return None
    time = _whole(fields[key])
    if not MIN_TIMESTAMP <= time <= MAX_TIMESTAMP:
        raise ValueError(f"{key} is out of range")
    return time


def _whole(value: Any) -> int:
    """A number of the daemon's, within what the journal and every consumer can hold."""
    number = int(value)
    if abs(number) > MAX_SEQUENCE:
        raise ValueError("a number is out of range")
    return number


def _name(value: Any) -> str:
    if not isinstance(value, str) or not is_app_name(value):
        raise ValueError("the name is not an app's")
    return value


@dataclass(slots=True)
class AppState:
    """The last known state of an app. Times are the daemon's unix seconds; sequences are of the run that gave them."""

    app: str
    status: str | None = None
    status_sequence: int = 0
    health: int | None = None
    health_sequence: int = 0
    running: bool = False
    pid: int | None = None
    process_uuid: str | None = None
    starts: int | None = None
    started_at: int | None = None
    exited_at: int | None = None
    exit_code: int | None = None
    registered_at: int | None = None
    owner: str = ""
    one_off: bool = False
    last_event: str = ""  # run and sequence of the last event: names an app that no list has shown
    status_corrections: int = 0  # how many times a comparison corrected it since the last event of that type
    health_corrections: int = 0
    output_position: int | None = None  # of the last output that was journaled, of the present or last process
    output_end: int | None = None  # where the next byte stands; None: not known

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The state that :meth:`to_text` gave; keys of another version are left out.

        Raises:
            orjson.JSONDecodeError, KeyError, TypeError: it is none.

        """
        fields = orjson.loads(text)
        return cls(**{key: value for key, value in fields.items() if key in cls.__dataclass_fields__})

    def to_text(self) -> str:
        """JSON, as it stands in the journal and as state topics, metrics and the admin API read it."""
        return orjson.dumps(self).decode()

    def apply(self, event: Event, data: dict[str, Any]) -> bool:
        """What an event says of the app; True where it contradicts what was known, so that the app is to be looked at.

        Registering an app again mixes the events of the old instance with those of the new one (docs/protocol.md,
        'Events'), so a STATUS disabled may be the old one's, and an EXIT that of a process before.
        """
        sequence = event.sequence or 0
        self.last_event = f"{event.run}.{sequence}"
        match event.type:
            case EventType.START:
                contradicts = self.running or self.status == DISABLED
                self._start(int(event.timestamp), data.get("pid"), event.process_uuid)
                return contradicts
            case EventType.EXIT:
                if self.running and self.pid is not None and data.get("pid") not in {None, self.pid}:
                    return True  # of a process before this one
                self.running, self.pid = False, None
                self.exit_code, self.exited_at = data.get("exit_code"), int(event.timestamp)
                return False
            case EventType.STATUS:
                self.status, self.status_sequence, self.status_corrections = dialect.status_of(data), sequence, 0
                return self.status == DISABLED
            case EventType.HEALTH:
                self.health, self.health_sequence, self.health_corrections = data.get("health"), sequence, 0
                return False
            case _:
                return False

    def _start(self, started_at: int, pid: int | None, process_uuid: str | None) -> None:
        self.running, self.pid, self.process_uuid, self.started_at = True, pid, process_uuid, started_at
        if self.starts is not None:
            self.starts += 1

    def is_anew(self, listed: Listed) -> bool:
        """Whether the daemon lists another process than the one that is known."""
        if listed.started_at is None:
            return False
        if self.running and self.pid is not None and listed.pid is not None:
            return listed.pid != self.pid
        # Within a second of each other only the count tells two starts apart; a daemon that restarts counts from 1.
        counted_on = self.starts is not None and listed.starts > self.starts
        return counted_on or _differs(self.started_at, listed.started_at)

    def has_exited_anew(self, listed: Listed) -> bool:
        """Whether the daemon lists an end that is not known: of the process that ran, or of one that was not seen."""
        if listed.exited_at is None or listed.exited_at < max(self.started_at or 0, self.exited_at or 0):
            return False
        if self.running:
            return listed.pid is None or self.is_anew(listed)
        if _differs(self.exited_at, listed.exited_at):
            return True
        return listed.pid is None and self.is_anew(listed) and listed.exited_at != self.exited_at

    def take(self, listed: Listed) -> None:
        """The daemon's list is what is so: everything it knows replaces what was known."""
        if self.is_anew(listed):
            self.process_uuid = None
        self.status, self.health, self.starts = listed.status, listed.health, listed.starts
        self.running, self.pid, self.started_at = listed.pid is not None, listed.pid, listed.started_at
        self.exited_at, self.exit_code = listed.exited_at, listed.exit_code
        # Where nothing marks a run (3.x), it stays one once it was known as one.
        self.one_off = listed.one_off or (
            self.one_off and listed.october and self.registered_at == listed.registered_at
        )
        self.registered_at, self.owner = listed.registered_at, listed.owner


def _differs(one: int | None, other: int | None) -> bool:
    """Whether two times are surely those of two moments: an event and the list may round a second differently."""
    if one is None or other is None:
        return one != other
    return abs(one - other) > 1
