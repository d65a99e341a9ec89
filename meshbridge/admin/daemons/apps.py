"""Apps: what is registered, what it does, what it writes."""

from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from meshbridge.admin.api_model import ApiModel
from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.daemons.calls import Ask, DaemonCall
from meshbridge.admin.daemons.error_mapping import answers, not_kept
from meshbridge.admin.daemons.masking import masked, refuse_masks
from meshbridge.admin.daemons.models import AppName, AppSettings, JsonObject, app_of, good, sdk
from meshbridge.admin.daemons.safety import refuse_harm, refuse_running_shell_app
from meshbridge.admin.problems import Problem, ProblemKind
from meshbridge.appmesh import App, AppMeshClient, AppOutput
from meshbridge.appmesh.harm import harms_of_app
from meshbridge.appmesh.restart import restart_app as restart
from meshbridge.model.app_state import described

__all__ = ["router"]

_EXAMPLE = {
    "name": "web",
    "command": "python3 -m http.server",
    "status": 1,
    "enabled": True,
    "one_off": False,
    "state": "running",
    "schedule": None,
    "health": 0,
    "pid": 4242,
    "starts": 1,
    "memory": 12582912,
    "cpu": 0.3,
    "owner": "admin",
}
_AN_APP = {
    "description": "the app as the daemon has it; enabled, one_off, state, owner and schedule are the same at every "
    "generation",
    "content": {"application/json": {"schema": {"type": "object"}, "example": _EXAMPLE}},
}
_APPS = {
    "description": "all that the user of this bridge may see; one-off runs have one_off true",
    "content": {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}, "example": [_EXAMPLE]}},
}

_App = Annotated[AppName, Path(description="name of the app", examples=["web"])]

router = APIRouter(prefix="/api/v1/daemons/{daemon}/apps", tags=["apps"], responses=answers())


class Changed(ApiModel):
    """What an operation has done."""

    app: str
    enabled: bool | None = None
    deleted: bool | None = None


class Health(ApiModel):
    """Whether the process runs, and its health check (if it has one) succeeds."""

    app: str
    healthy: bool


class OutputQuery(BaseModel):
    """Which piece of output."""

    position: int = Field(default=0, ge=0, le=2**62, description="where to begin, in bytes")
    index: int = Field(default=0, ge=0, le=2**31 - 1, description="0: the present or last process, 1: before it")
    max_size: int = Field(default=10240, ge=1024, le=3 * 2**20, description="at most so many bytes")
    process_uuid: str = Field(default="", max_length=128, description="only if it is this process")
    wait: int = Field(default=0, ge=0, le=300, description="seconds to wait for the end of the process")


class Output(ApiModel):
    """A piece of a process's output, stderr included."""

    output: str = Field(description="bytes that are no UTF-8 are U+FFFD")
    position: int | None = Field(description="where the next read goes on, in bytes")
    exit_code: int | None = Field(description="of the process, once it has ended")
    finished: bool = Field(description="whether it has ended")


@router.get("", dependencies=[needs(Scope.READ)], responses={200: _APPS}, openapi_extra=sdk("list_apps"))
async def list_apps(ask: Ask) -> Response:
    """Every app and run."""
    return await ask(lambda client: _json([_shown(app) for app in client.list_apps()]))


@router.get("/{app}", dependencies=[needs(Scope.READ)], responses={200: _AN_APP}, openapi_extra=sdk("get_app"))
async def get_app(ask: Ask, app: _App) -> Response:
    """One app or run."""
    return await ask(lambda client: _json(_shown(client.get_app(app))))


@router.put("/{app}", dependencies=[needs(Scope.ADMIN)], responses={200: _AN_APP}, openapi_extra=sdk("add_app"))
async def add_app(ask: Ask, app: _App, settings: AppSettings) -> Response:
    """Register an app, or register it again: its process is ended then, and a new one started.

    What the daemon would lose at its next start, or not survive, is refused; so is a shell app that is running.
    """
    refuse_masks(settings.model_dump())
    wanted = app_of(app, settings)
    refuse_harm(ask, harms_of_app(wanted.to_dict()))

    def add(client: AppMeshClient) -> Response:
        if wanted.shell:
            refuse_running_shell_app(ask, client, app)
        return _json(_shown(client.add_app(wanted)))

    return await ask(add)


@router.delete(
    "/{app}",
    dependencies=[needs(Scope.ADMIN)],
    responses=good("the app is gone", {"app": "web", "enabled": None, "deleted": True}),
    openapi_extra=sdk("delete_app"),
)
async def delete_app(ask: Ask, app: _App) -> Changed:
    """Remove an app, and end its process."""
    if not await ask(lambda client: client.delete_app(app)):
        raise no_such_app(ask, app)
    return Changed(app=app, deleted=True)


@router.post(
    "/{app}/enable",
    dependencies=[needs(Scope.OPERATE)],
    responses=good("the app may run", {"app": "web", "enabled": True, "deleted": None}),
    openapi_extra=sdk("enable_app"),
)
async def enable_app(ask: Ask, app: _App) -> Changed:
    """Let it be started, now and as its settings say."""
    await ask(lambda client: client.enable_app(app))
    return Changed(app=app, enabled=True)


@router.post(
    "/{app}/disable",
    dependencies=[needs(Scope.OPERATE)],
    responses=good("the app may not run", {"app": "web", "enabled": False, "deleted": None}),
    openapi_extra=sdk("disable_app"),
)
async def disable_app(ask: Ask, app: _App) -> Changed:
    """End its process, and keep it from being started."""
    await ask(lambda client: client.disable_app(app))
    return Changed(app=app, enabled=False)


@router.post(
    "/{app}/restart",
    dependencies=[needs(Scope.OPERATE)],
    responses=good("its process has ended, and it may be started", {"app": "web", "enabled": True, "deleted": None}),
    openapi_extra=sdk("disable_app", "enable_app"),
)
async def restart_app(
    ask: Ask,
    app: _App,
    wait: Annotated[int, Query(ge=1, le=300, description="seconds to wait for the end of its process")] = 60,
) -> Changed:
    """End its process, wait until it has ended, and let it be started again. Refused where the app is disabled."""
    await ask.to_the_end(lambda client: restart(client, app, float(wait)))
    return Changed(app=app, enabled=True)


@router.get(
    "/{app}/health",
    dependencies=[needs(Scope.READ)],
    responses=good("its health", {"app": "web", "healthy": True}),
    openapi_extra=sdk("check_app_health"),
)
async def check_app_health(ask: Ask, app: _App) -> Health:
    """Whether it is healthy, as the daemon last saw it."""
    return Health(app=app, healthy=await ask(lambda client: client.check_app_health(app)))


@router.get(
    "/{app}/output",
    dependencies=[needs(Scope.READ)],
    responses=good("the piece", {"output": "hello\n", "position": 6, "exit_code": None, "finished": False}),
    openapi_extra=sdk("get_app_output"),
)
async def get_app_output(ask: Ask, app: _App, wanted: Annotated[OutputQuery, Query()]) -> Output:
    """A piece of what it has written."""

    def read(client: AppMeshClient) -> AppOutput:
        return client.get_app_output(
            app, wanted.position, wanted.index, wanted.max_size, wanted.process_uuid, wanted.wait
        )

    found = await ask(read, waits=wanted.wait > 0)
    if found.status_code == HTTPStatus.NOT_FOUND:
        raise no_such_app(ask, app)
    if found.status_code != HTTPStatus.OK:
        raise not_kept(ask.daemon)
    return Output(
        output=found.output,
        position=found.out_position,
        exit_code=found.exit_code,
        finished=found.exit_code is not None,
    )


class TaskRequest(ApiModel):
    """What an app is to work on."""

    data: str | JsonObject = Field(description="text, or JSON", examples=["payload"])


class TaskResult(ApiModel):
    """What the app made of it."""

    result: str = Field(description="bytes that are no UTF-8 are U+FFFD")


class Cancelled(ApiModel):
    """Whether there was something to cancel."""

    cancelled: bool


@router.post(
    "/{app}/task",
    dependencies=[needs(Scope.OPERATE)],
    responses=good("what it returned", {"result": "done"}),
    openapi_extra=sdk("run_task"),
)
async def run_task(
    ask: Ask,
    app: _App,
    task: TaskRequest,
    wait: Annotated[int, Query(ge=1, le=3600, description="seconds to wait for the result")] = 300,
) -> TaskResult:
    """Hand data to a running app that takes tasks, and wait for what it returns."""
    return TaskResult(result=await ask(lambda client: client.run_task(app, task.data, wait), waits=True))


@router.delete(
    "/{app}/task",
    dependencies=[needs(Scope.OPERATE)],
    responses=good("whether there was one", {"cancelled": True}),
    openapi_extra=sdk("cancel_task"),
)
async def cancel_task(ask: Ask, app: _App) -> Cancelled:
    """Cancel the task that an app works on."""
    return Cancelled(cancelled=await ask(lambda client: client.cancel_task(app)))


def no_such_app(ask: DaemonCall, app: str) -> Problem:
    return Problem(
        HTTPStatus.NOT_FOUND,
        f"{ask.daemon} has no app {app!r}",
        kind=ProblemKind.DAEMON_REFUSED,
        daemon=ask.daemon,
        found=app,
    )


def _shown(app: App) -> Any:
    """The daemon's own fields, with those that are the same at daemons of every generation."""
    return masked(described(app.to_dict()))


def _json(value: Any) -> Response:
    """Made in the thread that asked: thousands of apps would keep other requests waiting."""
    return Response(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), media_type="application/json")
