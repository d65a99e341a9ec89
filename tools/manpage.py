"""``python -m tools.manpage`` writes ``meshbridge.1`` from the command line's own descriptions."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import typer

import meshbridge
from meshbridge.cli import app

__all__ = ["PAGE", "Command", "Parameter", "commands", "page"]

PAGE = Path(__file__).parents[1] / "docs" / "meshbridge.1"

_VALUES: dict[Any, str] = {str: "text", int: "number", float: "number", Path: "path"}

_DESCRIPTION = """\
App Mesh runs and supervises applications on a host. meshbridge is the daemon beside it: it subscribes to every event of
every app and republishes each one to MQTT, webhooks and other sinks, at least once, through a durable journal; and it
serves Prometheus with the daemon's metrics, the host's resources and the state of every app."""

_AFTER = """\
.SH EXIT STATUS
.TP
.B 0
Fine.
.TP
.B 1
It failed, or what was asked about is not well.
.TP
.B 2
Wrong usage or configuration. Starting again does not mend it.
.SH SIGNALS
Of
.BR "meshbridge run" :
.TP
.BR SIGTERM ", " SIGINT
End, within ten seconds. What is not delivered by then is delivered after the next start.
.TP
.B SIGHUP
Read the configuration again and apply what can be applied without dropping a connection. A wrong one is refused, and
the old one stays in force.
.SH ENVIRONMENT
.TP
.B MESHBRIDGE_CONFIG
The configuration file, where
.B \\-\\-config
is not given.
.TP
.BI MESHBRIDGE_ A __ B __ C
The setting
.IR a . b . c ,
over what the file says; in the names of daemons and sinks
.B \\-
is written
.BR _ .
.B MESHBRIDGE_DAEMONS__NODE_A__PASSWORD
is the password of
.BR node\\-a .
.TP
.B CREDENTIALS_DIRECTORY
A folder of files that are named like these variables in lower case, as systemd's
.B LoadCredential=
makes it. Each holds one secret.
.SH FILES
.TP
.B /run/secrets
The same, where containers have it.
.TP
.B /var/lib/meshbridge
The journal, unless
.B journal.path
names another folder.
.SH SEE ALSO
.BR mosquitto_sub (1),
.BR prometheus (1),
.BR systemd.service (5)
"""


@dataclass(frozen=True)
class Parameter:
    """An option or argument of a command. ``names`` are those that are typed, none for an argument."""

    names: tuple[str, ...]
    value: str
    """What stands for its value; empty for a flag."""
    choices: tuple[str, ...]
    default: Any
    required: bool
    help: str
    envvar: str


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    parameters: tuple[Parameter, ...]

    @property
    def arguments(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters if not parameter.names]

    @property
    def options(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters if parameter.names]


def commands(group: typer.Typer = app, name: str = "meshbridge") -> Iterator[Command]:
    """Each command that does something, as its function's signature tells."""
    for command in group.registered_commands:
        function = command.callback
        assert function is not None
        called = command.name or function.__name__.replace("_", "-")
        parameters = inspect.signature(function, eval_str=True).parameters.values()
        found = tuple(parameter for each in parameters if (parameter := _parameter(each)) is not None)
        if not command.hidden:
            yield Command(f"{name} {called}", inspect.getdoc(function) or "", found)
    for below in group.registered_groups:
        assert below.typer_instance is not None
        yield from commands(below.typer_instance, f"{name} {below.name}")


def _parameter(parameter: inspect.Parameter) -> Parameter | None:
    """None for what Typer hands over, and for what is hidden."""
    if get_origin(parameter.annotation) is not Annotated:
        return None
    kind, info = get_args(parameter.annotation)[:2]
    if not isinstance(info, typer.models.ParameterInfo) or info.hidden:
        return None
    # A union with None says that it may be left out, a list that it may be repeated: the value is of the type inside.
    kind = next((inner for inner in get_args(kind) if inner is not NoneType), kind)
    dashed = parameter.name.replace("_", "-")
    flags = (f"--{dashed}", f"--no-{dashed}") if kind is bool else (f"--{dashed}",)
    option = isinstance(info, typer.models.OptionInfo)
    # In Annotated the first name that was given stands where a default would.
    declared = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
    names = tuple(declared or flags) if option else ()
    choices = tuple(kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()
    value = (info.metavar or (dashed if choices or not option else _VALUES.get(kind, "value"))).strip("<>[]").lower()
    return Parameter(
        names=tuple(part for name in names for part in name.split("/")),
        value="" if kind is bool and option else value,
        choices=tuple(str(choice.value) for choice in choices),
        default=parameter.default,
        required=parameter.default in (inspect.Parameter.empty, ...),
        help=info.help or "",
        envvar=str(info.envvar or ""),
    )


def page() -> str:
    """The manual page, in man(7)."""
    what = str(app.info.help).rstrip(".")
    lines = [
        r".\" Written by `python -m tools.manpage`: change the command line's help, or that script.",
        f'.TH MESHBRIDGE 1 "" "meshbridge {meshbridge.__version__}" "User Commands"',
        ".SH NAME",
        rf"meshbridge \- {_text(what[:1].lower() + what[1:])}",
        ".SH SYNOPSIS",
        ".B meshbridge",
        ".I command",
        ".RI [ options ]",
        ".SH DESCRIPTION",
        _DESCRIPTION,
        ".SH COMMANDS",
        "Each also has",
        r".BR \-h \ and",
        r".BR \-\-help .",
    ]
    for command in commands():
        lines += _section(command)
    return "\n".join(lines) + "\n" + _AFTER


def _section(command: Command) -> Iterator[str]:
    yield f'.SS "{_text(command.name.removeprefix("meshbridge "))}"'
    yield f".B {_text(command.name)}"
    for argument in command.arguments:
        yield f".I {_text(argument.value)}" if argument.required else f".RI [ {_text(argument.value)} ]"
    if command.options:
        yield ".RI [ options ]"
    for paragraph in re.split(r"\n\s*\n", command.help):
        yield ".PP"
        yield _text(" ".join(paragraph.split()))
    for argument in command.arguments:
        yield from (".TP", f".I {_text(argument.value)}", _text(_explained(argument)))
    for option in command.options:
        names = r"\fR, \fB".join(_text(name) for name in option.names)
        value = rf" \fI{_text(option.value)}\fR" if option.value else ""
        yield from (".TP", rf"\fB{names}\fR{value}", _text(_explained(option)))


def _explained(parameter: Parameter) -> str:
    """What it is for, what may be given, and what is taken where it is not."""
    texts = [parameter.help]
    if parameter.choices:
        texts.append(f"One of {', '.join(parameter.choices)}.")
    given = parameter.required or isinstance(parameter.default, bool) or parameter.default in (None, "")
    if not given and "default" not in parameter.help.lower():
        texts.append(f"Default: {getattr(parameter.default, 'value', parameter.default)}.")
    if parameter.envvar:
        texts.append(f"Also from {parameter.envvar} in the environment.")
    return " ".join(texts)


def _text(text: str) -> str:
    r"""Plain text for roff: a minus that can be copied, and no line that begins like a request."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
