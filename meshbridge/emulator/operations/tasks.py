"""Tasks: a client's side, and that of the managed process (docs/protocol.md: ``run_task`` … ``task_return``)."""

import asyncio
from typing import TYPE_CHECKING

from meshbridge.emulator.application import Application
from meshbridge.emulator.durations import duration_or
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.messages import BINARY, Call, EmulatedAnswer, message_answer
from meshbridge.emulator.operations.apps import accessible
from meshbridge.emulator.routes import ApiRoute
from meshbridge.emulator.tasks import TaskCancelled

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon

TIMEOUT_SECONDS = 2 * 86_400
REQUEST_TIMEOUT, EXPECTATION_FAILED, SUPERSEDED, UNAVAILABLE, ALREADY_REPORTED = 408, 417, 412, 503, 208


async def run_task(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    timeout = duration_or(call.query("timeout"), TIMEOUT_SECONDS)
    app = accessible(daemon, call, write=True)
    if not app.running:
        raise RequestRefused(400, "No process running")
    if app.tasks.full:
        return EmulatedAnswer(UNAVAILABLE)
    try:
        result = await asyncio.wait_for(app.tasks.run(call.request.body), timeout)
    except TimeoutError:
        return EmulatedAnswer(REQUEST_TIMEOUT)
    except TaskCancelled:
        return EmulatedAnswer(EXPECTATION_FAILED)
    return EmulatedAnswer(200, result, BINARY)


async def cancel_task(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    return EmulatedAnswer(200 if accessible(daemon, call, write=True).tasks.cancel() else ALREADY_REPORTED)


async def fetch_task(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    app = daemon.applications.find(call.name)
    if not _of_process(daemon, call, app):
        return _superseded(daemon, call)
    try:
        return EmulatedAnswer(200, await app.tasks.fetch(), BINARY)
    except TaskCancelled:
        return EmulatedAnswer(UNAVAILABLE)


async def return_task(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    app = daemon.applications.find(call.name)
    if not _of_process(daemon, call, app):
        return _superseded(daemon, call)
    return EmulatedAnswer(200 if app.tasks.give_back(call.request.body) else EXPECTATION_FAILED)


def _of_process(daemon: "Daemon", call: Call, app: Application) -> bool:
    """Whether the app's present process asks.

    Raises:
        RequestRefused: as the generation answers it.

    """
    key = daemon.dialect.process_key(call.query, call.header, local=call.connection.is_local)
    return app.running and key == app.process_key


def _superseded(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """On 2.x two answers to one request, as measured; over HTTPS the second one has no way to the client."""
    if daemon.dialect.has_issuer:
        return message_answer(SUPERSEDED, "Process key mismatch")
    answer = EmulatedAnswer(UNAVAILABLE)

    async def say_why() -> None:
        call.connection.push(message_answer(SUPERSEDED, "Process key mismatch").packed(call.request))

    answer.then = say_why
    return answer


ROUTES = (
    ApiRoute("POST", "/appmesh/app/{}/task", run_task, "app-run-task"),
    ApiRoute("DELETE", "/appmesh/app/{}/task", cancel_task, "app-run-task"),
    ApiRoute("GET", "/appmesh/app/{}/task", fetch_task),
    ApiRoute("PUT", "/appmesh/app/{}/task", return_task),
)
