"""What a sink may tell beside events: the present state of every app, and which daemons are there."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["AppStates", "StateFigures", "StateTeller"]


class StateFigures(NamedTuple):
    """What an app's process tree uses; None where the daemon doesn't say."""

    memory_bytes: int | None
    cpu_percent: float | None  # of one core


class AppStates(Protocol):
    """Where a sink gets them. All calls are the sink's thread's, and none waits for anything but the journal's disk.

    An app is named by its daemon and its name; its state is JSON text with the fields of ``link/app_state.py``.
    """

    def everything(self) -> Mapping[tuple[str, str], str]:
        """The state of every app of every configured daemon."""

    def changes(self) -> Mapping[tuple[str, str], str | None]:
        """What has changed since the last call of this or of :meth:`everything`, None for an app that is gone.

        Costs nothing where nothing has changed.
        """

    def figures(self) -> Mapping[tuple[str, str], "StateFigures"]:
        """What apps use, measured about once a minute as long as this is asked; another object after each time."""

    def daemons(self) -> Mapping[str, bool | None]:
        """Whether each daemon is seen; None where that is not known, as in the first moments after a start."""


@runtime_checkable
class StateTeller(Protocol):
    """A sink that tells states."""

    def tell_states(self, states: AppStates) -> None:
        """Called once, before the first ``connect``."""
