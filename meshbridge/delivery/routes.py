"""A sink's rules, with what they ask about an app."""

from collections.abc import Mapping

import orjson

from meshbridge.delivery.routing import Route
from meshbridge.journal import Journal
from meshbridge.sinks.options import SinkOptions

__all__ = ["new_route"]


def new_route(options: SinkOptions, journal: Journal, labels: Mapping[str, Mapping[str, str]]) -> Route:
    """A route of its own for one pass over events: routes remember. ``labels`` are those of each daemon."""

    def owner(daemon: str, app: str) -> str | None:
        state = journal.app_state(daemon, app)
        return None if state is None else orjson.loads(state).get("owner")

    return Route(options, owner=owner, labels=labels)
