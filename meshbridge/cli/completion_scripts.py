"""Completion in the shell.

The scripts lie in ``completions`` and ask the program with each Tab, by an environment variable; a wheel also installs
them where shells look. They are written here, and not taken from Typer, since its one for zsh does nothing at the first
Tab when it is found in ``$fpath``, and its one for fish starts the program twice.
"""

import os
from enum import StrEnum
from importlib.resources import files
from typing import Annotated

import typer

from meshbridge.cli.output import show_output

__all__ = ["Shell", "answer_completion", "completion", "script"]

_ASKED = "_MESHBRIDGE_COMPLETE"


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_SCRIPTS = {Shell.BASH: "meshbridge.bash", Shell.ZSH: "_meshbridge", Shell.FISH: "meshbridge.fish"}


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Print what makes a shell complete meshbridge's commands and options."""
    show_output(script(shell), raw=True)


def script(shell: Shell) -> str:
    """The text to source, or to put where the shell looks."""
    return (files("meshbridge.cli") / "completions" / _SCRIPTS[shell]).read_text(encoding="utf-8")


def answer_completion() -> None:
    """Makes Typer answer a shell that asks. It does so by itself only with its own options for completion."""
    if _ASKED in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
