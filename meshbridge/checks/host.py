"""What stands on this host: the configuration's file, the journal's directory, the ports to listen on."""

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from meshbridge.admin.client import Client, NotRunningError, RefusedError
from meshbridge.config import Settings, inline_secrets
from meshbridge.exporter import WebConfigError, WebConfigFile
from meshbridge.journal import JournalOptions
from meshbridge.listening import split_address
from meshbridge.status import Grade, Verdict

__all__ = ["RunningBridge", "check_file", "check_journal", "check_listeners"]

_ASK_SECONDS = 5.0
_LEAST_FREE_BYTES = 64 * 2**20  # under that a journal stands still with the first burst of output
_MIB = 2**20
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs"})
_LISTENING = "0A"  # of /proc/net/tcp (proc(5))


@dataclass(frozen=True, slots=True)
class RunningBridge:
    """A bridge that runs on the same journal, as it says over its control socket."""

    pid: int
    journal: Mapping[str, Any]

    @classmethod
    def find(cls, directory: Path) -> Self | None:
        """None where nobody runs, or this user may not ask."""
        client = Client(directory, _ASK_SECONDS)
        try:
            return cls(client.peer_pid(), client.get("/api/v1/bridge")["journal"])
        except (NotRunningError, RefusedError, OSError, KeyError, TypeError):
            return None


# --- the file ------------------------------------------------------------------------------------------------------


def check_file(settings: Settings, file: Path | None) -> Verdict:
    """It can be used, or nobody would be here; who else can read it?"""
    subject, aspect = "configuration", "file"
    what = f"{_counted(settings.daemons, 'daemon')}, {_counted(settings.sinks, 'sink')}"
    text = f"{file or 'environment'}: {what}"
    if file is not None and file.stat().st_mode & stat.S_IROTH and (keys := inline_secrets(file)):
        remedy = f"chmod o-r {file}, or use {keys[0]}_file"
        return Verdict(subject, aspect, Grade.WARNING, f"{file} holds {keys[0]}, and everybody can read it", remedy)
    if not settings.sinks:
        remedy = "set sinks, unless metrics, the API and live events are all that is wanted"
        return Verdict(subject, aspect, Grade.WARNING, f"{text}: events are kept, but go nowhere", remedy)
    return Verdict(subject, aspect, Grade.OK, text)


def _counted(things: Mapping[str, object], name: str) -> str:
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
    user = os.geteuid()
    if denied := _denied(directory, present, user):
        remedy = f"make {directory} a directory of user {user} (chown -R), or set journal.path to another"
        return Verdict(subject, "rights", Grade.FAILED, denied, remedy)
    if present != directory:
        return Verdict(subject, "rights", Grade.OK, f"will be created in {present}")
    if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        said = "others can write in it, and so put something else in the control socket's place"
        return Verdict(subject, "rights", Grade.WARNING, said, f"chmod go-w {directory}")
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


# --- ports ---------------------------------------------------------------------------------------------------------


def check_listeners(settings: Settings, running: RunningBridge | None) -> Iterator[Verdict]:
    """Whether the ports can be had, and the files for TLS be read."""
    exporter = settings.exporter
    yield _listener("exporter", exporter.listen, running)
    if exporter.web_config is not None:
        yield _web_config("exporter", exporter.web_config)


def _web_config(subject: str, path: Path) -> Verdict:
    try:
        config, context = WebConfigFile(path).load()
    except WebConfigError as error:
        remedy = f"mend {path}, and let this user read it and the files that it names"
        return Verdict(subject, "web_config", Grade.FAILED, f"{error.where}: {error.problem}", remedy)
    users = len(config.basic_auth_users)
    text = f"{path}: {'TLS' if context else 'no TLS'}, {users} {'user' if users == 1 else 'users'}"
    if users and context is None:
        remedy = "set tls_server_config there: without it passwords travel in the clear"
        return Verdict(subject, "web_config", Grade.WARNING, text, remedy)
    return Verdict(subject, "web_config", Grade.OK, text)


def _listener(subject: str, listen: str, running: RunningBridge | None) -> Verdict:
    host, port = split_address(listen)
    if not port:
        return Verdict(subject, "port", Grade.OK, f"{listen}: a free port will be taken")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the listener does
            sock.bind(address)
    except OSError as error:
        return _taken(subject, listen, port, running, error)
    if running is not None:
        return Verdict(
            subject,
            "port",
            Grade.WARNING,
            f"{listen} is free, so the running bridge listens elsewhere",
            "restart it where this is the configuration that it should have",
        )
    return Verdict(subject, "port", Grade.OK, f"{listen} is free")


def _taken(subject: str, listen: str, port: int, running: RunningBridge | None, error: OSError) -> Verdict:
    holder = _holder(port)
    if running is not None and holder in {None, running.pid}:
        return Verdict(subject, "port", Grade.OK, f"{listen} is held by the running bridge")
    if holder is not None:
        said = f"{listen} is held by process {holder} ({_name_of(holder)})"
        return Verdict(subject, "port", Grade.FAILED, said, f"stop that one, or set {subject}.listen to another port")
    reason = error.strerror or str(error)
    remedy = f"set {subject}.listen to an address of this host and a free port"
    return Verdict(subject, "port", Grade.FAILED, f"cannot listen on {listen}: {reason}", remedy)


def _holder(port: int) -> int | None:
    """The process that listens on a port, as far as this user may know (proc(5), /proc/net/tcp)."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    if not sockets:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if any(str(descriptor.readlink()) in sockets for descriptor in (process / "fd").iterdir()):
                    return int(process.name)
    return None


def _name_of(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "ended meanwhile"
