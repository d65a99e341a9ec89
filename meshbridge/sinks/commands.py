"""What a sink may bring in beside the events that it sends: commands and tasks for apps.

A sink that can receive messages hands each to a :class:`CommandDesk` and sends the replies that the desk has ready.
It parses nothing and decides nothing: that is :mod:`meshbridge.commands`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from pydantic import Field, field_validator

from meshbridge.fields import Duration, Options, Size, TextList, matches
from meshbridge.sinks.base import Found

__all__ = [
    "CommandDesk",
    "CommandMessage",
    "CommandOptions",
    "CommandProbe",
    "CommandReply",
    "CommandSource",
    "CommandWord",
]


class CommandWord(StrEnum):
    """What a command can do. Nothing else can be allowed."""

    ENABLE = "enable"
    DISABLE = "disable"
    RESTART = "restart"
    RUN = "run"
    TASK = "task"


class CommandWhen(Options):
    """Which apps commands may reach. ``not_apps`` wins over ``apps``."""

    apps: TextList = Field(default=(), description="shell patterns of app names; empty: all")
    not_apps: TextList = Field(default=(), description="shell patterns of app names to leave out")
    daemons: TextList = Field(default=(), description="names of daemons; empty: all")

    def refusal(self, daemon: str, app: str) -> str | None:
        """Which rule forbids commands for an app; None where none does."""
        if self.daemons and daemon not in self.daemons:
            return f"when.daemons: {daemon} is not in it"
        if self.apps and not matches(app, self.apps):
            return f"when.apps: no pattern matches {app}"
        if matches(app, self.not_apps):
            return f"when.not_apps: a pattern matches {app}"
        return None


class CommandOptions(Options):
    """Commands and tasks from the broker to apps: docs/commands.md."""

    allow: tuple[CommandWord, ...] = Field(min_length=1, description="commands that are taken: no other is")
    when: CommandWhen = Field(default=CommandWhen(), description="which apps they may reach")
    topic: str = Field(
        default="meshbridge/{daemon}/{app}/command",
        description="command topic; tasks arrive beside it at …/task, results go to …/result",
    )
    share: str | None = Field(
        default=None,
        pattern=r"^[^/+#\x00]+$",
        description="name of a shared subscription, so that one bridge of a pair takes each command",
    )
    timeout: Duration = Field(default=300.0, ge=1, le=86_400, description="time for one command or task")
    max_concurrent: int = Field(
        default=8, ge=1, le=1000, description="for each daemon: commands under way; above it the answer is busy"
    )
    max_payload_bytes: Size = Field(default=256 * 1024, ge=64, le=4 * 2**20, description="of a command or task")

    @field_validator("allow", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        if isinstance(value, str):
            value = [word.strip() for word in value.split(",") if word.strip()]
        return [str(word).lower() for word in value] if isinstance(value, list | tuple) else value

    @field_validator("topic")
    @classmethod
    def _levels(cls, value: str) -> str:
        levels = value.split("/")
        if levels.count("{daemon}") != 1 or levels.count("{app}") != 1 or levels[-1] in {"{daemon}", "{app}"}:
            raise ValueError("a command topic has {daemon} and {app} as levels of their own, and one more at its end")
        rest = value.replace("{daemon}", "").replace("{app}", "")
        if any(sign in rest for sign in "+#{}$\x00") or "" in levels:
            raise ValueError("a command topic has no +, #, $ or other braces, and no empty level")
        if levels[-1] in {"task", "result"}:
            raise ValueError(f"a command topic does not end in {levels[-1]}: that topic stands beside it")
        return value

    @property
    def takes_commands(self) -> bool:
        return any(word is not CommandWord.TASK for word in self.allow)

    @property
    def takes_tasks(self) -> bool:
        return CommandWord.TASK in self.allow


@dataclass(frozen=True, slots=True)
class CommandMessage:
    """One received message. ``daemon`` and ``app`` are levels of its topic, which need not be names."""

    daemon: str
    app: str
    is_task: bool
    payload: bytes
    reply_to: str | None = None
    """Response Topic of MQTT 5; None: the result topic of the app."""
    correlation: bytes | None = None
    """Correlation Data of MQTT 5, sent back with the reply."""
    expires_at: float | None = None
    """Monotonic seconds after which the command must not begin."""
    is_retained: bool = False
    delivery: str | None = None
    """Names this delivery over repetitions of it, for a time (MQTT: the packet's number)."""
    is_duplicate: bool = False
    """Whether the broker marks it as a repetition."""
    fault: str | None = None
    """Why the message could not be read."""


@dataclass(frozen=True, slots=True)
class CommandReply:
    """What a sink sends back: to ``reply_to``, or to the result topic of the app."""

    daemon: str
    app: str
    payload: bytes
    reply_to: str | None = None
    correlation: bytes | None = None
    content_type: str = "application/json"
    is_ok: bool = True
    sent: Callable[[], None] = field(default=lambda: None, compare=False)
    """To be called once the broker has acknowledged the reply, or will never take it."""
    instead: Callable[[str], "CommandReply"] | None = field(default=None, compare=False)
    """Makes a short reply to send instead, with the reason why the broker does not take this one."""


class CommandDesk(Protocol):
    """Where a sink hands in what it received. All methods return at once; but :meth:`wake` for the sink's thread."""

    def daemons(self) -> Collection[str]:
        """The names of the daemons as they are now."""

    def wake(self) -> None:
        """Has the sink's ``idle`` called soon, as something has come in. For any thread."""

    def submit(self, message: CommandMessage) -> None: ...

    def replies(self, most: int) -> list[CommandReply]:
        """Takes replies that are ready, up to so many."""


@runtime_checkable
class CommandProbe(Protocol):
    """The settings of a sink that can receive commands, for ``meshbridge check``."""

    def probe_commands(self, daemons: Collection[str], timeout_seconds: float) -> Found | None:
        """Tries what commands for these daemons need at the destination; None where commands are off.

        Raises:
            SinkError: they cannot be received.

        """


@runtime_checkable
class CommandSource(Protocol):
    """A sink that can receive commands."""

    @property
    def command_options(self) -> CommandOptions | None:
        """None where commands are off."""

    def place_of(self, name: str) -> str:
        """A name as it stands in a topic."""

    def command_place(self, topic: str) -> tuple[str, str, bool] | None:
        """(daemon, app, whether it is a task) as the levels of a topic have them; None where it is not for commands."""

    def result_topic(self, daemon: str, app: str) -> str:
        """Where results go, by the same levels."""

    def take_commands(self, desk: CommandDesk) -> None:
        """Called once, before the first ``connect``."""
