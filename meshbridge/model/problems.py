"""What is wrong with a bridge: one list for the status page, the API and ``meshbridge status``.

Each problem names where it is, since when, and what to do. No clock, no I/O: :func:`problems_of` judges one
:class:`Observation`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote, urlencode

from meshbridge.model.status import Grade, JournalStatus, LinkState, LinkStatus, Loss, SinkState, SinkStatus, Verdict

__all__ = [
    "LATELY_SECONDS",
    "BridgeProblem",
    "BridgeProblemKind",
    "CrashLoop",
    "Observation",
    "Severity",
    "problems_of",
]

# The thresholds are those of the alerts (deploy/prometheus/alerts.yml), where there is one.
LATELY_SECONDS = 3600.0  # for what has happened, and does not last
LAG_SECONDS = 300.0
JOURNAL_SHARE, JOURNAL_CRITICAL_SHARE = 0.8, 0.95  # of its bound
TOKEN_SECONDS, TOKEN_CRITICAL_SECONDS = 86_400.0, 900.0

_RUNBOOKS = "docs/runbooks.md#"


class Severity(StrEnum):
    """How soon somebody should act."""

    CRITICAL = "critical"  # now
    WARNING = "warning"  # within a day


class BridgeProblemKind(StrEnum):
    """One word for each kind of problem. The words stay: scripts compare them."""

    DAEMON_DOWN = "daemon_down"
    PERMISSION_MISSING = "permission_missing"
    TOKEN_EXPIRING = "token_expiring"  # noqa: S105 a word, not a secret
    EVENTS_MISSED = "events_missed"
    CRASH_LOOP = "crash_loop"
    SINK_FAILING = "sink_failing"
    SINK_GONE = "sink_gone"
    SINK_STOPPED = "sink_stopped"
    SINK_PAUSED = "sink_paused"
    SINK_LAGGING = "sink_lagging"
    DEAD_LETTERS = "dead_letters"
    EVENTS_DROPPED = "events_dropped"
    JOURNAL_FAILING = "journal_failing"
    JOURNAL_FILLING = "journal_filling"
    RELOAD_REFUSED = "reload_refused"
    CERTIFICATE_EXPIRING = "certificate_expiring"
    THREAD_MISSING = "thread_missing"


@dataclass(frozen=True, slots=True)
class BridgeProblem:
    """One thing that is wrong now, or was within the last hour."""

    kind: BridgeProblemKind
    severity: Severity
    where: str  # "daemon node-a", "sink hook", "app web on node-a", "journal", "configuration"
    text: str
    remedy: str
    runbook: str  # a section of the documentation
    since: float | None = None
    link: str | None = None  # the view of the status page that shows more: its fragment
    daemon: str | None = None
    sink: str | None = None
    app: str | None = None


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """An app that was started again and again after a failure, within the last hour."""

    daemon: str
    app: str
    restarts: int


@dataclass(frozen=True, slots=True)
class Observation:
    """All that is known of a bridge at one moment."""

    links: Sequence[LinkStatus]
    sinks: Sequence[SinkStatus]
    journal: JournalStatus
    losses: Sequence[Loss] = ()
    crash_loops: Sequence[CrashLoop] = ()
    oldest_letters: dict[str, float] = field(default_factory=dict)  # by sink: when its oldest dead letter was refused
    reload_error: str | None = None  # why the last reload changed nothing
    reload_failed_at: float | None = None
    certificates: Sequence[Verdict] = ()
    missing_threads: Sequence[str] = ()


def problems_of(seen: Observation, now: float) -> list[BridgeProblem]:
    """The critical ones first, the newest last among equals; ``now`` is unix seconds."""
    found = [
        *_of_bridge(seen),
        *_of_journal(seen),
        *(problem for link in seen.links for problem in _of_link(link, now)),
        *(problem for sink in seen.sinks for problem in _of_sink(sink, seen)),
        *_of_losses(seen, now),
        *map(_of_crash_loop, seen.crash_loops),
    ]
    return sorted(found, key=lambda one: (one.severity is not Severity.CRITICAL, one.since or 0.0))


# --- the bridge and its journal ------------------------------------------------------------------------------------


def _of_bridge(seen: Observation) -> Iterator[BridgeProblem]:
    for name in seen.missing_threads:
        yield BridgeProblem(
            BridgeProblemKind.THREAD_MISSING,
            Severity.CRITICAL,
            f"thread {name}",
            "The thread has ended and was not restarted.",
            "Restart the bridge, and report this with the log.",
            "docs/troubleshooting.md#a-report",
        )
    if seen.reload_error is not None:
        yield BridgeProblem(
            BridgeProblemKind.RELOAD_REFUSED,
            Severity.WARNING,
            "configuration",
            f"The last reload failed; the previous configuration stays in effect: {seen.reload_error}",
            "Correct the file (`meshbridge check --offline` names each error), then run `meshbridge reload`.",
            f"{_RUNBOOKS}meshbridgereloadrefused",
            since=seen.reload_failed_at,
        )
    for verdict in seen.certificates:
        if verdict.grade is not Grade.OK:
            yield BridgeProblem(
                BridgeProblemKind.CERTIFICATE_EXPIRING,
                Severity.CRITICAL if verdict.grade is Grade.FAILED else Severity.WARNING,
                verdict.subject,
                _sentence(verdict.text),
                _sentence(verdict.remedy or "Renew the certificate"),
                "docs/security.md#tls",
            )


def _of_journal(seen: Observation) -> Iterator[BridgeProblem]:
    journal = seen.journal
    if not journal.open or journal.last_error is not None:
        reason = journal.last_error or "it is not open"
        held = f"; {_counted(journal.held_events, 'event')} held in memory" if journal.held_events else ""
        yield BridgeProblem(
            BridgeProblemKind.JOURNAL_FAILING,
            Severity.CRITICAL,
            "journal",
            f"The journal in {journal.path} cannot be written: {reason}{held}.",
            "Free space on its disk or repair the disk; do not restart the bridge meanwhile.",
            f"{_RUNBOOKS}meshbridgejournalfailing",
            since=journal.failing_since,
            link="overview?part=journal",
        )
    share = journal.bytes / journal.max_bytes if journal.max_bytes else 0.0
    behind = [sink.sink for sink in seen.sinks if sink.lag_seconds > LAG_SECONDS]
    if share > JOURNAL_SHARE and behind:
        yield BridgeProblem(
            BridgeProblemKind.JOURNAL_FILLING,
            Severity.CRITICAL if share > JOURNAL_CRITICAL_SHARE else Severity.WARNING,
            "journal",
            f"The journal holds {share:.0%} of journal.max_bytes, and {', '.join(behind)} still needs what is in it.",
            "Repair the sink or raise journal.max_bytes, before events are dropped undelivered.",
            f"{_RUNBOOKS}meshbridgejournalfilling",
            link="overview?part=journal",
        )


# --- daemons and their apps ----------------------------------------------------------------------------------------


def _of_link(link: LinkStatus, now: float) -> Iterator[BridgeProblem]:
    where, view = f"daemon {link.daemon}", f"overview?{urlencode({'daemon': link.daemon})}"
    starting = link.last_error is None and not link.connects and link.state is not LinkState.STOPPED
    if not link.up and not starting:
        yield BridgeProblem(
            BridgeProblemKind.DAEMON_DOWN,
            Severity.CRITICAL,
            where,
            _because(f"The bridge has no connection to {link.url or link.daemon}", link.last_error),
            "Run `meshbridge check`: it tries the address, the certificate, the login and the permissions.",
            f"{_RUNBOOKS}appmeshdaemondown",
            since=link.down_since or link.last_error_at,
            link=view,
            daemon=link.daemon,
        )
    if link.missing_permissions:
        yield BridgeProblem(
            BridgeProblemKind.PERMISSION_MISSING,
            Severity.WARNING,
            where,
            f"The bridge's user lacks the permissions {', '.join(link.missing_permissions)}.",
            "Give it a role that has them: `meshbridge check` names one.",
            "docs/security.md#the-least-role",
            link=view,
            daemon=link.daemon,
        )
    yield from _of_token(link, now, where, view)
    if link.last_missed_at is not None and now - link.last_missed_at < LATELY_SECONDS:
        yield BridgeProblem(
            BridgeProblemKind.EVENTS_MISSED,
            Severity.WARNING,
            where,
            f"{_counted(link.events_missed, 'event')} never arrived since the bridge started; the state of the apps "
            "was repaired.",
            "Look in the log for a lost or slow connection (`events missed`, `daemon disconnected`).",
            f"{_RUNBOOKS}meshbridgeeventsmissed",
            since=link.last_missed_at,
            link=f"events?{urlencode({'daemon': link.daemon})}",
            daemon=link.daemon,
        )


def _of_token(link: LinkStatus, now: float, where: str, view: str) -> Iterator[BridgeProblem]:
    """One that the bridge renews is a problem only where that fails: its life may be short by nature."""
    if link.token_expires_at is None:
        return
    left = link.token_expires_at - now
    if link.token_renewed and link.token_error is None:
        return
    if not link.token_renewed and left > TOKEN_SECONDS:
        return
    ends = f"expires in {_duration(left)}" if left > 0 else "has expired"
    yield BridgeProblem(
        BridgeProblemKind.TOKEN_EXPIRING,
        Severity.CRITICAL if left < TOKEN_CRITICAL_SECONDS else Severity.WARNING,
        where,
        _because(f"The token {ends} and {'cannot be' if link.token_renewed else 'is not'} renewed", link.token_error),
        "Correct the credentials of the daemon: files are read again at once."
        if link.token_renewed
        else "Put a new token into token_file: it is read at once.",
        f"{_RUNBOOKS}meshbridgetokenexpiring",
        since=link.token_error_at,
        link=view,
        daemon=link.daemon,
    )


def _of_crash_loop(loop: CrashLoop) -> BridgeProblem:
    return BridgeProblem(
        BridgeProblemKind.CRASH_LOOP,
        Severity.WARNING,
        f"app {loop.app} on {loop.daemon}",
        f"{_counted(loop.restarts, 'restart')} after a failure within the last hour.",
        "Read the app's output, and correct its command or what it depends on.",
        f"{_RUNBOOKS}appmeshappflapping",
        link=f"apps/{quote(loop.daemon, safe='')}/{quote(loop.app, safe='')}",
        daemon=loop.daemon,
        app=loop.app,
    )


# --- sinks ---------------------------------------------------------------------------------------------------------


def _of_sink(sink: SinkStatus, seen: Observation) -> Iterator[BridgeProblem]:
    if (found := _delivery_problem(sink)) is not None:
        kind, severity, text, remedy, runbook, since = found
        where, view = f"sink {sink.sink}", f"delivery?{urlencode({'sink': sink.sink})}"
        yield BridgeProblem(kind, severity, where, text, remedy, runbook, since, view, sink=sink.sink)
    if sink.dead_letters:
        yield BridgeProblem(
            BridgeProblemKind.DEAD_LETTERS,
            Severity.WARNING,
            f"sink {sink.sink}",
            f"The destination refused {_counted(sink.dead_letters, 'event')} for good.",
            "Remove the cause, then retry the dead letters, or drop them.",
            f"{_RUNBOOKS}meshbridgedeadletters",
            since=seen.oldest_letters.get(sink.sink),
            link=f"dead-letters?{urlencode({'sink': sink.sink})}",
            sink=sink.sink,
        )


def _delivery_problem(
    sink: SinkStatus,
) -> tuple[BridgeProblemKind, Severity, str, str, str, float | None] | None:
    """The one thing that keeps events from the destination: kind, severity, text, remedy, runbook, since."""
    waiting = f"{_counted(sink.lag_events, 'event')} waiting"
    stuck = f"{_RUNBOOKS}meshbridgesinkstuck"
    resume = f"`meshbridge sinks resume {sink.sink}`"
    kinds = BridgeProblemKind
    if sink.state is SinkState.STOPPED:
        text, remedy = (
            _because("Delivery has stopped", sink.last_error),
            "Restart the bridge, and look in its log for the reason.",
        )
        return kinds.SINK_STOPPED, Severity.CRITICAL, text, remedy, stuck, None
    if sink.state is SinkState.PAUSED:
        text, remedy = f"An operator paused delivery; {waiting}.", f"Run {resume} when the destination is ready."
        return kinds.SINK_PAUSED, Severity.WARNING, text, remedy, "docs/delivery.md#the-courier", sink.paused_since
    if sink.state is SinkState.GONE:
        text, remedy = (
            _because("The destination ended delivery for good", sink.last_error),
            f"Correct its address, or run {resume}.",
        )
        return kinds.SINK_GONE, Severity.CRITICAL, text, remedy, stuck, sink.failing_since
    if sink.failing_since is not None:
        text = _because(f"Delivery fails, {waiting}", sink.last_error)
        remedy = "Repair the destination or the sink's settings: `meshbridge check` tries a connection."
        return kinds.SINK_FAILING, Severity.CRITICAL, text, remedy, stuck, sink.failing_since
    if sink.lag_seconds > LAG_SECONDS and not sink.held:
        text = f"The sink is behind: {waiting}, the oldest for {_duration(sink.lag_seconds)}."
        remedy = "Narrow its `when`, or raise `batch` or `concurrency`; after an outage, wait."
        return kinds.SINK_LAGGING, Severity.WARNING, text, remedy, f"{_RUNBOOKS}meshbridgesinklagging", None
    return None


def _of_losses(seen: Observation, now: float) -> Iterator[BridgeProblem]:
    for loss in seen.losses:
        if now - loss.last_at >= LATELY_SECONDS:
            continue
        every = loss.sink == "journal"
        yield BridgeProblem(
            BridgeProblemKind.EVENTS_DROPPED,
            Severity.CRITICAL,
            "journal" if every else f"sink {loss.sink}",
            f"{_counted(loss.events, 'event')} dropped undelivered since the bridge started ({loss.reason}).",
            "Repair the sink, or give the journal a larger max_bytes, a larger max_age or a faster disk.",
            f"{_RUNBOOKS}meshbridgeeventsdropped",
            since=loss.last_at,
            link="overview?part=journal" if every else f"delivery?{urlencode({'sink': loss.sink})}",
            sink=None if every else loss.sink,
        )


# --- words ---------------------------------------------------------------------------------------------------------


def _counted(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else f'{one}s'}"


def _because(text: str, error: str | None) -> str:
    return f"{text}: {error}" if error else f"{text}."


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
