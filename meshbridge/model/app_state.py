"""One answer to 'what state is this app in', for the command line, the page, MQTT and metrics."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from meshbridge.appmesh.dialect import house_fields

__all__ = ["State", "described", "state_of"]


class State(StrEnum):
    """What an app does. Whether it is healthy is another question."""

    RUNNING = "running"
    """It has a process."""
    STOPPED = "stopped"
    """It has none now: it waits for its time, to be started again, or it has ended for good."""
    DISABLED = "disabled"
    """The daemon does not start it."""


def state_of(*, enabled: bool | None, running: bool) -> State:
    """``enabled``: None where the daemon does not say."""
    if running:
        return State.RUNNING
    return State.DISABLED if enabled is False else State.STOPPED


def described(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An app as a daemon reports it, with the fields that are the same at every generation, and ``state``."""
    app = house_fields(fields)
    return {**app, "state": state_of(enabled=app["enabled"], running=bool(app.get("pid"))).value}
