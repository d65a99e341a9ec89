"""Options that many commands have, and what comes of them."""

import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshbridge.cli.output import WRONG_USAGE, complain, fail

if TYPE_CHECKING:
    from meshbridge.config.load import Settings

__all__ = ["ConfigOption", "JsonOption", "load_settings", "moment"]

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="MESHBRIDGE_CONFIG",
        readable=False,  # load says who must not read it, and what to do
        help="meshbridge.yaml or .toml; without it, the environment alone.",
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def load_settings(config: Path | None) -> "Settings":
    """The settings in force; exits when they are wrong, having said what is."""
    from meshbridge.config.load import ConfigError, load

    try:
        return load(config, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            complain(problem)
        raise typer.Exit(WRONG_USAGE) from None


def moment(option: str, text: str) -> float:
    """Unix seconds of ``1h`` (so long ago), or of a time as in ISO 8601, local where it names no zone; else exits."""
    from meshbridge.fields import parse_duration

    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        fail(f"{option}: {text!r} is neither a time ago (10m, 2h, 1d) nor a time (2026-11-25T07:00Z)", WRONG_USAGE)
