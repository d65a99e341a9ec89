"""One-off runs (PROTOCOL.md, 'Events': ``status`` 2, kept until their lifecycle ends)."""

from typing import TYPE_CHECKING, Any

from meshbridge.emulator.application import Application
from meshbridge.emulator.errors import Refused
from meshbridge.emulator.messages import TEXT, Answer, Call, json_answer
from meshbridge.emulator.operations.apps import check_access
from meshbridge.emulator.output import LARGEST_READ
from meshbridge.emulator.routes import Route
from meshbridge.fields import parse_duration

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon

TIMEOUT_SECONDS = 2 * 86_400
LIFECYCLE_SECONDS = 216_000


async def run(daemon: "Daemon", call: Call) -> Answer:
    app = _start(daemon, call)
    app.remove_after(_seconds(call, "lifecycle", LIFECYCLE_SECONDS))
    return json_answer({"name": app.name, "process_uuid": app.process_uuid})


async def run_and_wait(daemon: "Daemon", call: Call) -> Answer:
    app = _start(daemon, call)
    try:
        await app.wait_ended()
        assert app.process is not None
        output = app.output.read(0, 0, LARGEST_READ)
        headers = {"X-Exit-Code": str(app.process.exit_code), "X-Output-Position": str(len(output))}
        return Answer(200, output, TEXT, headers)
    finally:
        daemon.applications.remove(app)


def _start(daemon: "Daemon", call: Call) -> Application:
    assert call.caller is not None
    definition: dict[str, Any] = call.json()
    name = definition.get("name")
    existing = daemon.applications.get(str(name)) if name else None
    register_time = None
    if existing is not None:
        check_access(daemon, call, existing, write=False)
        if definition.get("command"):
            raise Refused(400, f"Should not specify command for an existing application <{existing.name}>")
        given = {key: definition[key] for key in ("metadata", "env", "sec_env") if definition.get(key)}
        definition = {**existing.definition, **given, "name": daemon.applications.run_name(existing)}
        register_time = existing.register_time
        for key in ("start_interval_seconds", "cron", "start_time", "end_time", "daily_limitation", "health_check_cmd"):
            definition.pop(key, None)
    elif not definition.get("command") and not definition.get("docker_image"):
        raise Refused(400, f"Should specify command {'to ' if name else ''}run application")
    elif not name:
        definition["name"] = daemon.identifiers.next()
    app = daemon.applications.run_once(definition, call.caller.name, register_time)
    timeout = _seconds(call, "timeout", TIMEOUT_SECONDS)
    if timeout > 0:
        app.kill_after(timeout)
    return app


def _seconds(call: Call, name: str, default: float) -> float:
    given = call.query(name)
    try:
        return parse_duration(given) if given else default
    except ValueError:
        return default


ROUTES = (
    Route("POST", "/appmesh/app/run", run, "app-run-async"),
    Route("POST", "/appmesh/app/syncrun", run_and_wait, "app-run-sync"),
)
