"""``meshbridge check``: tries each part of a configuration for real, and says plainly what it found."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meshbridge.appmesh.exceptions import AppMeshError
from meshbridge.config import Settings
from meshbridge.link import DaemonOptions, explain, try_daemon
from meshbridge.sinks.base import SinkError

__all__ = ["Verdict", "check_all"]

_SINK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one part; ``remedy`` says what to do where it is not fine."""

    subject: str
    fine: bool
    text: str
    remedy: str | None = None


def check_all(settings: Settings) -> Iterator[Verdict]:
    """A verdict for the journal's directory, each daemon and each sink, as they are found."""
    yield _journal(settings.journal.path)
    for name, options in settings.daemons.items():
        yield _daemon(name, options)
    for name, sink in settings.sinks.items():
        subject = f"sink {name}"
        try:
            sink.probe(_SINK_SECONDS)
        except SinkError as error:
            yield Verdict(subject, fine=False, text=str(error))
        else:
            yield Verdict(subject, fine=True, text="reachable")


def _journal(directory: Path) -> Verdict:
    subject = f"journal {directory}"
    present = next(place for place in (directory, *directory.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=present):
            pass
    except OSError as error:
        remedy = f"create {directory} and make user {os.geteuid()} its owner, or set journal.path"
        return Verdict(subject, fine=False, text=f"cannot write in {present}: {error.strerror}", remedy=remedy)
    return Verdict(subject, fine=True, text="writable" if present == directory else f"will be created in {present}")


def _daemon(name: str, options: DaemonOptions) -> Verdict:
    subject = f"daemon {name}"
    try:
        found = try_daemon(name, options)
    except AppMeshError as error:
        return Verdict(subject, fine=False, text=str(error), remedy=explain(error)[1])
    if found.missing_permissions:
        lacking = ", ".join(found.missing_permissions)
        remedy = "give the user a role with these permissions"
        return Verdict(subject, fine=False, text=f"logged in, but without {lacking}", remedy=remedy)
    return Verdict(subject, fine=True, text=f"logged in; {found.version}, run {found.run}, {found.apps} apps")
