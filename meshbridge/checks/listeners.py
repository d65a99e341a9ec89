"""The ports and sockets to listen on: whether they can be had, and what they are secured with."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from meshbridge.admin.options import AdminOptions
from meshbridge.checks.certificates import check_expiry
from meshbridge.checks.host import RunningBridge, counted
from meshbridge.config.load import Settings
from meshbridge.exporter import WebConfigError, WebConfigFile
from meshbridge.model.status import Grade, Verdict
from meshbridge.web.addresses import is_loopback, split_address

__all__ = ["check_listeners"]

_RUNTIME = Path("/run")  # where RuntimeDirectory= of the units makes a directory for as long as the bridge runs
_LISTENING = "0A"  # of /proc/net/tcp (proc(5))


def check_listeners(settings: Settings, running: RunningBridge | None) -> Iterator[Verdict]:
    """Whether the ports can be had, the files for TLS be used, and who may come in."""
    exporter = settings.exporter
    yield _listener("exporter", exporter.listen, running)
    if exporter.web_config is not None:
        yield from _web_config("exporter", exporter.web_config)
    yield from _admin("admin", settings.admin, running)


def _admin(subject: str, options: AdminOptions, running: RunningBridge | None) -> Iterator[Verdict]:
    if not options.enabled:
        said = "no tokens, so the API is on the control socket alone (meshbridge token new makes one)"
        yield Verdict(subject, "tokens", Grade.OK, said)
        return
    who = ", ".join(f"{token.name} ({token.scope})" for token in options.tokens)
    yield Verdict(subject, "tokens", Grade.OK, f"{counted(options.tokens, 'token')}: {who}")
    if options.unix_path is not None:
        yield _socket(subject, options.unix_path)
    else:
        yield _listener(subject, options.listen, running)
        yield from _admin_tls(subject, options)
    if options.audit_file is not None:
        yield _audit(subject, options.audit_file)


def _admin_tls(subject: str, options: AdminOptions) -> Iterator[Verdict]:
    if options.tls is not None:
        try:
            options.tls.context()
        except (OSError, ValueError) as error:
            remedy = "set cert_file and key_file to PEM files that belong together, and let this user read them"
            said = f"its certificate or key can't be used: {error}"
            yield Verdict(subject, "certificate", Grade.FAILED, said, remedy)
        else:
            yield check_expiry(subject, options.tls.cert_file)
    elif not is_loopback(split_address(options.listen)[0]):  # as insecure: true has it
        said = f"{options.listen} can be reached from other hosts, and tokens travel in clear"
        yield Verdict(subject, "certificate", Grade.WARNING, said, "set tls, and drop insecure: true")


def _socket(subject: str, path: Path) -> Verdict:
    if path.exists() and not path.is_socket():
        said = f"{path} is there, and no socket"
        return Verdict(subject, "socket", Grade.FAILED, said, f"set {subject}.listen to another path, or move it away")
    if not path.parent.exists() and path.parent.parent == _RUNTIME and path.parent.name.startswith("meshbridge"):
        return Verdict(subject, "socket", Grade.OK, f"{path} can be made: systemd makes its directory at the start")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        said = f"no socket can be made in {path.parent}"
        remedy = "make that directory, and let this user write in it"
        return Verdict(subject, "socket", Grade.FAILED, said, remedy)
    return Verdict(subject, "socket", Grade.OK, f"{path} can be made")


def _audit(subject: str, path: Path) -> Verdict:
    place = path if path.exists() else path.parent
    if place == path and not path.is_dir() and os.access(path, os.W_OK, effective_ids=True):
        return Verdict(subject, "audit", Grade.OK, f"calls are written to {path}")
    if place != path and os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        return Verdict(subject, "audit", Grade.OK, f"calls will be written to {path}")
    remedy = f"set {subject}.audit_file to a file that this user can write, in a directory that is there"
    return Verdict(subject, "audit", Grade.FAILED, f"{path} can't be written", remedy)


def _web_config(subject: str, path: Path) -> Iterator[Verdict]:
    try:
        config, context = WebConfigFile(path).load()
    except WebConfigError as error:
        remedy = f"mend {path}, and let this user read it and the files that it names"
        yield Verdict(subject, "web_config", Grade.FAILED, f"{error.where}: {error.problem}", remedy)
        return
    users = config.basic_auth_users
    text = f"{path}: {'TLS' if context else 'no TLS'}, {counted(users, 'user')}"
    if users and context is None:
        remedy = "set tls_server_config there: without it passwords travel in the clear"
        yield Verdict(subject, "web_config", Grade.WARNING, text, remedy)
        return
    yield Verdict(subject, "web_config", Grade.OK, text)
    if config.tls_server_config is not None:
        yield check_expiry(subject, path.parent / config.tls_server_config.cert_file)


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
    in_use = error.errno == errno.EADDRINUSE
    holder = _holder(port) if in_use else None
    if in_use and running is not None and holder in {None, running.pid}:
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
