"""One function for each operational fact: it writes the log line and moves the counter, so they can't disagree.

Levels: error, someone must act; warning, something was repaired or will be retried; info, a state changed; debug, each
message. A fault is logged when it starts and when it ends, not at each attempt between.

The metrics here are meshbridge's own (docs/design.md, 'Metrics'). What is a state and not an event (lag, up, bytes) is
read from the parts' status values when scraped, in ``meshbridge.exporter``.
"""

import io
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import IO, Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

import meshbridge
from meshbridge import outside

# structlog imports rich, where there is one, to write tracebacks that are not used here: 4 MiB in every bridge.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment] # which makes its import fail
try:
    import structlog
finally:
    del sys.modules["rich"]
    if _rich is not None:
        sys.modules["rich"] = _rich

REGISTRY = CollectorRegistry(auto_describe=True)
"""meshbridge's own metrics; the default registry of prometheus_client is left to others."""

ProcessCollector(registry=REGISTRY)

_build_info = Gauge("meshbridge_build_info", "Version of this bridge", ["version", "python"], registry=REGISTRY)
_build_info.labels(meshbridge.__version__, platform.python_version()).set(1)

_connects = Counter(
    "meshbridge_daemon_connects", "Event connections opened to the daemon", ["daemon"], registry=REGISTRY
)
_disconnects = Counter(
    "meshbridge_daemon_disconnects", "Event connections lost or refused", ["daemon", "reason"], registry=REGISTRY
)
_received = Counter(
    "meshbridge_events_received", "Events received from the daemon", ["daemon", "event"], registry=REGISTRY
)
_invalid = Counter("meshbridge_events_invalid", "Invalid messages from the daemon", ["daemon"], registry=REGISTRY)
_gap = Counter(
    "meshbridge_events_gap", "Events that the daemon numbered and the bridge did not receive", ["daemon"],
    registry=REGISTRY,
)  # fmt: skip
_reconciled = Counter(
    "meshbridge_events_reconciled",
    "Events synthesized from the state of apps after a loss",
    ["daemon"],
    registry=REGISTRY,
)
_output_lost = Counter(
    "meshbridge_output_lost", "Ranges of output that were missed and that the daemon no longer has", ["daemon"],
    registry=REGISTRY,
)  # fmt: skip
_output_postponed = Counter(
    "meshbridge_output_postponed", "STDOUT events skipped under overload; their output is fetched later", ["daemon"],
    registry=REGISTRY,
)  # fmt: skip
_dropped = Counter(
    "meshbridge_events_dropped",
    "Events that will never be delivered to the sink",
    ["sink", "reason"],
    registry=REGISTRY,
)
_filtered = Counter(
    "meshbridge_events_filtered", "Events excluded by the rules of the sink", ["sink"], registry=REGISTRY
)
_delivered = Counter(
    "meshbridge_sink_delivered", "Events acknowledged by the destination of the sink", ["sink"], registry=REGISTRY
)
_failed = Counter(
    "meshbridge_sink_failed", "Failed attempts to connect or to deliver", ["sink", "reason"], registry=REGISTRY
)
_delivery = Histogram(
    "meshbridge_delivery_seconds", "Time from the reception of an event to its acknowledgement in seconds", ["sink"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600), registry=REGISTRY,
)  # fmt: skip
_commands = Counter(
    "meshbridge_commands", "Commands received by a sink, by how they ended", ["sink", "command", "result"],
    registry=REGISTRY,
)  # fmt: skip
_command_seconds = Histogram(
    "meshbridge_command_seconds", "Time from the reception of a command to its answer in seconds", ["sink", "command"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600), registry=REGISTRY,
)  # fmt: skip
_refreshes = Counter(
    "meshbridge_token_refreshes", "Tokens obtained or renewed", ["daemon", "result"], registry=REGISTRY
)
_journal_faults = Counter(
    "meshbridge_journal_faults", "Faults of the journal: it could not be read or written", ["reason"], registry=REGISTRY
)
_reload_success = Gauge(
    "meshbridge_config_reload_success_timestamp_seconds", "Last successful configuration reload in unix seconds",
    registry=REGISTRY,
)  # fmt: skip

_reload_successful = Gauge(
    "meshbridge_config_last_reload_successful", "Whether the last configuration reload succeeded",
    registry=REGISTRY,
)  # fmt: skip
_admin_refused = Counter(
    "meshbridge_admin_refused", "Requests that the admin API rejected, by reason", ["reason"], registry=REGISTRY
)

_cut = Counter(
    "meshbridge_admin_connections_cut", "Connections that the admin API closed, by reason", ["reason"],
    registry=REGISTRY,
)  # fmt: skip
_exporter_cut = Counter(
    "meshbridge_exporter_connections_cut", "Connections that the exporter closed, by reason", ["reason"],
    registry=REGISTRY,
)  # fmt: skip
_streams = Gauge("meshbridge_admin_event_streams", "Open streams of /api/v1/events", registry=REGISTRY)

_thread_failures = Counter(
    "meshbridge_thread_failures", "Unexpected errors of threads that were restarted",
    ["thread"], registry=REGISTRY,
)  # fmt: skip

_LOGGED_IN_A_ROW = 5  # dead letters that are each logged; then every thousandth

_REPORT = "this is a fault of meshbridge: please report it"

log: structlog.stdlib.BoundLogger = structlog.get_logger("meshbridge")


def configure_logging(level: str = "info", form: str = "text", stream: IO[str] | None = None) -> None:
    """Sends every log line, the libraries' too, to ``stream`` (standard error) as text or JSON lines."""
    stream = stream or sys.stderr
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if form == "json" else _keep,
        _made_harmless,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), pad_event_to=34, exception_formatter=_write_traceback
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    formatter = structlog.stdlib.ProcessorFormatter if not for_journal(stream) else _JournalFormatter
    handler.setFormatter(
        formatter(
            foreign_pre_chain=[*shared, _foreign_made_harmless],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_Limited())
    logging.captureWarnings(True)  # what Python and its libraries warn of belongs into the log, too
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("apscheduler", "urllib3", "websocket", "uvicorn"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def for_journal(stream: IO[str]) -> bool:
    """Whether systemd reads the stream, and so takes a priority from the beginning of each line (sd-daemon(3))."""
    return bool(os.environ.get("JOURNAL_STREAM")) and not stream.isatty()


class _JournalFormatter(structlog.stdlib.ProcessorFormatter):
    """``<4>`` before each line, so that ``journalctl --priority`` finds it; lines of a traceback, too."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def _keep(_logger: Any, _name: str, fields: Any) -> Any:
    return fields


_OUR_FIELDS = frozenset({"event", "level", "timestamp", "daemon", "sink", "thread", "version", "hint"})


def _made_harmless(_logger: Any, _name: str, fields: Any) -> Any:
    """What may come from outside is masked, cut and escaped; a traceback is masked."""
    for key, value in fields.items():
        if isinstance(value, str) and key not in _OUR_FIELDS:
            fields[key] = outside.masked(value) if key == "exception" else outside.said(value)
    return fields


def _foreign_made_harmless(_logger: Any, _name: str, fields: Any) -> Any:
    """The same, of a library's line, which is a text of whatever it was given."""
    fields["event"] = outside.said(str(fields["event"]))
    return fields


def _write_traceback(stream: TextIO, exception: Any) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exception)
    stream.write(outside.masked(text.getvalue()))


class _Limited(logging.Filter):
    """Leaves lines out that come too often, and says how many. Never those of settings, and of what was done."""

    _UNLIMITED = frozenset({"admin call", "configuration refused"})
    # Results of commands that did nothing: a client that may publish to a command topic can send thousands each second.
    _NOTHING_DONE = frozenset({"busy", "expired", "forbidden", "repeated", "timeout", "unknown_app"})

    def __init__(self) -> None:
        super().__init__()
        self._limit = outside.LineLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        fields = record.msg if isinstance(record.msg, dict) else None
        if record.levelno < logging.INFO:
            return True
        if fields and fields.get("event") in self._UNLIMITED and fields.get("result") not in self._NOTHING_DONE:
            return True
        if fields is None:
            left_out = self._limit.take((record.name, str(record.msg)[:100]))
        else:
            left_out = self._limit.take((fields.get("event"), fields.get("daemon"), fields.get("sink")))
        if left_out is None:
            return False
        others = sum(self._limit.left_out().values())
        if fields is not None and left_out + others:
            fields["lines_left_out"] = left_out + others
        elif left_out + others:
            record.msg = f"{record.getMessage()} ({left_out + others} lines left out before)"
            record.args = ()
        return True


# --- the service ---------------------------------------------------------------------------------------------------


def service_started(**facts: object) -> None:
    _reload_success.set(time.time())
    _reload_successful.set(1)
    log.info("meshbridge started", version=meshbridge.__version__, **facts)


def settings_reloaded(**facts: object) -> None:
    _reload_success.set(time.time())
    _reload_successful.set(1)
    log.info("configuration reloaded", **{key: value for key, value in facts.items() if value})


def secret_file_unused(path: str) -> None:
    log.warning(
        "secret file not used",
        path=path,
        hint="its daemon or sink is not in the configuration: remove the file, or correct its name",
    )


def settings_refused(problems: Sequence[str]) -> None:
    _reload_successful.set(0)
    for problem in problems:
        log.error("configuration refused", problem=problem, hint="the previous configuration stays in effect")


def reload_failed(error: Exception) -> None:
    """By an unexpected error."""
    _reload_successful.set(0)
    log.error("reload failed", hint=_REPORT, exc_info=error)


def thread_failed(thread: str, error: Exception, retry_seconds: float | None) -> None:
    """By an unexpected error; its work is begun again. ``retry_seconds``: None where the part has waits of its own."""
    _thread_failures.labels(thread).inc()
    retry = {} if retry_seconds is None else {"retry_in": f"{retry_seconds:.1f}s"}
    log.error("thread failed", thread=thread, hint=_REPORT, exc_info=error, **retry)


def thread_restarted(thread: str) -> None:
    log.warning("thread restarted", thread=thread)


def control_socket_missing(error: OSError) -> None:
    log.error("control socket unavailable", error=str(error), hint="commands cannot reach this bridge")


def part_hangs(part: str) -> None:
    log.error("part does not stop", part=part, hint="reload again once it has stopped, or restart the bridge")


def start_abandoned() -> None:
    log.warning("meshbridge stopped before it had started")


def service_stopping(reason: str) -> None:
    log.info("meshbridge stopping", reason=reason)


def service_stopped(**facts: object) -> None:
    log.info("meshbridge stopped", **facts)


def service_links_ignored(variables: Sequence[str]) -> None:
    log.info("Kubernetes service links ignored", variables=", ".join(variables))


# --- links ---------------------------------------------------------------------------------------------------------


def link_connected(daemon: str, run: str, url: str) -> None:
    _connects.labels(daemon).inc()
    log.info("daemon connected", daemon=daemon, run=run, url=url)


def link_down(daemon: str, reason: str, error: str, *, first: bool, retry_seconds: float, hint: str | None) -> None:
    """The event connection failed; logged when a fault starts or changes, counted each time."""
    _disconnects.labels(daemon, reason).inc()
    if first:
        extra = {"hint": hint} if hint else {}
        log.warning(
            "daemon disconnected",
            daemon=daemon,
            reason=reason,
            error=error,
            retry_in=f"{retry_seconds:.1f}s",
            **extra,
        )
    else:
        log.debug("daemon reconnect failed", daemon=daemon, error=error, retry_in=f"{retry_seconds:.1f}s")


def run_unnamed(daemon: str, run: str) -> None:
    """The daemon does not report when it started."""
    log.warning(
        "daemon run unknown",
        daemon=daemon,
        run=run,
        hint="event ids are this bridge's own: grant the permission host-resource-view",
    )


def permission_missing(daemon: str, permissions: tuple[str, ...]) -> None:
    log.error(
        "permission missing",
        daemon=daemon,
        permissions=", ".join(permissions),
        hint="give the user a role with app-subscribe, app-view, app-view-all, app-output-view, host-resource-view, "
        "user-token-renew",
    )


def events_received(daemon: str, counts: Mapping[str, int]) -> None:
    """``counts`` by lower-case event name, of one read."""
    for event, count in counts.items():
        _received.labels(daemon, event).inc(count)


def event_invalid(daemon: str, error: str) -> None:
    _invalid.labels(daemon).inc()
    log.warning("invalid message from daemon", daemon=daemon, error=error)


def gap_found(daemon: str, first: int, last: int) -> None:
    _gap.labels(daemon).inc(last - first + 1)
    log.warning("events missed", daemon=daemon, first=first, last=last, missed=last - first + 1)


def events_reconciled(daemon: str, count: int) -> None:
    _reconciled.labels(daemon).inc(count)
    log.info("events reconciled", daemon=daemon, events=count)


def output_backfilled(daemon: str, events: int, size: int) -> None:
    log.info("output backfilled", daemon=daemon, events=events, bytes=size)


def output_postponed(daemon: str, events: int) -> None:
    """STDOUT events were left out, since there is no room for them; their output is fetched later."""
    _output_postponed.labels(daemon).inc(events)


def output_lost(daemon: str, app: str, start: int, end: int | None) -> None:
    """The daemon no longer has it, or refuses it."""
    _output_lost.labels(daemon).inc()
    log.warning("output lost", daemon=daemon, app=app, start=start, end=end, hint="raise stdout_cache_num of the app")


def reconcile_failed(daemon: str, error: str) -> None:
    log.warning("reconciliation failed", daemon=daemon, error=error)


def run_ended(daemon: str, old: str, new: str) -> None:
    """The daemon was restarted: the events between its last one here and its end are unknown."""
    log.warning("daemon restarted", daemon=daemon, last_run=old, run=new, hint="its last events may be missing")


def _rfc3339(moment: float | None) -> str | None:
    """Of unix seconds."""
    try:
        return None if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):  # a daemon may say anything
        return "beyond the calendar"


def token_refreshed(daemon: str, how: str, expires_at: float | None) -> None:
    """``how``: ``login``, ``renew``, or ``given`` in the configuration."""
    _refreshes.labels(daemon, "success").inc()
    log.info("token obtained", daemon=daemon, how=how, expires_at=_rfc3339(expires_at))


def token_refresh_failed(daemon: str, error: str, *, first: bool = True) -> None:
    """Counted each time, logged when the fault starts."""
    _refreshes.labels(daemon, "failure").inc()
    (log.warning if first else log.debug)("token refresh failed", daemon=daemon, error=error)


def token_expires_soon(daemon: str, expires_at: float) -> None:
    """Of a token that this bridge does not renew."""
    log.warning(
        "token expires soon",
        daemon=daemon,
        expires_at=_rfc3339(expires_at),
        hint="put a new one into token_file: it is read at once",
    )


# --- journal -------------------------------------------------------------------------------------------------------


def journal_opened(path: str, events: int) -> None:
    log.info("journal opened", path=path, events=events)


def journal_fault(reason: str, path: str, error: str) -> None:
    """A fault began; ``journal_recovered`` ends it."""
    _journal_faults.labels(reason).inc()
    log.error("journal fault", reason=reason, path=path, error=error)


def journal_refused(what: str, error: str) -> None:
    """Something that no database can hold was left out; all else of its group is on disk."""
    _journal_faults.labels("unwritable").inc()
    log.error("journal entry left out", entry=what, error=error, hint=_REPORT)


def journal_recovered(path: str, held_events: int) -> None:
    log.info("journal recovered", path=path, held_events=held_events)


def journal_was_empty(path: str, kept_as: str) -> None:
    log.warning(
        "empty journal file replaced",
        path=path,
        empty_kept_as=kept_as,
        hint="expected after a power cut during the first start; otherwise restore a backup",
    )


def journal_replaced(path: str, kept_as: str, salvaged_events: int, lost: Mapping[str, int]) -> None:
    """Ends a fault of reason ``damaged``. ``lost``: by sink, the events it had not had and that could not be saved."""
    for sink, count in lost.items():
        _count_loss(sink, "damaged", count)
    log.warning(
        "journal replaced",
        path=path,
        damaged_kept_as=kept_as,
        salvaged_events=salvaged_events,
        **({"lost_at_most": dict(lost)} if lost else {}),
    )


_TOLD_EVERY_SECONDS = 10.0  # of drops for one reason, which go on while a disk is full or a journal too small


class _Drops:
    """Adds drops up between two lines in the log. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._untold: dict[tuple[str, str], int] = {}
        self._told_at: dict[tuple[str, str], float] = {}

    def add(self, sink: str, reason: str, count: int) -> int:
        """How many are to be logged now; 0: none yet."""
        key, now = (sink, reason), time.monotonic()
        with self._lock:
            untold = self._untold.pop(key, 0) + count
            if now - self._told_at.get(key, -_TOLD_EVERY_SECONDS) < _TOLD_EVERY_SECONDS:
                self._untold[key] = untold
                return 0
            self._told_at[key] = now
            return untold


_drops = _Drops()
_losses: dict[tuple[str, str], tuple[int, float]] = {}
_losing = threading.Lock()  # guards _losses


def losses() -> list[tuple[str, str, int, float]]:
    """(sink, reason, events, unix seconds of the last) of all that was dropped since the process started."""
    with _losing:
        return [(*key, *loss) for key, loss in _losses.items()]


def _count_loss(sink: str, reason: str, count: int) -> None:
    _dropped.labels(sink, reason).inc(count)
    with _losing:
        before, _ = _losses.get((sink, reason), (0, 0.0))
        _losses[sink, reason] = before + count, time.time()


def events_dropped(sink: str, reason: str, count: int) -> None:
    """``count`` events were dropped before ``sink`` had them. The log has a line each ten seconds while it goes on."""
    _count_loss(sink, reason, count)
    if told := _drops.add(sink, reason, count):
        log.warning("events dropped", sink=sink, reason=reason, count=told)


# --- delivery ------------------------------------------------------------------------------------------------------


def sink_connected(sink: str) -> None:
    log.info("sink connected", sink=sink)


def sink_failed(sink: str, reason: str, error: str, *, first: bool, retry_seconds: float) -> None:
    """An attempt failed; logged when a fault starts, counted each time."""
    _failed.labels(sink, reason).inc()
    if first:
        log.warning("sink failing", sink=sink, reason=reason, error=error, retry_in=f"{retry_seconds:.1f}s")
    else:
        log.debug("sink still failing", sink=sink, reason=reason, error=error, retry_in=f"{retry_seconds:.1f}s")


def sink_recovered(sink: str, waiting_events: int) -> None:
    log.info("sink recovered", sink=sink, waiting_events=waiting_events)


def mqtt_state_refused(broker: str, topic: str, reason: str) -> None:
    log.warning("retained topic refused", broker=broker, topic=topic, reason=reason)


def file_tail_cut(path: str, size_bytes: int) -> None:
    log.warning("damaged end of file cut off", path=path, bytes=size_bytes, hint="its events are written again")


def mqtt_subscription_refused(broker: str, topic: str, reason: str) -> None:
    log.warning("subscription refused", broker=broker, topic=topic, reason=reason)


def output_limit_found(destination: str, refused_bytes: int, limit: int) -> None:
    log.warning(
        "output too large for the destination",
        destination=destination,
        refused_bytes=refused_bytes,
        divided_at_bytes=limit,
        hint="larger output is divided; set max_payload_bytes (MQTT) or max_message_bytes (NATS, Kafka)",
    )


def sink_cleared(sink: str, left: int, why: str) -> None:
    """A sink that leaves has removed what it had left at its destination, or not all of it."""
    if left:
        log.warning(
            "retained topics left", sink=sink, topics=left, error=why, hint="meshbridge sinks clear NAME removes them"
        )
    else:
        log.info("retained topics cleared", sink=sink)


def sink_memory_unusable(sink: str, what: str, count: int) -> None:
    log.warning("sink memory unusable", sink=sink, what=what, count=count, hint="removed; the sink runs without it")


def sink_file_adopted(path: str, entries: int, unusable: int) -> None:
    fields = {"unusable": unusable, "hint": "the file was set aside"} if unusable else {}
    (log.warning if unusable else log.info)("sink file moved into the journal", path=path, entries=entries, **fields)


def sink_file_left(path: str, reason: str) -> None:
    log.warning("cannot move sink file into the journal", path=path, reason=reason)


def sink_paused(sink: str) -> None:
    log.info("sink paused", sink=sink)


def sink_resumed(sink: str) -> None:
    log.info("sink resumed", sink=sink)


def breaker_opened(sink: str, failures: int, error: str) -> None:
    log.error("circuit breaker opened", sink=sink, failures=failures, error=error, hint="one attempt after each wait")


def breaker_closed(sink: str) -> None:
    log.info("circuit breaker closed", sink=sink)


def replay_started(sink: str, replay: str, events: int) -> None:
    log.info("replay started", sink=sink, replay=replay, events_at_most=events)


def replay_ended(sink: str, replay: str, how: str, sent: int, refused: int) -> None:
    log.info("replay ended", sink=sink, replay=replay, how=how, sent=sent, refused=refused)


def sink_gone(sink: str, error: str) -> None:
    log.error("sink stopped by its destination", sink=sink, error=error, hint="meshbridge sinks resume NAME")


def sink_bug(sink: str) -> None:
    """Logged once, with the traceback; :func:`sink_failed` counts."""
    log.error("unexpected error in sink", sink=sink, hint=_REPORT, exc_info=True)  # noqa: LOG014 called while it is handled


def command_ended(sink: str, command: str, result: str, seconds: float | None) -> None:
    """``result``: ``ok`` or why not; ``seconds``: None where it was ignored."""
    _commands.labels(sink, command, result).inc()
    if seconds is not None:
        _command_seconds.labels(sink, command).observe(seconds)


def command_reply_refused(topic: str, reason: str) -> None:
    log.warning("command reply refused", topic=topic, reason=reason, hint="allow this bridge to publish there")


def command_bug(sink: str, command: str) -> None:
    log.error("unexpected error in command", sink=sink, command=command, hint=_REPORT, exc_info=True)  # noqa: LOG014 called while it is handled


def dead_letter(sink: str, event_id: str, error: str, number: int) -> None:
    """``number``: in a row. A destination that refuses everything must not fill the log."""
    _dropped.labels(sink, "dead_letter").inc()
    if number <= _LOGGED_IN_A_ROW or number % 1000 == 0:
        log.error(
            "event dead-lettered",
            sink=sink,
            event_id=event_id,
            error=error,
            **({"in_a_row": number} if number > 1 else {}),
        )


def events_delivered(sink: str, count: int) -> None:
    _delivered.labels(sink).inc(count)


def events_filtered(sink: str, count: int) -> None:
    _filtered.labels(sink).inc(count)


def delivery_observer(sink: str) -> Histogram:
    """Where a courier puts the seconds from reception to acknowledgement, once per event."""
    return _delivery.labels(sink)


# --- exporter ------------------------------------------------------------------------------------------------------


def collector_failing(daemon: str, collector: str, error: str | None) -> None:
    """A fault began; ``collector_recovered`` ends it."""
    log.warning("collector failing", daemon=daemon, collector=collector, error=error)


def collector_recovered(daemon: str, collector: str) -> None:
    log.info("collector recovered", daemon=daemon, collector=collector)


def own_metrics_incomplete() -> None:
    log.error("own metrics incomplete", hint=_REPORT, exc_info=True)  # noqa: LOG014 called while it is handled


def exporter_bug(path: str) -> None:
    log.error("exporter request failed", path=path, hint=_REPORT, exc_info=True)  # noqa: LOG014 as above


def web_config_read() -> None:
    log.info("web config reloaded")


def web_config_refused(where: str, problem: str) -> None:
    log.error("web config refused", where=where, error=problem, hint="the previous one stays in effect")


# --- admin API -----------------------------------------------------------------------------------------------------


def admin_insecure(address: str) -> None:
    log.warning(
        "admin API without TLS",
        listen=address,
        hint="tokens travel in clear text: set admin.tls, or listen on 127.0.0.1 behind a proxy with TLS",
    )


def admin_bug(path: str, error: Exception) -> None:
    log.error("admin request failed", path=path, hint=_REPORT, exc_info=error)


def admin_refused(reason: str) -> None:
    """``reason``: no_token, wrong_token, rate_limit, scope. The audit log has who and what."""
    _admin_refused.labels(reason).inc()


def admin_call(facts: Mapping[str, object]) -> None:
    """A line of the audit log where it has no file. What was merely read is for debugging: a page does it all day."""
    status = facts.get("status")
    read = facts.get("method") == "GET" and isinstance(status, int) and status < HTTPStatus.BAD_REQUEST
    (log.debug if read else log.info)("admin call", **facts)


def audit_failed(path: str, error: str) -> None:
    log.error("cannot write audit file", path=path, error=error, hint="calls are written to this log meanwhile")


def audit_recovered(path: str) -> None:
    log.info("audit file recovered", path=path)


def admin_certificate_read() -> None:
    log.info("admin certificate reloaded")


def admin_certificate_refused(error: str) -> None:
    log.error("admin certificate refused", error=error, hint="the previous one stays in use")


def connection_cut(listener: str, reason: str) -> None:
    """``listener``: exporter, admin or control. ``reason``: garbage, slow_head, slow_body, slow_reader, too_many, idle.

    ``idle``: it made way for another one.
    """
    (_exporter_cut if listener == "exporter" else _cut).labels(reason).inc()


def listener_exhausted(listener: str, what: str) -> None:
    """``what``: connections or descriptors. Ended by :func:`listener_recovered`."""
    log.warning(
        "listener at its limit",
        listener=listener,
        exhausted=what,
        hint="look for clients that keep connections open; raise the limit of open files where that is low",
    )


def listener_recovered(listener: str) -> None:
    log.info("listener below its limit again", listener=listener)


def web_fault(where: str, error: BaseException | None) -> None:
    """``where``: ``request``, or a listener."""
    log.error("HTTP server failed", where=where, hint=_REPORT, exc_info=error)


def event_streams(change: int) -> None:
    """``change``: 1 for one that begins, -1 for one that ends."""
    _streams.inc(change)


# --- at the start --------------------------------------------------------------------------------------------------


def declare_daemon(daemon: str) -> None:
    """Makes the daemon's series exist at 0, so that the first increase can be seen by ``rate``."""
    _connects.labels(daemon)
    _gap.labels(daemon)
    _reconciled.labels(daemon)
    _invalid.labels(daemon)
    _output_lost.labels(daemon)
    _output_postponed.labels(daemon)
    for event in ("start", "exit", "stdout", "health", "status", "removed"):
        _received.labels(daemon, event)
    for result in ("success", "failure"):
        _refreshes.labels(daemon, result)


def declare_sink(sink: str) -> None:
    """As :func:`declare_daemon`, for a sink."""
    _delivered.labels(sink)
    _filtered.labels(sink)
    _delivery.labels(sink)
