"""Apps as they are seen through the bridge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshbridge.cli.control import chosen_daemons, of_each

if TYPE_CHECKING:
    from meshbridge.admin.client import Client

__all__ = ["STYLES", "RunsOption", "Seen", "look"]

STYLES: Mapping[str, str] = {
    "running": "green",
    "disabled": "bright_black",
    "stopped": "yellow",
    "unhealthy": "bold red",
}
"""Of states, as rich calls them."""

RunsOption = Annotated[bool, typer.Option("--runs", help="One-off runs as well.")]


@dataclass(frozen=True, slots=True)
class Seen:
    """An app, with what its daemon says of it (docs/protocol.md, 'App JSON')."""

    daemon: str
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.fields["name"])

    @property
    def is_run(self) -> bool:
        return bool(self.fields.get("one_off"))

    @property
    def runs(self) -> bool:
        return bool(self.fields.get("pid"))

    @property
    def state(self) -> str:
        if self.is_run:
            return "run" if self.runs else "run, ended"
        return str(self.fields["state"])

    @property
    def health(self) -> str:
        if not self.fields.get("enabled"):
            return "-"
        return "healthy" if self.fields.get("health") == 0 else "unhealthy"

    @property
    def started(self) -> float | None:
        """Unix seconds; None where no process runs."""
        moment = self.fields.get("last_start_time")
        return float(moment) if self.runs and moment else None

    def figure(self, key: str) -> float:
        """0 where the daemon does not tell."""
        return float(self.fields.get(key) or 0)


def look(client: "Client", daemon: str | None, patterns: Sequence[str], *, runs: bool) -> tuple[list[Seen], list[str]]:
    """The apps that are asked for, by daemon and name; and what is wrong with daemons that don't tell."""
    found, silent = list[Seen](), list[str]()
    for name, answer in of_each(client, chosen_daemons(client, daemon), "/apps"):
        if not isinstance(answer, list):
            silent.append(str(answer))
            continue
        seen = [Seen(name, fields) for fields in answer]
        found += sorted(
            (
                one
                for one in seen
                if (runs or not one.is_run)
                and (not patterns or any(fnmatchcase(one.name, pattern) for pattern in patterns))
            ),
            key=lambda one: one.name,
        )
    return found, silent
