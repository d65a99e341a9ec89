"""How an operation asks its daemon: in a thread, of which each daemon has its share, and within a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Path, Query, Request

from meshbridge.admin.bridge import Bridge, TheBridge
from meshbridge.admin.daemons.refusals import problem_of
from meshbridge.admin.gate import Gate, Scope
from meshbridge.admin.problems import Problem
from meshbridge.appmesh import AppMeshClient, AppMeshError

__all__ = ["Ask", "Asking", "DaemonName"]

T = TypeVar("T")

_AT_ONCE = 8  # requests to one daemon under way together: a silent one takes no thread from the others
_WAITING_AT_ONCE = 16  # of those that wait for a process beside them
_SECONDS = 30.0
_MOST_SECONDS = 300.0

DaemonName = Annotated[str, Path(max_length=255, description="a daemon of the configuration", examples=["node-a"])]
_Node = Annotated[
    str | None,
    Query(
        max_length=255,
        pattern=r"^[A-Za-z0-9._:\[\]-]+$",
        description="another node that is to carry it out, host or host:port. The daemon sends it the token of this "
        "bridge, so that takes the scope admin",
        examples=["node-b:6060"],
    ),
]
_Timeout = Annotated[
    float,
    Query(
        alias="timeout",
        gt=0,
        le=_MOST_SECONDS,
        description="seconds to wait for the daemon, beyond what it is told to wait",
    ),
]


class Shares:
    """The threads that each daemon's requests may take, for one application."""

    def __init__(self) -> None:
        self._semaphores: dict[tuple[str, bool], anyio.Semaphore] = {}
        self.threads = anyio.CapacityLimiter(math.inf)  # the semaphores are the limit

    def of(self, daemon: str, *, waits: bool) -> anyio.Semaphore:
        found = self._semaphores.get((daemon, waits))
        if found is None:
            found = anyio.Semaphore(_WAITING_AT_ONCE if waits else _AT_ONCE)
            self._semaphores[daemon, waits] = found
        return found


@dataclass(frozen=True, slots=True)
class Asking:
    """One request's way to its daemon."""

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
        share = self.shares.of(self.daemon, waits=waits)
        if not await _taken(share, 0.0 if waits else self.timeout_seconds):
            detail = f"too many requests to {self.daemon} are under way: try again later"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind="busy")
        try:
            # Which a cancelled request waits for: the thread ends by its own limits.
            return await anyio.to_thread.run_sync(self.run, operation, limiter=self.shares.threads)
        finally:
            share.release()

    def run(self, operation: Callable[[AppMeshClient], T]) -> T:
        """As the call itself, on this thread."""
        try:
            with (
                self.bridge.client(self.daemon) as client,
                client.using(forward_to=self.forward_to, timeout_seconds=self.timeout_seconds),
            ):
                found = operation(client)
        except AppMeshError as error:
            raise problem_of(self.daemon, error) from error
        return found


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
) -> Asking:
    names = sorted(link.daemon for link in bridge.links())
    if daemon not in names:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            f"there is no daemon {daemon!r} here",
            kind="unknown-daemon",
            allowed=names,
            found=daemon,
            where="daemon",
        )
    if forward_to is not None:
        gate: Gate = request.app.state.gate
        gate(request, Scope.ADMIN)
    state: Any = request.app.state
    if not hasattr(state, "shares"):
        state.shares = Shares()
    return Asking(bridge, state.shares, daemon, forward_to, seconds)


Ask = Annotated[Asking, Depends(_asking)]
