"""What a sink remembers over a restart, beside its cursor: a few short texts in the journal's database.

A sink keeps no files of its own for this: a power cut tears them, and they can disagree with the cursor. What a sink
saves goes into the journal's next transaction, and never into a later one than a cursor that moves after it.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

__all__ = ["Memory", "Remembering", "VolatileMemory"]


class Memory(Protocol):
    """Texts by kind and key, of one sink. A sink MUST check what it loads: damage may have changed it."""

    def load(self, kind: str) -> dict[str, str] | None:
        """Everything of a kind, by key; None where the journal can't answer now."""

    def save(self, kind: str, changes: Mapping[str, str | None], timeout_seconds: float = 0.0) -> bool:
        """Sets texts, and removes those that are None. Waits until they are on disk, at most for so long.

        Returns:
            Whether they are on disk. If not (the disk is slow or full), they will be written as soon as possible.

        """


class VolatileMemory:
    """For a sink that runs without a journal."""

    def __init__(self) -> None:
        self._texts: dict[str, dict[str, str]] = {}

    def load(self, kind: str) -> dict[str, str]:
        return dict(self._texts.get(kind, {}))

    def save(self, kind: str, changes: Mapping[str, str | None], timeout_seconds: float = 0.0) -> bool:  # noqa: ARG002 no disk
        texts = self._texts.setdefault(kind, {})
        for key, text in changes.items():
            if text is None:
                texts.pop(key, None)
            else:
                texts[key] = text
        return True


@runtime_checkable
class Remembering(Protocol):
    """A sink that remembers something."""

    def use_memory(self, memory: Memory) -> None:
        """Called once, before :meth:`~meshbridge.sinks.states.StateTeller.tell_states` and the first ``connect``."""
