"""``meshbridge top``: the apps that take most."""

import contextlib
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshbridge.cli.app_view import STYLES, Seen, look
from meshbridge.cli.completion import DaemonOption, PatternsArgument, one_of
from meshbridge.cli.control import Patience, speaking
from meshbridge.cli.options import ConfigOption, JsonOption
from meshbridge.cli.output import (
    FAILED,
    WRONG_USAGE,
    SignalledError,
    complain,
    fail,
    new_console,
    show_json,
    signals_raised,
)
from meshbridge.cli.tables import age, in_colour, print_table, size

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["top"]

_HEADER = ("DAEMON", "APP", "STATE", "CPU %", "MEMORY", "FDS", "STARTS", "UP")
_ORDERS: dict[str, Callable[[Seen], Any]] = {
    "cpu": lambda one: (-one.figure("cpu"), one.name),
    "memory": lambda one: (-one.figure("memory"), one.name),
    "starts": lambda one: (-one.figure("starts"), one.name),
    "name": lambda one: (one.name, one.daemon),
}
_KEYS = {order[0]: order for order in _ORDERS}
_QUIT = "q"
_LEAST_INTERVAL_SECONDS = 0.2
_LINES_ABOVE = 3

SortOption = Annotated[
    str, typer.Option(help=f"What stands first: by {', '.join(_ORDERS)}.", autocompletion=one_of(tuple(_ORDERS)))
]
Look = Callable[[], tuple[list[Seen], list[str]]]


def top(
    patterns: PatternsArgument = None,
    *,
    daemon: DaemonOption = None,
    sort: SortOption = "cpu",
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="At most so many apps.")] = None,
    interval: Annotated[float, typer.Option(min=_LEAST_INTERVAL_SECONDS, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One look; also where standard output is no terminal.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Watch the apps and runs that take most, until q or Ctrl-C.

    The keys c, m, s and n sort by CPU, memory, starts and name. With --json, one look.
    """
    if sort not in _ORDERS:
        fail(f"--sort: not {sort!r} but one of {', '.join(_ORDERS)}", WRONG_USAGE)
    with speaking(config) as client:

        def seen() -> tuple[list[Seen], list[str]]:
            return look(client, daemon, patterns or [], runs=True)

        if not (as_json or once) and sys.stdout.isatty():
            _watch(seen, sort, count, interval)
            return
        found, silent = seen()
    found = sorted(found, key=_ORDERS[sort])[:count]
    if as_json:
        show_json([{"daemon": one.daemon, **one.fields} for one in found], indent=2)
    else:
        print_table(_HEADER, [_row(one) for one in found], STYLES)
    for problem in silent:
        complain(problem)
    raise typer.Exit(FAILED if silent else 0)


def _row(one: Seen) -> list[str]:
    return [
        one.daemon,
        one.name,
        one.state,
        f"{one.figure('cpu'):.1f}",
        size(one.figure("memory")),
        str(one.fields.get("fd", "-")),
        str(one.fields.get("starts", "-")),
        age(time.time() - one.started) if one.started is not None else "-",
    ]


# --- on a terminal -------------------------------------------------------------------------------------------------


def _watch(seen: Look, sort: str, count: int | None, interval: float) -> None:
    """Draws on the terminal's other screen, so that what stood there is there again afterwards."""
    from rich.console import Group
    from rich.live import Live

    console = new_console()
    said = list[str]()  # of a bridge that is gone
    patience = Patience(said.append)
    found, silent = seen()  # an error of the first look is not drawn
    patience.fine()
    try:
        with signals_raised(), _keys() as key_within, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                ordered = sorted(found, key=_ORDERS[sort])[:count]
                live.update(Group(*_lines(ordered, [*said, *silent], sort, console.height)), refresh=True)
                key = key_within(interval)
                if key == _QUIT:
                    return
                sort = _KEYS.get(key, sort)
                with patience.trying():
                    found, silent = seen()
                    patience.fine()
                    said.clear()
    except SignalledError as ended:
        if ended.number != signal.SIGINT:
            raise typer.Exit(ended.exit_code) from None


def _lines(found: Sequence[Seen], problems: Sequence[str], sort: str, height: int) -> Iterator["Text"]:
    from rich.text import Text

    states = ", ".join(f"{count} {state}" for state, count in Counter(one.state for one in found).items())
    figures = [
        f"{time.strftime('%H:%M:%S')}   {len(found)} apps: {states or 'none'}",
        f"CPU {sum(one.figure('cpu') for one in found):.1f} %",
        f"memory {size(sum(one.figure('memory') for one in found))}",
    ]
    yield Text("   ".join(figures), no_wrap=True, overflow="ellipsis")
    keys = Text("sort:")
    for key, order in _KEYS.items():
        keys.append(f"  {key} ", style="bold").append(order, style="reverse" if order == sort else "bright_black")
    yield keys.append(f"   {_QUIT} ", style="bold").append("quit")
    for problem in problems:
        yield Text(problem, style="bold red", no_wrap=True, overflow="ellipsis")
    room = max(1, height - _LINES_ABOVE - len(problems))
    for line in in_colour(_HEADER, [_row(one) for one in found[:room]], STYLES):
        line.no_wrap, line.overflow = True, "ellipsis"
        yield line


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """What gives the key that is typed within so many seconds, or nothing."""
    if not sys.stdin.isatty():
        yield _no_key_within
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()

    def key_within(seconds: float) -> str:
        if not select.select([terminal], [], [], seconds)[0]:
            return ""
        return os.read(terminal, 1).decode("ascii", "replace") or _QUIT

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield key_within
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _no_key_within(seconds: float) -> str:
    time.sleep(seconds)
    return ""
