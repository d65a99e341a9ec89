"""``/api/v1/events``: the journal as server-sent events (WHATWG HTML, 9.2).

No thread waits for a stream. The journal's thread tells the event loop that there is something to read; each stream
then reads a piece of it in one of few threads, at its own pace: what a client holds in memory is one piece. A client
that does not keep up falls behind in the journal, and one that reads nothing is disconnected.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import anyio
import anyio.to_thread
import orjson
from fastapi import APIRouter, FastAPI, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, field_validator

from meshbridge import telemetry
from meshbridge.admin.auth import Authenticate, Scope, needs
from meshbridge.admin.bridge import TheBridge
from meshbridge.admin.moments import MomentText, moment
from meshbridge.admin.problems import Problem
from meshbridge.admin.streams import Streamed
from meshbridge.fields import TextList, matches
from meshbridge.journal import Journal
from meshbridge.model.events import Envelope, Event, EventType, cloudevent

__all__ = ["EventFeed", "EventReader", "EventsFilter", "install", "router"]

HEARTBEAT_SECONDS = 15.0
_EVENTS = 500  # read at a time
_PIECE_BYTES = 256 * 1024  # sent at a time; a larger event goes alone
_PACE_SECONDS = 0.05  # between two reads of a stream: under load each brings many events
_READERS = 1  # threads that read for all streams
_RESTS = 2  # times as long as a read: all streams together take a third of a core, and the journal has the rest
_TURN = 50  # events after which other threads get the interpreter
_RETRY_MILLISECONDS = 2000
_WILDCARDS = frozenset("*?[")
_TEXTS = {EventType.STDOUT: "output", EventType.EXIT: "last_error"}
_OFFSET = r"^\d{0,18}$"  # empty: as if it were not there


class EventFeed:
    """The streams of one application. For its event loop's thread, but for what the journal calls."""

    def __init__(self, journal: Journal, most: int) -> None:
        self._journal = journal
        self._most = most
        self._news: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = threading.Event()  # a call of _wake is under way: one is enough for any number of events
        self.readers = anyio.CapacityLimiter(_READERS)
        self.closed = False

    @contextlib.contextmanager
    def entered(self) -> Iterator[asyncio.Event]:
        """A place for a stream, and what is set when there may be something to read.

        Raises:
            Problem: there are too many.

        """
        if len(self._news) >= self._most or self.closed:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._most} event streams are open, as many as admin.max_streams allows: try again later",
                headers={"Retry-After": "10"},
            )
        news = asyncio.Event()
        if not self._news:
            self._loop = asyncio.get_running_loop()
            self._told.clear()
            self._journal.append_listeners.append(self._tell)
        self._news.add(news)
        telemetry.event_streams(+1)
        try:
            yield news
        finally:
            telemetry.event_streams(-1)
            self._news.discard(news)
            if not self._news:
                self._journal.append_listeners.remove(self._tell)

    def close(self) -> None:
        """Ends all streams, and takes no more."""
        self.closed = True
        self._wake()

    def _tell(self) -> None:
        """On the journal's thread."""
        if not self._told.is_set() and self._loop is not None:
            self._told.set()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._told.clear()
        for news in self._news:
            news.set()


class EventsFilter(BaseModel):
    """Which events."""

    daemon: TextList = Field(default=(), description="shell patterns of daemons' names; none: all", max_length=64)
    app: TextList = Field(default=(), description="shell patterns of apps' names; none: all", max_length=64)
    event: TextList = Field(
        default=(), description="start, exit, stdout, health, status, removed, gap; none: all", max_length=64
    )
    text: str = Field(
        default="", max_length=1024, description="in the output, or in the error of an exit; in upper or lower case"
    )

    @field_validator("event")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = [kind.label for kind in EventType]
        names = tuple(name.lower() for name in value)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"unknown event {unknown[0]!r}: use {', '.join(known)}")
        return names

    @property
    def only_daemon(self) -> str | None:
        """The one daemon that is wanted."""
        return _only(self.daemon)

    @property
    def only_app(self) -> str | None:
        """The one app that is wanted."""
        return _only(self.app)

    def wants(self, envelope: Envelope) -> bool:
        """Whether an event is wanted."""
        event = envelope.event
        if self.daemon and not matches(event.daemon, self.daemon):
            return False
        if (self.event and event.type.label not in self.event) or (self.app and not matches(event.app, self.app)):
            return False
        return not self.text or _contains(event, self.text.casefold())


def _only(patterns: tuple[str, ...]) -> str | None:
    return patterns[0] if len(patterns) == 1 and not _WILDCARDS & set(patterns[0]) else None


def _contains(event: Event, text: str) -> bool:
    """Whether what an app has written has this text, which is in lower case."""
    field = _TEXTS.get(event.type)
    if field is None:
        return False
    data = orjson.loads(event.data)
    written = data.get(field) if isinstance(data, dict) else None
    return isinstance(written, str) and text in written.casefold()


class EventsQuery(EventsFilter):
    """Which events, and from where on."""

    since: MomentText | None = Field(
        default=None,
        description="begin with kept events that came in at this time (unix seconds) or within this duration (2h)",
        examples=["2h", "1795515820"],
    )
    last_event_id: str | None = Field(
        default=None, pattern=_OFFSET, description="as the header Last-Event-ID, which wins over it"
    )


class EventReader:
    """Reads the journal for one stream, a piece at a time. One thread at a time."""

    def __init__(self, journal: Journal, wanted: EventsQuery, last_event_id: str | None) -> None:
        self._journal = journal
        self._wanted = wanted
        self._since = wanted.since
        self._last_event_id = last_event_id
        self._after = 0
        self._told = -1  # the last position that the client knows

    def start(self) -> bytes:
        """What the stream begins with: where it is, so that it can be resumed before its first event."""
        first, last = self._journal.extent
        parts = [b"retry: %d\n\n" % _RETRY_MILLISECONDS]
        if self._last_event_id:
            self._after = int(self._last_event_id)
            if self._after > last:  # the journal of another bridge, or one that was thrown away
                parts.append(_lost(last, {"first": None, "last": None, "events": None}))
                self._after = last
            elif self._after < first - 1:
                parts.append(self._lost_up_to(first - 1))
        elif self._since is not None:
            self._after = self._journal.offset_before(moment(self._since))
        else:
            self._after = last
        parts.append(self.heartbeat())
        return b"".join(parts)

    def heartbeat(self) -> bytes:
        """A comment, and the position where it has moved over events that were not wanted."""
        moved, self._told = self._told != self._after, self._after
        return b":\nid: %d\n\n" % self._after if moved else b":\n\n"

    def read(self) -> tuple[bytes, bool]:
        """The next piece, and whether there may be more of it already. Keeps its thread for longer than it works."""
        began = time.perf_counter()
        found = self._read()
        time.sleep((time.perf_counter() - began) * _RESTS)
        return found

    def _read(self) -> tuple[bytes, bool]:
        envelopes = self._journal.read(self._after, _EVENTS)
        parts: list[bytes] = []
        size = 0
        for number, envelope in enumerate(envelopes, 1):
            if number % _TURN == 0:
                time.sleep(0)
            if envelope.offset > self._after + 1:
                parts.append(self._lost_up_to(envelope.offset - 1))
            self._after = envelope.offset
            if self._wanted.wants(envelope):
                self._told = envelope.offset
                parts.append(_event(envelope))
                size += len(parts[-1])
                if size >= _PIECE_BYTES:
                    break
        return b"".join(parts), bool(envelopes) and (len(envelopes) == _EVENTS or self._after < envelopes[-1].offset)

    def _lost_up_to(self, last: int) -> bytes:
        facts = {"first": self._after + 1, "last": last, "events": last - self._after}
        self._after = self._told = last
        return _lost(last, facts)


def _event(envelope: Envelope) -> bytes:
    data = cloudevent(envelope.event)
    if b"\n" in data or b"\r" in data:  # only between a daemon's JSON tokens: within a text they are escaped
        data = data.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (envelope.offset, envelope.event.type.label.encode(), data)


def _lost(offset: int, facts: dict[str, Any]) -> bytes:
    return b"id: %d\nevent: lost\ndata: %s\n\n" % (offset, orjson.dumps(facts))


router = APIRouter(prefix="/api/v1/events", tags=["events"])


def install(application: FastAPI, journal: Journal, *, most: int) -> None:
    application.state.events = EventFeed(journal, most)
    application.include_router(router)


_STREAM = {
    "description": "events as they come, until the caller goes; of each, `id` is its offset in the journal, `event` "
    "its name, `data` its CloudEvents JSON. An event `lost` says which offsets were deleted before they could be sent.",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "description": "the fields of each event",
                "properties": {
                    "id": {"type": "string", "description": "the offset: where the stream can be resumed"},
                    "event": {"type": "string", "enum": [*(kind.label for kind in EventType), "lost"]},
                    "data": {"type": "string", "description": "JSON: a CloudEvent; of lost, first, last and events"},
                },
            },
            "example": 'id: 17\nevent: exit\ndata: {"specversion":"1.0","id":"node-a/1/9","data":{"exit_code":0}}\n\n',
        }
    },
}


@router.get("", dependencies=[needs(Scope.READ)], response_class=Response, responses={200: _STREAM})
async def stream_events(
    request: Request,
    bridge: TheBridge,
    wanted: Annotated[EventsQuery, Query()],
    last_event_id: Annotated[
        str | None, Header(pattern=_OFFSET, description="the id that came last: the stream goes on behind it")
    ] = None,
) -> Response:
    """Events as they come, from the journal, as a stream of server-sent events."""
    feed: EventFeed = request.app.state.events
    reader = EventReader(bridge.journal, wanted, wanted.last_event_id if last_event_id is None else last_event_id)
    authenticate: Authenticate = request.app.state.authenticate
    async with contextlib.AsyncExitStack() as held:
        news = held.enter_context(feed.entered())
        pieces = _Stream(feed, reader, news, lambda: authenticate(request, Scope.READ)).pieces()
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Streamed(pieces, held.pop_all(), headers=headers, media_type="text/event-stream")


@dataclass(frozen=True, slots=True)
class _Stream:
    feed: EventFeed
    reader: EventReader
    news: asyncio.Event
    check: Callable[[], None]
    """Raises Problem where the client may no longer read."""

    async def pieces(self) -> AsyncGenerator[bytes]:
        yield await self._read(self.reader.start)
        loop = asyncio.get_running_loop()
        beat_at = loop.time() + HEARTBEAT_SECONDS
        while not self.feed.closed:
            self.news.clear()
            read_at = loop.time()
            piece, more = await self._read(self.reader.read)
            if piece:
                yield piece
            if not more:
                with anyio.move_on_after(beat_at - loop.time()):
                    await self.news.wait()
                    await anyio.sleep(max(0.0, read_at + _PACE_SECONDS - loop.time()))
            if loop.time() >= beat_at:
                beat_at = loop.time() + HEARTBEAT_SECONDS
                try:
                    self.check()
                except Problem:  # its token was taken out of the settings
                    return
                yield self.reader.heartbeat()

    async def _read(self, step: Callable[[], Any]) -> Any:
        return await anyio.to_thread.run_sync(step, limiter=self.feed.readers)
