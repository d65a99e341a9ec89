"""``/api/v1/bridge``: the sinks, replays, dead letters and the journal of this bridge."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import Field, StringConstraints

import meshbridge
from meshbridge.admin.api_model import ApiModel
from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.interface import Asked, AskedCommand, Bridge, SinkControl
from meshbridge.admin.problems import Problem
from meshbridge.fields import When
from meshbridge.journal import DeadLetter, JournalError, Verification
from meshbridge.model.figures import Figures, Range
from meshbridge.model.problems import BridgeProblem
from meshbridge.model.status import FinishedCommand, JournalStatus, LinkStatus, ReplayStatus, SinkStatus

__all__ = ["TheBridge", "router"]

_MOST_LETTERS = 1000


@dataclass(frozen=True, slots=True)
class BridgeStatus:
    """The bridge as a whole."""

    version: str
    configuration: str | None
    problems: list[BridgeProblem]
    daemons: list[LinkStatus]
    sinks: list[SinkStatus]
    journal: JournalStatus


class ReplayRequest(ApiModel):
    """Which kept events pass again: by when they came in, their names, their apps."""

    since: float | None = Field(
        default=None, allow_inf_nan=False, description="unix seconds: came in then or later", examples=[1795515820]
    )
    until: float | None = Field(default=None, allow_inf_nan=False, description="unix seconds: came in before")
    when: When = Field(default=When(), description="as in a sink's settings", examples=[{"events": ["exit"]}])


class LettersRequest(ApiModel):
    """Which dead letters: those of a sink, or some by their ids."""

    sink: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,254}$")] | None = Field(
        default=None, description="all of this sink", examples=["broker"]
    )
    ids: tuple[Annotated[int, Field(ge=1, lt=2**63)], ...] = Field(
        default=(), max_length=10_000, description="these; of any sink where none is named", examples=[[17, 18]]
    )


async def _bridge(request: Request) -> Bridge:
    """A coroutine, though it waits for nothing: the framework calls a plain function in a thread, for each request."""
    bridge: Bridge = request.app.state.bridge
    return bridge


TheBridge = Annotated[Bridge, Depends(_bridge)]
SinkName = Annotated[str, Path(max_length=255, description="a sink of the configuration", examples=["broker"])]
ReplayName = Annotated[str, Path(max_length=255, description="as its beginning was answered", examples=["7c1f"])]

router = APIRouter(prefix="/api/v1/bridge", tags=["bridge"])
_READ, _OPERATE = [needs(Scope.READ)], [needs(Scope.OPERATE)]
_NO_SINK: dict[int | str, dict[str, Any]] = {404: {"description": "there is no such sink"}}
_NO_REPLAY: dict[int | str, dict[str, Any]] = {404: {"description": "there is no such replay"}}
_NO_EVENT: dict[int | str, dict[str, Any]] = {404: {"description": "there is no such event, or daemon"}}


@router.get("", dependencies=_READ)
def get_bridge(bridge: TheBridge) -> BridgeStatus:
    """The bridge as a whole."""
    return BridgeStatus(
        version=meshbridge.__version__,
        configuration=bridge.configuration,
        problems=bridge.problems(),
        daemons=list(bridge.links()),
        sinks=[sink.status() for sink in bridge.sinks()],
        journal=bridge.journal.status(),
    )


@router.get("/problems", dependencies=_READ)
def list_problems(bridge: TheBridge) -> list[BridgeProblem]:
    """What is wrong now, or was within the last hour, the worst first, each with a remedy."""
    return bridge.problems()


@router.get("/figures", dependencies=_READ)
def get_figures(
    bridge: TheBridge,
    span: Annotated[Range, Query(alias="range", description="how far back")] = Range.HOUR,
) -> Figures:
    """Events per second, lag, dead letters and the size of the journal, over the last hour or day."""
    return bridge.figures(span)


@router.get("/sinks", dependencies=_READ)
def list_sinks(bridge: TheBridge) -> list[SinkStatus]:
    """How each sink is."""
    return [sink.status() for sink in bridge.sinks()]


@router.post("/sinks/{sink}/pause", dependencies=_OPERATE, responses=_NO_SINK)
def pause_sink(bridge: TheBridge, sink: SinkName) -> SinkStatus:
    """Pause delivery until the sink is resumed, or the bridge is restarted."""
    found = _sink_of(bridge, sink)
    found.pause()
    return found.status()


@router.post("/sinks/{sink}/resume", dependencies=_OPERATE, responses=_NO_SINK)
def resume_sink(bridge: TheBridge, sink: SinkName) -> SinkStatus:
    """Resume delivery: after a pause, during a wait between attempts, or after the destination ended it (HTTP 410)."""
    found = _sink_of(bridge, sink)
    found.resume()
    return found.status()


@router.post("/sinks/{sink}/replays", status_code=HTTPStatus.ACCEPTED, dependencies=_OPERATE, responses=_NO_SINK)
def start_replay(bridge: TheBridge, sink: SinkName, wanted: ReplayRequest) -> ReplayStatus:
    """Let kept events pass again, beside what is new, marked as replayed."""
    if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "since is not before until", where="since")
    return _sink_of(bridge, sink).replay(since=wanted.since, until=wanted.until, when=wanted.when)


@router.get("/replays", dependencies=_READ)
def list_replays(bridge: TheBridge) -> list[ReplayStatus]:
    """Those under way, and the last that have ended."""
    return [one for sink in bridge.sinks() for one in sink.replays()]


@router.get("/replays/{replay}", dependencies=_READ, responses=_NO_REPLAY)
def get_replay(bridge: TheBridge, replay: ReplayName) -> ReplayStatus:
    """How far it is."""
    for sink in bridge.sinks():
        for one in sink.replays():
            if one.id == replay:
                return one
    raise Problem(HTTPStatus.NOT_FOUND, f"there is no replay {replay!r}", found=replay)


@router.delete("/replays/{replay}", dependencies=_OPERATE, responses=_NO_REPLAY)
def cancel_replay(bridge: TheBridge, replay: ReplayName) -> ReplayStatus:
    """End it after the batch at hand."""
    if not any(sink.cancel_replay(replay) for sink in bridge.sinks()):
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no replay {replay!r} under way", found=replay)
    return get_replay(bridge, replay)


@router.get("/dead-letters", dependencies=_READ)
def list_dead_letters(
    bridge: TheBridge,
    sink: Annotated[str | None, Query(max_length=255, description="of this sink alone", examples=["broker"])] = None,
    after: Annotated[int, Query(ge=0, le=2**62, description="the last id of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MOST_LETTERS, description="how many at most")] = 100,
) -> list[dict[str, Any]]:
    """Events that were refused for good, in the order of their ids; ``after`` is the last id of the page before."""
    return [shown(letter) for letter in bridge.journal.letters.find(sink, after=after, limit=limit)]


@router.post("/dead-letters/retry", dependencies=_OPERATE)
def retry_dead_letters(bridge: TheBridge, wanted: LettersRequest) -> dict[str, int]:
    """Offer them again; one that is taken is no more."""
    changed = _changed(lambda: bridge.journal.letters.retry(wanted.sink, wanted.ids))
    for one in bridge.sinks():
        one.retry_letters()
    return {"changed": changed}


@router.post("/dead-letters/drop", dependencies=_OPERATE)
def drop_dead_letters(bridge: TheBridge, wanted: LettersRequest) -> dict[str, int]:
    """Forget them, for good."""
    return {"changed": _changed(lambda: bridge.journal.letters.drop(wanted.sink, wanted.ids))}


@router.get("/journal", dependencies=_READ)
def get_journal(bridge: TheBridge) -> dict[str, Any]:
    """What the journal holds, and where each sink stands in it."""
    return bridge.journal.stats()


@router.post("/journal/verify", dependencies=_OPERATE)
def verify_journal(bridge: TheBridge) -> Verification:
    """Read all of it and compare; what is damaged is mended."""
    return bridge.journal.verify()


@router.post("/explain", dependencies=_READ, responses=_NO_EVENT)
def explain_event(bridge: TheBridge, wanted: Asked) -> list[dict[str, Any]]:
    """What becomes of an event at each sink, and why. Nothing is sent."""
    if sum(one is not None for one in (wanted.id, wanted.letter, wanted.event)) != 1:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "give one of id, letter and event")
    try:
        return bridge.explain(wanted)
    except LookupError as error:
        where = "id" if wanted.letter is None else "letter"
        raise Problem(HTTPStatus.NOT_FOUND, str(error.args[0]), found=getattr(wanted, where), where=where) from error
    except (ValueError, JournalError) as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), where="event") from error


@router.get("/commands", dependencies=_READ)
def list_commands(bridge: TheBridge) -> list[FinishedCommand]:
    """The last commands that sinks received, the newest first: 200 for each sink, kept in memory."""
    return bridge.commands()


@router.post("/explain-command", dependencies=_READ)
def explain_command(bridge: TheBridge, wanted: AskedCommand) -> list[dict[str, Any]]:
    """What each sink that can receive commands would do with one, and by which rule. Nothing is carried out."""
    return bridge.explain_command(wanted)


def _sink_of(bridge: Bridge, name: str) -> SinkControl:
    sinks = {sink.name: sink for sink in bridge.sinks()}
    if name not in sinks:
        raise Problem(
            HTTPStatus.NOT_FOUND, f"there is no sink {name!r} here", allowed=sorted(sinks), found=name, where="sink"
        )
    return sinks[name]


def shown(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter without its body, which ``explain`` shows."""
    event = letter.envelope.event
    return {
        "id": letter.id,
        "sink": letter.sink,
        "refused_at": letter.refused_at,
        "reason": letter.reason,
        "error": letter.error,
        "retry": letter.retry,
        "event": event.id,
        "app": event.app,
        "type": event.type.label,
        "received_at": event.received_at,
    }


def _changed(change: Callable[[], int]) -> int:
    try:
        return change()
    except TimeoutError as error:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
