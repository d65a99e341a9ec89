"""Options that many commands have, and what comes of them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshbridge.cli.output import WRONG_USAGE, complain

if TYPE_CHECKING:
    from meshbridge.config import Settings

__all__ = ["ConfigOption", "JsonOption", "load_settings"]

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="MESHBRIDGE_CONFIG",
        help="meshbridge.yaml or .toml; without it, the environment alone.",
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def load_settings(config: Path | None) -> "Settings":
    """The settings in force; exits when they are wrong, having said what is."""
    from meshbridge.config import ConfigError, load

    try:
        return load(config, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            complain(problem)
        raise typer.Exit(WRONG_USAGE) from None
