"""Which operation a method and a path mean, and what its caller must be allowed to do."""

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from meshbridge.emulator.messages import Call, EmulatedAnswer

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon

Operation = Callable[["Daemon", Call], Awaitable[EmulatedAnswer]]

_SLASHES = re.compile("/+")

ANYONE = ""
"""A permission that needs a good token and nothing more."""


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """``path`` with ``{}`` for the part that names something; ``permission`` None where no token is needed."""

    method: str
    path: str
    operation: Operation
    permission: str | None = None

    @property
    def label(self) -> str:
        """As the daemon's metrics write it."""
        return self.path.replace("{}", ":param")


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The route of a request, and the name in its path."""

    route: ApiRoute
    name: str = ""
    ambiguous: bool = False
    """The daemon finds the route, and then not the name in it: a slash in the name, or one too many before it."""


class Routes:
    """The table of all operations. A fixed path wins over one with a name in it (``/appmesh/app/run``)."""

    def __init__(self, routes: Iterable[ApiRoute]) -> None:
        self._fixed: dict[tuple[str, str], ApiRoute] = {}
        self._named: dict[tuple[str, str, str], ApiRoute] = {}
        for route in routes:
            before, found, after = route.path.partition("{}")
            if found:
                self._named[route.method, before, after] = route
            else:
                self._fixed[route.method, route.path] = route

    def find(self, method: str, path: str) -> RouteMatch | None:
        """The route, and the name in the path, of which blanks around it and what follows an escaped slash are cut."""
        plain = _SLASHES.sub("/", path)
        fixed = self._fixed.get((method, plain))
        if fixed is not None:
            return RouteMatch(fixed)
        parts = plain.split("/", 4)  # "", appmesh, kind, name, rest
        if len(parts) < 4 or not parts[3] or "*" in parts[3]:  # noqa: PLR2004 as above
            return None
        before = "/".join(parts[:3]) + "/"
        after = f"/{parts[4]}" if len(parts) > 4 else ""  # noqa: PLR2004 as above
        route = self._named.get((method, before, after))
        if route is None:
            return None
        name, slash, _ = unquote(parts[3], errors="surrogateescape").partition("/")
        return RouteMatch(route, name.strip(), ambiguous=plain != path or bool(slash and after))
