"""``meshbridge check``."""

import itertools
import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

import meshbridge
from meshbridge.cli.options import ConfigOption, JsonOption
from meshbridge.cli.output import FAILED, WRONG_USAGE, complain
from meshbridge.outside import said

if TYPE_CHECKING:
    from meshbridge.model.status import Verdict

__all__ = ["check"]

_MARKS = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


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
    from meshbridge.config.load import ConfigError, leftover_secrets, load

    try:
        settings = load(config, os.environ)
    except ConfigError as error:
        _explain(error.problems, as_json=as_json)
        raise typer.Exit(WRONG_USAGE) from None
    from meshbridge.checks import check_all, check_file, check_leftovers, report

    telemetry.configure_logging("critical")  # the verdicts say it all
    verdicts = []
    found_by = [check_file(settings, config)] if offline else check_all(settings, config)
    for verdict in itertools.chain(check_leftovers(leftover_secrets(settings, config, os.environ)), found_by):
        verdicts.append(verdict)
        if not as_json:
            _show(verdict)
    found = report(verdicts)
    if as_json:
        print(json.dumps(found, indent=2))
    elif found["verdict"] != "ok":
        grades = Counter(verdict.grade.value for verdict in verdicts)
        print(f"\n{grades['failed']} failed, {grades['warning']} with a warning, {grades['ok']} ok")
    raise typer.Exit(0 if found["verdict"] != "failed" else FAILED)


def _show(verdict: "Verdict") -> None:
    grade = verdict.grade.value
    typer.secho(_MARKS[grade], fg=_COLOURS[grade], bold=grade != "ok", nl=False)  # in colour on a terminal only
    print(f" {verdict.subject}: {said(verdict.text)}", flush=True)
    if verdict.remedy:
        print(f"     -> {said(verdict.remedy)}", flush=True)


def _explain(problems: list[str], *, as_json: bool) -> None:
    if not as_json:
        for problem in problems:
            complain(problem)
        return
    found = {"subject": "configuration", "aspect": "file", "verdict": "failed", "remedy": None}
    checks = [found | {"text": problem} for problem in problems]
    print(json.dumps({"verdict": "failed", "version": meshbridge.__version__, "checks": checks}, indent=2))
