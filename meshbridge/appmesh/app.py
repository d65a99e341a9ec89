"""An application as a daemon registers and reports it (docs/protocol.md, 'App JSON')."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time
from enum import Enum
from typing import Any, TypeVar

import orjson

from meshbridge.appmesh.dialect import enabled_of

__all__ = ["App", "request_of", "second_of_day", "unix_seconds"]

T = TypeVar("T")

_DAY_SECONDS = 86_400


class App:
    """An application: what it runs and how, and what the daemon says of it.

    Attributes are None where there is no value. A value of the wrong type is left out instead of refused, since a
    newer daemon may send what this SDK does not know; strings of digits are taken for numbers.
    """

    class Permission(Enum):
        """What others may do with an application."""

        DENY = "1"
        READ = "2"
        WRITE = "3"

    class Behavior:
        """What happens when the process has ended."""

        class Action(Enum):
            RESTART = "restart"
            STANDBY = "standby"
            KEEPALIVE = "keepalive"
            REMOVE = "remove"

        def __init__(self, data: Mapping[str, Any] | None = None) -> None:
            fields = _mapping(data)
            self.exit: str | None = _get(fields, "exit", _text)
            """The default: ``restart``, ``standby``, ``keepalive`` or ``remove``."""
            self.control: dict[str, str] = _get(fields, "control", _map) or {}
            """Exit code (as text) to action; goes before :attr:`exit`."""
            self.exit_code_actions: dict[str, str] = _get(fields, "exit_code_actions", _map) or {}
            """As :attr:`control`, for daemons of 3.x of October 2026."""

        def set_exit_behavior(self, action: "App.Behavior.Action") -> None:
            """Sets what happens after an exit code that has no behavior of its own."""
            self.exit = action.value

        def set_control_behavior(self, control_code: int, action: "App.Behavior.Action") -> None:
            """Sets what happens after the exit code ``control_code``."""
            self.control[str(control_code)] = action.value

        def set_exit_code_action(self, exit_code: int, action: "App.Behavior.Action") -> None:
            """As :meth:`set_control_behavior`, for daemons of 3.x of October 2026."""
            self.exit_code_actions[str(exit_code)] = action.value

    class DailyLimitation:
        """The part of the day in which the application runs."""

        def __init__(self, data: Mapping[str, Any] | None = None) -> None:
            fields = _mapping(data)
            self.daily_start: int | str | None = _get(fields, "daily_start", _moment)
            self.daily_end: int | str | None = _get(fields, "daily_end", _moment)

        def set_daily_range(self, start: datetime, end: datetime) -> None:
            """Sets both ends; only their time of day counts."""
            self.daily_start = int(start.timestamp())
            self.daily_end = int(end.timestamp())

    class ResourceLimitation:
        """Limits of the process."""

        def __init__(self, data: Mapping[str, Any] | None = None) -> None:
            fields = _mapping(data)
            self.cpu_shares: int | None = _get(fields, "cpu_shares", _integer)
            self.memory_mb: int | None = _get(fields, "memory_mb", _integer)
            self.memory_virt_mb: int | None = _get(fields, "memory_virt_mb", _integer)

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:  # noqa: PLR0915 a line for each field
        fields = _mapping(data)

        # What a client sets.
        self.name: str | None = _get(fields, "name", _text)
        self.command: str | None = _get(fields, "command", _text)
        self.shell: bool | None = _get(fields, "shell", _boolean)
        self.session_login: bool | None = _get(fields, "session_login", _boolean)
        self.description: str | None = _get(fields, "description", _text)
        self.metadata: Any = fields.get("metadata")
        self.working_dir: str | None = _get(fields, "working_dir", _text)
        self.status: int | None = _get(fields, "status", _integer)
        """1 enabled, 0 disabled; 2 marks a one-off run in the daemon's list."""
        self.docker_image: str | None = _get(fields, "docker_image", _text)
        self.stdout_cache_num: int | None = _get(fields, "stdout_cache_num", _integer)
        self.start_time: int | str | None = _get(fields, "start_time", _moment)
        self.end_time: int | str | None = _get(fields, "end_time", _moment)
        self.start_interval_seconds: int | str | None = fields.get("start_interval_seconds")
        """Seconds, an ISO 8601 duration, or (with :attr:`cron`) a cron expression of six fields."""
        self.cron: bool | None = _get(fields, "cron", _boolean)
        self.daily_limitation = App.DailyLimitation(fields.get("daily_limitation"))
        self.retention: str | None = _get(fields, "retention", _text)
        self.health_check_cmd: str | None = _get(fields, "health_check_cmd", _text)
        self.permission: int | None = _get(fields, "permission", _integer)
        """Two digits, group then others: 1 deny, 2 read, 3 write."""
        self.behavior = App.Behavior(fields.get("behavior"))
        self.env: dict[str, str] = _get(fields, "env", _map) or {}
        self.sec_env: dict[str, str] = _get(fields, "sec_env", _map) or {}
        self.resource_limit = App.ResourceLimitation(fields.get("resource_limit"))
        self.owner: str | None = _get(fields, "owner", _text)

        # The same at daemons of 3.x of October 2026 (:mod:`meshbridge.appmesh.dialect`); an app is registered in the
        # words of the daemon at hand, whichever were set.
        self.enabled: bool | None = _get(fields, "enabled", _boolean)
        self.stdout_backup_count: int | None = _get(fields, "stdout_backup_count", _integer)
        self.interval: int | str | None = fields.get("interval")
        self.cron_schedule: str | None = _get(fields, "cron_schedule", _text)
        self.stop_grace_period: str | int | None = fields.get("stop_grace_period")
        self.secret_env: dict[str, str] = _get(fields, "secret_env", _map) or {}
        self.depends_on: Any = fields.get("depends_on")
        self.execution_user: str | None = _get(fields, "execution_user", _text)

        # What a daemon reports.
        self.pid: int | None = _get(fields, "pid", _integer)
        self.user: str | None = _get(fields, "pid_user", _text) or _get(fields, "user", _text)
        self.pstree: str | None = _get(fields, "pstree", _text)
        self.container_id: str | None = _get(fields, "container_id", _text)
        self.memory: int | None = _get(fields, "memory", _integer)
        self.cpu: float | None = _get(fields, "cpu", _number)
        self.fd: int | None = _get(fields, "fd", _integer)
        self.health: int | None = _get(fields, "health", _integer)
        """0 healthy, 1 unhealthy."""
        self.starts: int | None = _get(fields, "starts", _integer)
        self.return_code: int | None = _get(fields, "return_code", _integer)
        self.last_error: str | None = _get(fields, "last_error", _text)
        self.register_time: int | str | None = _get(fields, "register_time", _moment)
        self.last_start_time: int | str | None = _get(fields, "last_start_time", _moment)
        self.last_exit_time: int | str | None = _get(fields, "last_exit_time", _moment)
        self.next_start_time: int | str | None = _get(fields, "next_start_time", _moment)
        self.stdout_cache_size: int | None = _get(fields, "stdout_cache_size", _integer)
        self.version: int | None = _get(fields, "version", _integer)
        self.task_id: int | None = _get(fields, "task_id", _integer)
        self.task_status: str | None = _get(fields, "task_status", _text)
        self.stdout_file_count: int | None = _get(fields, "stdout_file_count", _integer)
        self.owner_principal_id: str | None = _get(fields, "owner_principal_id", _text)
        self.owner_display_name: str | None = _get(fields, "owner_display_name", _text)
        self.waiting_for: Any = fields.get("waiting_for")
        self.system: bool | None = _get(fields, "system", _boolean)
        self.startup_phase: str | int | None = fields.get("startup_phase")
        self.subscription_id: str | None = _get(fields, "subscription_id", _text)
        """Set by ``add_app(…, subscribe_events=…)`` over TCP and WSS."""

    def set_valid_time(self, start: datetime | None, end: datetime | None) -> None:
        """Sets from when to when the application runs; None leaves an end as it is. Naive times are local."""
        if start is not None:
            self.start_time = int(start.timestamp())
        if end is not None:
            self.end_time = int(end.timestamp())

    def set_env(self, key: str, value: str, secure: bool = False) -> None:
        """Sets an environment variable; a secure one is stored encrypted by the daemon."""
        (self.sec_env if secure else self.env)[key] = value

    def set_permission(self, group_user: Permission, others_user: Permission | None = None) -> None:
        """Sets what the owner's group and all others may do; one alone, as for daemons of 3.x, is that of all others.

        The tens digit, the group's, is the one that counts there.
        """
        self.permission = int(group_user.value + (others_user or group_user).value)

    @property
    def is_enabled(self) -> bool:
        """Whether the daemon may start it, as a daemon of any generation says."""
        return enabled_of(self.to_dict()) is not False

    @property
    def others_permission(self) -> "App.Permission | None":
        """What others may do, of daemons of 3.x: by the tens digit."""
        digit = str((self.permission or 0) // 10 % 10)
        return next((one for one in App.Permission if one.value == digit), None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without what is empty; False and 0 stay, and so do empty environment variables."""
        result: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, App.Behavior | App.DailyLimitation | App.ResourceLimitation):
                value = {key: part for key, part in vars(value).items() if not _is_empty(part)}  # noqa: PLW2901
            if not _is_empty(value):
                result[name] = value
        return result

    def __str__(self) -> str:
        return orjson.dumps(self.to_dict(), default=str, option=orjson.OPT_NON_STR_KEYS).decode()

    def __repr__(self) -> str:
        return f"App({self})"


def request_of(app: App) -> dict[str, Any]:
    """The JSON form as a daemon takes it: times are whole numbers. Naive times are local.

    Raises:
        ValueError: a time is neither a number nor ISO 8601.

    """
    fields = app.to_dict()
    daily = fields.get("daily_limitation")
    if daily:
        fields["daily_limitation"] = {name: _in_seconds(name, value) for name, value in daily.items()}
    return {name: _in_seconds(name, value) for name, value in fields.items()}


def _in_seconds(name: str, value: Any) -> Any:
    read = _TIMES.get(name)
    if read is None or not isinstance(value, str):
        return value
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def unix_seconds(text: str) -> int:
    """Of an ISO 8601 date and time; a naive one is local.

    Raises:
        ValueError: it is none.

    """
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):  # the latter: a year that the host's clock does not know
        raise ValueError(
            f"{text!r} is not a time: use unix seconds, or ISO 8601 such as 2026-12-01T09:30:00Z"
        ) from None


def second_of_day(text: str) -> int:
    """The second of the UTC day of an ISO 8601 time, with or without a date; a naive one is local.

    Raises:
        ValueError: it is none.

    """
    try:
        moment = datetime.combine(datetime.now(UTC).date(), time.fromisoformat(text))
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is not a time of day: use seconds of the UTC day, or ISO 8601 such as 09:30:00+02:00"
            ) from None
    try:
        return int(moment.timestamp()) % _DAY_SECONDS
    except (OverflowError, OSError):
        raise ValueError(f"{text!r} is not a time that this host's clock knows") from None


_TIMES = {
    "start_time": unix_seconds,
    "end_time": unix_seconds,
    "daily_start": second_of_day,
    "daily_end": second_of_day,
}


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | dict | list) and not value)


def _mapping(data: object) -> Mapping[str, Any]:
    """``data`` where it is an object, or a JSON text of one; else nothing."""
    if isinstance(data, str | bytes):
        try:
            data = orjson.loads(data)
        except orjson.JSONDecodeError:
            return {}
    return data if isinstance(data, Mapping) else {}


def _get(fields: Mapping[str, Any], key: str, read: Callable[[Any], T]) -> T | None:
    value = fields.get(key)
    return None if value is None else read(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _integer(value: Any) -> int | None:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) else None


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return value.strip().lower() not in {"", "0", "false", "no"}
    return bool(value)


def _moment(value: Any) -> int | str | None:
    """Unix seconds where it is a number, else the ISO 8601 text as it stands."""
    number = _integer(value)
    return _text(value) if number is None else number


def _map(value: Any) -> dict[str, str]:
    return dict(value) if isinstance(value, Mapping) else {}
