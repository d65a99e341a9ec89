"""``meshbridge check``: tries each part of a configuration for real, and says plainly what it found.

Nothing is changed anywhere: no event is published, no journal opened, no file left. Where a bridge runs on the same
journal it is asked over its control socket, since it holds the journal and the ports.

``host`` looks at this host (file, journal's directory), ``listeners`` at the ports, ``destinations`` at the sinks,
``certificates`` at those in files, ``secrets`` at files of secrets; a daemon is looked at by
:func:`meshbridge.checks.daemon.try_daemon`.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import meshbridge
from meshbridge.checks.certificates import check_client_certificate
from meshbridge.checks.daemon import try_daemon
from meshbridge.checks.destinations import check_sink
from meshbridge.checks.host import RunningBridge, ServiceUser, check_file, check_journal, check_running
from meshbridge.checks.listeners import check_listeners
from meshbridge.checks.secrets import check_leftovers, check_secret_files
from meshbridge.config.load import Settings
from meshbridge.link import DaemonOptions
from meshbridge.model.status import Grade, Verdict
from meshbridge.sinks.file import FileOptions

__all__ = ["check_all", "check_file", "check_leftovers", "report", "worst"]

_AT_ONCE = 16  # parts; each takes seconds where somebody is silent


def check_all(settings: Settings, file: Path | None) -> Iterator[Verdict]:
    """Verdicts on the file, this host, each daemon and each sink, in this order, as soon as they are known."""
    yield check_file(settings, file)
    running = RunningBridge.find(settings.journal.path)
    if running is not None:
        yield check_running(running, file)
    user = ServiceUser.of_bridge(settings.journal.path)
    daemons = tuple(settings.daemons)
    parts: list[Callable[[], Iterable[Verdict]]] = [
        partial(_as, user, partial(check_journal, settings.journal, running)),
        partial(_as, user, partial(check_listeners, settings, running)),
        *(partial(_check_daemon, name, options) for name, options in settings.daemons.items()),
        *(partial(_check_sink, name, options, user, daemons) for name, options in settings.sinks.items()),
    ]
    with ThreadPoolExecutor(min(_AT_ONCE, len(parts)), thread_name_prefix="check") as pool:
        yield from itertools.chain.from_iterable(pool.map(lambda part: list(part()), parts))


def _as(user: ServiceUser, part: Callable[[], Iterable[Verdict]]) -> list[Verdict]:
    with user.rights():
        return list(part())


def _check_daemon(name: str, options: DaemonOptions) -> Iterator[Verdict]:
    yield from check_secret_files(f"daemon {name}", options)
    yield from check_client_certificate(f"daemon {name}", options.tls)
    yield from try_daemon(name, options)


def _check_sink(name: str, options: Any, user: ServiceUser, daemons: Collection[str]) -> Iterator[Verdict]:
    yield from check_secret_files(f"sink {name}", options)
    yield from check_client_certificate(f"sink {name}", getattr(options, "tls", None))
    if isinstance(options, FileOptions):
        yield from _as(user, partial(check_sink, name, options, daemons))
    else:
        yield from check_sink(name, options, daemons)


def worst(verdicts: Iterable[Verdict]) -> Grade:
    """The grade of all of them together."""
    grades = {verdict.grade for verdict in verdicts}
    return next((grade for grade in (Grade.FAILED, Grade.WARNING) if grade in grades), Grade.OK)


def report(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """All of them as JSON: ``{"verdict": "ok" | "warning" | "failed", "version", "checks": [{"subject", …}]}``."""
    checks = [
        {
            "subject": verdict.subject,
            "aspect": verdict.aspect,
            "verdict": verdict.grade.value,
            "text": verdict.text,
            "remedy": verdict.remedy,
        }
        for verdict in verdicts
    ]
    return {"verdict": worst(verdicts).value, "version": meshbridge.__version__, "checks": checks}
