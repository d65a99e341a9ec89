"""What the API asks of its bridge. Imports no web framework, so that a service can start without one."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import Field

from meshbridge.admin.api_model import ApiModel
from meshbridge.appmesh import AppMeshClient
from meshbridge.fields import When
from meshbridge.journal import Journal
from meshbridge.model.figures import FigureRing, Figures, Range
from meshbridge.model.problems import BridgeProblem
from meshbridge.model.status import FinishedCommand, LinkStatus, ReplayStatus, SinkStatus

__all__ = ["Asked", "AskedCommand", "Bridge", "Clients", "ReloadRefusedError", "SinkControl"]


class SinkControl(Protocol):
    """What an operator may do to a sink."""

    name: str

    def status(self) -> SinkStatus: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def replay(self, *, since: float | None, until: float | None, when: When | None) -> ReplayStatus: ...
    def replays(self) -> list[ReplayStatus]: ...
    def cancel_replay(self, replay: str) -> bool: ...
    def retry_letters(self) -> None: ...


class ReloadRefusedError(Exception):
    """The settings can't be used; ``problems`` has a line for each reason. Those in force stay."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class Asked(ApiModel):
    """An event: by its id, by the id of a dead letter, or itself, as the daemon sends it or as a CloudEvent."""

    id: str | None = None
    letter: int | None = Field(default=None, ge=1, lt=2**63, description="a dead letter: what its sink would send now")
    event: dict[str, Any] | None = None
    daemon: str | None = Field(default=None, description="whose event it is; default: the first daemon")


class AskedCommand(ApiModel):
    """A message at a command topic."""

    topic: str = Field(min_length=1, max_length=65_535, examples=["meshbridge/node-a/web/command"])
    payload: str = Field(max_length=4 * 2**20, examples=["restart"])


class Clients(Protocol):
    """The SDK's client of a daemon, with the link's own login."""

    def __call__(self, daemon: str, /, *, alone: bool = False) -> AbstractContextManager[AppMeshClient]:
        """One that all share; ``alone``: on a connection of its own, which any thread may end by ``close()``.

        Raises:
            AppMeshConnectionError: there is no such daemon (any more), or the bridge is stopping.

        """


def _no_figures(span: Range) -> Figures:
    return FigureRing().figures(span, time.time())


@dataclass(frozen=True, slots=True)
class Bridge:
    """What the service lets the API see and do."""

    sinks: Callable[[], Sequence[SinkControl]]
    links: Callable[[], Sequence[LinkStatus]]
    journal: Journal
    explain: Callable[[Asked], list[dict[str, Any]]]
    """What each sink would get of an event. Raises LookupError (no such event, or daemon), ValueError (no event)."""
    reload: Callable[[], dict[str, Any]]
    """Puts changed settings in force and says what it did. Raises ReloadRefusedError."""
    client: Clients
    explain_command: Callable[[AskedCommand], list[dict[str, Any]]] = lambda _asked: []
    """What each sink would do with a command."""
    commands: Callable[[], list[FinishedCommand]] = list
    """The last commands that ended, the newest first."""
    problems: Callable[[], list[BridgeProblem]] = list
    """What is wrong, the worst first."""
    figures: Callable[[Range], Figures] = _no_figures
    configuration: str | None = None
    """The absolute path of the bridge's configuration file, or ENVIRONMENT_ALONE; None: not known."""
