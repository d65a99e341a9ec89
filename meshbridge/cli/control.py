"""Speaking with the bridge that runs here, and saying what to do where that fails."""

import contextlib
import difflib
import grp
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from meshbridge.cli.options import load_settings
from meshbridge.cli.output import WRONG_USAGE, complain, fail

if TYPE_CHECKING:
    from meshbridge.admin.client import Client

__all__ = [
    "Patience",
    "Place",
    "app_path",
    "chosen_daemons",
    "daemon_path",
    "journal_directory",
    "locate",
    "of_each",
    "speaking",
    "speaking_of_journal",
]

_DEFAULT_JOURNAL = "/var/lib/meshbridge"
_AT_ONCE = 8
_MOST_NAMES = 10
_NOT_FOUND = 404
_PASSING = frozenset({502, 503, 504})  # the daemon is away, or the bridge has too much to do
_LOOK_SECONDS = 0.5  # for who is gone


@dataclass(frozen=True, slots=True)
class Place:
    """An app at a daemon, as the daemon shows it."""

    daemon: str
    app: dict[str, Any]


@contextlib.contextmanager
def speaking(config: Path | None, timeout_seconds: float = 60.0) -> Iterator["Client"]:
    """A client of the running bridge. Whatever goes wrong in the block ends the command, in words."""
    from meshbridge.admin.client import Client, NotRunningError, RefusedError

    try:
        directory = journal_directory(config)
    except (OSError, ValueError) as error:
        fail(f"cannot read the configuration: {error}", WRONG_USAGE)
    try:
        yield Client(directory, timeout_seconds, config)
    except NotRunningError:
        say = "" if config else ", or give --config (or MESHBRIDGE_CONFIG) of the one that runs"
        fail(f"no bridge runs on the journal {directory}: start one with `meshbridge run`{say}")
    except RefusedError as error:
        fail(str(error))
    except BrokenPipeError:
        raise  # of standard output, whose reader has gone
    except PermissionError:
        owner = _owner(directory)
        group = f" and members of the group {name}" if (name := _group(directory)) else ""
        fail(f"only user {owner}{group} may use the control socket in {directory}: try `sudo -u {owner} meshbridge …`")
    except TimeoutError:
        fail(f"the bridge gives no answer within {timeout_seconds:g} s: see its log")
    except OSError as error:
        fail(f"cannot speak with the bridge: {error}")


@contextlib.contextmanager
def speaking_of_journal(config: Path | None, timeout_seconds: float = 60.0) -> Iterator["Client"]:
    """As :func:`speaking`; where no bridge runs, of the journal itself, which no other process can open meanwhile."""
    from meshbridge.admin.client import NotRunningError

    with speaking(config, timeout_seconds) as client, contextlib.ExitStack() as stack:
        try:
            client.peer_pid()
        except NotRunningError:
            stack.enter_context(_closed_journal(config))
        yield client


@contextlib.contextmanager
def _closed_journal(config: Path | None) -> Iterator[None]:
    settings = load_settings(config)
    from meshbridge import telemetry
    from meshbridge.journal import JournalError
    from meshbridge.service.offline import serve_closed

    telemetry.configure_logging("warning", settings.log.format)
    try:
        with serve_closed(settings):
            yield
    except JournalError as error:
        fail(str(error))


def journal_directory(config: Path | None) -> Path:
    """Where the bridge of this configuration keeps its journal, and its control socket.

    Raises:
        OSError, ValueError: the file can't be read.

    """
    from meshbridge.config.peek import part_of

    return Path(part_of(config, os.environ, "journal", ("path",)).get("path") or _DEFAULT_JOURNAL)


def _owner(directory: Path) -> str:
    place = next(place for place in (directory, *directory.absolute().parents) if os.access(place.parent, os.X_OK))
    try:
        return pwd.getpwuid(place.stat().st_uid).pw_name
    except (KeyError, OSError):
        return "the bridge's user"


def _group(directory: Path) -> str | None:
    """Whose members may open the socket, where the directory lets them in."""
    try:
        status = directory.stat()
        return grp.getgrgid(status.st_gid).gr_name if status.st_mode & stat.S_IXGRP else None
    except (KeyError, OSError):
        return None


class Patience:
    """For commands that go on for ever: once they have begun, who is gone is waited for.

    ``say`` is called when the wait begins, and when it is over.
    """

    def __init__(self, say: Callable[[str], None] = complain) -> None:
        self._say = say
        self._begun = False
        self._waits = False

    def fine(self) -> None:
        """It works."""
        if self._waits:
            self._say("it goes on")
        self._begun, self._waits = True, False

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """What the block needs is there, or the next attempt is due when it ends.

        Raises:
            NotRunningError, RefusedError, OSError: it never worked, or waiting would not help.

        """
        from meshbridge.admin.client import NotRunningError, RefusedError

        try:
            yield
        except BrokenPipeError:
            raise  # of standard output
        except (NotRunningError, OSError) as error:
            self._wait("the bridge is gone", error)
        except RefusedError as error:
            if error.status not in _PASSING:
                raise
            self._wait(str(error), error)

    def _wait(self, why: str, error: Exception) -> None:
        if not self._begun:
            raise error
        if not self._waits:
            self._say(f"{why}: waiting for it")
        self._waits = True
        time.sleep(_LOOK_SECONDS)


def daemon_path(daemon: str, rest: str = "") -> str:
    """The path of a daemon in the API."""
    return f"/api/v1/daemons/{quote(daemon, safe='')}{rest}"


def app_path(daemon: str, app: str, rest: str = "") -> str:
    """The path of an app in the API."""
    return daemon_path(daemon, f"/apps/{quote(app, safe='')}{rest}")


def chosen_daemons(client: "Client", daemon: str | None) -> list[str]:
    """The one that is named, or all."""
    names = [str(link["name"]) for link in client.get("/api/v1/daemons")]
    if daemon is None:
        return names
    if daemon not in names:
        fail(f"there is no daemon {daemon!r} here{_suggestion(daemon, names)}", WRONG_USAGE)
    return [daemon]


def of_each(client: "Client", daemons: Sequence[str], path: str) -> Iterator[tuple[str, Any]]:
    """(daemon, answer) of ``/api/v1/daemons/<daemon><path>``, all at once; a refusal is the answer, too."""
    from meshbridge.admin.client import RefusedError

    def ask(daemon: str) -> Any:
        try:
            return client.get(daemon_path(daemon, path))
        except RefusedError as refused:
            return refused

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from zip(daemons, pool.map(ask, daemons), strict=True)


def locate(client: "Client", app: str, daemon: str | None) -> Place:
    """Finds an app; ends the command where it is nowhere, or on several daemons and none is named."""
    from meshbridge.admin.client import RefusedError

    daemons = chosen_daemons(client, daemon)
    found = list[Place]()
    for name, answer in of_each(client, daemons, f"/apps/{quote(app, safe='')}"):
        if isinstance(answer, dict):
            found.append(Place(name, answer))
        elif isinstance(answer, RefusedError) and answer.status != _NOT_FOUND:
            complain(str(answer))
    if not found:
        _fail_without(client, app, daemon, daemons)
    if len(found) > 1:
        fail(f"{app} is on {', '.join(place.daemon for place in found)}: say which with --daemon", WRONG_USAGE)
    return found[0]


def _fail_without(client: "Client", app: str, daemon: str | None, daemons: Sequence[str]) -> NoReturn:
    names = {one["name"] for _, apps in of_each(client, daemons, "/apps") if isinstance(apps, list) for one in apps}
    where = f" on {daemon}" if daemon else ""
    fail(f"there is no app {app!r}{where}{_suggestion(app, names)}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    listed = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    return (f": did you mean {near[0]}?" if near else "") + (f" (there are: {listed})" if names else "")
