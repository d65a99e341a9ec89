"""The ``meshbridge`` command, also as ``python -m meshbridge``.

Before anything slow is imported, standard streams and the signals of ``meshbridge run`` are put in order. Standard
library alone.
"""

import contextlib
import io
import os
import signal
import sys
import threading
from types import FrameType

import meshbridge

__all__ = ["main"]

_INPUT, _OUTPUT, _ERROR = 0, 1, 2


def main() -> None:
    """Entry point of the console script."""
    open_streams()
    if sys.argv[1:] in (["version"], ["--version"]) and said_version():
        return
    if sys.argv[1:2] == ["run"]:
        take_signals()
    from meshbridge import cli  # noqa: PLC0415 slow

    cli.main()


def said_version() -> bool:
    """Prints the version without the command line, whose import takes ten times as long; False if it cannot be printed.

    The command line then says why.
    """
    try:
        print(meshbridge.__version__, flush=True)  # noqa: T201 all that is printed without the command line
    except OSError:
        return False
    return True


def take_signals() -> None:
    """Until the service takes them: a stop ends the process, nothing being open yet, and a reload waits.

    The first process of a container ignores each signal that it has no handler for, and SIGHUP ends any other.
    """
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)  # at once, where a handler has to wait for what the main thread waits for
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _written_to_the_pipe)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # the service unblocks it
    threading.Thread(target=_end_when_woken, args=(wake,), name="early-signals", daemon=True).start()


def _written_to_the_pipe(_number: int, _frame: FrameType | None) -> None:
    """The pipe's reader ends the process."""


def _end_when_woken(wake: int) -> None:
    os.read(wake, 1)
    os._exit(0)


def open_streams() -> None:
    """Standard streams that are closed lead nowhere, and what a stream cannot encode is escaped.

    Without this the next file or socket would take the number of a closed stream, and get what is printed there.
    """
    for number in (_INPUT, _OUTPUT, _ERROR):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(_INPUT, encoding="utf-8", closefd=False)  # noqa: SIM115 of a descriptor, for good
    sys.stdout = _writable(sys.stdout, _OUTPUT)
    sys.stderr = _writable(sys.stderr, _ERROR)


def _writable(stream: object, number: int) -> io.TextIOWrapper:
    if not isinstance(stream, io.TextIOWrapper):
        stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 as above
    with contextlib.suppress(ValueError, OSError):
        stream.reconfigure(errors="backslashreplace")
    return stream


if __name__ == "__main__":
    main()
