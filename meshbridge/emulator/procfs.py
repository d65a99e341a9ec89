"""What /proc says of processes: trees, memory, CPU time, descriptors."""

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    pid: int
    parent: int
    name: str
    cpu_seconds: float
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process with all that descend from it."""

    memory_bytes: int
    cpu_seconds: float
    open_fds: int


class Snapshot:
    """All processes at one moment, read when first asked: a list of thousands of apps reads /proc once, or never."""

    def __init__(self) -> None:
        self._facts: dict[int, ProcessFacts] = {}
        self._children: dict[int, list[int]] = {}
        self._taken = False

    def _take(self) -> None:
        if self._taken:
            return
        self._taken = True
        for entry in os.listdir(_PROC):  # noqa: PTH208 names only
            if entry.isdigit() and (facts := _facts(int(entry))) is not None:
                self._facts[facts.pid] = facts
                self._children.setdefault(facts.parent, []).append(facts.pid)

    def usage(self, pid: int) -> Usage:
        self._take()
        members = list(self._tree(pid))
        return Usage(
            sum(self._facts[member].resident_bytes for member in members),
            sum(self._facts[member].cpu_seconds for member in members),
            sum(open_fds(member) for member in members),
        )

    def tree_text(self, pid: int, *, arguments: bool) -> str:
        """The tree as ``get_app`` draws it (with arguments) and ``list_apps`` (names only)."""
        self._take()
        return "\n".join(self._tree_lines(pid, 0, arguments=arguments))

    def _tree(self, pid: int) -> Iterable[int]:
        if pid in self._facts:
            yield pid
        for child in self._children.get(pid, ()):
            yield from self._tree(child)

    def _tree_lines(self, pid: int, depth: int, *, arguments: bool) -> Iterable[str]:
        children = self._children.get(pid, [])
        text = (_arguments(pid) if arguments else "") or (self._facts[pid].name if pid in self._facts else "")
        branch = f"{' ' * (2 * depth - 1)}\\" if depth else ""
        yield f"{branch}-{'+' if children else '-'}- {pid} {text}"
        for child in children:
            yield from self._tree_lines(child, depth + 1, arguments=arguments)


def open_fds(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 counts, makes no paths
    except OSError:  # it has ended
        return 0


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def process_user(pid: int) -> str:
    try:
        return user_name((_PROC / str(pid)).stat().st_uid)
    except OSError:
        return user_name(os.geteuid())


def _facts(pid: int) -> ProcessFacts | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    name, _, rest = stat.partition("(")[2].rpartition(")")  # a name may hold both, and spaces
    fields = rest.split()
    # From the field after the name (proc_pid_stat(5), 'state'): ppid 1, utime 11, stime 12, rss 21.
    ticks = int(fields[11]) + int(fields[12])
    return ProcessFacts(pid, int(fields[1]), name, ticks / TICKS_PER_SECOND, int(fields[21]) * PAGE_BYTES)


def _arguments(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""
