"""The settings of the notify sink. Light: every bridge loads them, few send messages."""

import importlib.util
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from meshbridge.fields import Duration, RetryWaits, SecretFiles, When, split_list
from meshbridge.model.problems import BridgeProblemKind
from meshbridge.sinks.base import Found
from meshbridge.sinks.options import SinkOptions, secret_of

if TYPE_CHECKING:
    from meshbridge.sinks.notify.sink import NotifySink
    from meshbridge.sinks.templates import BodyTemplate

__all__ = ["NotifyOptions", "quiet_until"]

_QUIET = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAY = timedelta(days=1)
_DEFAULT_PROBLEMS = (
    BridgeProblemKind.DAEMON_DOWN,
    BridgeProblemKind.SINK_FAILING,
    BridgeProblemKind.SINK_GONE,
    BridgeProblemKind.SINK_STOPPED,
)


class NotifyOptions(SinkOptions, SecretFiles):
    """Messages for people: chat, mail, push, over Apprise."""

    type: Literal["notify"]
    url: SecretStr | None = Field(default=None, description="Apprise URL of one service; never shown")
    url_file: Path | None = None
    when: When = Field(
        default=When(events=("exit", "health", "removed")),
        description="which events this sink gets; without exit_codes, exits with 0 and 9 are no failures",
    )
    problems: Annotated[tuple[BridgeProblemKind, ...], BeforeValidator(split_list)] = Field(
        default=_DEFAULT_PROBLEMS,
        description="problems of the bridge that are reported, as meshbridge status names them",
    )
    resolved: bool = Field(default=True, description="tell when what was reported is over")
    group_wait: Duration = Field(default=30.0, ge=0, le=3600, description="what happens within this goes out together")
    repeat_interval: Duration = Field(
        default=4 * 3600.0, ge=0, description="until what goes on is reported again, with how often it happened"
    )
    resolve_after: Duration = Field(default=300.0, ge=0, description="how long an app must do well to be resolved")
    quiet_hours: str | None = Field(
        default=None, description="22:00-07:00, in the host's time: what happens then goes out at their end; null: none"
    )
    max_per_hour: int = Field(default=20, ge=1, description="messages within an hour; more wait, and go out as one")
    max_entries: int = Field(
        default=10, ge=1, le=100, description="reported in full in one message; the rest is counted"
    )
    output_lines: int = Field(default=10, ge=0, le=100, description="last lines of output of a process that failed")
    title: str | None = Field(default=None, description="Jinja2 template of the title; null: the one below")
    body: str | None = Field(default=None, description="Jinja2 template of the body; null: the one below")
    retry: RetryWaits = Field(
        default=RetryWaits(give_up_after=86_400.0), description="waits between attempts; after a day a dead letter"
    )

    @field_validator("quiet_hours")
    @classmethod
    def _hours(cls, value: str | None) -> str | None:
        if value is not None and ((match := _QUIET.fullmatch(value)) is None or match.group(1, 2) == match.group(3, 4)):
            raise ValueError(f"not quiet hours: {value!r} (use 22:00-07:00)")
        return value

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.url is None and self.url_file is None:
            raise ValueError("needs url or url_file: the address of a service, as Apprise writes it")
        if self.url is not None and "://" not in self.url.get_secret_value():
            raise ValueError("url is not one of Apprise's: it begins with the service, such as mailto:// or slack://")
        if importlib.util.find_spec("apprise") is None:
            raise ValueError("needs the extra notify: pip install 'meshbridge[notify]'")
        for template in self.templates():
            if template is not None:
                template.close()
        return self

    def templates(self) -> "tuple[BodyTemplate | None, BodyTemplate | None]":
        """Title and body.

        Raises:
            ValueError: one has a mistake.

        """
        if self.title is None and self.body is None:
            return None, None
        from meshbridge.sinks.templates import BodyTemplate  # noqa: PLC0415 few sinks need it

        title, body = (None if one is None else BodyTemplate(one, json=False) for one in (self.title, self.body))
        return title, body

    def probe(self, timeout_seconds: float) -> Found:
        """Reads the URL, and connects to the service's host, where that is known; sends nothing.

        Raises:
            NotConnected: the URL cannot be used, or the host cannot be reached.

        """
        from meshbridge.sinks.notify.service import NotifyService  # noqa: PLC0415 as in build

        service = NotifyService(secret_of(self, "url") or "")
        untried = "whether it takes messages: only a message shows that"
        if (reached := service.reach(timeout_seconds)) is None:
            return Found(f"the URL is one of {service.name}", untried=untried)
        return Found(f"{service.name} at {reached} accepts the connection", untried=untried)

    def build(self, name: str, _state_directory: Path) -> "NotifySink":
        from meshbridge.sinks.notify.sink import NotifySink  # noqa: PLC0415 only a bridge that has the sink

        return NotifySink(name, self)


def quiet_until(hours: str | None, now: datetime) -> float | None:
    """Seconds to the end of the quiet hours (``22:00-07:00``); None outside them."""
    if hours is None:
        return None
    match = _QUIET.fullmatch(hours)
    assert match is not None
    begin, end = (int(match[at]) * 60 + int(match[at + 1]) for at in (1, 3))
    minute = now.hour * 60 + now.minute
    if not (begin <= minute < end if begin < end else minute >= begin or minute < end):
        return None
    ends = now.replace(hour=end // 60, minute=end % 60, second=0, microsecond=0)
    return ((ends if ends > now else ends + _DAY) - now).total_seconds()
