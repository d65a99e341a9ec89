"""The bridge itself: run it, ask it how it is."""

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import meshbridge
from meshbridge.cli.control import journal_directory, speaking
from meshbridge.cli.options import ConfigOption, JsonOption, load_settings
from meshbridge.cli.output import FAILED, WRONG_USAGE, complain, fail, show, show_json

if TYPE_CHECKING:
    from meshbridge.config.load import Settings
    from meshbridge.service.service import Service

__all__ = ["healthcheck", "print_version", "reload", "run", "version"]

_UNPROCESSABLE = 422  # the configuration was refused


def run(words: Annotated[list[str] | None, typer.Argument(hidden=True)] = None, config: ConfigOption = None) -> None:
    """Run the bridge until SIGTERM or SIGINT; SIGHUP makes it read its settings again."""
    if words:
        given = shlex.join(words)
        fail(
            f"run takes no words, it is the bridge itself: did you mean `meshbridge run --config {given}`, or "
            f"`meshbridge exec {given}` for a command at a daemon?",
            WRONG_USAGE,
        )
    settings = load_settings(config)
    from meshbridge import telemetry
    from meshbridge.admin.paths import ENVIRONMENT_ALONE
    from meshbridge.config.load import leftover_secrets, load, service_links
    from meshbridge.journal import JournalError
    from meshbridge.service.service import Service
    from meshbridge.service.supervisor import PartsError

    telemetry.configure_logging(settings.log.level, settings.log.format)
    if ignored := service_links(os.environ):
        telemetry.service_links_ignored(ignored)
    for file in leftover_secrets(settings, config, os.environ):
        telemetry.secret_file_unused(str(file))
    own = ENVIRONMENT_ALONE if config is None else str(config.absolute())
    service = Service(settings, lambda: load(config, os.environ), configuration=own)
    try:
        with _answering_tasks(service, settings, config):
            service.run()
    except (JournalError, PartsError) as error:
        fail(str(error), WRONG_USAGE)
    except OSError as error:
        fail(error.strerror if error.strerror and error.filename is None else str(error))  # without "[Errno 98]"


@contextlib.contextmanager
def _answering_tasks(service: "Service", settings: "Settings", config: Path | None) -> Iterator[None]:
    """Where App Mesh runs this bridge: answers what it is asked."""
    from meshbridge import telemetry
    from meshbridge.service.tasks import Worker, is_managed, new_server

    if not is_managed(os.environ):
        yield
        return
    server = new_server(settings.daemons)
    if server is None:
        telemetry.log.warning(
            "tasks not answered", hint="App Mesh runs this bridge, but no daemon of `daemons` is on loopback"
        )
        yield
        return
    from meshbridge.admin.bridge import get_bridge
    from meshbridge.checks import check_all, report
    from meshbridge.config.load import load

    answers = {
        "status": lambda: asdict(get_bridge(service.bridge)),
        "check": lambda: report(list(check_all(load(config, os.environ), config))),
        "reload": service.reload,
    }
    with Worker(server, answers):
        yield


def reload(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Make the running bridge read its settings again, and say what came of it.

    Settings that can't be used change nothing, and the exit code is 2.
    """
    from meshbridge.admin.client import RefusedError

    with speaking(config) as client:
        try:
            done = client.post("/-/reload")
        except RefusedError as refused:
            problems = refused.problem.get("problems")
            for problem in problems or [str(refused)]:
                complain(problem)
            unusable = refused.status == _UNPROCESSABLE
            raise typer.Exit(WRONG_USAGE if unusable else FAILED) from None
    if as_json:
        show_json(done, indent=2)
        return
    lines = [
        f"{kind}: {what} {', '.join(done[kind][what])}"
        for kind in ("daemons", "sinks")
        for what in ("added", "changed", "removed")
        if done[kind][what]
    ]
    if done["need_restart"]:
        lines.append(f"in force after a restart only: {', '.join(done['need_restart'])}")
    for line in lines or ["nothing has changed"]:
        show(line)


def healthcheck(
    config: ConfigOption = None,
    ready: Annotated[bool, typer.Option("--ready", help="Ask whether it is ready, not whether it is alive.")] = False,
    url: Annotated[str | None, typer.Option(help="Where the exporter listens; default: as configured.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 5.0,
) -> None:
    """Ask the bridge that runs here how it is: for a container's health check and for probes."""
    from meshbridge.service.healthcheck import CannotAskError, CredentialsNeededError, ask, ask_control, exporter_url

    try:
        try:
            fine, answer = ask(url or exporter_url(config, os.environ), ready=ready, timeout_seconds=timeout)
        except CredentialsNeededError as error:
            if url is None:
                fine, answer = ask_control(journal_directory(config), ready=ready, timeout_seconds=timeout)
            elif ready:
                fail(f"{error}: leave out --url, and the bridge is asked over its control socket")
            else:
                fine, answer = True, f"meshbridge is alive: {error}"
    except CannotAskError as error:
        fail(str(error))
    show(answer)
    raise typer.Exit(0 if fine else FAILED)


def print_version(asked: bool) -> None:
    """``--version``, before any command."""
    if asked:
        version()
        raise typer.Exit


def version() -> None:
    """Print the version."""
    show(meshbridge.__version__)
