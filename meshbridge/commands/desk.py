"""Takes the commands of one sink, carries them out, and has their replies ready. See the package's text."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from meshbridge import telemetry
from meshbridge.appmesh import AppMeshClient, AppMeshError
from meshbridge.commands.actions import ClientOf, Outcome, carry_out, error_of
from meshbridge.commands.answers import answer_fields, encoded, fields_of, message_of, unknown_hint
from meshbridge.commands.lanes import Job, Lanes
from meshbridge.commands.parse import Command, CommandError, parse
from meshbridge.commands.places import app_at, daemon_at
from meshbridge.commands.record import Record
from meshbridge.model.status import FinishedCommand
from meshbridge.sinks.commands import CommandMessage, CommandOptions, CommandReply, CommandWord

__all__ = ["WORKERS", "Desk"]

WORKERS = 16
"""Threads for each daemon, at most; they end when there was nothing to do for a while."""
_LINGER_SECONDS = 10.0
_MAX_REPLIES = 1000  # that wait for the connection, above which commands are refused, and refusals not answered
_SHOWN = 64  # characters of a longer one
_MAX_NAME = 1024  # characters of the name of an app, as a daemon has them
_REMEMBERED = 200  # commands that `meshbridge commands` shows


class Desk:
    """The commands of one sink.

    Threads: :meth:`submit` and :meth:`replies` are for the sink's thread and return at once;
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
        self._lanes: dict[str, Lanes] = {}
        self._replies: deque[CommandReply] = deque()
        self._refusals: deque[CommandReply] = deque()  # a flood of them must not stand before answers
        self._recent: deque[FinishedCommand] = deque(maxlen=_REMEMBERED)
        self._stopping = False

    # --- the sink's thread ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Answers what an earlier process began and did not answer: its outcome is unknown."""
        with self._lock:
            left = self._record.left_over()
        for key, fields in left.items():
            message, name = message_of(fields)
            if fields.get("begun") is False:
                error = CommandError(
                    "the bridge ended before the command began: it did not run", "repeat it", result="failed"
                )
                self._answer_error(message, fields["command"], name, error)
            else:
                error = CommandError(
                    "the bridge ended while the command was under way: its outcome is unknown",
                    unknown_hint(fields["command"]),
                    result="unknown",
                )
                self._answer_error(message, fields["command"], name, error, key=key)

    def submit(self, message: CommandMessage) -> None:
        if message.is_retained or (message.expires_at is not None and self._clock() >= message.expires_at):
            self._note(message, "", "retained" if message.is_retained else "expired")
            return
        word, name = CommandWord.TASK.value if message.is_task else "", None
        if len(message.app) > _MAX_NAME:
            message = replace(message, app=message.app[:_SHOWN], fault=f"a name of more than {_MAX_NAME} characters")
        try:
            command = parse(message, self._options)
            word, name = command.word.value, command.id
            self._accept(daemon_at(message.daemon, self._daemons(), self._place_of), command, message)
        except CommandError as error:
            if error.result == "repeated":  # the answer to the first one is on its way, or was sent
                self._note(message, word, error.result, name=name)
            else:
                self._answer_error(message, word, name, error)

    def replies(self, most: int = _MAX_REPLIES) -> list[CommandReply]:
        with self._lock:
            taken = [self._replies.popleft() for _ in range(min(most, len(self._replies)))]
            more = min(most - len(taken), len(self._refusals))
            return taken + [self._refusals.popleft() for _ in range(more)]

    def _accept(self, daemon: str, command: Command, message: CommandMessage) -> None:
        """Puts it behind the other commands of its app.

        Raises:
            CommandError: it was accepted before, or there are too many.

        """
        fields = fields_of(message, command)
        with self._lock:
            lanes = self._lanes.get(daemon)
            if lanes is None:
                lanes = self._lanes[daemon] = Lanes(self._lock)
            is_full = lanes.accepted >= self._options.max_concurrent or len(self._replies) >= _MAX_REPLIES
            if (self._stopping or is_full) and not self._record.is_repeated(message, command.id):
                raise CommandError(
                    f"{daemon} is busy: {lanes.accepted} commands are under way",
                    "repeat it later, or raise commands.max_concurrent",
                    result="busy",
                )
            key = self._record.accept(message, command.id, fields)
            if key is None:
                raise CommandError("repeated", result="repeated")
            lanes.add(Job(daemon, message, command, message.app, key, self._clock()))
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

    def _work(self, lanes: Lanes) -> None:
        while True:
            with self._lock:
                job = lanes.take(_LINGER_SECONDS)
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

    def _carry_out(self, job: Job) -> None:
        message, command = job.message, job.command
        try:
            outcome = self._outcome(job)
        except CommandError as error:
            self._answer_error(message, command.word, command.id, error, job=job)
        except AppMeshError as error:
            self._answer_error(message, command.word, command.id, error_of(job.daemon, error), job=job)
        else:
            self._answer(job, outcome)

    def _outcome(self, job: Job) -> Outcome:
        message, command = job.message, job.command
        with self._client(job.daemon) as client:
            app = self._app_of(job, client)
            job.message = replace(message, daemon=job.daemon, app=app)
            if (rule := self._options.when.refusal(job.daemon, app)) is not None:
                raise CommandError(f"commands for {app} are not allowed here", rule, result="forbidden")
            left = self._options.timeout - (self._clock() - job.accepted_at)
            if message.expires_at is not None and self._clock() >= message.expires_at:
                raise CommandError("it expired while it waited for other commands", "repeat it", result="expired")
            if left <= 0:
                raise CommandError("it waited too long for other commands", "repeat it", result="timeout")
            if not self._record.begin(job.key, fields_of(message, command)):
                raise CommandError("the journal cannot be written now", "see the bridge's log", result="failed")
            job.has_begun = True
            return carry_out(client, command.word, app, message.payload, left)

    def _app_of(self, job: Job, client: AppMeshClient) -> str:
        """The app that the topic names: one that the bridge knows, or else one of the daemon's list."""
        app = app_at(job.place, self._known_apps(job.daemon), self._place_of)
        if app is None:
            app = app_at(job.place, (app.name for app in client.list_apps() if app.name), self._place_of)
        if app is None:
            raise CommandError(f"{job.daemon} has no app {job.place!r}", "see: meshbridge apps", result="unknown_app")
        return app

    # --- answers -------------------------------------------------------------------------------------------------

    def _answer(self, job: Job, outcome: Outcome) -> None:
        message, command, seconds = job.message, job.command, self._clock() - job.accepted_at

        def reply(**fields: Any) -> CommandReply:
            payload = encoded(message, command.word, command.id, seconds, **fields)
            return self._reply_of(message, payload, "application/json", job.key, is_ok="error" not in fields)

        def instead(why: str) -> CommandReply:
            error = f"the command was carried out, but the broker does not take its answer: {why}"
            return reply(
                exit_code=outcome.exit_code, error=error, hint="raise what the broker allows, or answer with less"
            )

        if command.word is CommandWord.TASK and message.reply_to is not None:
            octets = "application/octet-stream"
            made = self._reply_of(message, outcome.output or b"", octets, job.key, is_ok=True)
        else:
            made = reply(**answer_fields(outcome, self._options.max_payload_bytes))
        self._offer(replace(made, instead=instead))
        self._note(message, command.word, "ok", name=command.id, seconds=seconds)

    def _answer_error(
        self,
        message: CommandMessage,
        word: str,
        name: str | None,
        error: CommandError,
        *,
        job: Job | None = None,
        key: str | None = None,
    ) -> None:
        seconds = 0.0 if job is None else self._clock() - job.accepted_at
        payload = encoded(message, word, name, seconds, error=error.error, hint=error.hint)
        if job is not None:
            key = job.key if job.has_begun else None
            if key is None:
                with self._lock:
                    self._record.forget(job.key)
        reply = self._reply_of(message, payload, "application/json", key, is_ok=False)
        self._offer(reply, is_refusal=job is None and key is None)
        self._note(message, word, error.result, name=name, error=error.error, seconds=seconds)

    def _reply_of(
        self, message: CommandMessage, payload: bytes, content_type: str, key: str | None, *, is_ok: bool
    ) -> CommandReply:
        def sent() -> None:
            if key is not None:
                with self._lock:
                    self._record.done(key)

        return CommandReply(
            message.daemon,
            message.app,
            payload,
            message.reply_to,
            message.correlation,
            content_type,
            is_ok=is_ok,
            sent=sent,
        )

    def _offer(self, reply: CommandReply, *, is_refusal: bool = False) -> None:
        with self._lock:
            if not is_refusal:
                self._replies.append(reply)
            elif len(self._refusals) < _MAX_REPLIES:  # else it is counted alone: a flood costs no memory
                self._refusals.append(reply)
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
