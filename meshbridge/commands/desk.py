"""Takes the commands of one sink, carries them out, and has their replies ready. See the package's text."""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from meshbridge import telemetry
from meshbridge.appmesh import AppMeshClient, AppMeshError
from meshbridge.commands.actions import ClientOf, Outcome, answer_fields, carry_out, error_of
from meshbridge.commands.parse import Command, CommandError, parse
from meshbridge.commands.record import Record
from meshbridge.sinks.commands import CommandMessage, CommandOptions, CommandReply, CommandWord

__all__ = ["WORKERS", "Desk", "FinishedCommand"]

WORKERS = 16
"""Threads for each daemon, at most; they exist while there is something to do."""
_MAX_REFUSALS = 1000  # replies that wait for the connection, above which a refusal is counted but not answered
_REMEMBERED = 200  # commands that `meshbridge commands` shows


@dataclass(frozen=True, slots=True)
class FinishedCommand:
    """A command that was answered, refused or ignored."""

    at: float
    """Unix seconds."""
    sink: str
    daemon: str
    app: str
    command: str
    result: str
    """``ok``, or in one word why not."""
    id: str | None = None
    error: str | None = None
    duration_seconds: float | None = None


@dataclass(slots=True)
class _Job:
    daemon: str
    message: CommandMessage
    command: Command
    key: str
    begun_at: float  # monotonic seconds
    is_kept: bool = False  # whether the journal knows that it began


class Desk:
    """The commands of one sink.

    Threads: :meth:`submit`, :meth:`replies` and :meth:`put_back` are for the sink's thread and return at once;
    ``commands-<daemon>`` threads carry out. ``ended`` and ``wake`` are called from any of them.
    """

    def __init__(
        self,
        sink: str,
        options: CommandOptions,
        record: Record,
        *,
        daemons: Callable[[], Collection[str]],
        known_apps: Callable[[str], Iterable[str]],
        client: ClientOf,
        place_of: Callable[[str], str],
        ended: Callable[[FinishedCommand], None] = lambda _finished: None,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Makes a desk.

        Args:
            sink: the name of the sink.
            options: what is allowed.
            record: what is known of accepted commands.
            daemons: the names of the daemons as they are now.
            known_apps: the apps that the bridge knows of a daemon.
            client: the SDK's client of a daemon.
            place_of: how the sink writes a name as a level of a topic.
            ended: called with each command that ended, for the audit log.
            wake: called when a reply is ready.
            clock: monotonic seconds.
            wall_clock: unix seconds.

        """
        self._sink = sink
        self._options = options
        self._record = record
        self._daemons = daemons
        self._known_apps = known_apps
        self._client = client
        self._place_of = place_of
        self._ended = ended
        self._wake = wake
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()  # guards all that follows
        self._lanes: dict[str, _Lanes] = {}
        self._replies: deque[CommandReply] = deque()
        self._recent: deque[FinishedCommand] = deque(maxlen=_REMEMBERED)
        self._stopping = False

    # --- the sink's thread ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Answers what an earlier process began and did not answer: its outcome is unknown."""
        with self._lock:
            left = self._record.left_over()
        for key, fields in left.items():
            message, name = _message_of(fields)
            error = CommandError(
                "the bridge ended while the command was under way: its outcome is unknown",
                "look at the app before you repeat it",
                result="unknown",
            )
            self._answer_error(message, fields["command"], name, error, key=key)

    def submit(self, message: CommandMessage) -> None:
        if message.is_retained or (message.expires_at is not None and self._clock() >= message.expires_at):
            self._note(message, "", "retained" if message.is_retained else "expired")
            return
        word, name = CommandWord.TASK.value if message.is_task else "", None
        try:
            command = parse(message, self._options)
            word, name = command.word.value, command.id
            self._accept(self._daemon_of(message), command, message)
        except CommandError as error:
            if error.result == "repeated":  # the answer to the first one is on its way, or was sent
                self._note(message, word, error.result, name=name)
            else:
                self._answer_error(message, word, name, error)

    def replies(self) -> list[CommandReply]:
        with self._lock:
            taken = list(self._replies)
            self._replies.clear()
        return taken

    def put_back(self, replies: list[CommandReply]) -> None:
        with self._lock:
            self._replies.extendleft(reversed(replies))

    def _daemon_of(self, message: CommandMessage) -> str:
        for daemon in self._daemons():
            if self._place_of(daemon) == message.daemon:
                return daemon
        raise CommandError(
            f"there is no daemon {message.daemon!r} here",
            f"daemons: {', '.join(self._daemons())}",
            result="unknown_app",
        )

    def _accept(self, daemon: str, command: Command, message: CommandMessage) -> None:
        """Puts it behind the other commands of its app.

        Raises:
            CommandError: it was accepted before, or there are too many.

        """
        key = Record.key(message, command.id)
        with self._lock:
            certain = command.id is not None or message.correlation is not None or message.is_duplicate
            if key is not None and self._record.is_repeated(key, certain=certain):
                raise CommandError("repeated", result="repeated")
            lanes = self._lanes.setdefault(daemon, _Lanes())
            if self._stopping or lanes.accepted >= self._options.max_concurrent:
                if key is not None:
                    self._record.forget(key)
                raise CommandError(
                    f"{daemon} is busy: {lanes.accepted} commands are under way",
                    "repeat it later, or raise commands.max_concurrent",
                    result="busy",
                )
            lanes.add(_Job(daemon, message, command, key or uuid.uuid4().hex, self._clock()))
            if lanes.wants_worker(min(WORKERS, self._options.max_concurrent)):
                lanes.workers += 1
                threading.Thread(target=self._work, args=(lanes,), name=f"commands-{daemon}", daemon=True).start()

    # --- any thread ----------------------------------------------------------------------------------------------

    def daemons(self) -> Collection[str]:
        return self._daemons()

    def wake(self) -> None:
        self._wake()

    def recent(self) -> list[FinishedCommand]:
        """The last commands, the newest first."""
        with self._lock:
            return list(reversed(self._recent))

    def stop(self) -> None:
        """Accepts nothing more. What is under way goes on; what is not answered is said to be unknown at the start."""
        with self._lock:
            self._stopping = True
            for lanes in self._lanes.values():
                lanes.end()

    # --- the workers ---------------------------------------------------------------------------------------------

    def _work(self, lanes: "_Lanes") -> None:
        while True:
            with self._lock:
                job = lanes.take()
                if job is None:
                    lanes.workers -= 1
                    return
            try:
                self._carry_out(job)
            except Exception as bug:  # noqa: BLE001 one command must not end the others
                telemetry.command_bug(self._sink, job.command.word)
                error = CommandError(f"unexpected {type(bug).__name__}: please report it", result="failed")
                self._answer_error(job.message, job.command.word, job.command.id, error, job=job)
            finally:
                with self._lock:
                    lanes.done(job)

    def _carry_out(self, job: _Job) -> None:
        message, command = job.message, job.command
        try:
            outcome = self._outcome(job)
        except CommandError as error:
            self._answer_error(message, command.word, command.id, error, job=job)
        except AppMeshError as error:
            self._answer_error(message, command.word, command.id, error_of(job.daemon, error), job=job)
        else:
            self._answer(job, outcome)

    def _outcome(self, job: _Job) -> Outcome:
        message, command = job.message, job.command
        with self._client(job.daemon) as client:
            app = self._app_of(job, client)
            if (rule := self._options.when.refusal(job.daemon, app)) is not None:
                raise CommandError(f"commands for {app} are not allowed here", rule, result="forbidden")
            if not self._record.keep(job.key, _fields_of(job)):
                raise CommandError("the journal cannot be written now", "see the bridge's log", result="failed")
            job.is_kept = True
            left = self._options.timeout - (self._clock() - job.begun_at)
            if left <= 0 or (message.expires_at is not None and self._clock() >= message.expires_at):
                raise CommandError("it waited too long for other commands", "repeat it", result="timeout")
            return carry_out(client, command.word, app, message.payload, left)

    def _app_of(self, job: _Job, client: AppMeshClient) -> str:
        """The app that the topic names: one that the bridge knows, or else one of the daemon's list."""
        place = job.message.app
        found = {app for app in self._known_apps(job.daemon) if self._place_of(app) == place}
        if not found:
            found = {app.name for app in client.list_apps() if app.name and self._place_of(app.name) == place}
        if not found:
            raise CommandError(f"{job.daemon} has no app {place!r}", "see: meshbridge apps", result="unknown_app")
        if len(found) > 1:
            names = ", ".join(sorted(found))
            raise CommandError(f"{place!r} stands for several apps: {names}", "rename one", result="unknown_app")
        return found.pop()

    # --- answers -------------------------------------------------------------------------------------------------

    def _answer(self, job: _Job, outcome: Outcome) -> None:
        message, seconds = job.message, self._clock() - job.begun_at
        if job.command.word is CommandWord.TASK and message.reply_to is not None:
            payload, content_type = outcome.output or b"", "application/octet-stream"
        else:
            fields = answer_fields(outcome, self._options.max_payload_bytes)
            payload = _encoded(message, job.command.word, job.command.id, seconds, **fields)
            content_type = "application/json"
        self._reply(message, payload, content_type, job.key, is_ok=True)
        self._note(message, job.command.word, "ok", name=job.command.id, seconds=seconds)

    def _answer_error(
        self,
        message: CommandMessage,
        word: str,
        name: str | None,
        error: CommandError,
        *,
        job: _Job | None = None,
        key: str | None = None,
    ) -> None:
        seconds = 0.0 if job is None else self._clock() - job.begun_at
        payload = _encoded(message, word, name, seconds, error=error.error, hint=error.hint)
        if job is not None:
            key = job.key if job.is_kept else None
        self._reply(message, payload, "application/json", key, is_ok=False)
        self._note(message, word, error.result, name=name, error=error.error, seconds=seconds)

    def _reply(
        self, message: CommandMessage, payload: bytes, content_type: str, key: str | None, *, is_ok: bool
    ) -> None:
        def sent() -> None:
            if key is not None:
                with self._lock:
                    self._record.done(key)

        reply = CommandReply(
            message.daemon,
            message.app,
            payload,
            message.reply_to,
            message.correlation,
            content_type,
            is_ok=is_ok,
            sent=sent,
        )
        with self._lock:
            if key is None and len(self._replies) >= _MAX_REFUSALS:
                return  # counted all the same; a flood of refusals costs no memory
            self._replies.append(reply)
        self._wake()

    def _note(
        self,
        message: CommandMessage,
        word: str,
        result: str,
        *,
        name: str | None = None,
        error: str | None = None,
        seconds: float | None = None,
    ) -> None:
        finished = FinishedCommand(
            self._wall_clock(), self._sink, message.daemon, message.app, word, result, name, error, seconds
        )
        with self._lock:
            self._recent.append(finished)
        telemetry.command_ended(self._sink, word or "none", result, seconds)
        self._ended(finished)


class _Lanes:
    """The accepted commands of one daemon: a lane for each app. Guarded by the desk's lock."""

    def __init__(self) -> None:
        self.accepted = 0
        self.workers = 0
        self._lanes: dict[str, deque[_Job]] = {}
        self._ready: deque[str] = deque()  # apps with a command that no worker has taken
        self._ended = False

    def add(self, job: _Job) -> None:
        self.accepted += 1
        lane = self._lanes.setdefault(job.message.app, deque())
        lane.append(job)
        if len(lane) == 1:
            self._ready.append(job.message.app)

    def wants_worker(self, most: int) -> bool:
        return bool(self._ready) and self.workers < most

    def take(self) -> _Job | None:
        """The first command of an app that has none under way; it stays at the head of its lane until it is done."""
        if self._ended or not self._ready:
            return None
        return self._lanes[self._ready.popleft()][0]

    def done(self, job: _Job) -> None:
        app = job.message.app
        lane = self._lanes[app]
        lane.popleft()
        self.accepted -= 1
        if lane:
            self._ready.append(app)
        else:
            del self._lanes[app]

    def end(self) -> None:
        self._ended = True


def _encoded(message: CommandMessage, word: str, name: str | None, seconds: float, **facts: Any) -> bytes:
    """The JSON of an answer, its keys always the same."""
    fields = {"exit_code": None, "output": None, "error": None, "hint": None} | facts
    return orjson.dumps(
        {
            "id": name,
            "command": word or None,
            "daemon": message.daemon,
            "app": message.app,
            "ok": fields["error"] is None,
            "error": fields["error"],
            "hint": fields["hint"],
            "exit_code": fields["exit_code"],
            "output": fields["output"],
            "duration_seconds": round(seconds, 3),
        }
    )


def _fields_of(job: _Job) -> dict[str, Any]:
    """What the journal keeps of a command that begins."""
    message = job.message
    return {
        "daemon": message.daemon,
        "app": message.app,
        "command": job.command.word.value,
        "id": job.command.id,
        "reply_to": message.reply_to,
        "correlation": None if message.correlation is None else message.correlation.hex(),
    }


def _message_of(fields: dict[str, Any]) -> tuple[CommandMessage, str | None]:
    """(the message, the sender's id) of such fields, which a damaged disk may have changed."""

    def text(name: str) -> str | None:
        value = fields.get(name)
        return value if isinstance(value, str) else None

    try:
        correlation = bytes.fromhex(text("correlation") or "")
    except ValueError:
        correlation = b""
    word = text("command") or ""
    message = CommandMessage(
        text("daemon") or "", text("app") or "", word == CommandWord.TASK, b"", text("reply_to"), correlation or None
    )
    return message, text("id")
