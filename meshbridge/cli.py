"""The ``meshbridge`` command. Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.

What a command needs is imported when it runs: ``version`` and ``--help`` answer at once.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import meshbridge

if TYPE_CHECKING:
    from meshbridge.config import Settings

__all__ = ["main"]

_FAILED, _WRONG_USAGE = 1, 2

app = typer.Typer(
    name="meshbridge",
    help="Bridges App Mesh events to MQTT and other sinks, and App Mesh metrics to Prometheus.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="MESHBRIDGE_CONFIG",
        help="meshbridge.yaml or .toml; without it, the environment alone.",
    ),
]


def main() -> None:
    """Entry point of the console script."""
    app()


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the bridge until SIGTERM or SIGINT."""
    settings = _load(config)
    from meshbridge import telemetry
    from meshbridge.journal import JournalError
    from meshbridge.service import Service

    telemetry.configure_logging(settings.log.level, settings.log.format)
    try:
        Service(settings).run()
    except JournalError as error:
        _fail(str(error), _WRONG_USAGE)
    except OSError as error:
        _fail(str(error), _FAILED)


@app.command()
def check(
    config: ConfigOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the file alone, connect to nothing.")] = False,
) -> None:
    """Check the configuration, then every daemon and sink, each with a plain verdict."""
    settings = _load(config)
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
    raise typer.Exit(0 if all(verdict.fine for verdict in verdicts) else _FAILED)


@app.command()
def demo(
    mqtt: Annotated[str | None, typer.Option("--mqtt", help="A broker to use instead of the embedded one.")] = None,
) -> None:
    """Emulator, sample apps, embedded broker and the bridge, all in one, with nothing to set up."""
    _need_demo_extra("demo")
    from meshbridge.demo import run_demo

    try:
        run_demo(mqtt)
    except (OSError, ValueError) as error:
        _fail(str(error), _FAILED)


@app.command()
def emulate(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    tcp_port: Annotated[int, typer.Option(help="Port of TCP; 0 takes a free one.")] = 6059,
    wss_port: Annotated[int, typer.Option(help="Port of WSS.")] = 6058,
    https_port: Annotated[int, typer.Option(help="Port of HTTPS.")] = 6060,
    data_dir: Annotated[Path | None, typer.Option(help="Keep apps, users and keys here; default: forget them.")] = None,
) -> None:
    """Run an App Mesh daemon's stand-in, to try things and to test against."""
    _need_demo_extra("emulate")
    from meshbridge import telemetry
    from meshbridge.emulator import EmulatorOptions, emulate

    telemetry.configure_logging()
    options = EmulatorOptions(host=host, tcp_port=tcp_port, wss_port=wss_port, https_port=https_port, data_dir=data_dir)
    try:
        emulate(options)
    except OSError as error:
        _fail(f"cannot listen on {host}: {error}", _FAILED)


@app.command()
def healthcheck(
    config: ConfigOption = None,
    ready: Annotated[bool, typer.Option("--ready", help="Ask whether it is ready, not whether it is alive.")] = False,
    url: Annotated[str | None, typer.Option(help="Where the exporter listens; default: as configured.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 5.0,
) -> None:
    """Ask the bridge that runs here how it is: for a container's health check and for probes."""
    from meshbridge.healthcheck import CannotAskError, ask, exporter_url

    try:
        fine, answer = ask(url or exporter_url(config, os.environ), ready=ready, timeout_seconds=timeout)
    except CannotAskError as error:
        _fail(str(error), _FAILED)
    print(answer)
    raise typer.Exit(0 if fine else _FAILED)


@app.command()
def version() -> None:
    """Print the version."""
    print(meshbridge.__version__)


@config_app.command("show")
def config_show(config: ConfigOption = None) -> None:
    """Print the settings in force, secrets masked."""
    import yaml

    from meshbridge.config import shown

    print(yaml.safe_dump(shown(_load(config)), sort_keys=False), end="")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration."""
    from meshbridge.config import Settings

    print(json.dumps(Settings.model_json_schema(by_alias=True), indent=2))


def _load(config: Path | None) -> "Settings":
    from meshbridge.config import ConfigError, load

    try:
        return load(config, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            print(f"meshbridge: {problem}", file=sys.stderr)
        raise typer.Exit(_WRONG_USAGE) from None


def _need_demo_extra(command: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in ("amqtt", "trustme") if find_spec(name) is None]
    if missing:
        _fail(f"`{command}` needs {', '.join(missing)}: pip install 'meshbridge[demo]'", _FAILED)


def _fail(message: str, code: int) -> NoReturn:
    print(f"meshbridge: {message}", file=sys.stderr)
    raise typer.Exit(code)
