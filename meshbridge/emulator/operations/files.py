"""Files over TCP, WSS and HTTPS (docs/protocol.md, 'Files')."""

import base64
import contextlib
import grp
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from meshbridge.emulator import procfs
from meshbridge.emulator.accounts import User
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.messages import JSON, Call, EmulatedAnswer, message_answer
from meshbridge.emulator.routes import ApiRoute
from meshbridge.emulator.tokens import FILE_SERVICE

if TYPE_CHECKING:
    from meshbridge.emulator.connection import Connection
    from meshbridge.emulator.daemon import Daemon


class TicketRefused(Exception):  # noqa: N818 an answer, not an error of the emulator
    """Ends the second step of a transfer, with a status and plain words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


BLOCK_BYTES = 60 * 1024
BLOCKS_AHEAD = 8
"""A download waits for the client to take what is queued: the file is not read into memory."""
FILE_TOKEN_SECONDS = 300


async def upload(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """TCP: takes the file's frames after the answer. WSS and the WSS port: only gives a token for the HTTPS way."""
    path = _path(daemon, call)
    if is_there(path):
        raise RequestRefused(403, "file already exist")
    if call.header("X-Send-File-Socket") != "true":
        return _agreement(daemon, call)
    if call.connection.transport != "tcp":
        raise RequestRefused(400, "only a TCP connection can send a file by socket")
    if daemon.dialect.one_transfer and call.connection.carries_file:
        raise RequestRefused(409, "another file is on its way on this connection")
    _Upload(call.connection, path, call).begin()
    answer = message_answer(200, "Please send file from socket")
    answer.headers["X-Send-File-Socket"] = base64.b64encode(str(path).encode()).decode()
    return answer


async def download(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """As :func:`upload`, the other way; the answer tells the file's mode and owner."""
    path = _path(daemon, call)
    if not is_there(path):
        raise RequestRefused(406, "file not found")
    if call.header("X-Recv-File-Socket") != "true":
        answer = _agreement(daemon, call)
        answer.headers |= attributes(path)
        return answer
    if call.connection.transport != "tcp":
        raise RequestRefused(400, "only a TCP connection can receive a file by socket")
    answer = message_answer(200, "Please recieve file from socket")
    answer.headers = {**attributes(path), "X-Recv-File-Socket": base64.b64encode(str(path).encode()).decode()}
    connection = call.connection
    if daemon.dialect.one_transfer and connection.carries_file:
        raise RequestRefused(409, "another file is on its way on this connection")
    answer.then = lambda: _send_file(connection, path)
    return answer


def is_there(path: Path) -> bool:
    """Whether there is something to download: also a device, but no directory."""
    try:
        return path.exists() and not path.is_dir()
    except OSError:  # a name that is too long
        return False


def attributes(path: Path) -> dict[str, str]:
    """Mode (decimal), owner and group, as they travel in headers."""
    status = path.stat()
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return {
        "X-File-Mode": str(status.st_mode & 0o777),
        "X-File-User": procfs.user_name(status.st_uid),
        "X-File-Group": group,
    }


def apply_attributes(path: Path, call: Call) -> None:
    """Best effort: an emulator that is not root cannot give a file away."""
    mode = call.header("X-File-Mode")
    if mode.isdigit():
        path.chmod(int(mode) & 0o777)
    user, group = call.header("X-File-User"), call.header("X-File-Group")
    with contextlib.suppress(KeyError, PermissionError):
        uid = pwd.getpwnam(user).pw_uid if user else -1
        gid = grp.getgrnam(group).gr_gid if group else -1
        os.chown(path, uid, gid)


def path_for_https(daemon: "Daemon", call: Call, permission: str) -> Path:
    """Checks a request that carries a file's bytes itself, with the caller's own token.

    Raises:
        RequestRefused: as the operation of that permission, or it is for another node.

    """
    if call.header("X-Target-Host"):
        raise RequestRefused(501, "the emulator does not forward files")  # rather than take them for its own
    daemon.authorize(call, permission)
    return _path(daemon, call)


def path_by_ticket(daemon: "Daemon", call: Call, permission: str) -> Path:
    """As :func:`path_for_https`, with the token that the WSS way gave; what is wrong is said in plain words.

    Raises:
        TicketRefused: with the daemon's status and words.

    """
    if call.header("X-Target-Host"):
        raise TicketRefused(501, "the emulator does not forward files")
    try:
        if daemon.dialect.has_issuer:  # no ticket: the caller's own token
            daemon.authorize(call, permission)
        else:
            call.token = call.header("Authorization").removeprefix("Bearer ").strip()
            user, _ = daemon.logins.named_in(call.token)
            daemon.tokens.check(call.token, (FILE_SERVICE,))
            daemon.require(user, permission)
    except RequestRefused as refused:
        status = refused.answer.status if daemon.dialect.has_issuer else 401
        raise TicketRefused(status, "Authentication failed") from None
    if not call.header("X-File-Path"):
        raise TicketRefused(400, "Missing X-File-Path header")
    try:
        return _path(daemon, call)
    except RequestRefused as refused:
        raise TicketRefused(refused.answer.status, "Invalid file path") from None


def _path(daemon: "Daemon", call: Call) -> Path:
    if "x-file-path" not in call.headers:
        raise RequestRefused(400, "header 'X-File-Path' not found")
    given = daemon.dialect.file_path(call.header("X-File-Path"))
    path = Path(given) if given else daemon.store.root / "work"  # where a relative path begins
    base = str(daemon.configuration.shown()["REST"]["FileAllowedBaseDir"])
    if ".." in path.parts or "\0" in given or (base and not path.is_relative_to(base)):
        raise RequestRefused(403, "Invalid file path")
    return path if path.is_absolute() else daemon.store.root / "work" / path


def _agreement(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    answer = EmulatedAnswer(200, b'{"message":""}', JSON)
    if daemon.dialect.has_issuer:
        return answer
    assert isinstance(call.caller, User)
    issued = daemon.tokens.issue(call.caller, FILE_TOKEN_SECONDS, FILE_SERVICE)
    answer.headers["Authorization"] = issued.token
    return answer


async def _send_file(connection: "Connection", path: Path) -> None:
    connection.sends_file = True
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            connection.push(block)
            await connection.shorter_than(BLOCKS_AHEAD)
            if connection.closed:
                return
    connection.sends_file = False
    connection.push(b"")  # a frame of length 0: the end of the file


class _Upload:
    """Takes the frames of one uploaded file, up to the one of length 0."""

    def __init__(self, connection: "Connection", path: Path, call: Call) -> None:
        self._connection = connection
        self._path = path
        self._call = call
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        except OSError as error:
            raise RequestRefused(403, f"{error.strerror}") from None
        self._connection.file_frames = self._take
        self._connection.on_closed.append(self._close)

    def _take(self, block: bytes) -> None:
        assert self._file is not None
        if block:
            self._file.write(block)
            return
        self._connection.file_frames = None
        self._connection.on_closed.remove(self._close)
        self._close()
        apply_attributes(self._path, self._call)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


ROUTES = (
    ApiRoute("POST", "/appmesh/file/upload", upload, "file-upload"),
    ApiRoute("GET", "/appmesh/file/download", download, "file-download"),
)
