"""What commands say, and the codes that they exit with.

All that a command prints goes through here, and what comes from outside (daemons, apps, brokers, issuers) is escaped
where it would steer a terminal: nothing else in ``meshbridge.cli`` may call ``print`` or write to a console (the linter
holds that), so that no command can forget it.
"""

import contextlib
import errno
import json
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from meshbridge.outside import printable

if TYPE_CHECKING:
    from rich.console import Console  # noqa: TID251 see new_console

RawOption = Annotated[
    bool,
    typer.Option("--raw", help="Print the output as it is, also what steers a terminal (colours, control characters)."),
]

__all__ = [
    "FAILED",
    "WRONG_USAGE",
    "CannotWriteError",
    "RawOption",
    "SignalledError",
    "as_it_is",
    "brought_out",
    "complain",
    "fail",
    "new_console",
    "new_painter",
    "printed_safely",
    "see_that_it_is_read",
    "show",
    "show_json",
    "show_json_text",
    "show_output",
    "signals_raised",
    "while_read",
    "writing",
]

FAILED, WRONG_USAGE = 1, 2
_NOT_ASCII = re.compile(r"[^ -~]+")
_OF_A_STREAM = {
    errno.EPIPE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EBADF,
}  # EIO: no terminal any more
_OF_A_SIGNAL = 128  # added to its number, as shells do


def show(line: str = "", *, flush: bool = False) -> None:
    """Prints one line."""
    print(printable(line), flush=flush)


def show_json(value: Any, *, indent: int | None = None) -> None:
    """Prints a value as JSON, in ASCII."""
    print(json.dumps(value, indent=indent), flush=indent is None)


def show_json_text(text: str) -> None:
    """Prints a line of JSON as it came, in ASCII: what else it has stands in strings."""
    print(_NOT_ASCII.sub(lambda found: json.dumps(found.group())[1:-1], text), flush=True)


def show_output(text: str, *, raw: bool) -> None:
    """Prints what an app has written, which has lines of its own; ``raw``: as it is, also what steers a terminal."""
    print(text if raw else printed_safely(text), end="", flush=True)


def as_it_is(*, raw: bool) -> bool:
    """Whether an app's output is printed unchanged: with ``--raw``, and wherever a program reads it."""
    return raw or not sys.stdout.isatty()


def printed_safely(text: str) -> str:
    """``text`` of several lines, with what would steer a terminal escaped."""
    return "\n".join(map(printable, text.split("\n")))


def new_painter() -> Callable[..., None]:
    """What prints a line of (text, style) pairs, the styles as rich calls them and only on a terminal that has them.

    A line through rich's console takes 124 µs of CPU, and one through this 4. ``raw=True`` leaves texts as they are.
    """
    from rich.color import ColorSystem
    from rich.console import Console  # noqa: TID251 only asked what the terminal can do
    from rich.style import Style

    terminal = Console()
    plain = terminal.color_system is None or terminal.no_color

    def paint(*parts: tuple[str, str], raw: bool = False) -> None:
        line = ""
        for text, style in parts:
            shown = text if raw else printable(text)
            line += shown if plain or not style else Style.parse(style).render(shown, color_system=ColorSystem.STANDARD)
        print(line, flush=True)

    return paint


def new_console(*, stderr: bool = False) -> "Console":
    """A console of rich's for tables and bars, whose texts are escaped."""
    from rich.console import Console, ConsoleOptions, RenderableType  # noqa: TID251 the one place
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printed_safely(segment.text), segment.style)

    return PrintableConsole(highlight=False, markup=False, stderr=stderr)


def complain(message: str) -> None:
    """Says on standard error what is wrong; to systemd's journal with the priority of an error (sd-daemon(3))."""
    lines = printed_safely(f"meshbridge: {message}").split("\n")
    for_journal = os.environ.get("JOURNAL_STREAM") and sys.stderr is not None and not sys.stderr.isatty()
    print("\n".join(f"<3>{line}" if for_journal else line for line in lines), file=sys.stderr)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Says what is wrong and exits."""
    complain(message)
    raise typer.Exit(code)


class CannotWriteError(Exception):
    """Standard output cannot be written, though it has a reader."""


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Around what writes to standard output beside what reads from elsewhere, so that the two can be distinguished.

    Raises:
        CannotWriteError: the disk is full, say.
        BrokenPipeError: the reader has gone.

    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWriteError(error.strerror or str(error)) from error


def while_read(lines: Iterable[bytes]) -> Iterator[bytes]:
    """``lines`` as long as somebody reads standard output.

    Raises:
        BrokenPipeError: the reader has gone.

    """
    for line in lines:
        see_that_it_is_read()
        yield line


def see_that_it_is_read() -> None:
    """For a command that waits, and may have nothing to write for long.

    Raises:
        BrokenPipeError: the reader of standard output has gone.

    """
    if sys.stdout is None:
        return
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@contextlib.contextmanager
def brought_out() -> Iterator[None]:
    """Around a command: what it has printed goes out, or it is said why not. Ends with 1 then."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # as with >&-
                sys.stdout.flush()
    except (OSError, CannotWriteError) as error:
        if isinstance(error, OSError) and error.errno not in _OF_A_STREAM:
            raise
        # What is left can't go anywhere, and the interpreter would try it once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            complain(f"cannot write: {error.strerror if isinstance(error, OSError) else error}")
        raise SystemExit(FAILED) from None


class SignalledError(BaseException):
    """A signal that asks for the end has come."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_code = _OF_A_SIGNAL + number


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """For commands that have something to put in order at their end.

    Raises:
        SignalledError: in the block, when SIGINT, SIGTERM or SIGHUP comes.

    """

    def end(number: int, _frame: FrameType | None) -> None:
        raise SignalledError(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
