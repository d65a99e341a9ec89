"""What each command does at a daemon."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus

from meshbridge.appmesh import (
    App,
    AppMeshClient,
    AppMeshConnectionError,
    AppMeshError,
    AppMeshNotOfferedError,
    AppMeshTimeoutError,
)
from meshbridge.appmesh.restart import restart_app
from meshbridge.commands.parse import CommandError
from meshbridge.sinks.commands import CommandWord

__all__ = ["ClientOf", "Outcome", "carry_out", "error_of"]

ClientOf = Callable[[str], AbstractContextManager[AppMeshClient]]
"""The SDK's client of a daemon, by its name."""

_KILLED = 9  # exit code of a run that the daemon ended at its time limit


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command that was carried out gave."""

    exit_code: int | None = None
    output: bytes | None = None


def carry_out(client: AppMeshClient, word: CommandWord, app: str, payload: bytes, timeout_seconds: float) -> Outcome:
    """Does it, and waits for its end.

    Raises:
        AppMeshError: the daemon refuses, or does not answer in time.
        CommandError: a run was ended at its time limit.

    """
    return _ACTIONS[word](client, app, payload, timeout_seconds)


def _enable(client: AppMeshClient, app: str, _payload: bytes, _seconds: float) -> Outcome:
    client.enable_app(app)
    return Outcome()


def _disable(client: AppMeshClient, app: str, _payload: bytes, _seconds: float) -> Outcome:
    client.disable_app(app)
    return Outcome()


def _restart(client: AppMeshClient, app: str, _payload: bytes, seconds: float) -> Outcome:
    restart_app(client, app, seconds)
    return Outcome()


def _run(client: AppMeshClient, app: str, _payload: bytes, seconds: float) -> Outcome:
    limit = max(1, math.ceil(seconds))
    code, output = client.run_app_sync(App({"name": app}), max_time=limit, lifecycle=limit)
    if code == _KILLED:
        raise CommandError(
            "the run ended with exit code 9", f"it took longer than {limit} s, or was killed", result="failed"
        )
    return Outcome(code, output.encode("utf-8", "replace"))


def _task(client: AppMeshClient, app: str, payload: bytes, seconds: float) -> Outcome:
    limit = max(1, math.ceil(seconds))
    try:
        return Outcome(output=client.run_task_bytes(app, payload, timeout=limit))
    except AppMeshError as error:
        if error.status != HTTPStatus.REQUEST_TIMEOUT:
            raise
        raise CommandError(
            f"no process of {app} took the task, or it did not reply, within {limit} s",
            "see that the app runs, and fetches tasks (AppMeshServer.task_fetch)",
            result="timeout",
        ) from error


_ACTIONS: Mapping[CommandWord, Callable[[AppMeshClient, str, bytes, float], Outcome]] = {
    CommandWord.ENABLE: _enable,
    CommandWord.DISABLE: _disable,
    CommandWord.RESTART: _restart,
    CommandWord.RUN: _run,
    CommandWord.TASK: _task,
}


def error_of(daemon: str, error: AppMeshError) -> CommandError:
    """What a daemon's refusal, or its silence, is to the sender of a command."""
    kinds: tuple[tuple[type[AppMeshError], str, str], ...] = (
        (AppMeshTimeoutError, "timeout", "the command may still take effect: look at the app before you repeat it"),
        (AppMeshConnectionError, "unreachable", f"the bridge has no connection to {daemon}"),
        (AppMeshNotOfferedError, "failed", f"{daemon} is of a generation without this operation"),
    )
    for kind, result, hint in kinds:
        if isinstance(error, kind):
            return CommandError(f"{daemon}: {error.message}", hint, result=result)
    return CommandError(f"{daemon}: {error.message}", None, result="failed")
