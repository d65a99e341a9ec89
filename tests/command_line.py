"""The ``meshbridge`` command in the process of the tests: a start of the program takes a second of CPU time."""

import contextlib
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TextIO
from unittest import mock

import structlog

from meshbridge.cli import main

__all__ = ["run_command"]


def run_command(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` of the program with captured output; for commands that end by themselves.

    One test of each group of commands starts the real program (:func:`tests.support.meshbridge_command`).
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as given,
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        given.write(stdin)
        given.seek(0)
        with (
            mock.patch.object(sys, "argv", ["meshbridge", *arguments]),
            _main_module(),
            mock.patch.object(sys, "stdin", given),
            mock.patch.object(sys, "stdout", output),
            mock.patch.object(sys, "stderr", errors),
            mock.patch.dict(os.environ, env or {}, clear=env is not None),
            _logs_of_others_go_on(),
        ):
            code = _exit_code(errors)
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(["meshbridge", *arguments], code, output.read(), errors.read())


@contextlib.contextmanager
def _main_module() -> Iterator[None]:
    """By ``__main__`` the program's name is found. Modules that a command imports stay: copies would differ."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before


@contextlib.contextmanager
def _logs_of_others_go_on() -> Iterator[None]:
    """What a bridge in this process logs meanwhile, it logs where it did before."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
    try:
        yield
    finally:
        structlog.configure(**before)


def _exit_code(errors: TextIO) -> int:
    """What the interpreter would end with."""
    try:
        main()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=errors)
        return 1
    except Exception:  # noqa: BLE001 as the interpreter prints it
        traceback.print_exc(file=errors)
        return 1
    return 0
