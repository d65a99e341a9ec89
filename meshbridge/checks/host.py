"""What stands on this host: the configuration's file, and the journal's directory."""

import contextlib
import ctypes
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import meshbridge
from meshbridge.admin.client import Client, NotRunningError, RefusedError
from meshbridge.config.load import Settings, inline_secrets
from meshbridge.journal import JournalError, JournalOptions
from meshbridge.journal.lock import refuse_others
from meshbridge.model.status import Grade, Verdict

__all__ = ["RunningBridge", "ServiceUser", "check_file", "check_journal", "check_running", "counted"]

_ASK_SECONDS = 5.0
_LEAST_FREE_BYTES = 64 * 2**20  # under that a journal stands still with the first burst of output
_MIB = 2**20
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs"})


@dataclass(frozen=True, slots=True)
class RunningBridge:
    """A bridge that runs on the same journal, as it says over its control socket."""

    pid: int
    journal: Mapping[str, Any]
    version: str = meshbridge.__version__
    configuration: str | None = None

    @classmethod
    def find(cls, directory: Path) -> Self | None:
        """None where no bridge runs, or this user may not ask."""
        client = Client(directory, _ASK_SECONDS)
        try:
            told = client.get("/api/v1/bridge")
            return cls(client.peer_pid(), told["journal"], told["version"], told.get("configuration"))
        except (NotRunningError, RefusedError, OSError, KeyError, TypeError):
            return None

    def runs_another(self, file: Path | None) -> bool:
        """Whether it has another configuration than ``file``."""
        if file is None or self.configuration is None:
            return False
        try:
            return not file.samefile(self.configuration)
        except OSError:
            return str(file.absolute()) != self.configuration


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """The user as which the bridge runs. Root looks at files with the rights of that user, not with its own."""

    uid: int
    gid: int

    @classmethod
    def of_bridge(cls, journal: Path) -> Self:
        """The owner of the journal, where root looks; else the user who looks."""
        with contextlib.suppress(OSError):
            status = journal.stat()
            if os.geteuid() == 0 and stat.S_ISDIR(status.st_mode):
                return cls(status.st_uid, status.st_gid)
        return cls(os.geteuid(), os.getegid())

    @contextlib.contextmanager
    def rights(self) -> Iterator[None]:
        """For files and sockets, in this thread alone (setfsuid(2)): other threads keep theirs."""
        if self.uid == os.geteuid():
            yield
            return
        libc = ctypes.CDLL(None)
        libc.setfsgid(self.gid)
        libc.setfsuid(self.uid)
        try:
            yield
        finally:
            libc.setfsuid(os.geteuid())
            libc.setfsgid(os.getegid())


def check_running(running: RunningBridge, file: Path | None = None) -> Verdict:
    """Whether it has this configuration, and is of this version: another one may take other settings."""
    if running.runs_another(file):
        return Verdict(
            "bridge",
            "configuration",
            Grade.FAILED,
            f"the bridge on this journal (process {running.pid}) has the configuration {running.configuration}",
            f"set journal.path in {file} to a directory of its own, or use --config {running.configuration}",
        )
    text = f"version {running.version} runs (process {running.pid})"
    if running.version == meshbridge.__version__:
        return Verdict("bridge", "version", Grade.OK, text)
    remedy = "restart it, or check with the program that it runs"
    return Verdict("bridge", "version", Grade.WARNING, f"{text}, and this is {meshbridge.__version__}", remedy)


# --- the file ------------------------------------------------------------------------------------------------------


def check_file(settings: Settings, file: Path | None) -> Verdict:
    """It can be used, since it was loaded; who else can read it?"""
    subject, aspect = "configuration", "file"
    what = f"{counted(settings.daemons, 'daemon')}, {counted(settings.sinks, 'sink')}"
    text = f"{file or 'environment'}: {what}"
    if file is not None and file.stat().st_mode & stat.S_IROTH and (keys := inline_secrets(file)):
        remedy = f"chmod o-r {file}, or use {keys[0]}_file"
        return Verdict(subject, aspect, Grade.WARNING, f"{file} holds {keys[0]}, and everybody can read it", remedy)
    if not settings.sinks:
        remedy = "set sinks, unless metrics, the API and live events are all that is wanted"
        return Verdict(subject, aspect, Grade.WARNING, f"{text}: events are kept, but go nowhere", remedy)
    return Verdict(subject, aspect, Grade.OK, text)


def counted(things: Sized, name: str) -> str:
    """``1 sink``, ``2 sinks``"""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


# --- the journal's directory ---------------------------------------------------------------------------------------


def check_journal(options: JournalOptions, running: RunningBridge | None) -> Iterator[Verdict]:
    """Whether the journal can be kept there, and has room."""
    directory = options.path
    subject = f"journal {directory}"
    present = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    yield _rights(subject, directory, present, running)
    used = _used(directory) if running is None else int(running.journal.get("bytes", 0))
    yield _space(subject, present, options.max_bytes, used)
    kind = _file_system(present)
    if kind in _NETWORK_FILE_SYSTEMS:
        remedy = "set journal.path to a local disk: locks and shared memory of a database need one"
        yield Verdict(subject, "file system", Grade.WARNING, f"on a network file system ({kind})", remedy)


def _rights(subject: str, directory: Path, present: Path, running: RunningBridge | None) -> Verdict:
    user = ServiceUser.of_bridge(directory).uid
    if denied := _denied(directory, present, user):
        remedy = f"make {directory} a directory of user {user} (chown -R), or set journal.path to another"
        return Verdict(subject, "rights", Grade.FAILED, denied, remedy)
    if present != directory:
        return Verdict(subject, "rights", Grade.OK, f"will be created in {present}")
    try:
        refuse_others(directory, user)
    except JournalError as error:
        return Verdict(subject, "rights", Grade.FAILED, str(error), f"chmod go-w {directory}")
    if running is not None:
        said = f"in use by the running bridge (process {running.pid}): {running.journal.get('events', 0)} events"
        return Verdict(subject, "rights", Grade.OK, said)
    return Verdict(subject, "rights", Grade.OK, "writable")


def _denied(directory: Path, present: Path, user: int) -> str | None:
    """Why the journal can't be kept there."""
    if not present.is_dir():
        return f"{present} is no directory"
    try:
        with tempfile.TemporaryFile(dir=present):
            pass
    except OSError as error:
        return f"cannot write in {present}: {error.strerror}"
    for file in directory.glob("journal.db*"):
        if not os.access(file, os.R_OK | os.W_OK, effective_ids=True):
            return f"{file.name} belongs to user {file.stat().st_uid}, and user {user} cannot write it"
    return None


def _used(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("journal.db*"))


def _space(subject: str, present: Path, max_bytes: int, used: int) -> Verdict:
    free = shutil.disk_usage(present).free
    text = f"{free // _MIB:,} MiB free, the journal takes {used // _MIB:,} of {max_bytes // _MIB:,} MiB at most"
    if free + used >= max_bytes and free >= _LEAST_FREE_BYTES:
        return Verdict(subject, "space", Grade.OK, text)
    grade = Grade.FAILED if free < _LEAST_FREE_BYTES else Grade.WARNING
    most = max(1, (free + used) * 9 // 10 // _MIB)
    return Verdict(subject, "space", grade, text, f"make room there, or set journal.max_bytes to {most}MiB or less")


def _file_system(place: Path) -> str | None:
    """By /proc/self/mountinfo: the type of the mount that is nearest above ``place``."""
    nearest, kind = Path(), None
    resolved = place.resolve()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            point = Path(before.split()[4])
            if resolved.is_relative_to(point) and len(point.parts) >= len(nearest.parts):
                nearest, kind = point, after.split()[0]
    return kind
