"""``meshbridge check``."""

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshbridge.cli.options import ConfigOption, JsonOption
from meshbridge.cli.output import FAILED, WRONG_USAGE, complain

if TYPE_CHECKING:
    from meshbridge.status import Verdict

__all__ = ["check"]

_MARKS = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}


def check(
    config: ConfigOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the file alone, connect to nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration, this host, then every daemon and sink, each with a plain verdict and a remedy.

    Publishes nothing and leaves nothing behind. Exit code 0: all works, perhaps with warnings; 1: something does not;
    2: the configuration can't be used.
    """
    from meshbridge import telemetry
    from meshbridge.config import ConfigError, load

    try:
        settings = load(config, os.environ)
    except ConfigError as error:
        _explain(error.problems, as_json=as_json)
        raise typer.Exit(WRONG_USAGE) from None
    from meshbridge.checks import check_all, check_file, worst

    telemetry.configure_logging("critical")  # the verdicts say it all
    verdicts = []
    for verdict in [check_file(settings, config)] if offline else check_all(settings, config):
        verdicts.append(verdict)
        if not as_json:
            _show(verdict)
    grade = worst(verdicts)
    if as_json:
        _print_json(grade.value, [_fields(verdict) for verdict in verdicts])
    raise typer.Exit(0 if grade.value != "failed" else FAILED)


def _show(verdict: "Verdict") -> None:
    print(f"{_MARKS[verdict.grade.value]} {verdict.subject}: {verdict.text}", flush=True)
    if verdict.remedy:
        print(f"     -> {verdict.remedy}", flush=True)


def _fields(verdict: "Verdict") -> dict[str, Any]:
    return {
        "subject": verdict.subject,
        "aspect": verdict.aspect,
        "verdict": verdict.grade.value,
        "text": verdict.text,
        "remedy": verdict.remedy,
    }


def _explain(problems: list[str], *, as_json: bool) -> None:
    if not as_json:
        for problem in problems:
            complain(problem)
        return
    found = {"subject": "configuration", "aspect": "file", "verdict": "failed"}
    _print_json("failed", [found | {"text": problem, "remedy": None} for problem in problems])


def _print_json(verdict: str, found: list[dict[str, Any]]) -> None:
    print(json.dumps({"verdict": verdict, "checks": found}, indent=2))
