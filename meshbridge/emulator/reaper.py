"""Ends what the emulator's apps have left behind, also when the emulator itself was killed.

Runs as a process of its own, started by :class:`meshbridge.emulator.processes.Reaper` with a pipe on its standard
input. End of file there means that the emulator is gone, however it went: then every process whose environment
carries the emulator's mark gets SIGKILL, and the emulator's temporary directory goes. A parent-death signal would reach
an app's first process only, and a process group not what has left it; the mark is inherited by all. Standard library
only, no imports of meshbridge: it starts in some milliseconds.
"""

import os
import shutil
import signal
import sys

MARK = "EMULATED_APP_MESH"
ROUNDS = 50  # a process may fork while the list is read; each round kills what the one before missed


def marked_processes(mark: str) -> list[int]:
    """Processes of this user whose environment has ``EMULATED_APP_MESH=<mark>``."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 pathlib would be most of this process's start-up
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as environment:  # noqa: PTH123 as above
                if wanted in environment.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def kill_marked(mark: str) -> None:
    for _ in range(ROUNDS):
        found = marked_processes(mark)
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    kill_marked(sys.argv[1])
    for directory in sys.argv[2:]:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
