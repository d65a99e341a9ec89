"""What requests say: an app to register, a command to run, a user, …"""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Self

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from meshbridge.admin.api_model import ApiModel
from meshbridge.appmesh import App
from meshbridge.appmesh.app import second_of_day, unix_seconds
from meshbridge.web.asgi import ENCODED_SLASH

__all__ = ["AppName", "AppSettings", "Done", "JsonObject", "JsonValue", "Moment", "app_of", "good", "sdk"]

AppName = Annotated[
    str,
    BeforeValidator(lambda value: value.replace(ENCODED_SLASH, "/") if isinstance(value, str) else value),
    StringConstraints(min_length=1, max_length=1024),
]
"""Whatever a daemon lists: those before 2.2.7 allow dots, spaces, slashes (``%2F`` in a path) and letters beyond ASCII.
Which names it takes, the daemon itself says.
"""

Moment = Annotated[
    int | str,
    AfterValidator(lambda value: unix_seconds(value) if isinstance(value, str) else value),
    Field(description="unix seconds, or ISO 8601"),
]
TimeOfDay = Annotated[
    int | str,
    AfterValidator(lambda value: second_of_day(value) if isinstance(value, str) else value),
    Field(description="seconds of the UTC day, or an ISO 8601 time"),
]


def _sendable(value: Any) -> Any:
    """Raises ValueError for what Python reads as JSON and other parsers reject: NaN, half a character, …"""
    try:
        kept = orjson.loads(orjson.dumps(value)) == value
    except orjson.JSONEncodeError as error:
        raise ValueError(f"cannot be sent on as JSON: {error}") from None
    if not kept:
        raise ValueError("cannot be sent on as JSON: it has a number that is none")
    return value


JsonValue = Annotated[Any, AfterValidator(_sendable)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_sendable)]


class Done(ApiModel):
    """What an operation was about, and that it was done."""

    name: str
    done: bool = True


_REPORTED = frozenset(
    {
        "container_id",
        "cpu",
        "fd",
        "health",
        "last_error",
        "last_exit_time",
        "last_start_time",
        "memory",
        "next_start_time",
        "pid",
        "pid_user",
        "pstree",
        "register_time",
        "return_code",
        "starts",
        "stdout_cache_size",
        "stdout_file_count",
        "owner_principal_id",
        "owner_display_name",
        "waiting_for",
        "execution_user",
        "system",
        "startup_phase",
        "one_off",
        "schedule",
        "state",
        "subscription_id",
        "task_id",
        "task_status",
        "user",
        "version",
    }
)
"""What a daemon reports of an app and no request sets: what was read may be sent back as it is."""


class Action(StrEnum):
    """What happens after an exit."""

    RESTART = "restart"
    STANDBY = "standby"
    KEEPALIVE = "keepalive"
    REMOVE = "remove"


class Behavior(ApiModel):
    """What happens when the process has ended."""

    exit: Action = Action.STANDBY
    control: dict[Annotated[str, StringConstraints(pattern=r"^-?\d+$")], Action] = Field(
        default={}, description="by exit code, before exit", examples=[{"0": "restart"}]
    )
    exit_code_actions: dict[Annotated[str, StringConstraints(pattern=r"^-?\d+$")], Action] = Field(
        default={}, description="as control"
    )


class DailyLimitation(ApiModel):
    """The part of the day in which the app runs."""

    daily_start: TimeOfDay | None = None
    daily_end: TimeOfDay | None = None


class ResourceLimit(ApiModel):
    """Limits of the process."""

    cpu_shares: int | None = None
    memory_mb: int | None = None
    memory_virt_mb: int | None = None


class AppSettings(ApiModel):
    """An app, as the daemon takes it. What a daemon reports of one (pid, starts, …) may stand there and is left out."""

    command: str | None = Field(default=None, examples=["sleep 60"])
    shell: bool | None = None
    session_login: bool | None = None
    description: str | None = None
    metadata: JsonValue = Field(default=None, description="text or JSON, which the process gets")
    working_dir: str | None = None
    enabled: bool | None = Field(default=None, description="whether the daemon may start it")
    status: int | None = Field(default=None, ge=0, le=2, description="as enabled: 1 enabled, 0 disabled")
    docker_image: str | None = None
    stdout_cache_num: int | None = Field(default=None, ge=0, description="how many outputs of processes are kept")
    stdout_backup_count: int | None = Field(default=None, ge=0, description="as stdout_cache_num")
    start_time: Moment | None = None
    end_time: Moment | None = None
    start_interval_seconds: int | str | None = Field(
        default=None, description="seconds, an ISO 8601 duration, or with cron six fields"
    )
    cron: bool | None = None
    interval: int | str | None = Field(default=None, description="as start_interval_seconds, without cron")
    cron_schedule: str | None = Field(default=None, description="as start_interval_seconds, with cron")
    daily_limitation: DailyLimitation | None = None
    retention: str | None = Field(default=None, description="ISO 8601 duration that a process gets to end")
    stop_grace_period: int | str | None = Field(default=None, description="as retention")
    depends_on: JsonValue = Field(default=None, description="apps that are started before (3.x)")
    health_check_cmd: str | None = None
    permission: int | None = Field(default=None, description="two digits, group then others: 1 deny, 2 read, 3 write")
    behavior: Behavior | None = None
    env: dict[str, str] = Field(
        default={},
        description="a value that is only a number, true, false or null is refused: use sec_env, or a blank before it",
        examples=[{"HOME": "/srv/web"}],
    )
    sec_env: dict[str, str] = Field(default={}, description="as env; the daemon encrypts it, and it is never shown")
    secret_env: dict[str, str] = Field(default={}, description="as sec_env")
    resource_limit: ResourceLimit | None = None
    owner: str | None = Field(default=None, description="for daemons of 2.x; others keep the owner that they have")

    @model_validator(mode="after")
    def _one_word(self) -> Self:
        if self.enabled is not None and self.status is not None and self.enabled != (self.status != 0):
            raise ValueError(f"enabled is {str(self.enabled).lower()}, but status is {self.status}: set one of them")
        return self

    @model_validator(mode="before")
    @classmethod
    def _without_reported(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            name: part
            for name, part in value.items()
            if name not in _REPORTED and not str(name).endswith("_TEXT") and name != "name"
        }


def app_of(name: str | None, settings: AppSettings) -> App:
    """The SDK's form."""
    fields = settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return App({**fields, **({} if name is None else {"name": name})})


def good(description: str, example: Any, status: HTTPStatus = HTTPStatus.OK) -> dict[int | str, dict[str, Any]]:
    """What an operation answers when all went well, for its description."""
    return {int(status): {"description": description, "content": {"application/json": {"example": example}}}}


def sdk(*methods: str) -> dict[str, Any]:
    """Which methods of the SDK an operation is, for its description."""
    return {"x-sdk": list(methods)}
