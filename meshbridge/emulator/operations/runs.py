"""One-off runs (docs/protocol.md, 'Events': ``status`` 2, kept until their lifecycle ends)."""

from typing import TYPE_CHECKING, Any

from meshbridge.emulator.application import Application
from meshbridge.emulator.definitions import check_command, check_name, read_definition
from meshbridge.emulator.durations import duration_or
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.messages import TEXT, Call, EmulatedAnswer, json_answer
from meshbridge.emulator.operations.apps import check_access
from meshbridge.emulator.output import LARGEST_READ
from meshbridge.emulator.routes import ApiRoute

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon

TIMEOUT_SECONDS = 2 * 86_400
LIFECYCLE_SECONDS = 216_000


async def run(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    app = _start(daemon, call)
    return json_answer({"name": app.name, "process_uuid": app.process_uuid})


async def run_and_wait(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    app = _start(daemon, call)
    try:
        await app.wait_ended()
        assert app.process is not None
        output = app.output.read(0, 0, LARGEST_READ)
        headers = {"X-Exit-Code": str(app.process.exit_code), "X-Output-Position": str(len(output))}
        return EmulatedAnswer(200, output, TEXT, headers)
    finally:
        daemon.applications.remove(app)


def _start(daemon: "Daemon", call: Call) -> Application:
    """Starts it; what cannot be run is gone again at once.

    Raises:
        RequestRefused: 400, or another reason why nothing runs.

    """
    assert call.caller is not None
    timeout = duration_or(call.query("timeout"), TIMEOUT_SECONDS)
    lifecycle = duration_or(call.query("lifecycle"), LIFECYCLE_SECONDS)
    if not timeout and not lifecycle:
        raise RequestRefused(400, "Zero timeout and lifecycle speficied")
    definition, register_time = _definition(daemon, call)
    app = daemon.applications.run_once(definition, call.caller.name, register_time)
    if app.process is None:
        daemon.applications.remove(app)
        raise RequestRefused(400, app.last_error.partition(" ")[2])
    if timeout > 0:
        app.kill_after(timeout)
    app.remove_after(lifecycle)
    return app


def _definition(daemon: "Daemon", call: Call) -> tuple[dict[str, Any], int | None]:
    """What is to run, and when the app was registered of which it is a run."""
    definition = read_definition(daemon.dialect.definition(call.json()))
    name = definition.get("name")
    existing = daemon.applications.get(name) if name else None
    if existing is not None:
        check_access(daemon, call, existing, write=False)
        if definition.get("command"):
            raise RequestRefused(400, f"Should not specify command for an existing application <{existing.name}>")
        given = {key: definition[key] for key in ("metadata", "env", "sec_env") if definition.get(key)}
        definition = {**existing.definition, **given, "name": daemon.applications.run_name(existing)}
        for key in ("start_interval_seconds", "cron", "start_time", "end_time", "daily_limitation", "health_check_cmd"):
            definition.pop(key, None)
        return definition, existing.register_time
    if "command" not in definition and not definition.get("docker_image"):
        raise RequestRefused(400, f"Should specify command {'to ' if name else ''}run application")
    if name:
        check_name(definition)
    else:
        definition["name"] = daemon.identifiers.next()
    check_command(definition)
    return definition, None


ROUTES = (
    ApiRoute("POST", "/appmesh/app/run", run, "app-run-async"),
    ApiRoute("POST", "/appmesh/app/syncrun", run_and_wait, "app-run-sync"),
)
