"""What commands say, and the codes that they exit with."""

import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Annotated, NoReturn

import typer

from meshbridge.outside import printable

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
    "brought_out",
    "complain",
    "fail",
    "see_that_it_is_read",
    "signals_raised",
    "while_read",
    "writing",
]

FAILED, WRONG_USAGE = 1, 2
_OF_A_STREAM = {
    errno.EPIPE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EBADF,
}  # EIO: no terminal any more
_OF_A_SIGNAL = 128  # added to its number, as shells do


def complain(message: str) -> None:
    """Says on standard error what is wrong; to systemd's journal with the priority of an error (sd-daemon(3))."""
    lines = [printable(line) for line in f"meshbridge: {message}".split("\n")]
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
