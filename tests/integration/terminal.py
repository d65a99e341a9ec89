"""A program on a terminal of its own that one types to and looks at."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

from tests.support import DEADLINE_SECONDS, thread, wait_for

__all__ = ["Terminal", "terminal"]


class Terminal:
    """An interactive program, and what it has drawn since something was typed last."""

    def __init__(self, command: list[str], directory: Path, environ: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 160, 0, 0))
        # The terminal is the program's controlling one, so that Ctrl-C typed there is a signal.
        command = ["setsid", "--ctty", *command]
        self.process = subprocess.Popen(command, cwd=directory, env=environ, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self._screen = b""

    def read(self) -> None:
        """Takes what comes until the program has ended."""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while more := os.read(self._master, 4096):
                self._screen += more

    @property
    def screen(self) -> str:
        return self._screen.decode(errors="replace")

    def type(self, keys: str) -> None:
        self._screen = b""
        os.write(self._master, keys.encode())

    def wait_to_see(self, text: str) -> None:
        wait_for(lambda: text in self.screen, f"{text!r} on {self._screen!r}")

    def wait_for_end(self) -> int:
        """The exit code."""
        return self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def free(self) -> None:
        os.close(self._master)


@contextlib.contextmanager
def terminal(command: list[str], directory: Path, environ: dict[str, str], setup: str = "") -> Iterator[Terminal]:
    """``setup`` is a shell's first line, and done when the block begins."""
    shown = Terminal(command, directory, environ)
    try:
        with thread(shown.read, "terminal"):
            try:
                if setup:
                    shown.type(f"{setup}; echo set''up\n")
                    shown.wait_to_see("setup\r\n")
                yield shown
            finally:
                shown.close()
    finally:
        shown.free()
