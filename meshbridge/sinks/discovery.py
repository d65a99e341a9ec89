"""Sinks that other packages bring, by an entry point in the group ``meshbridge.sinks``.

An entry point's name is the sink's ``type``, its value the settings model (docs/writing-a-sink.md). One that can't be
used is left out, and said: a package that is broken must not stop a bridge that doesn't use it.
"""

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from meshbridge.sinks.options import SinkOptions

__all__ = ["GROUP", "Discovered", "discover", "type_of"]

GROUP = "meshbridge.sinks"


@dataclass(frozen=True, slots=True)
class Discovered:
    """``models``: meshbridge's own and the others'; ``problems``: a line for each that was left out."""

    models: tuple[type[SinkOptions], ...]
    problems: tuple[str, ...]


def discover(own: Sequence[type[SinkOptions]]) -> Discovered:
    """The settings models of every sink there is."""
    models, problems = list(own), list[str]()
    taken = {type_of(model) for model in own}
    for point in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        package = point.dist.name if point.dist is not None else "unknown"
        try:
            model = _loaded(point)
        except Exception as error:  # noqa: BLE001 another package's module may raise anything
            problems.append(f"sink type {point.name} of package {package} cannot be used: {error}")
            continue
        if point.name in taken:
            problems.append(f"sink type {point.name} of package {package} is left out: there is one of that name")
            continue
        taken.add(point.name)
        models.append(model)
    return Discovered(tuple(models), tuple(problems))


def type_of(model: type[SinkOptions]) -> str | None:
    """The one ``type`` that a settings model is for; None where it says none."""
    field = model.model_fields.get("type")
    if field is None or typing.get_origin(field.annotation) is not Literal:
        return None
    values = typing.get_args(field.annotation)
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None


def _loaded(point: EntryPoint) -> type[SinkOptions]:
    model = point.load()
    if not (isinstance(model, type) and issubclass(model, SinkOptions)):
        raise TypeError(f"{point.value} is no subclass of SinkOptions")
    if type_of(model) != point.name:
        raise TypeError(f"{point.value} has no type: Literal[{point.name!r}]")
    for name in ("build", "probe"):
        if not callable(getattr(model, name, None)):
            raise TypeError(f"{point.value} has no {name}()")
    return model
