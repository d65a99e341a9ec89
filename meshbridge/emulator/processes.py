"""Real processes, without a thread for each: the event loop watches a pipe for output and a pidfd for the end."""

import asyncio
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from meshbridge.emulator import reaper

PIPE_BYTES = 1024 * 1024
"""What an app may write in one go before it waits for the emulator; the real daemon's apps write to a file at once."""

READ_BYTES = 64 * 1024
READS_IN_A_ROW = 4  # then the loop's other work gets its turn

Output = Callable[[bytes, bool], None]
"""Takes a piece of output; the flag says that the process has ended, so that little can follow."""
Ended = Callable[[int], None]


class SignalCode(Protocol):
    def __call__(self, number: int, *, by_daemon: bool) -> int: ...


class Reaper:
    """Makes sure that no process of the apps outlives the emulator (see :mod:`meshbridge.emulator.reaper`)."""

    def __init__(self, temporary: Path | None = None) -> None:
        """``temporary``: a directory that is to go with the emulator."""
        self.mark = uuid.uuid4().hex
        self._process = subprocess.Popen(  # noqa: S603 our own interpreter and module
            [sys.executable, "-I", "-S", reaper.__file__, self.mark, *([str(temporary)] if temporary else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C at the terminal is not for it
        )

    def environment(self) -> dict[str, str]:
        """What the apps inherit: the emulator's own environment, and the mark."""
        return {**os.environ, reaper.MARK: self.mark}

    def close(self) -> None:
        """Kills what is still there and waits until that is done."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Process:
    """One process with its output. The callbacks run in the event loop's thread; ``on_end`` comes last, once.

    ``signal_code`` gives the exit code of one that a signal ended: its number, and whether :meth:`kill` sent it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        stdin: bytes = b"",
        on_output: Output,
        on_end: Ended,
        signal_code: SignalCode,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_output = on_output
        self._on_end = on_end
        self._signal_code = signal_code
        self.killed = False
        self.exit_code: int | None = None
        self.ended = asyncio.Event()
        self._reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(writer, True)  # the app's end
            _widen(writer)
            self._popen = _start(argv, environment, directory, writer, stdin)
        except BaseException:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._reader, self._read_some)
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def running(self) -> bool:
        return self.exit_code is None

    def kill(self) -> None:
        """Kills it with all of its process group."""
        if not self.running:
            return
        self.killed = True
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            self.killed = False

    def abandon(self) -> None:
        """Kills and reaps it with no callback: the daemon is shutting down."""
        if self.running:
            self._stop_watching()
            self.kill()
            self.exit_code = self._popen.wait()
            self.ended.set()

    def _read_some(self) -> None:
        for _ in range(READS_IN_A_ROW):
            if not self._read_once():
                return

    def _read_once(self, *, last: bool = False) -> bool:
        try:
            data = os.read(self._reader, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:  # every holder of the pipe has closed it; the end of the process is the pidfd's to tell
            self._loop.remove_reader(self._reader)
            return False
        self._on_output(data, last)
        return True

    def _reap(self) -> None:
        while self._read_once(last=True):  # what it wrote before it ended comes first
            pass
        self._stop_watching()
        code = self._popen.wait()
        if code < 0:
            code = self._signal_code(-code, by_daemon=self.killed)
        self.exit_code = code
        self.ended.set()
        self._on_end(code)

    def _stop_watching(self) -> None:
        self._loop.remove_reader(self._reader)
        self._loop.remove_reader(self._pidfd)
        os.close(self._reader)
        os.close(self._pidfd)


def command_line(command: str) -> list[str]:
    """The arguments of a command that no shell reads; one that cannot be split is taken as it is."""
    try:
        return shlex.split(command) or [command]
    except ValueError:
        return [command]


def shell() -> str:
    return "bash" if shutil.which("bash") else "sh"


def _start(
    argv: Sequence[str], environment: Mapping[str, str], directory: Path, output: int, stdin: bytes
) -> subprocess.Popen[bytes]:
    source = os.memfd_create("stdin") if stdin else os.open(os.devnull, os.O_RDONLY)
    try:
        if stdin:
            os.write(source, stdin)
            os.lseek(source, 0, os.SEEK_SET)
        try:
            return _popen(argv, environment, directory, output, source)
        except OSError as error:
            # The daemon forks first, so what cannot be run has a pid all the same, and ends with the error's number.
            return _popen(["/bin/sh", "-c", f"exit {error.errno}"], environment, Path("/"), output, source)
    finally:
        os.close(source)


def _popen(
    argv: Sequence[str], environment: Mapping[str, str], directory: Path, output: int, source: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 running commands is the emulator's work
        argv,
        stdin=source,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=directory,
        start_new_session=True,
    )


def _widen(pipe: int) -> None:

    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:  # the user's share of pipe pages is used up: the usual 64 KiB do
        return
