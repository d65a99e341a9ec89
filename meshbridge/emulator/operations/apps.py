"""Apps: listing, registering, enabling, disabling, removing, output."""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from meshbridge.appmesh.durations import seconds_of
from meshbridge.emulator import procfs
from meshbridge.emulator.application import Application
from meshbridge.emulator.definitions import check_command, check_name, read_definition
from meshbridge.emulator.describe import describe
from meshbridge.emulator.durations import duration_or
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.events import parse_events
from meshbridge.emulator.messages import TEXT, Call, EmulatedAnswer, json_answer, message_answer
from meshbridge.emulator.output import LARGEST_READ, SMALLEST_READ
from meshbridge.emulator.routes import ANYONE, ApiRoute

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon


async def list_apps(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    assert call.caller is not None
    processes = procfs.Snapshot()
    return json_answer(
        [
            _shown(daemon, app, processes, arguments=False)
            for app in daemon.applications
            if daemon.access.may_list(call.caller, app)
        ]
    )


async def get_app(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    app = accessible(daemon, call, write=False)
    return json_answer(_shown(daemon, app, procfs.Snapshot(), arguments=True))


async def get_health(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    return EmulatedAnswer(200, str(daemon.applications.find(call.name).health).encode(), TEXT)


async def add_app(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """Registers an app; ``subscribe_events`` subscribes in the same step, so that no event is missed."""
    assert call.caller is not None
    given = daemon.dialect.definition(call.json())
    if isinstance(given, dict) and isinstance(given.get("name", ""), str):
        check_name(given)
    definition = read_definition(given)
    check_name(definition)
    existing = daemon.applications.get(definition["name"])
    if existing is not None:
        check_access(daemon, call, existing, write=True)
    check_command(definition)
    if definition.get("stdout_cache_num", 0) < 0:
        return _ended_by(call, definition["name"])
    wanted = call.query("subscribe_events")
    events = parse_events(wanted) if wanted else []
    if wanted and not events:
        raise RequestRefused(400, f"No valid event types in subscribe_events: {wanted}")
    subscription = None
    if events and call.connection.takes_events:
        subscription = daemon.hub.subscribe(call.connection, definition["name"], events, call.caller.name)
    try:
        app = await daemon.applications.register(definition, call.caller.name)
    except RequestRefused:
        if subscription is not None:
            daemon.hub.unsubscribe(call.connection, subscription.id)
        raise
    shown = _shown(daemon, app, procfs.Snapshot(), arguments=True)
    if subscription is not None:
        shown["subscription_id"] = subscription.id
    return json_answer(shown)


def _ended_by(call: Call, app: str) -> EmulatedAnswer:
    """The real daemon ends here, and again at each start: this one goes on, and only the client sees it end."""
    log.error("app %s has a negative stdout_cache_num: a real daemon would have ended", app)
    if call.connection.sender is not None:
        call.connection.sender.abort()
    return EmulatedAnswer(500)


async def delete_app(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """A missing app is reported before the token is checked (measured)."""
    app = daemon.applications.get(call.name)
    if app is None:
        return EmulatedAnswer(404)
    daemon.authorize(call, ANYONE)
    assert call.caller is not None
    daemon.applications.not_busy(app.name)
    if app.owner != call.caller.name:
        daemon.require(call.caller, "app-delete")
    check_access(daemon, call, app, write=True)
    daemon.applications.remove(app)
    return message_answer(200, f"Application <{app.name}> removed.")


async def enable_app(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    app = accessible(daemon, call, write=True)
    daemon.applications.not_busy(app.name)
    app.enable()
    daemon.applications.changed(app)
    return message_answer(200, f"Enable <{app.name}> success.")


async def disable_app(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    app = accessible(daemon, call, write=True)
    daemon.applications.not_busy(app.name)
    app.disable()
    daemon.applications.changed(app)
    return message_answer(200, f"Disable <{app.name}> success.")


async def get_output(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """Output of the present process or, by ``stdout_index``, of an earlier one (docs/protocol.md, 'STDOUT')."""
    timeout = duration_or(call.query("timeout"), 0)
    app = accessible(daemon, call, write=False)
    index = _number(call, "stdout_index")
    position = _number(call, "stdout_position")
    size = _number(call, "stdout_maxsize")
    size = size if SMALLEST_READ <= size <= LARGEST_READ else LARGEST_READ
    if index == 0 and timeout and app.process is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(app.wait_ended(), timeout)
    process_uuid = call.query("process_uuid")
    if index == 0 and process_uuid and process_uuid != app.process_uuid:
        return EmulatedAnswer(417)
    if index >= app.output.count:
        return EmulatedAnswer(200, b"", TEXT) if index == 0 and app.process is None else EmulatedAnswer(417)
    if position > app.output.size(index):
        return EmulatedAnswer(417)
    found = app.output.read(index, position, size)
    headers = {}
    if index == 0 and app.exit_code_known and app.process is not None and app.process.exit_code is not None:
        headers["X-Exit-Code"] = str(app.process.exit_code)
    if position + len(found):  # nothing yet at the start: no header (measured)
        headers["X-Output-Position"] = str(position + len(found))
    return EmulatedAnswer(200, found, TEXT, headers)


def accessible(daemon: "Daemon", call: Call, *, write: bool) -> Application:
    """The app that the path names, if its own ``permission`` lets the caller.

    Raises:
        RequestRefused: 404, or 400 where it does not.

    """
    app = daemon.applications.find(call.name)
    check_access(daemon, call, app, write=write)
    return app


def check_access(daemon: "Daemon", call: Call, app: Application, *, write: bool) -> None:
    assert call.caller is not None
    daemon.access.require_app(call.caller, app, write=write)


def _shown(daemon: "Daemon", app: Application, processes: procfs.Snapshot, *, arguments: bool) -> dict[str, Any]:
    fields = describe(app, processes, arguments=arguments)
    return daemon.dialect.app_json(fields, app.definition, daemon.access.display_name(app.owner))


def _number(call: Call, name: str) -> int:
    """Raises RequestRefused: 417, neither a whole number nor a duration."""
    given = call.query(name)
    if not given:
        return 0
    try:
        return max(0, seconds_of(int(given) if given.lstrip("-").isdigit() else given))
    except ValueError:
        raise RequestRefused(417) from None


def open_routes(*, with_token: bool) -> tuple[ApiRoute, ...]:
    """What daemons of 2.x answer to everyone."""
    return (
        ApiRoute("GET", "/appmesh/app/{}/health", get_health, "app-view" if with_token else None),
        ApiRoute("DELETE", "/appmesh/app/{}", delete_app, ANYONE if with_token else None),
    )


ROUTES = (
    ApiRoute("GET", "/appmesh/applications", list_apps, "app-view-all"),
    ApiRoute("GET", "/appmesh/app/{}", get_app, "app-view"),
    ApiRoute("PUT", "/appmesh/app/{}", add_app, "app-reg"),
    ApiRoute("POST", "/appmesh/app/{}/enable", enable_app, "app-control"),
    ApiRoute("POST", "/appmesh/app/{}/disable", disable_app, "app-control"),
    ApiRoute("GET", "/appmesh/app/{}/output", get_output, "app-output-view"),
)
