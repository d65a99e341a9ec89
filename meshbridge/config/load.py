"""Puts the parts' own settings together: a file, the environment, files of secrets; and explains what is wrong in them.

The environment wins over files of secrets, and those over the file (docs/design.md, 'Configuration').
"""

import difflib
import json
import os
import pwd
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from meshbridge.admin.options import AdminOptions
from meshbridge.config import secret_files
from meshbridge.config.secret_files import SecretFile
from meshbridge.exporter import ExporterOptions
from meshbridge.fields import Options
from meshbridge.journal import JournalOptions
from meshbridge.link import DaemonOptions
from meshbridge.model.strict_yaml import DuplicateKeyError, load_yaml
from meshbridge.sinks.amqp import AmqpOptions
from meshbridge.sinks.discovery import discover, type_of
from meshbridge.sinks.file import FileOptions
from meshbridge.sinks.kafka import KafkaOptions
from meshbridge.sinks.loki import LokiOptions
from meshbridge.sinks.mqtt.sink import MqttOptions
from meshbridge.sinks.nats import NatsOptions
from meshbridge.sinks.notify import NotifyOptions
from meshbridge.sinks.otlp import OtlpOptions
from meshbridge.sinks.redis import RedisOptions
from meshbridge.sinks.syslog import SyslogOptions
from meshbridge.sinks.webhook import WebhookOptions

__all__ = ["ConfigError", "Settings", "inline_secrets", "leftover_secrets", "load", "service_links", "shown"]

_PREFIX = "MESHBRIDGE_"
_NOT_SETTINGS = frozenset({"MESHBRIDGE_CONFIG"})  # names the file itself
_SECRET_KEYS = re.compile(r"password|secret|bearer|^(token|headers|auth)$")  # whose values are never repeated

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
_SINKS = discover(
    (
        AmqpOptions,
        FileOptions,
        KafkaOptions,
        LokiOptions,
        MqttOptions,
        NatsOptions,
        NotifyOptions,
        OtlpOptions,
        RedisOptions,
        SyslogOptions,
        WebhookOptions,
    )
)
SinkSettings = Annotated[typing.Union[_SINKS.models], Field(discriminator="type")]  # type: ignore[name-defined]  # noqa: UP007 made at run time, of other packages' models too


class LogOptions(Options):
    """What meshbridge says of itself, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="what is said: error, someone must act; warning, repaired or tried again; info, changed",
    )
    format: Literal["text", "json"] = Field(default="text", description="json: one object a line, for machines")


class Settings(BaseSettings):
    """Everything that can be set. Made by :func:`load`."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    daemons: dict[Name, DaemonOptions] = Field(min_length=1, description="the App Mesh daemons, by name")
    journal: JournalOptions = JournalOptions()
    sinks: dict[Name, SinkSettings] = Field(default={}, description="where events go, by name")
    exporter: ExporterOptions = ExporterOptions()
    admin: AdminOptions = AdminOptions()
    log: LogOptions = LogOptions()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 pydantic-settings passes them all
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = init_settings()
        return (
            _Environment(settings_cls, given["environ"]),
            _Secrets(settings_cls, given["secrets"], given["file"]),
            _File(settings_cls, given["file"]),
        )


class ConfigError(Exception):
    """The configuration can't be used. ``problems`` has one line for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


# --- where settings come from --------------------------------------------------------------------------------------


class _Source(PydanticBaseSettingsSource):
    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 unused by __call__
        return None, field_name, False


class _Environment(_Source):
    """``MESHBRIDGE_A__B__C``; a value that begins like a JSON list or object is one."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environ = environ

    def __call__(self) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for key, value in self._environ.items():
            # An empty variable is not set: compose files and charts pass on what is not there as empty.
            if value and key.startswith(_PREFIX) and key not in _NOT_SETTINGS and not _is_service_link(key, value):
                _put(settings, _path_of(key), _parsed(key, value))
        return settings


class _Secrets(_Source):
    """Files named like an environment key in lower case; each is read when its secret is needed."""

    def __init__(self, settings_cls: type[BaseSettings], found: Sequence[SecretFile], file: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._found = found
        self._file = file

    def __call__(self) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for secret in self._found:
            if secret_files.left_over(secret, self.current_state) and secret_files.left_over(secret, self._file):
                continue
            *place, key = secret.setting
            if not _has(self.current_state, secret.setting):
                _put(settings, [*place, key if key.endswith("_file") else f"{key}_file"], str(secret.path))
        return settings


class _File(_Source):
    def __init__(self, settings_cls: type[BaseSettings], file: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._file = file

    def __call__(self) -> dict[str, Any]:
        return _without_overridden(self._file, self.current_state)


def _without_overridden(file: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The file's settings less those whose twin (``password`` and ``password_file``) is set with more right."""
    kept: dict[str, Any] = {}
    for key, value in file.items():
        text = str(key)
        twin = text.removesuffix("_file") if text.endswith("_file") else f"{text}_file"
        if twin in over:
            continue
        above = over.get(text)
        both = isinstance(value, dict) and isinstance(above, Mapping)
        kept[key] = _without_overridden(value, typing.cast("Mapping[str, Any]", above)) if both else value
    return kept


def _path_of(key: str) -> list[str]:
    path = key.removeprefix(_PREFIX).lower().split("__")
    if len(path) > 1 and path[0] in secret_files.NAMED:
        path[1] = path[1].replace("_", "-")
    return path


def _parsed(key: str, value: str) -> Any:
    if not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise ConfigError([f"{key}: invalid JSON: {error}"]) from error
    except DuplicateKeyError as error:
        raise ConfigError([f"{key}: {error}"]) from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise DuplicateKeyError(f"the key {twice!r} stands twice: keep one")
    return found


_SERVICE_LINK = re.compile(
    r"MESHBRIDGE_(?:[A-Z0-9]+_)*?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9]+)*|PORT_\d+_(?:TCP|UDP|SCTP)"
    r"(?:_(?:PROTO|PORT|ADDR))?|(?P<address>PORT))"
)


def _is_service_link(key: str, value: str) -> bool:
    """Whether Kubernetes has set a variable for a Service whose name begins with ``meshbridge``."""
    match = _SERVICE_LINK.fullmatch(key)
    # MESHBRIDGE_PORT=9665 is a person's mistake, and has to be said; Kubernetes gives tcp://10.0.0.1:9665.
    return match is not None and (not match["address"] or "://" in value)


def service_links(environ: Mapping[str, str]) -> list[str]:
    """The variables that are left out since they are Kubernetes's."""
    return sorted(key for key, value in environ.items() if _is_service_link(key, value))


def _put(settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        below = settings.setdefault(part, {})
        if not isinstance(below, dict):
            return  # a whole object was given under a shorter key: that one stands
        settings = below
    settings[path[-1]] = value


def _has(settings: Mapping[str, Any], path: Sequence[str]) -> bool:
    here: Any = settings
    for part in path:
        if not isinstance(here, Mapping) or part not in here:
            return False
        here = here[part]
    return True


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file"]) from None
    except PermissionError:
        remedy = "make it readable for its user: with the systemd units chgrp meshbridge and chmod 640"
        raise ConfigError([f"{path}: user {_user_name()} must not read it; {remedy}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError([f"{path}: cannot be read: {said}"]) from error


def _read_file(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        loaded = tomllib.loads(text) if path.suffix == ".toml" else load_yaml(text)
    except DuplicateKeyError as error:
        raise ConfigError([f"{path}: {error}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: no TOML: {error}"]) from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" line {place.line + 1}, column {place.column + 1}:" if place else ""
        raise ConfigError([f"{path}:{where} no YAML: {getattr(error, 'problem', error)}"]) from error
    except (ValueError, RecursionError) as error:  # a date that is none, say: YAML makes values of what looks like them
        raise ConfigError([f"{path}: holds a value that YAML cannot make: {error}"]) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError([f"{path}: holds {type(loaded).__name__}, not a mapping of settings"])
    if no_text := [key for key in loaded if not isinstance(key, str)]:
        raise ConfigError([f"{path}: {no_text[0]!r} is no name of a setting: YAML reads it as no text"])
    return loaded


def load(path: Path | None, environ: Mapping[str, str], *, run_secrets: Path = Path("/run/secrets")) -> Settings:
    """The settings from a file (``.toml``, else YAML; None: no file), the environment, and files of secrets.

    Raises:
        ConfigError: with a line for each thing that is wrong.

    """
    file = {} if path is None else _read_file(path)
    secrets = _secret_files(path, environ, run_secrets)
    try:
        return Settings(environ=environ, secrets=secrets, file=file)  # type: ignore[call-arg]  # for the sources
    except ValidationError as error:
        problems = list(_explained(error, environ, secrets))
        if path is None and problems == [_NO_DAEMONS]:
            problems = [f"{_NO_DAEMONS}: give the file (--config, or MESHBRIDGE_CONFIG), or set MESHBRIDGE_DAEMONS__…"]
        raise ConfigError([*problems, *_SINKS.problems]) from error


def _secret_files(path: Path | None, environ: Mapping[str, str], run_secrets: Path) -> list[SecretFile]:
    """The most specific place wins: what systemd hands to this process, this container, this file."""
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    directories = [*([Path(credentials)] if credentials else []), run_secrets]
    return secret_files.find(directories, None if path is None else secret_files.beside(path), Settings.model_fields)


def leftover_secrets(
    settings: Settings, path: Path | None, environ: Mapping[str, str], *, run_secrets: Path = Path("/run/secrets")
) -> list[Path]:
    """Files of secrets whose daemon or sink is not in the configuration: they are not used."""
    known = {"daemons": settings.daemons, "sinks": settings.sinks}
    return [one.path for one in _secret_files(path, environ, run_secrets) if secret_files.left_over(one, known)]


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def shown(settings: Settings) -> dict[str, Any]:
    """The settings in force, secrets masked, in the form of the file."""
    return settings.model_dump(mode="json", by_alias=True)


def inline_secrets(path: Path) -> list[str]:
    """The paths of the keys whose secrets stand in the file itself (``daemons.node-a.password``).

    Raises:
        ConfigError: it can't be read.

    """
    return list(_secrets_in(_read_file(path), ""))


def _secrets_in(settings: Any, path: str) -> Iterator[str]:
    if isinstance(settings, list):
        for item in settings:
            yield from _secrets_in(item, path)
    elif isinstance(settings, dict):
        for key, value in settings.items():
            here = f"{path}.{key}" if path else str(key)
            if not isinstance(value, str):
                yield from _secrets_in(value, here)
            elif _SECRET_KEYS.search(str(key)) and not str(key).endswith("_file"):
                yield here


# --- what is wrong -------------------------------------------------------------------------------------------------


_NO_DAEMONS = "daemons: is missing"
_WANTED = {  # by pydantic's name of the error
    "model_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
    "tuple_type": "a list",
    "string_type": "text (in quotes, where it looks like a number)",
}


def _explained(error: ValidationError, environ: Mapping[str, str], secrets: Sequence[SecretFile] = ()) -> Iterator[str]:
    for problem in error.errors():
        location, tag = list(problem["loc"]), None
        if len(location) > 2 and location[0] == "sinks":  # noqa: PLR2004 sinks, name, type, …
            tag = location.pop(2)  # the type that told the models apart is no part of the path
        if str(problem["type"]).startswith("union_tag"):
            location.append("type")
        path = ".".join(str(part) for part in location if part != "[key]") or "configuration"
        source = _environment_key(location, environ) or _secret_file(location, secrets)
        yield f"{path}: {_what(problem, location, tag)}{f' (from {source})' if source else ''}"


def _environment_key(location: Sequence[int | str], environ: Mapping[str, str]) -> str | None:
    key = _PREFIX + "__".join(str(part).upper().replace("-", "_") for part in location)
    return key if environ.get(key) else None


def _secret_file(location: Sequence[int | str], secrets: Sequence[SecretFile]) -> str | None:
    """The file that a setting comes from; its own name may lack the ``_file`` of the setting's."""
    names = tuple(str(part) for part in location)
    for secret in secrets:
        *place, key = secret.setting
        if names in {secret.setting, (*place, f"{key}_file")}:
            return f"file {secret.path}"
    return None


def _what(problem: Any, location: Sequence[int | str], tag: int | str | None) -> str:
    kind, found = problem["type"], problem["input"]
    if kind == "missing":
        return "is missing"
    if kind.startswith("union_tag"):
        return _wrong_type(problem["ctx"].get("tag"))
    if kind == "extra_forbidden":
        return _unknown_key(location, tag)
    if kind == "string_pattern_mismatch" and location and location[-1] == "[key]":
        return f"{found!r} is no name: lower-case letters, digits and -, beginning with a letter or digit"
    message = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["msg"].startswith("Input should be "):
        message = f"must be {_WANTED.get(kind, message)}"
        message += ", not a list" if isinstance(found, list) else ""
    secret = any(_SECRET_KEYS.search(str(part)) for part in location)
    if kind == "value_error" or isinstance(found, dict | list) or secret:
        return message
    return f"{message}, not {found!r}"


def _wrong_type(found: str | None) -> str:
    """``found``: the type that a sink says it is; None: it says none."""
    allowed = sorted(str(type_of(model)) for model in _SINKS.models)
    near = difflib.get_close_matches(found or "", allowed, n=1)
    hint = f": did you mean {near[0]}?" if near else ""
    what = "is missing" if found is None else f"there is no sink of type {found!r}{hint}"
    return f"{what} (allowed: {', '.join(allowed)})"


def _unknown_key(location: Sequence[int | str], tag: int | str | None) -> str:
    key = str(location[-1])
    allowed = sorted(_keys_of(Settings, location[:-1], tag))
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f": did you mean {near[0]}?" if near else ""
    return f"unknown key{hint} (allowed: {', '.join(allowed)})"


def _keys_of(model: Any, path: Sequence[int | str], tag: int | str | None) -> set[str]:
    """The keys allowed at a place; ``tag`` is the type of the sink there."""
    origin = typing.get_origin(model)
    if origin in {typing.Union, types.UnionType, Annotated}:
        return set().union(*(_keys_of(one, path, tag) for one in typing.get_args(model)))
    if origin is dict and path:
        return _keys_of(typing.get_args(model)[1], path[1:], tag)
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or not _is_tagged(model, tag):
        return set()
    names = {field.alias or name: field for name, field in model.model_fields.items()}
    if not path:
        return set(names)
    field = names.get(str(path[0]))
    return set() if field is None else _keys_of(field.annotation, path[1:], tag)


def _is_tagged(model: type[BaseModel], tag: int | str | None) -> bool:
    kind = model.model_fields.get("type")
    return kind is None or tag is None or tag in typing.get_args(kind.annotation)
