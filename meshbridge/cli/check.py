"""``meshbridge check``."""

import itertools
import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

import meshbridge
from meshbridge.cli.options import ConfigOption, JsonOption
from meshbridge.cli.output import FAILED, WRONG_USAGE, complain, new_painter, show, show_json
from meshbridge.outside import said

if TYPE_CHECKING:
    from meshbridge.model.status import Verdict

__all__ = ["check"]

_MARKS = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}
_STYLES = {"ok": "green", "warning": "bold yellow", "failed": "bold red"}


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
    paint = new_painter()
    found_by = [check_file(settings, config)] if offline else check_all(settings, config)
    for verdict in itertools.chain(check_leftovers(leftover_secrets(settings, config, os.environ)), found_by):
        verdicts.append(verdict)
        if not as_json:
            _show(verdict, paint)
    found = report(verdicts)
    if as_json:
        show_json(found, indent=2)
    elif found["verdict"] != "ok":
        grades = Counter(verdict.grade.value for verdict in verdicts)
        show()
        show(f"{grades['failed']} failed, {grades['warning']} with a warning, {grades['ok']} ok")
    raise typer.Exit(0 if found["verdict"] != "failed" else FAILED)


def _show(verdict: "Verdict", paint: Callable[..., None]) -> None:
    paint(
        (_MARKS[verdict.grade.value], _STYLES[verdict.grade.value]), (f" {verdict.subject}: {said(verdict.text)}", "")
    )
    if verdict.remedy:
        paint((f"     -> {said(verdict.remedy)}", ""))


def _explain(problems: list[str], *, as_json: bool) -> None:
    if not as_json:
        for problem in problems:
            complain(problem)
        return
    found = {"subject": "configuration", "aspect": "file", "verdict": "failed", "remedy": None}
    checks = [found | {"text": problem} for problem in problems]
    show_json({"verdict": "failed", "version": meshbridge.__version__, "checks": checks}, indent=2)
