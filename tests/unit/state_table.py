"""An app-state table in memory, for sinks that tell states."""

from collections.abc import Mapping

from meshbridge.link.app_state import AppState
from meshbridge.sinks.states import StateFigures


class States:
    """An app-state table in memory."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, str], str] = {}
        self.up: dict[str, bool | None] = {"node-a": True}
        self.measured: dict[tuple[str, str], StateFigures] = {}
        self._changes: dict[tuple[str, str], str | None] = {}

    def put(self, app: str, state: AppState | None) -> None:
        place = ("node-a", app)
        if state is None:
            self.table.pop(place, None)
            self._changes[place] = None
        else:
            self.table[place] = self._changes[place] = state.to_text()

    def everything(self) -> Mapping[tuple[str, str], str]:
        self._changes = {}
        return dict(self.table)

    def changes(self) -> Mapping[tuple[str, str], str | None]:
        taken, self._changes = self._changes, {}
        return taken

    def figures(self) -> Mapping[tuple[str, str], StateFigures]:
        return self.measured

    def daemons(self) -> Mapping[str, bool | None]:
        return dict(self.up)
