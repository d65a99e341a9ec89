"""Which daemon and which app the levels of a command's topic stand for."""

from collections.abc import Callable, Collection, Iterable
from itertools import islice

from meshbridge.commands.parse import CommandError

__all__ = ["app_at", "daemon_at"]

_SHOWN = 64  # characters of a name, and
_LISTED = 10  # daemons, that an error shows


def daemon_at(place: str, daemons: Collection[str], place_of: Callable[[str], str]) -> str:
    """The daemon that a level stands for.

    Raises:
        CommandError: there is none.

    """
    for daemon in daemons:
        if place_of(daemon) == place:
            return daemon
    listed = ", ".join(islice(daemons, _LISTED))
    raise CommandError(f"there is no daemon {place[:_SHOWN]!r} here", f"daemons: {listed}", result="unknown_app")


def app_at(place: str, apps: Iterable[str], place_of: Callable[[str], str]) -> str | None:
    """The app that a level stands for, if these have it.

    Raises:
        CommandError: it stands for several.

    """
    found = {app for app in apps if place_of(app) == place}
    if len(found) > 1:
        names = ", ".join(islice(sorted(found), _LISTED))
        raise CommandError(f"{place!r} stands for several apps: {names}", "rename one", result="unknown_app")
    return found.pop() if found else None
