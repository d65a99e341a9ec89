"""The two dashboards: what they show, as values. ``generate.py`` writes them as Grafana wants them.

Every query asks for series as the bridge serves them and for no recorded rule, so a dashboard works where nothing but
the scrape is set up. Over several bridges the greatest value of a daemon counts, since a pair of bridges that watch the
same daemon both serve it.
"""

from dataclasses import dataclass

__all__ = ["DASHBOARDS", "Dashboard", "Panel", "Query", "Row", "Variable"]


_CORES = "suffix: cores"  # Grafana has no such unit


@dataclass(frozen=True)
class Query:
    """``quiet``: why there is nothing to see while all is well; None where there always is something."""

    expr: str
    legend: str = ""
    quiet: str | None = None


@dataclass(frozen=True)
class Panel:
    """``unit`` and ``kind`` as Grafana calls them.

    ``states``: what the values 0 and 1 are called, bad one first. ``bad_from``: values from here on are red.
    ``shows_name``: a stat shows its legend instead of its value.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    greatest: float | None = None
    states: tuple[str, str] | None = None
    bad_from: float | None = None
    shows_name: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """Values of a label to choose from."""

    name: str
    label: str
    query: str
    several: bool = True


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]


def _stat(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "short",
    width: int = 4,
    states: tuple[str, str] | None = None,
    bad_from: float | None = None,
) -> Panel:
    """One number: what it is now."""
    queries = (Query(expr),)
    return Panel(title, description, queries, unit, "stat", width, 4, states=states, bad_from=bad_from)


# --- the fleet -----------------------------------------------------------------------------------------------------

_FLEET = '{instance=~"$instance",daemon=~"$daemon"}'
_RUNNING, _ENABLED, _HEALTHY = (f"appmesh_app_{state}{_FLEET}" for state in ("running", "enabled", "healthy"))
_UNHEALTHY = f"{_RUNNING} * {_ENABLED} * (1 - {_HEALTHY})"
_STARTED = f"appmesh_app_start_timestamp_seconds{_FLEET}"
_RECEIVED = f"max by (daemon, event) (rate(meshbridge_events_received_total{_FLEET}[$__rate_interval]))"


def _apps(expr: str) -> str:
    """How many apps an expression is 1 for."""
    return f"sum(max by (daemon, app) ({expr}))"


def _increase(name: str) -> str:
    return f"sum(max by (daemon) (increase({name}{_FLEET}[$__rate_interval])))"


_FLEET_ROWS = (
    Row(
        "At a glance",
        (
            _stat(
                "Daemons connected",
                "Daemons whose events arrive at a bridge.",
                f"sum(max by (daemon) (meshbridge_daemon_up{_FLEET}))",
            ),
            _stat(
                "Daemons not connected",
                "Daemons in a bridge's configuration that no bridge is connected to.",
                f"sum(1 - max by (daemon) (meshbridge_daemon_up{_FLEET}))",
                bad_from=1,
            ),
            _stat("Apps running", "Apps that have a process. One-off runs don't count.", _apps(_RUNNING)),
            _stat(
                "Apps unhealthy",
                "Enabled apps that run and whose health check fails.",
                _apps(_UNHEALTHY),
                bad_from=1,
            ),
            _stat(
                "Restarts",
                "How often apps were started again in the time shown. Of starts between two scrapes, one is seen.",
                _apps(f"changes({_STARTED}[$__range])"),
            ),
            _stat("Events", "Events that the daemons send, of all types.", f"sum({_RECEIVED})", unit="eps"),
        ),
    ),
    Row(
        "Daemons",
        (
            Panel(
                "Connected",
                "Whether a bridge has the daemon's event connection.",
                (Query(f"max by (daemon) (meshbridge_daemon_up{_FLEET})", "{{daemon}}"),),
                kind="state-timeline",
                states=("not connected", "connected"),
            ),
            Panel(
                "Collectors that fail",
                "How many daemons don't give their own metrics, their host's or their apps'. The bridge's log says why "
                "not.",
                (
                    Query(
                        f"sum by (collector) (1 - max by (daemon, collector) (meshbridge_collector_success{_FLEET}))",
                        "{{collector}}",
                    ),
                ),
            ),
            Panel(
                "Hosts",
                "What is known of each daemon's host.",
                (
                    Query(
                        "max by (daemon, hostname, os, architecture, appmesh_version, in_container) "
                        f"(appmesh_host_info{_FLEET})"
                    ),
                ),
                kind="table",
            ),
        ),
    ),
    Row(
        "Apps",
        (
            Panel(
                "Apps by state",
                "Every app is in one of these states. One-off runs don't count.",
                (
                    Query(_apps(f"{_RUNNING} - {_UNHEALTHY}"), "running"),
                    Query(_apps(_UNHEALTHY), "unhealthy"),
                    Query(_apps(f"{_ENABLED} * (1 - {_RUNNING})"), "enabled, no process"),
                    Query(_apps(f"(1 - {_ENABLED}) * (1 - {_RUNNING})"), "disabled"),
                ),
                stacked=True,
            ),
            Panel(
                "Unhealthy apps",
                "Enabled apps that run and whose health check fails now.",
                (Query(f"max by (daemon, app) ({_UNHEALTHY}) == 1", quiet="no app is unhealthy"),),
                kind="table",
            ),
            Panel(
                "Last exit failed",
                "Apps whose last process ended with another code than 0. They may run again by now.",
                (Query(f"max by (daemon, app) (appmesh_app_exit_code{_FLEET}) != 0", quiet="no app has failed"),),
                kind="table",
            ),
            Panel(
                "Restarts",
                "Which apps were started again most often in the time shown.",
                (
                    Query(
                        f"topk(10, max by (daemon, app) (changes({_STARTED}[$__range])) > 0)",
                        "{{daemon}} {{app}}",
                        quiet="no app was started again",
                    ),
                ),
                kind="bargauge",
            ),
            Panel(
                "CPU",
                "The ten apps that use most, with all processes that they started.",
                (Query(f"topk(10, max by (daemon, app) (appmesh_app_cpu_cores{_FLEET}))", "{{daemon}} {{app}}"),),
                unit=_CORES,
            ),
            Panel(
                "Memory",
                "The ten apps that use most (resident), with all processes that they started.",
                (Query(f"topk(10, max by (daemon, app) (appmesh_app_memory_bytes{_FLEET}))", "{{daemon}} {{app}}"),),
                unit="bytes",
            ),
        ),
    ),
    Row(
        "Hosts",
        (
            Panel(
                "Load per processor",
                "Load average over one minute, divided by the processors that the daemon may use. Above 1, work waits.",
                (
                    Query(
                        f"max by (daemon) (appmesh_host_load1{_FLEET} / (appmesh_host_cpus_effective{_FLEET} > 0))",
                        "{{daemon}}",
                    ),
                ),
            ),
            Panel(
                "Memory in use",
                "Of the host, or of the control group where it has a limit.",
                (
                    Query(
                        "max by (daemon) (1 - "
                        f"appmesh_host_memory_available_bytes{_FLEET} / (appmesh_host_memory_total_bytes{_FLEET} > 0))",
                        "{{daemon}}",
                    ),
                ),
                unit="percentunit",
                greatest=1,
            ),
            Panel(
                "File systems in use",
                "Of the space that users without privileges can have.",
                (
                    Query(
                        "max by (daemon, mount_point) (1 - appmesh_host_filesystem_avail_bytes"
                        f"{_FLEET} / (appmesh_host_filesystem_size_bytes{_FLEET} > 0))",
                        "{{daemon}} {{mount_point}}",
                    ),
                ),
                unit="percentunit",
                greatest=1,
            ),
        ),
    ),
    Row(
        "Events",
        (
            Panel(
                "Events by type",
                "What the daemons send. STDOUT is nearly all of it where apps write a lot.",
                (Query(f"sum by (event) ({_RECEIVED})", "{{event}}"),),
                unit="eps",
                stacked=True,
            ),
            Panel(
                "Events by daemon",
                "The ten daemons that send most.",
                (Query(f"topk(10, sum by (daemon) ({_RECEIVED}))", "{{daemon}}"),),
                unit="eps",
            ),
            Panel(
                "Missed and repaired",
                "Events that a daemon numbered and that never arrived, events reconciled from apps' states in their "
                "place, and stretches of output that the daemon no longer has.",
                (
                    Query(_increase("meshbridge_events_gap_total"), "missed"),
                    Query(_increase("meshbridge_events_reconciled_total"), "reconciled"),
                    Query(_increase("meshbridge_output_lost_total"), "output lost"),
                ),
            ),
        ),
    ),
)

# --- one bridge ----------------------------------------------------------------------------------------------------

_BRIDGE = '{instance="$instance"}'
_SINK = '{instance="$instance",sink=~"$sink"}'


def _rate(name: str, labels: str, selection: str = _BRIDGE) -> str:
    return f"sum by ({labels}) (rate({name}{selection}[$__rate_interval]))"


def _count(name: str, labels: str, selection: str = _BRIDGE) -> str:
    return f"sum by ({labels}) (increase({name}{selection}[$__rate_interval]))"


def _latency(quantile: float) -> str:
    buckets = _rate("meshbridge_delivery_seconds_bucket", "sink, le", _SINK)
    return f"histogram_quantile({quantile}, {buckets})"


def _command_latency(quantile: float) -> str:
    buckets = _rate("meshbridge_command_seconds_bucket", "command, le", _SINK)
    return f"histogram_quantile({quantile}, {buckets})"


_BRIDGE_ROWS = (
    Row(
        "At a glance",
        (
            _stat(
                "Scraped",
                "Whether Prometheus reaches the bridge.",
                f"min(up{_BRIDGE})",
                width=3,
                states=("down", "up"),
            ),
            Panel(
                "Version",
                "What runs there.",
                (Query(f"meshbridge_build_info{_BRIDGE}", "{{version}}"),),
                kind="stat",
                width=3,
                height=4,
                shows_name=True,
            ),
            _stat(
                "Running for",
                "Since the process started.",
                f"time() - process_start_time_seconds{_BRIDGE}",
                width=3,
                unit="s",
            ),
            _stat(
                "Daemons not connected",
                "Of those in its configuration.",
                f"sum(1 - meshbridge_daemon_up{_BRIDGE})",
                width=3,
                bad_from=1,
            ),
            _stat(
                "Events waiting",
                "In the journal, for all sinks together.",
                f"sum(meshbridge_sink_lag_events{_BRIDGE})",
                width=3,
            ),
            _stat(
                "Dead letters",
                "Events that sinks refused for good.",
                f"sum(meshbridge_dead_letters{_BRIDGE})",
                width=3,
                bad_from=1,
            ),
            _stat(
                "Journal",
                "Whether it takes events. Where it doesn't, they are held in memory, and lost when the bridge ends.",
                f"meshbridge_journal_up{_BRIDGE}",
                width=3,
                states=("failing", "up"),
            ),
            _stat(
                "Journal in use",
                "Of journal.max_bytes. A full journal is no fault by itself: it keeps what was delivered, too.",
                f"meshbridge_journal_bytes{_BRIDGE} / meshbridge_journal_max_bytes{_BRIDGE}",
                width=3,
                unit="percentunit",
            ),
        ),
    ),
    Row(
        "Events in",
        (
            Panel(
                "Received by type",
                "Events that came from the daemons.",
                (Query(_rate("meshbridge_events_received_total", "event"), "{{event}}"),),
                unit="eps",
                stacked=True,
            ),
            Panel(
                "Received by daemon",
                "Events that came from each daemon.",
                (Query(_rate("meshbridge_events_received_total", "daemon"), "{{daemon}}"),),
                unit="eps",
                stacked=True,
            ),
            Panel(
                "Missed and repaired",
                "Events that a daemon numbered and that never arrived; events reconciled from apps' states in their "
                "place; stretches of output that the daemon no longer has; messages that could not be read.",
                (
                    Query(_count("meshbridge_events_gap_total", "daemon"), "missed {{daemon}}"),
                    Query(_count("meshbridge_events_reconciled_total", "daemon"), "reconciled {{daemon}}"),
                    Query(_count("meshbridge_output_lost_total", "daemon"), "output lost {{daemon}}"),
                    Query(_count("meshbridge_events_invalid_total", "daemon"), "not readable {{daemon}}"),
                ),
            ),
        ),
    ),
    Row(
        "Delivery",
        (
            Panel(
                "Sinks",
                "Whether the destination accepted the last batch.",
                (Query(f"min by (sink) (meshbridge_sink_up{_SINK})", "{{sink}}"),),
                kind="state-timeline",
                states=("failing", "up"),
            ),
            Panel(
                "Delivered",
                "Events that the destination has acknowledged.",
                (Query(_rate("meshbridge_sink_delivered_total", "sink", _SINK), "{{sink}}"),),
                unit="eps",
            ),
            Panel(
                "Time to delivery",
                "From the reception of an event to its acknowledgement: the median, and what 99 of 100 stay below.",
                (
                    Query(_latency(0.5), "p50 {{sink}}"),
                    Query(_latency(0.99), "p99 {{sink}}"),
                ),
                unit="s",
            ),
            Panel(
                "Events behind",
                "Events in the journal that the sink has not acknowledged.",
                (Query(f"max by (sink) (meshbridge_sink_lag_events{_SINK})", "{{sink}}"),),
            ),
            Panel(
                "Time behind",
                "Age of the oldest event that the sink has not acknowledged.",
                (Query(f"max by (sink) (meshbridge_sink_lag_seconds{_SINK})", "{{sink}}"),),
                unit="s",
            ),
            Panel(
                "Left out by when",
                "Events that the sink does not want, by its configuration.",
                (Query(_rate("meshbridge_events_filtered_total", "sink", _SINK), "{{sink}}"),),
                unit="eps",
            ),
            Panel(
                "Failed attempts",
                "Attempts to connect or to deliver that failed, by reason.",
                (
                    Query(
                        _count("meshbridge_sink_failed_total", "sink, reason", _SINK),
                        "{{sink}} {{reason}}",
                        quiet="nothing has failed",
                    ),
                ),
            ),
            Panel(
                "Dropped",
                "Events that the sink will never get: refused, or too old or too many for the journal. For the sink "
                "`journal`, events that came faster than they could be written.",
                (
                    Query(
                        _count("meshbridge_events_dropped_total", "sink, reason"),
                        "{{sink}} {{reason}}",
                        quiet="nothing was dropped",
                    ),
                ),
            ),
            Panel(
                "Dead letters",
                "Events that the destination refused for good, kept to be tried again or dropped.",
                (Query(f"max by (sink) (meshbridge_dead_letters{_SINK})", "{{sink}}"),),
            ),
        ),
    ),
    Row(
        "Commands",
        (
            Panel(
                "Commands",
                "Commands and tasks that came in over MQTT, by how they ended.",
                (
                    Query(
                        _count("meshbridge_commands_total", "command, result", _SINK),
                        "{{command}} {{result}}",
                        quiet="no command came in",
                    ),
                ),
            ),
            Panel(
                "Time to answer",
                "From the reception of a command to its answer.",
                (
                    Query(_command_latency(0.5), "p50 {{command}}", quiet="no command came in"),
                    Query(_command_latency(0.99), "p99 {{command}}", quiet="no command came in"),
                ),
                unit="s",
            ),
        ),
    ),
    Row(
        "Journal",
        (
            Panel(
                "Size",
                "What the journal takes, and journal.max_bytes: there the oldest events are dropped, those that every "
                "sink has first.",
                (
                    Query(f"meshbridge_journal_bytes{_BRIDGE}", "size"),
                    Query(f"meshbridge_journal_max_bytes{_BRIDGE}", "limit"),
                ),
                unit="bytes",
            ),
            Panel(
                "Events kept",
                "Delivered or not.",
                (Query(f"meshbridge_journal_events{_BRIDGE}", "events"),),
            ),
            Panel(
                "Faults",
                "How often the journal could not be read or written, by reason.",
                (
                    Query(
                        _count("meshbridge_journal_faults_total", "reason"),
                        "{{reason}}",
                        quiet="the journal had no fault",
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Connections to daemons",
        (
            Panel(
                "Connects and disconnects",
                "Event connections opened, and lost or refused, by reason.",
                (
                    Query(_count("meshbridge_daemon_connects_total", "daemon"), "connected {{daemon}}"),
                    Query(
                        _count("meshbridge_daemon_disconnects_total", "daemon, reason"),
                        "{{reason}} {{daemon}}",
                        quiet="no connection was lost",
                    ),
                ),
            ),
            Panel(
                "Token expires in",
                "It is renewed before it does. A token of token_file is replaced by its owner.",
                (
                    Query(
                        f"min by (daemon) (meshbridge_token_expiry_timestamp_seconds{_BRIDGE}) - time()", "{{daemon}}"
                    ),
                ),
                unit="s",
            ),
            Panel(
                "Tokens obtained or renewed",
                "Logins and renewals, by result.",
                (Query(_count("meshbridge_token_refreshes_total", "daemon, result"), "{{result}} {{daemon}}"),),
            ),
        ),
    ),
    Row(
        "Scrapes",
        (
            Panel(
                "Duration",
                "How long a scrape takes as Prometheus sees it, and how long each collector waits for its daemon.",
                (
                    Query(f"max(scrape_duration_seconds{_BRIDGE})", "scrape"),
                    Query(
                        f"topk(10, max by (daemon, collector) (meshbridge_collector_duration_seconds{_BRIDGE}))",
                        "{{daemon}} {{collector}}",
                    ),
                ),
                unit="s",
            ),
            Panel(
                "Failing",
                "Collectors that get no answer from their daemons; `bridge` where a part of the bridge itself could "
                "not be asked.",
                (
                    Query(f"sum by (collector) (1 - meshbridge_collector_success{_BRIDGE})", "{{collector}}"),
                    Query(f"1 - min(meshbridge_own_metrics_complete{_BRIDGE})", "bridge"),
                ),
            ),
            Panel(
                "Series",
                "Series in a scrape, and lines of daemons that were left out, by reason.",
                (
                    Query(f"max(scrape_samples_scraped{_BRIDGE})", "served"),
                    Query(
                        "max by (daemon, reason) "
                        f"(increase(meshbridge_scrape_series_dropped_total{_BRIDGE}[$__rate_interval]))",
                        "{{reason}} {{daemon}}",
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Process",
        (
            Panel(
                "CPU",
                "Of the bridge's process.",
                (Query(f"max(rate(process_cpu_seconds_total{_BRIDGE}[$__rate_interval]))", "CPU"),),
                unit=_CORES,
            ),
            Panel(
                "Memory",
                "Resident memory of the bridge's process.",
                (Query(f"max(process_resident_memory_bytes{_BRIDGE})", "resident"),),
                unit="bytes",
            ),
            Panel(
                "Open files",
                "File descriptors in use, of those that the process may have.",
                (Query(f"max(process_open_fds{_BRIDGE} / process_max_fds{_BRIDGE})", "in use"),),
                unit="percentunit",
            ),
        ),
    ),
)

DASHBOARDS = (
    Dashboard(
        "meshbridge-fleet",
        "App Mesh: fleet",
        "All daemons that meshbridge watches: connections, apps, hosts and events.",
        (
            Variable("instance", "Bridge", "label_values(meshbridge_build_info, instance)"),
            Variable("daemon", "Daemon", 'label_values(meshbridge_daemon_up{instance=~"$instance"}, daemon)'),
        ),
        _FLEET_ROWS,
    ),
    Dashboard(
        "meshbridge-bridge",
        "App Mesh: bridge",
        "One meshbridge: what it receives, keeps and delivers, and what that takes.",
        (
            Variable("instance", "Bridge", "label_values(meshbridge_build_info, instance)", several=False),
            Variable("sink", "Sink", 'label_values(meshbridge_sink_up{instance="$instance"}, sink)'),
        ),
        _BRIDGE_ROWS,
    ),
)
