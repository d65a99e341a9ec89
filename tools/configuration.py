"""``python -m tools.configuration`` writes the tables of ``configuration.md`` from the settings' models."""

import json
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, PlainSerializer, SecretStr, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from meshbridge.config.load import Settings
from meshbridge.fields import Duration, SecretFiles, Size
from meshbridge.sinks.options import SinkOptions

__all__ = ["PAGE", "Setting", "catalogue", "updated"]

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

_EVERY_SINK = "sinks.<name>"
_SIGNS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


@dataclass(frozen=True)
class Setting:
    """One key. ``table``: what its table is called, ``path``: its place in the file, ``key``: that within the table."""

    table: str
    path: str
    key: str
    type: str
    default: str
    meaning: str

    @property
    def environment(self) -> str:
        """Its name in the environment, ``<NAME>`` being that of the daemon or sink with ``_`` for ``-``."""
        return "MESHBRIDGE_" + self.path.upper().replace(".", "__")


def catalogue() -> list[Setting]:
    """Every setting of meshbridge's own, in the order of the page's tables.

    Raises:
        LookupError: there is one without a description.

    """
    found: list[Setting] = []
    for name, field in Settings.model_fields.items():
        if name == "sinks":
            common = [*_settings(SinkOptions, _EVERY_SINK, _EVERY_SINK)]
            found += common
            known = {(setting.key, setting.default) for setting in common}
            for model in _models(field.annotation):
                kind = typing.get_args(model.model_fields["type"].annotation)[0]
                own = sorted(
                    _settings(model, _EVERY_SINK, f"{_EVERY_SINK} ({kind})"), key=lambda one: one.key != "type"
                )
                found += [setting for setting in own if (setting.key, setting.default) not in known]
            continue
        model = next(_models(field.annotation))
        place = f"{name}.<name>" if typing.get_origin(field.annotation) is dict else name
        found += _settings(model, place, place)
    return found


def _settings(model: type[BaseModel], path: str, table: str, below: str = "", given: Any = None) -> Iterator[Setting]:
    """``below``: the keys between the table's place and the model's; ``given``: an instance with the defaults."""
    for name, field in model.model_fields.items():
        key = f"{below}{field.alias or name}"
        default = field.get_default(call_default_factory=True) if given is None else getattr(given, name)
        inner = [*_models(field.annotation)]
        if inner and not _is_list(field):
            optional = default is None
            if optional:
                yield Setting(table, f"{path}.{key}", key, "a mapping", "null", _meaning(model, name, field))
            yield from _settings(inner[0], path, table, f"{key}.", default)
            continue
        shown = "" if default is PydanticUndefined else _text(_dumped(field, default))
        yield Setting(table, f"{path}.{key}", key, _type(field), shown or "required", _meaning(model, name, field))
        for one in inner:
            yield from _settings(one, path, table, f"{key}[].")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _is_list(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) is tuple


def _meaning(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.description:
        return field.description
    twin = name.removesuffix("_file")
    if issubclass(model, SecretFiles) and name.endswith("_file") and twin in model.model_fields:
        return f"file that holds `{twin}`; read when it is needed"
    if name == "type":
        return "what this sink is"
    raise LookupError(f"{model.__name__}.{name} has no description")


# --- types and defaults, as a person writes them ---------------------------------------------------------------------


def _type(field: FieldInfo) -> str:
    limits = [
        f"{words} {_dumped(field, getattr(limit, attribute))}"
        for limit in field.metadata
        for kind, (attribute, words) in _SIGNS.items()
        if isinstance(limit, kind)
    ]
    return ", ".join([_name(field.annotation, field.metadata), *limits])


def _name(annotation: Any, metadata: Iterable[Any] = ()) -> str:  # noqa: PLR0911 one kind of type, one return
    for measure, name in ((Duration, "duration"), (Size, "size")):
        if any(part in typing.get_args(measure)[1:] for part in metadata):
            return name
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _name(arguments[0], arguments[1:])
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_name(one) for one in arguments if one is not types.NoneType)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin is tuple:
        return "list" if arguments[0] is str or _is_model(arguments[0]) else f"list of {_name(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(f"`{one.value}`" for one in annotation)
    names = {bool: "`true`, `false`", int: "number", float: "number", str: "text", Path: "path", SecretStr: "secret"}
    return names[annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _dumped(field: FieldInfo, value: Any) -> Any:
    """As ``config show`` prints it."""
    ways = [part for part in field.metadata if isinstance(part, PlainSerializer)]
    kind: Any = field.annotation
    return TypeAdapter(Annotated[kind, *ways] if ways else kind).dump_python(value, mode="json", warnings=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


# --- the page --------------------------------------------------------------------------------------------------------


def updated(page: str) -> str:
    """The page with new tables; each stands after a comment that names it."""
    tables: dict[str, list[Setting]] = {}
    for setting in catalogue():
        tables.setdefault(setting.table, []).append(setting)
    for table, settings in tables.items():
        before, begin, rest = page.partition(f"<!-- {table} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (begin and end):
            raise LookupError(f"the page has no place for {table}")
        page = before + begin + _table(settings) + end + after
    return page


def _table(settings: Iterable[Setting]) -> str:
    lines = ["| key | type | default | meaning | in the environment |", "| --- | --- | --- | --- | --- |"]
    for one in settings:
        cells = [f"`{one.key}`", one.type, f"`{one.default}`" if one.default != "required" else one.default]
        cells += [one.meaning, "" if "[]" in one.path else f"`{one.environment}`"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
