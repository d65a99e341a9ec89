"""What commands say, and the codes that they exit with."""

import sys
from typing import NoReturn

import typer

__all__ = ["FAILED", "WRONG_USAGE", "complain", "fail"]

FAILED, WRONG_USAGE = 1, 2


def complain(message: str) -> None:
    """Says on standard error what is wrong."""
    print(f"meshbridge: {message}", file=sys.stderr)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Says what is wrong and exits."""
    complain(message)
    raise typer.Exit(code)
