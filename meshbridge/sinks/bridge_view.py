"""What a sink may see of the bridge itself, beside events: what is wrong with it, and what apps have written."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from meshbridge.model.events import Envelope
from meshbridge.model.problems import BridgeProblem

__all__ = ["BridgeView", "BridgeViewer"]


class BridgeView(Protocol):
    """Where a sink gets it. All calls are the sink's thread's, and wait for nothing but the journal's disk."""

    def problems(self) -> Sequence[BridgeProblem]:
        """What is wrong with the bridge now."""

    def output_before(self, envelope: Envelope, lines: int) -> list[str]:
        """The last lines that the event's process had written, as far as the journal has them close by."""


@runtime_checkable
class BridgeViewer(Protocol):
    """A sink that tells about the bridge."""

    def view_bridge(self, view: BridgeView) -> None:
        """Called once, before the first ``connect``."""
