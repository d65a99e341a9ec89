"""``meshbridge check``."""

from typing import Annotated

import typer

from meshbridge.cli.options import ConfigOption, load_settings
from meshbridge.cli.output import FAILED

__all__ = ["check"]


def check(
    config: ConfigOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the file alone, connect to nothing.")] = False,
) -> None:
    """Check the configuration, then every daemon and sink, each with a plain verdict."""
    settings = load_settings(config)
    from meshbridge import checks, telemetry

    telemetry.configure_logging("critical")  # the verdicts say it all
    verdicts = [checks.Verdict("configuration", True, f"{len(settings.daemons)} daemons, {len(settings.sinks)} sinks")]
    if not offline:
        verdicts += checks.check_all(settings)
    for verdict in verdicts:
        mark = "ok  " if verdict.fine else "FAIL"
        print(f"{mark} {verdict.subject}: {verdict.text}")
        if verdict.remedy:
            print(f"     -> {verdict.remedy}")
    raise typer.Exit(0 if all(verdict.fine for verdict in verdicts) else FAILED)
