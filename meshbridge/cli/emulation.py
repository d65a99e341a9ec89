"""Things to try without an App Mesh daemon."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from meshbridge.cli.output import fail

__all__ = ["demo", "emulate"]


class Generation(StrEnum):
    """Of an emulated daemon."""

    TWO = "2"
    AUGUST = "3.0"
    OCTOBER = "3"


def demo(
    mqtt: Annotated[str | None, typer.Option("--mqtt", help="A broker to use instead of the embedded one.")] = None,
) -> None:
    """Emulator, sample apps, embedded broker and the bridge, all in one, with nothing to set up."""
    _need_demo_extra("demo")
    from meshbridge.demo import run_demo

    try:
        run_demo(mqtt)
    except (OSError, ValueError) as error:
        fail(str(error))


def emulate(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    tcp_port: Annotated[int, typer.Option(help="Port of TCP; 0 takes a free one.")] = 6059,
    wss_port: Annotated[int, typer.Option(help="Port of WSS.")] = 6058,
    https_port: Annotated[int, typer.Option(help="Port of HTTPS.")] = 6060,
    *,
    issuer_port: Annotated[int, typer.Option(help="Port of the issuer of a daemon of 3.x (HTTP, loopback).")] = 6062,
    generation: Annotated[
        Generation,
        typer.Option(
            help="3: a daemon of October 2026, 3.0: one of August; both with an issuer of tokens beside them.",
        ),
    ] = Generation.TWO,
    data_dir: Annotated[Path | None, typer.Option(help="Keep apps, users and keys here; default: forget them.")] = None,
) -> None:
    """Run an App Mesh daemon's stand-in, to try things and to test against."""
    _need_demo_extra("emulate")
    from meshbridge import telemetry
    from meshbridge.emulator import EmulatorOptions
    from meshbridge.emulator import emulate as run_emulator

    telemetry.configure_logging()
    options = EmulatorOptions(
        host=host,
        tcp_port=tcp_port,
        wss_port=wss_port,
        https_port=https_port,
        issuer_port=issuer_port,
        generation=generation.value,
        data_dir=data_dir,
    )
    try:
        run_emulator(options)
    except OSError as error:
        fail(f"cannot listen on {host}: {error}")


def _need_demo_extra(command: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in ("amqtt", "trustme") if find_spec(name) is None]
    if missing:
        fail(f"`{command}` needs {', '.join(missing)}: pip install 'meshbridge[demo]'")
