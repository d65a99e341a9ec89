"""The API on a journal whose bridge does not run: for a command that looks into it, and as long as that takes.

So a command speaks in one way, whether the bridge runs or not; and no bridge can be started meanwhile, since the
journal has an owner.
"""

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from meshbridge.admin.api import control_api
from meshbridge.admin.control import ControlSocket
from meshbridge.admin.interface import Bridge, ReloadRefusedError
from meshbridge.appmesh import AppMeshConnectionError
from meshbridge.config.load import Settings
from meshbridge.journal import Journal, JournalError, Verification, database_in, verify_directory
from meshbridge.service.explanation import explained, explained_command

__all__ = ["serve_closed", "verify_closed"]


@contextlib.contextmanager
def serve_closed(settings: Settings) -> Iterator[None]:
    """Serves the control socket of the journal.

    Raises:
        JournalError: there is no journal, it is in use, it is somebody else's, or it can't be opened.
        OSError: its directory takes no socket.

    """
    directory = settings.journal.path
    _check_owner(directory)
    journal = Journal(settings.journal)
    journal.open()
    try:
        bridge = Bridge(
            sinks=list,
            links=list,
            journal=journal,
            explain=lambda asked: explained(asked, journal, settings),
            explain_command=lambda asked: explained_command(asked, journal, settings),
            reload=_no_reload,
            client=_no_client,
        )
        control = ControlSocket(directory, control_api(bridge, settings.admin))
        control.start()
        try:
            yield
        finally:
            control.stop(1.0)
    finally:
        journal.close()


def verify_closed(settings: Settings) -> Verification:
    """Reads all of the journal and changes nothing in it, which to open it would do where it is damaged.

    Raises:
        JournalError: there is no journal, it is in use, or it is somebody else's.

    """
    _check_owner(settings.journal.path)
    return verify_directory(settings.journal.path)


def _check_owner(directory: Path) -> None:
    """Files that another user leaves in a journal lock its bridge out."""
    try:
        database = database_in(directory)
        if database is None:
            raise JournalError(f"journal.path: there is no journal in {directory}")
        owner = database.stat().st_uid
    except OSError as error:
        raise JournalError(f"journal.path: cannot read {directory}: {error.strerror}") from error
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        raise JournalError(f"journal.path: {directory} belongs to {name}: run this as that user (sudo -u {name} …)")


def _no_reload() -> dict[str, Any]:
    raise ReloadRefusedError(["no bridge runs on this journal"])


def _no_client(_daemon: str, **_how: bool) -> NoReturn:
    raise AppMeshConnectionError("no bridge runs on this journal")
