"""``/api/v1/bridge/timeline`` and what belongs to it: what happened to apps, from the journal."""

import dataclasses
import time
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, model_validator

from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.bridge import TheBridge
from meshbridge.admin.moments import MomentText, moment
from meshbridge.admin.problems import Problem
from meshbridge.fields import TextList
from meshbridge.journal import JournalError
from meshbridge.journal.history import Gap, History, Timeline, TimelineQuery
from meshbridge.model.timeline import CRASH_LOOP_RESTARTS, HOUR_SECONDS, Lane, Run, Segment, Window

__all__ = ["restarts_last_hour", "router"]

_MOST_LANES = 1000
_MOST_SEGMENTS = 20_000  # about, in one answer
_MOST_SEGMENTS_OF_LANE = 400
_LEAST_SEGMENTS_OF_LANE = 20
_MOST_RUNS = 1000

router = APIRouter(prefix="/api/v1/bridge", tags=["bridge"])
_READ = [needs(Scope.READ)]


class HistoryQuery(BaseModel):
    """Which apps, over which time."""

    daemon: TextList = Field(default=(), description="shell patterns of daemons' names; none: all", max_length=64)
    app: TextList = Field(default=(), description="shell patterns of apps' names; none: all", max_length=64)
    since: MomentText = Field(
        default="24h",
        description="the beginning, in unix seconds or as a duration before now (2h)",
        examples=["24h", "1795515820"],
    )
    until: MomentText | None = Field(
        default=None, description="the end, in the same way; default: now", examples=["1h"]
    )

    @model_validator(mode="after")
    def _in_order(self) -> "HistoryQuery":
        since, until = self.window()
        if since >= until:
            raise ValueError("since is not before until")
        return self

    def window(self) -> tuple[float, float]:
        """Since when, until when; the end is the present at the latest."""
        now = time.time()
        return moment(self.since, now), now if self.until is None else min(now, moment(self.until, now))


class LanesQuery(HistoryQuery):
    """Which lanes, and how fine."""

    after: str | None = Field(
        default=None, max_length=2048, description="`next` of the page before: a daemon, a slash and an app"
    )
    limit: int = Field(default=100, ge=1, le=_MOST_LANES, description="how many lanes at most")
    segments: int | None = Field(
        default=None,
        ge=1,
        le=_MOST_SEGMENTS_OF_LANE,
        description="parts shorter than the time divided by this are merged; default: as many as 20,000 for all lanes",
    )


_LANE = {
    "daemon": "node-a",
    "app": "web",
    "state": "running",
    "removed": False,
    "restarts_last_hour": 1,
    "crash_loop": False,
    "segments": [
        {
            "state": "running",
            "start": 1795515820.0,
            "end": 1795516000.0,
            "runs": 1,
            "run": {
                "offset": 17,
                "start": 1795515820.0,
                "end": 1795516000.0,
                "exit_code": 3,
                "restarts": 0,
                "process_uuid": "8yJmRcYk2Zo",
                "reconciled": False,
            },
        },
        {"state": "stopped", "start": 1795516000.0, "end": 1795516001.0, "runs": 0, "run": None},
    ],
}
_TIMELINE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a lane for each app, removed ones last; `next` where there are more. A segment with `runs` "
        "above 1 stands for so many processes; `run` is the last of them. `gaps` are times of which events of a daemon "
        "are missing; `cut`: more happened than one answer looks at; "
        "`reconciled` says that a start or an end is known from a comparison with the daemon alone",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "since": 1795515000.0,
                    "until": 1795518600.0,
                    "resolution": 18.0,
                    "offset": 4711,
                    "complete": True,
                    "cut": False,
                    "total": 1,
                    "next": None,
                    "gaps": [
                        {"daemon": "node-a", "start": 1795515100.0, "end": 1795515130.0, "missed": 7, "offset": 9}
                    ],
                    "lanes": [_LANE],
                },
            }
        },
    }
}


@router.get("/timeline", dependencies=_READ, responses=_TIMELINE, response_class=Response)
def get_timeline(bridge: TheBridge, wanted: Annotated[LanesQuery, Query()]) -> Response:
    """What apps did over a time: for each a lane of states, with the processes that ran."""
    since, until = wanted.window()
    per_lane = wanted.segments or max(
        _LEAST_SEGMENTS_OF_LANE, min(_MOST_SEGMENTS_OF_LANE // 2, _MOST_SEGMENTS // wanted.limit)
    )
    resolution = (until - since) / per_lane
    # The same question again, a moment later, is the same: its answer may be used again.
    step = max(1.0, min(10.0, resolution / 2))
    since, until = since // step * step, until // step * step + (step if wanted.until is None else 0.0)
    query = TimelineQuery(
        Window(since, min(until, time.time()) if wanted.until else until, resolution),
        wanted.daemon,
        wanted.app,
        _place(wanted.after),
        wanted.limit,
    )
    found = _found(bridge.journal.history, query)
    return _json(_timeline_json(found, query))


def _place(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    daemon, _, app = text.partition("/")
    return daemon, app


def _found(history: History, query: TimelineQuery) -> Timeline:
    try:
        return history.timeline(query)
    except JournalError as error:
        raise _unreadable(error) from error


def _unreadable(error: JournalError) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers={"Retry-After": "1"})


def _timeline_json(found: Timeline, query: TimelineQuery) -> dict[str, Any]:
    now = time.time()
    return {
        "since": query.window.since,
        "until": query.window.until,
        "resolution": query.window.resolution,
        "offset": found.offset,
        "complete": found.complete,
        "cut": found.cut,
        "total": found.total,
        "next": None if found.next is None else "/".join(found.next),
        "gaps": [_gap_json(gap) for gap in found.gaps],
        "lanes": [_lane_json(lane, now) for lane in found.lanes],
    }


def _lane_json(lane: Lane, now: float) -> dict[str, Any]:
    restarts = lane.restarts_since(now - HOUR_SECONDS)
    return {
        "daemon": lane.daemon,
        "app": lane.app,
        "state": lane.segments[-1].state if lane.segments else "unknown",
        "removed": lane.removed,
        "restarts_last_hour": restarts,
        "crash_loop": restarts >= CRASH_LOOP_RESTARTS,
        "segments": [_segment_json(segment) for segment in lane.segments],
    }


def _segment_json(segment: Segment) -> dict[str, Any]:
    return {
        "state": segment.state,
        "start": segment.start,
        "end": segment.end,
        "runs": segment.runs,
        "run": None if segment.run is None else run_json(segment.run),
    }


def run_json(run: Run) -> dict[str, Any]:
    """A process. Its name in other questions is ``offset``, of its first event; 0 where that is not known."""
    return {
        "offset": run.first or run.last,
        "start": run.start,
        "end": run.end,
        "exit_code": run.exit_code,
        "restarts": run.restarts,
        "process_uuid": run.process,
        "reconciled": bool(run.reconciled),
    }


def _gap_json(gap: Gap) -> dict[str, Any]:
    return {"daemon": gap.daemon, "start": gap.start, "end": gap.end, "missed": gap.missed, "offset": gap.offset}


class RunsQuery(HistoryQuery):
    """Which runs."""

    before: str | None = Field(
        default=None, max_length=64, pattern=r"^-?\d+(\.\d+)?:\d+$", description="`next` of the page before"
    )
    limit: int = Field(default=100, ge=1, le=_MOST_RUNS, description="how many runs at most")


_RUNS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "processes of apps that ran in the time, the latest start first; `next` where there are more",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "runs": [
                        {"daemon": "node-a", "app": "web", **_LANE["segments"][0]["run"], "duration": 180.0}  # type: ignore[index]
                    ],
                    "next": None,
                    "complete": True,
                    "cut": False,
                },
            }
        },
    }
}


@router.get("/history", dependencies=_READ, responses=_RUNS, response_class=Response)
def list_runs(bridge: TheBridge, wanted: Annotated[RunsQuery, Query()]) -> Response:
    """The processes of apps, with how each ended and how often its app had been started again."""
    since, until = wanted.window()
    runs: list[tuple[tuple[float, int], Lane, Run]] = []
    query = TimelineQuery(Window(since, until), wanted.daemon, wanted.app, limit=_MOST_LANES)
    found = _found(bridge.journal.history, query)
    complete, cut = found.complete, found.cut
    while True:
        for lane in found.lanes:
            runs += [(_order(run), lane, run) for run in lane.runs if _overlaps(run, since, until)]
        if found.next is None:
            break
        found = _found(bridge.journal.history, dataclasses.replace(query, after=found.next))
    if wanted.before is not None:
        moment_text, _, offset = wanted.before.partition(":")
        runs = [one for one in runs if one[0] < (float(moment_text), int(offset))]
    runs.sort(key=lambda one: one[0], reverse=True)
    shown, now = runs[: wanted.limit], time.time()
    return _json(
        {
            "runs": [
                {"daemon": lane.daemon, "app": lane.app, **run_json(run), "duration": run.duration(now)}
                for _, lane, run in shown
            ],
            "next": "{}:{}".format(*shown[-1][0]) if len(shown) < len(runs) else None,
            "complete": complete,
            "cut": cut,
        }
    )


def _order(run: Run) -> tuple[float, int]:
    known = run.start if run.start is not None else run.end
    return known or 0.0, run.first or run.last


def _overlaps(run: Run, since: float, until: float) -> bool:
    return (run.end is None or run.end >= since) and (run.start is None or run.start <= until)


class ProcessOutput(BaseModel):
    """The end of what a process wrote, from the journal."""

    output: str
    whole: bool = Field(description="whether it is all that the process wrote")
    kept: bool = Field(description="false: the journal no longer keeps events of that time")


@router.get("/history/output", dependencies=_READ)
def get_run_output(
    bridge: TheBridge,
    daemon: Annotated[str, Query(max_length=255, description="name of the daemon", examples=["node-a"])],
    app: Annotated[str, Query(max_length=1024, description="name of the app", examples=["web"])],
    offset: Annotated[int, Query(ge=0, le=2**62, description="`offset` of the run")],
    lines: Annotated[int, Query(ge=1, le=1000, description="how many lines at most")] = 20,
) -> ProcessOutput:
    """The last lines that a process wrote, stderr included, as far as the journal keeps them."""
    try:
        found = bridge.journal.output_of_run(daemon, app, offset, lines)
    except JournalError as error:
        raise _unreadable(error) from error
    return ProcessOutput(output=found.text, whole=found.whole, kept=found.kept)


class Restarts(BaseModel):
    """An app that was started again after a failure."""

    daemon: str
    app: str
    restarts_last_hour: int
    crash_loop: bool = Field(description=f"whether it was at least {CRASH_LOOP_RESTARTS} times")


@router.get("/restarts", dependencies=_READ)
def list_restarts(bridge: TheBridge) -> list[Restarts]:
    """Apps that were started again after a failure in the last hour, those with the most restarts first."""
    try:
        return restarts_last_hour(bridge.journal.history)
    except JournalError as error:
        raise _unreadable(error) from error


def restarts_last_hour(history: History) -> list[Restarts]:
    """See :func:`list_restarts`.

    Raises:
        JournalError: the database can't be read.

    """
    found = [
        Restarts(daemon=daemon, app=app, restarts_last_hour=count, crash_loop=count >= CRASH_LOOP_RESTARTS)
        for (daemon, app), count in history.restarts(time.time() - HOUR_SECONDS).items()
    ]
    return sorted(found, key=lambda one: (-one.restarts_last_hour, one.daemon, one.app))


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
