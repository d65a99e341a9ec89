"""Runs: a command, or an app, started for once; waited for here, or followed while it writes."""

import contextlib
import math
import time
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Annotated, Any

import anyio
import orjson
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from meshbridge.admin.api_model import ApiModel
from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.daemons.calls import Ask, DaemonCall
from meshbridge.admin.daemons.error_mapping import answers
from meshbridge.admin.daemons.masking import refuse_masks
from meshbridge.admin.daemons.models import AppName, AppSettings, JsonValue, app_of, good, sdk
from meshbridge.admin.problems import Problem, ProblemKind, problem_content
from meshbridge.admin.streams import Streamed
from meshbridge.appmesh import App, AppMeshClient, AppRun
from meshbridge.appmesh.dialect import is_one_off
from meshbridge.fields import Duration

__all__ = ["router"]

_LOOK_SECONDS = 0.25  # a daemon itself hands on output each 0.2 s
_SELDOM_SECONDS = 1.0  # at a run that writes nothing: a daemon is not asked four times a second for hours
_HEARTBEAT_SECONDS = 15.0
_MOST_WAIT_SECONDS = 3600.0
_DEFAULT_WAIT_SECONDS = 60.0
_TWO_DAYS, _TWO_AND_A_HALF = 172_800.0, 216_000.0  # the SDK's P2D and P2DT12H

_Run = Annotated[AppName, Path(description="name of the run", examples=["8yJmRcYk2ZN"])]
_Wait = Annotated[
    bool,
    Query(
        description=f"answer when it has ended, with its output; max_time is then {_MOST_WAIT_SECONDS:.0f} s at most, "
        f"and {_DEFAULT_WAIT_SECONDS:.0f} s where it is not given"
    ),
]

router = APIRouter(prefix="/api/v1/daemons/{daemon}", tags=["runs"], responses=answers())


class RunTimes(ApiModel):
    """How long a run may take."""

    max_time: Duration | None = Field(
        default=None, ge=1, le=315_360_000, description="after which it is ended (exit code 9); default: 2d"
    )
    lifecycle: Duration = Field(
        default=_TWO_AND_A_HALF, ge=1, le=315_360_000, description="for how long the daemon keeps it after its start"
    )


class RunAppRequest(RunTimes):
    """A run of an app that is registered."""

    metadata: JsonValue = Field(default=None, description="text or JSON, which the process gets")


class RunCommandRequest(RunTimes, AppSettings):
    """A run of a command, in the settings of an app of its own."""

    command: str = Field(min_length=1, examples=["uname -a"])
    shell: bool | None = Field(default=True, description="whether the shell reads the command")


class Started(ApiModel):
    """A run under way."""

    name: str
    process_uuid: str


class Finished(ApiModel):
    """A run that has ended."""

    exit_code: int | None = Field(description="9 where max_time ended it; null where the daemon tells none")
    output: str = Field(description="3 MiB of it at most: a run that is followed has no such limit")


_STARTED = good(
    "without wait: it was started", {"name": "8yJmRcYk2ZN", "process_uuid": "8yJmRcYk2Zo"}, HTTPStatus.ACCEPTED
)
_FINISHED = good("with wait: it has ended", {"exit_code": 0, "output": "hello\n"})
_STARTED_OR_FINISHED: dict[int | str, dict[str, Any]] = {
    200: {"model": Finished, **_FINISHED[200]},
    202: {"model": Started, **_STARTED[202]},
}
_FOLLOWED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON lines: {position, output} for each piece, also an empty one every 15 s; at the end "
        "{exit_code, finished: true}, or {error} with a problem",
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"position":0,"output":"hello\\n"}\n{"exit_code":0,"finished":true}\n',
            }
        },
    }
}


@router.post(
    "/runs",
    dependencies=[needs(Scope.ADMIN)],
    status_code=HTTPStatus.ACCEPTED,
    responses=_STARTED_OR_FINISHED,
    openapi_extra=sdk("run_app_async", "run_app_sync"),
)
async def run_command(ask: Ask, response: Response, wanted: RunCommandRequest, wait: _Wait = False) -> Any:
    """Run a command. Who may run any command may do anything there, so this takes the scope admin."""
    refuse_masks(wanted.model_dump())
    settings = AppSettings.model_validate(wanted.model_dump(exclude=set(RunTimes.model_fields)))
    return await _run(ask, response, app_of(None, settings), wanted, wait)


@router.post(
    "/apps/{app}/runs",
    dependencies=[needs(Scope.OPERATE)],
    status_code=HTTPStatus.ACCEPTED,
    responses=_STARTED_OR_FINISHED,
    openapi_extra=sdk("run_app_async", "run_app_sync"),
)
async def run_app(
    ask: Ask,
    response: Response,
    app: Annotated[AppName, Path(description="name of the app", examples=["web"])],
    wanted: RunAppRequest,
    wait: _Wait = False,
) -> Any:
    """Run a registered app once, beside what it does by itself."""
    fields = {"name": app} if wanted.metadata is None else {"name": app, "metadata": wanted.metadata}
    return await _run(ask, response, App(fields), wanted, wait)


async def _run(ask: DaemonCall, response: Response, app: App, times: RunTimes, wait: bool) -> Started | Finished:
    lifecycle = math.ceil(times.lifecycle)
    if not wait:
        limit = math.ceil(times.max_time or _TWO_DAYS)
        started = await ask(lambda client: client.run_app_async(app, limit, lifecycle))
        return Started(name=started.app_name, process_uuid=started.proc_uid)
    seconds = math.ceil(times.max_time or _DEFAULT_WAIT_SECONDS)
    if seconds > _MOST_WAIT_SECONDS:
        detail = f"max_time: with wait at most {_MOST_WAIT_SECONDS:.0f} s (without it, follow the run's output)"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind=ProblemKind.INVALID, where="body.max_time")
    code, output = await ask(lambda client: client.run_app_sync(app, seconds, lifecycle), waits=True)
    response.status_code = HTTPStatus.OK
    return Finished(exit_code=code, output=output)


class FollowQuery(BaseModel):
    """From where a run is followed."""

    process_uuid: str = Field(default="", max_length=128, description="of the answer that named the run")
    position: int = Field(default=0, ge=0, le=2**62, description="where to begin, in bytes")


@router.get(
    "/runs/{run}/output",
    dependencies=[needs(Scope.READ)],
    responses=_FOLLOWED,
    response_class=Response,
    openapi_extra=sdk("wait_for_async_run"),
)
async def follow_run(ask: Ask, run: _Run, wanted: Annotated[FollowQuery, Query()]) -> Response:
    """What a run writes, as it writes it, until it has ended. The run stays at the daemon."""
    async with contextlib.AsyncExitStack() as held:
        held.enter_context(ask.streaming())
        following = _Following(ask, run, wanted.process_uuid, wanted.position)
        await following.read()  # so that a run that is not there is an answer of its own
        return Streamed(following.lines(), held.pop_all(), media_type="application/x-ndjson")


@router.delete(
    "/runs/{run}",
    dependencies=[needs(Scope.OPERATE)],
    responses=good("the run is gone", {"name": "8yJmRcYk2ZN", "deleted": True}),
    openapi_extra=sdk("delete_app"),
)
async def remove_run(ask: Ask, run: _Run) -> dict[str, Any]:
    """End a run, and have the daemon forget it. Not for apps: those take the scope admin."""

    def remove(client: AppMeshClient) -> bool:
        return is_one_off(client.get_app_json(run)) and client.delete_app(run)

    if not await ask(remove):
        detail = f"{ask.daemon} has no run {run!r}"
        raise Problem(HTTPStatus.NOT_FOUND, detail, kind=ProblemKind.DAEMON_REFUSED, daemon=ask.daemon, found=run)
    return {"name": run, "deleted": True}


class _Following:
    """One caller who follows a run: what was read and not yet sent, and where the next read begins."""

    def __init__(self, ask: DaemonCall, run: str, process_uuid: str, position: int) -> None:
        self._ask = ask
        self._run = run
        self._process_uuid = process_uuid
        self._position = position
        self._pieces: list[tuple[int, str]] = []
        self._exit_code: int | None = None

    async def read(self) -> bool:
        """One piece; whether it pays to go on at once."""

        def read(client: AppMeshClient) -> bool:
            run = AppRun(client, self._run, self._process_uuid)
            output = run.reader(lambda text, at: self._pieces.append((at, text)), self._position)
            more = output.read()
            self._position, self._exit_code = output.position, output.exit_code
            return more

        return await self._ask(read)

    async def lines(self) -> AsyncGenerator[bytes]:
        """JSON lines, to the end of the run."""
        more, said_at, pause = True, time.monotonic(), _LOOK_SECONDS
        while True:
            for at, text in self._pieces:
                yield _line(position=at, output=text)
            if self._pieces:
                said_at, pause = time.monotonic(), _LOOK_SECONDS
                self._pieces.clear()
            if self._exit_code is not None:
                yield _line(exit_code=self._exit_code, finished=True)
                return
            if time.monotonic() - said_at >= _HEARTBEAT_SECONDS:
                said_at = time.monotonic()
                yield _line(position=self._position, output="")
            if not more:
                await anyio.sleep(pause)
                pause = min(pause * 1.2, _SELDOM_SECONDS)
            try:
                more = await self.read()
            except Problem as problem:
                yield _line(error=problem_content(problem))
                return


def _line(**fields: Any) -> bytes:
    return orjson.dumps(fields) + b"\n"
