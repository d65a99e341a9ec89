"""``meshbridge exec``: a command, or an app, once."""

import contextlib
import json
import shlex
import signal
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from meshbridge.cli.completion import DaemonOption
from meshbridge.cli.control import Patience, app_path, chosen_daemons, daemon_path, locate, speaking
from meshbridge.cli.options import ConfigOption, JsonOption
from meshbridge.cli.output import (
    FAILED,
    WRONG_USAGE,
    CannotWriteError,
    RawOption,
    SignalledError,
    as_it_is,
    complain,
    fail,
    show,
    show_json,
    show_output,
    signals_raised,
    while_read,
    writing,
)

if TYPE_CHECKING:
    from meshbridge.admin.client import Client

__all__ = ["execute"]

_LAST_EXIT_CODE = 255

CommandArgument = Annotated[
    list[str], typer.Argument(metavar="COMMAND", help="The command and its arguments.", show_default=False)
]
DetachOption = Annotated[bool, typer.Option("--detach", help="Print the name of the run, and leave it to itself.")]


def execute(
    command: CommandArgument,
    *,
    daemon: DaemonOption = None,
    as_app: Annotated[bool, typer.Option("--app", help="The word is the name of a registered app.")] = False,
    max_time: Annotated[str | None, typer.Option(help="End it after 30s, 10m, 2h; default: 2d.")] = None,
    detach: DetachOption = False,
    raw: RawOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Run a command, or with --app a registered app, once at a daemon; print what it writes, as it writes it.

    Options come before the command. One word alone is read by the daemon's shell, several are the program and its
    arguments as they are. Ctrl-C ends the run. On a terminal control characters in its output are escaped.

    Exit code: that of the command; 128 and the number of the signal where this one was ended.
    """
    if as_app and len(command) > 1:
        fail("with --app there is one word, the app's name", WRONG_USAGE)
    body = {} if max_time is None else {"max_time": _checked(max_time)}
    with speaking(config) as client:
        if as_app:
            chosen = locate(client, command[0], daemon).daemon
            path = app_path(chosen, command[0], "/runs")
        else:
            chosen = _one_daemon(client, daemon)
            path = daemon_path(chosen, "/runs")
            body["command"] = command[0] if len(command) == 1 else shlex.join(command)
        with signals_raised():
            try:
                run = _Run(client, chosen, client.post(path, body), raw=as_it_is(raw=raw), as_json=as_json)
            except SignalledError as ended:
                complain(f"it may have been started at {chosen} all the same")
                raise typer.Exit(ended.exit_code) from None
            if detach:
                if as_json:
                    show_json({"daemon": chosen, **run.started})
                else:
                    show(f"{chosen}: {run.name}")
                return
            raise typer.Exit(run.attend())


def _checked(max_time: str) -> str:
    from meshbridge.fields import parse_duration

    try:
        parse_duration(max_time)
    except ValueError as error:
        fail(f"--max-time: {error}", WRONG_USAGE)
    return max_time


def _one_daemon(client: "Client", daemon: str | None) -> str:
    daemons = chosen_daemons(client, daemon)
    if len(daemons) > 1:
        fail(f"there are several daemons ({', '.join(daemons)}): say which with --daemon", WRONG_USAGE)
    return daemons[0]


class _Run:
    """A run under way, whose output is printed."""

    def __init__(self, client: "Client", daemon: str, started: dict[str, Any], *, raw: bool, as_json: bool) -> None:
        self.started = started
        self.name = str(started["name"])
        self._client = client
        self._daemon = daemon
        self._raw = raw
        self._as_json = as_json
        self._path = daemon_path(daemon, f"/runs/{quote(self.name, safe='')}")
        self._position = 0  # of the last piece that was printed,
        self._printed = ""  # and that piece: where it ends is not told
        self._again = ""  # what comes once more after a lost connection

    def attend(self) -> int:
        """Until it has ended, over restarts of the bridge; then the daemon may forget it. Gives the exit code."""
        patience = Patience()
        try:
            while True:
                with patience.trying():
                    last = self._follow(patience)
                    if last is not None:
                        return self._end(last)
        except SignalledError as ended:
            self._cancel(signal.Signals(ended.number).name)
            return ended.exit_code
        except BrokenPipeError:
            self._cancel("its output has no reader")
            raise
        except CannotWriteError:
            self._cancel("what it writes can't be written here")
            raise

    def _follow(self, patience: Patience) -> dict[str, Any] | None:
        """The line that tells the end; None where the connection broke first."""
        from meshbridge.admin.client import RefusedError

        self._again = self._printed
        query = {"process_uuid": self.started["process_uuid"], "position": self._position}
        with self._client.stream(f"{self._path}/output", **query) as lines:
            patience.fine()
            for line in while_read(lines):
                told: dict[str, Any] = json.loads(line)
                if "error" in told:
                    problem = told["error"]
                    raise RefusedError(str(problem.get("detail")), int(problem.get("status", 0)), problem)
                if told.get("finished"):
                    return told
                self._show(told["position"], told["output"])
        raise ConnectionResetError("the stream of the run's output broke off")

    def _show(self, position: int, output: str) -> None:
        new = self._new_part(output)
        if not new:
            return
        with writing():
            if self._as_json:
                self._print_json(position=position, output=output)
            else:
                show_output(new, raw=self._raw)
        self._position, self._printed = position, output

    def _new_part(self, output: str) -> str:
        """``output`` without what was printed before the connection was lost."""
        if output.startswith(self._again):
            new, self._again = output[len(self._again) :], ""
        elif self._again.startswith(output):
            new, self._again = "", self._again[len(output) :]
        else:
            new, self._again = output, ""
        return new

    def _end(self, last: dict[str, Any]) -> int:
        from meshbridge.admin.client import NotRunningError, RefusedError

        if self._as_json:
            self._print_json(**last)
        with contextlib.suppress(NotRunningError, RefusedError, OSError):
            self._client.delete(self._path)  # or the daemon forgets it by itself, some time later
        code = last.get("exit_code")
        return code if code is not None and 0 <= code <= _LAST_EXIT_CODE else FAILED

    def _cancel(self, why: str) -> None:
        from meshbridge.admin.client import NotRunningError, RefusedError

        try:
            self._client.delete(self._path)
        except (NotRunningError, RefusedError, OSError) as error:
            complain(f"run {self.name} may go on at {self._daemon}: it could not be ended: {error}")
        else:
            complain(f"run {self.name} was ended: {why}")

    def _print_json(self, **fields: Any) -> None:
        show_json({"daemon": self._daemon, "run": self.name, **fields})
