"""``/api/v1/events/kept`` and what belongs to it: events that the journal keeps, by pages, by id and as a file."""

import contextlib
import time
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Annotated, Any

import anyio.to_thread
import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.bridge import TheBridge
from meshbridge.admin.events import EventFeed, EventsFilter
from meshbridge.admin.moments import MomentText, moment
from meshbridge.admin.problems import Problem
from meshbridge.admin.streams import Streamed
from meshbridge.journal import Journal, JournalError
from meshbridge.journal.search import Wanted
from meshbridge.model.events import Envelope, EventType, cloudevent

__all__ = ["router"]

_READ_EVENTS = 500
_LATEST = 2**62

router = APIRouter(prefix="/api/v1/events", tags=["events"])
_READ = [needs(Scope.READ)]


class KeptQuery(EventsFilter):
    """Which kept events."""

    since: MomentText | None = Field(
        default=None,
        description="came in then or later: unix seconds, or a duration before now (2h)",
        examples=["2h", "1795515820"],
    )
    until: MomentText | None = Field(default=None, description="came in before, in the same way", examples=["1h"])

    def range(self, journal: Journal) -> tuple[int, int]:
        """Behind which offset, and before which."""
        after = 0 if self.since is None else journal.offset_before(moment(self.since))
        before = _LATEST if self.until is None else journal.offset_before(moment(self.until)) + 1
        return after, before


class PageQuery(KeptQuery):
    """A page of them."""

    before: int | None = Field(
        default=None, ge=0, le=_LATEST, description="`before` of the page that was shown: events older than this offset"
    )
    limit: int = Field(default=100, ge=1, le=1000, description="how many events at most")


class DownloadQuery(KeptQuery):
    """All of them, up to a number."""

    limit: int = Field(default=100_000, ge=1, le=10_000_000, description="how many events at most")


_EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "node-a/1795515000/9",
    "source": "appmesh://node-a",
    "type": "io.appmesh.app.exit",
    "subject": "web",
    "time": "2026-11-24T09:43:40Z",
    "datacontenttype": "application/json",
    "data": {"pid": 4242, "exit_code": 3, "last_error": ""},
}


def _example(description: str, example: Any) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {200: {"description": description, "content": content}}


_PAGE = _example(
    "the newest first. `before` is where the next page begins, also where this one has no events: each answer looks "
    "through a bounded part of the journal. null: there are no more. The stream goes on behind `last`, without a hole",
    {"events": [{"offset": 17, "event": _EVENT}], "before": 17, "last": 17},
)
_ONE = _example("the event, and its place in the journal", {"offset": 17, "event": _EVENT}) | {
    404: {"description": "the journal keeps no such event"}
}
_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a CloudEvent a line, the oldest first",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}, "example": orjson.dumps(_EVENT).decode()}},
    }
}


@router.get("/kept", dependencies=_READ, responses=_PAGE, response_class=Response)
def list_kept_events(bridge: TheBridge, wanted: Annotated[PageQuery, Query()]) -> Response:
    """Events that the journal keeps, a page at a time, backwards from the newest."""
    _, last = bridge.journal.extent
    after, before = wanted.range(bridge.journal)
    before = min(before, last + 1, _LATEST if wanted.before is None else wanted.before)
    try:
        found = bridge.journal.search(_wanted(wanted), after=after, before=before, limit=wanted.limit)
    except JournalError as error:
        raise _unreadable(error) from error
    events = b",".join(_line(envelope) for envelope in found.envelopes)
    content = b'{"events":[' + events + b'],"before":' + orjson.dumps(found.before) + b',"last":%d}' % last
    return Response(content, media_type="application/json")


def _wanted(query: EventsFilter) -> Wanted:
    kinds = [kind for kind in EventType if kind.label in query.event]
    return Wanted(kinds, query.only_daemon, query.only_app, query.wants)


def _line(envelope: Envelope) -> bytes:
    return b'{"offset":%d,"event":%s}' % (envelope.offset, cloudevent(envelope.event))


def _unreadable(error: JournalError) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers={"Retry-After": "1"})


@router.get("/one", dependencies=_READ, responses=_ONE, response_class=Response)
def get_event(
    bridge: TheBridge,
    id: Annotated[str, Query(max_length=4096, description="id of an event", examples=["node-a/1795515000/9"])],  # noqa: A002
    offset: Annotated[
        int | None, Query(ge=0, le=_LATEST, description="where it was seen: finds it without a look through all")
    ] = None,
) -> Response:
    """An event by its id."""
    near = [] if offset is None or offset < 1 else bridge.journal.read(offset - 1, 1)
    found = next((envelope for envelope in near if envelope.event.id == id), None)
    try:
        found = found or bridge.journal.find(id)
    except JournalError as error:
        raise _unreadable(error) from error
    if found is None:
        detail = f"the journal keeps no event {id!r}: ids look like node-a/1795590121/42"
        raise Problem(HTTPStatus.NOT_FOUND, detail, found=id, where="id")
    return Response(_line(found), media_type="application/json")


@router.get("/download", dependencies=_READ, responses=_LINES, response_class=Response)
async def download_events(request: Request, bridge: TheBridge, wanted: Annotated[DownloadQuery, Query()]) -> Response:
    """Kept events as JSON lines, from the oldest to the newest of now."""
    feed: EventFeed = request.app.state.events
    held = contextlib.AsyncExitStack()
    held.enter_context(feed.entered())
    name = time.strftime("meshbridge-events-%Y%m%dT%H%M%SZ.jsonl", time.gmtime())
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{name}"'}
    return Streamed(_pieces(bridge.journal, wanted, feed), held, headers=headers, media_type="application/x-ndjson")


async def _pieces(journal: Journal, wanted: DownloadQuery, feed: EventFeed) -> AsyncGenerator[bytes]:
    after, before = await anyio.to_thread.run_sync(wanted.range, journal)
    before, left = min(before, journal.extent[1] + 1), wanted.limit

    def read() -> tuple[int, list[bytes]]:
        envelopes = journal.read(after, _READ_EVENTS)
        lines = [cloudevent(one.event) + b"\n" for one in envelopes if one.offset < before and wanted.wants(one)]
        return envelopes[-1].offset if envelopes else before, lines

    while after < before - 1 and left > 0 and not feed.closed:
        after, lines = await anyio.to_thread.run_sync(read, limiter=feed.readers)
        if lines:
            yield b"".join(lines[:left])
            left -= len(lines)
