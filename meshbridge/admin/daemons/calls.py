"""How an operation asks its daemon: in a thread, of which each daemon has its share, and within a time."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import orjson
from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator

from meshbridge.admin.auth import Authenticate, Scope
from meshbridge.admin.bridge import TheBridge
from meshbridge.admin.daemons.error_mapping import problem_of
from meshbridge.admin.interface import Bridge
from meshbridge.admin.problems import Problem, ProblemKind
from meshbridge.appmesh import AppMeshClient, AppMeshError

__all__ = ["Ask", "DaemonCall", "DaemonName"]

T = TypeVar("T")

_AT_ONCE = 8  # requests to one daemon under way together: a silent one takes no thread from the others
_WAITING_AT_ONCE = 16  # of those that wait for a process beside them
_STREAMS_AT_ONCE = 32  # files and runs that are followed
_SECONDS = 30.0
_LEAST_SECONDS, _MOST_SECONDS = 0.1, 300.0


def _node(node: str) -> str:
    """Raises ValueError: it is an address that looks right and is none."""
    _ = urlsplit(f"//{node}").port
    return node


DaemonName = Annotated[str, Path(max_length=255, description="a daemon of the configuration", examples=["node-a"])]
_Node = Annotated[
    Annotated[str, AfterValidator(_node)] | None,
    Query(
        max_length=255,
        pattern=r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$",
        description="another node that is to carry it out, host or host:port. The daemon sends it the token of this "
        "bridge, so that takes the scope admin",
        examples=["node-b:6060"],
    ),
]
_Timeout = Annotated[
    float,
    Query(
        alias="timeout",
        ge=_LEAST_SECONDS,
        le=_MOST_SECONDS,
        description="seconds to wait for the answer of a connected daemon, beyond the wait in the request itself",
    ),
]


class Kind(Enum):
    """What a request takes; the value is how many of them one daemon's requests may take together."""

    SHORT = _AT_ONCE
    WAITING = _WAITING_AT_ONCE
    STREAM = _STREAMS_AT_ONCE


class Shares:
    """The threads and streams that each daemon's requests may take, for one application."""

    def __init__(self) -> None:
        self._semaphores: dict[tuple[str, Kind], anyio.Semaphore] = {}
        self.threads = anyio.CapacityLimiter(math.inf)  # the semaphores are the limit

    def of(self, daemon: str, kind: Kind) -> anyio.Semaphore:
        found = self._semaphores.get((daemon, kind))
        if found is None:
            found = self._semaphores[daemon, kind] = anyio.Semaphore(kind.value)
        return found


@dataclass(frozen=True, slots=True)
class DaemonCall:
    """One request's way to its daemon."""

    request: Request
    bridge: Bridge
    shares: Shares
    daemon: str
    forward_to: str | None
    timeout_seconds: float

    async def __call__(self, operation: Callable[[AppMeshClient], T], *, waits: bool = False) -> T:
        """What ``operation`` gives of the daemon's client. ``waits``: it may take long by intent.

        Raises:
            Problem: whatever went wrong, as the caller is to see it.

        """
        share = self.shares.of(self.daemon, Kind.WAITING if waits else Kind.SHORT)
        if not await _taken(share, 0.0 if waits else self.timeout_seconds):
            raise self._busy()
        try:
            if waits:
                return await self._waiting(operation)
            return await self.in_thread(partial(self.run, operation))
        finally:
            share.release()

    async def to_the_end(self, operation: Callable[[AppMeshClient], T]) -> T:
        """As the call itself with ``waits``; but what has begun is completed, also when the caller disconnects."""
        share = self.shares.of(self.daemon, Kind.WAITING)
        if not await _taken(share, 0.0):
            raise self._busy()

        def work() -> T:
            with self.told(), self.bridge.client(self.daemon, alone=True) as client, self.settings(client):
                found = operation(client)
            return found  # noqa: RET504 as in run

        try:
            return await self.in_thread(work)
        finally:
            share.release()

    async def _waiting(self, operation: Callable[[AppMeshClient], T]) -> T:
        """On a connection of its own, which is closed when the caller disconnects: the answer has no reader then."""
        held = contextlib.ExitStack()
        with self.told():
            client = held.enter_context(self.bridge.client(self.daemon, alone=True))

        def wait() -> T:
            with self.told(), held, self.settings(client):
                found = operation(client)
            return found  # noqa: RET504 as in run

        watching = asyncio.create_task(self._close_when_alone(client))
        try:
            return await self.in_thread(wait)
        finally:
            watching.cancel()

    async def _close_when_alone(self, client: AppMeshClient) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        await self.in_thread(client.close)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """What ``work`` gives; a request that is cancelled waits for it, since it ends by its own limits."""
        return await anyio.to_thread.run_sync(work, limiter=self.shares.threads)

    @contextlib.contextmanager
    def streaming(self) -> Iterator[None]:
        """Counts a stream for as long as it lasts.

        Raises:
            Problem: there are too many.

        """
        share = self.shares.of(self.daemon, Kind.STREAM)
        try:
            share.acquire_nowait()
        except anyio.WouldBlock:
            raise self._busy() from None
        try:
            yield
        finally:
            share.release()

    def _busy(self) -> Problem:
        detail = f"too many requests to {self.daemon} are under way: try again later"
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind=ProblemKind.BUSY, daemon=self.daemon)

    def run(self, operation: Callable[[AppMeshClient], T]) -> T:
        """As the call itself, on this thread."""
        with self.told(), self.bridge.client(self.daemon) as client, self.settings(client):
            found = operation(client)
        return found  # noqa: RET504 for mypy a context may swallow an exception

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Errors of the SDK as the problems that they are to the caller."""
        try:
            yield
        except AppMeshError as error:
            raise problem_of(self.daemon, error) from error
        except (UnicodeEncodeError, orjson.JSONEncodeError) as error:  # half a character, which JSON lets in as \\ud800
            detail = f"the request has something that cannot be sent on: {error}"
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind=ProblemKind.INVALID) from error

    def settings(self, client: AppMeshClient) -> AbstractContextManager[None]:
        """What the request says of where and how long to ask; for this thread."""
        return client.using(forward_to=self.forward_to, timeout_seconds=self.timeout_seconds)


async def _taken(share: anyio.Semaphore, seconds: float) -> bool:
    """Whether there was a place within so many seconds."""
    try:
        share.acquire_nowait()
    except anyio.WouldBlock:
        if not seconds:
            return False
        with anyio.move_on_after(seconds) as waiting:
            await share.acquire()
        return not waiting.cancelled_caught
    return True


async def _asking(
    request: Request, bridge: TheBridge, daemon: DaemonName, forward_to: _Node = None, seconds: _Timeout = _SECONDS
) -> DaemonCall:
    names = sorted(link.daemon for link in bridge.links())
    if daemon not in names:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            f"there is no daemon {daemon!r} here",
            kind=ProblemKind.UNKNOWN_DAEMON,
            allowed=names,
            found=daemon,
            where="daemon",
        )
    if forward_to is not None:
        authenticate: Authenticate = request.app.state.authenticate
        authenticate(request, Scope.ADMIN)
    state: Any = request.app.state
    if not hasattr(state, "shares"):
        state.shares = Shares()
    return DaemonCall(request, bridge, state.shares, daemon, forward_to, seconds)


Ask = Annotated[DaemonCall, Depends(_asking)]
