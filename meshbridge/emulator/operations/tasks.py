"""Tasks: a client's side, and that of the managed process (PROTOCOL.md: ``run_task`` … ``task_return``)."""

import asyncio
from typing import TYPE_CHECKING

from meshbridge.emulator.application import Application
from meshbridge.emulator.errors import Refused
from meshbridge.emulator.messages import BINARY, Answer, Call
from meshbridge.emulator.operations.apps import accessible
from meshbridge.emulator.routes import Route
from meshbridge.emulator.tasks import TaskCancelled
from meshbridge.fields import parse_duration

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon

TIMEOUT_SECONDS = 2 * 86_400
REQUEST_TIMEOUT, EXPECTATION_FAILED, SUPERSEDED, UNAVAILABLE, ALREADY_REPORTED = 408, 417, 412, 503, 208


async def run_task(daemon: "Daemon", call: Call) -> Answer:
    app = accessible(daemon, call, write=True)
    timeout = call.query("timeout")
    try:
        result = await asyncio.wait_for(
            app.tasks.run(call.request.body), parse_duration(timeout) if timeout else TIMEOUT_SECONDS
        )
    except TimeoutError:
        return Answer(REQUEST_TIMEOUT)
    except TaskCancelled:
        return Answer(EXPECTATION_FAILED)
    return Answer(200, result, BINARY)


async def cancel_task(daemon: "Daemon", call: Call) -> Answer:
    return Answer(200 if accessible(daemon, call, write=True).tasks.cancel() else ALREADY_REPORTED)


async def fetch_task(daemon: "Daemon", call: Call) -> Answer:
    app = _of_process(daemon, call)
    try:
        return Answer(200, await app.tasks.fetch(), BINARY)
    except TaskCancelled:
        return Answer(UNAVAILABLE)


async def return_task(daemon: "Daemon", call: Call) -> Answer:
    app = _of_process(daemon, call)
    return Answer(200 if app.tasks.give_back(call.request.body) else EXPECTATION_FAILED)


def _of_process(daemon: "Daemon", call: Call) -> Application:
    """The app whose present process asks.

    Raises:
        Refused: 412: a newer process has taken over, this one is to stop.

    """
    app = daemon.applications.find(call.name)
    if call.query("process_key") != app.process_key:
        raise Refused(SUPERSEDED, "Process key mismatch")
    return app


ROUTES = (
    Route("POST", "/appmesh/app/{}/task", run_task, "app-run-task"),
    Route("DELETE", "/appmesh/app/{}/task", cancel_task, "app-run-task"),
    Route("GET", "/appmesh/app/{}/task", fetch_task),
    Route("PUT", "/appmesh/app/{}/task", return_task),
)
