"""What each collector makes of a daemon's answers, and of wrong ones."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.parser import text_string_to_metric_families

from meshbridge.exporter.collectors import Deadline, InvalidAnswerError
from meshbridge.exporter.collectors.apps import AppsCollector, app_families
from meshbridge.exporter.collectors.daemon import DaemonCollector
from meshbridge.exporter.collectors.host import HostCollector, host_families
from meshbridge.exporter.collectors.own import own_families, registry_families
from meshbridge.exporter.exposition import MALFORMED, Family, render_text
from meshbridge.exporter.sources import Sources
from meshbridge.model.status import JournalStatus, LinkState, LinkStatus, SinkState, SinkStatus

Make = Callable[..., Any]
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)

APP_FIELDS = dict.fromkeys(
    ("status", "pid", "health", "cpu", "memory", "fd", "starts", "owner", "return_code", "last_start_time"), json
)


def written_text(families: Iterable[Family]) -> bytes:
    return b"".join(render_text(families))


def values(families: list[Family]) -> dict[str, float]:
    """``name{labels}`` without the daemon -> value."""
    found = {}
    for family in text_string_to_metric_families(written_text([f for f in families if f.chunks]).decode()):
        for sample in family.samples:
            inside = ",".join(f"{key}={text}" for key, text in sample.labels.items() if key != "daemon")
            found[f"{sample.name}{{{inside}}}" if inside else sample.name] = sample.value
    return found


# --- apps ----------------------------------------------------------------------------------------------------------


def test_apps_give_their_state(golden_apps: list[dict[str, Any]]) -> None:
    families, bad = app_families("node-a", golden_apps)
    found = values(families)
    assert bad == 0
    assert {name: value for name, value in found.items() if "app=m-chk" in name} == {
        "appmesh_app_info{app=m-chk,owner=admin,version=,description=}": 1,
        "appmesh_app_enabled{app=m-chk}": 1,
        "appmesh_app_healthy{app=m-chk}": 0,
        "appmesh_app_running{app=m-chk}": 1,
        "appmesh_app_start_timestamp_seconds{app=m-chk}": 1795563427,
        "appmesh_app_starts{app=m-chk}": 1,
        "appmesh_app_memory_bytes{app=m-chk}": 4759552,
        "appmesh_app_cpu_cores{app=m-chk}": 0,
        "appmesh_app_open_fds{app=m-chk}": 7,
    }
    assert found["appmesh_app_cpu_cores{app=m-keep}"] == pytest.approx(0.30660557746887207 / 100)
    assert found["appmesh_app_exit_code{app=out-again}"] == 0
    assert found["appmesh_app_last_exit_timestamp_seconds{app=out-again}"] == 1795563569
    assert found["appmesh_app_enabled{app=out-again}"] == 0


def test_one_off_runs_have_no_series(golden_apps: list[dict[str, Any]]) -> None:
    runs = {app["name"] for app in golden_apps if app["status"] == 2}
    assert runs == {"out-slow_1", "8yKhK5WmLma"}
    text = written_text(app_families("node-a", golden_apps)[0]).decode()
    assert not any(f'app="{name}"' in text for name in runs)
    assert text.count("appmesh_app_info{") == len(golden_apps) - len(runs)


def test_a_stopped_app_uses_nothing_and_says_so() -> None:
    found = values(app_families("d", [{"name": "a", "status": 1, "health": 1}])[0])
    for name in ("running", "memory_bytes", "cpu_cores", "open_fds"):
        assert found[f"appmesh_app_{name}{{app=a}}"] == 0
    assert "appmesh_app_exit_code{app=a}" not in found


def test_what_a_running_app_does_not_tell_is_not_made_up() -> None:
    found = values(app_families("d", [{"name": "a", "status": 1, "pid": 7}])[0])
    assert sorted(name.split("{")[0] for name in found) == [
        "appmesh_app_enabled", "appmesh_app_info", "appmesh_app_running"
    ]  # fmt: skip


def test_a_name_that_comes_twice_stands_once_with_its_later_state() -> None:
    apps = [{"name": "a", "status": 0, "starts": 1}, {"name": "a", "status": 1, "starts": 2}]
    families, _ = app_families("d", apps)
    assert all(family.series <= 1 for family in families)
    assert values(families)["appmesh_app_starts{app=a}"] == 2


def test_texts_of_a_user_are_escaped() -> None:
    families, _ = app_families("d", [{"name": "a", "status": 1, "description": 'say "hi"\\\n'}])
    assert 'description="say \\"hi\\"\\\\\\n"' in written_text(families).decode()


@given(st.lists(json | st.fixed_dictionaries({"name": json}, optional=APP_FIELDS)))
def test_no_app_list_raises_or_writes_what_can_not_be_read(apps: list[Any]) -> None:
    families, bad = app_families("d", apps)
    list(text_string_to_metric_families(written_text(families).decode()))
    assert bad == sum(not (isinstance(app, dict) and isinstance(app.get("name"), str) and app["name"]) for app in apps)


def test_entries_that_are_no_apps_are_counted(make_daemon: Make) -> None:
    collector = AppsCollector(make_daemon(list_apps=lambda _: [1, {"name": "a"}]))
    assert collector.collect(Deadline.after(1))
    assert collector.dropped == {MALFORMED: 1}


# --- host ----------------------------------------------------------------------------------------------------------


def test_host_resources_come_in_base_units(golden_resources: dict[str, Any]) -> None:
    found = values(list(host_families("node-a", golden_resources)))
    assert found["appmesh_host_cpus"] == 2
    assert found["appmesh_host_memory_total_bytes"] == 25276502016
    assert found["appmesh_host_load1"] == 0.42578125
    assert found["appmesh_host_filesystem_size_bytes{device=/dev/vda,mount_point=/}"] == 270553174016
    assert found["appmesh_host_filesystem_avail_bytes{device=/dev/vda,mount_point=/}"] == 84887756800
    assert found["appmesh_host_network_address_info{interface=eth0,address=fd00::2}"] == 1
    assert found["appmesh_host_collector_errors"] == 0
    assert found["appmesh_host_daemon_start_timestamp_seconds"] == 1795515804
    info = next(name for name in found if name.startswith("appmesh_host_info"))
    assert "hostname=node-a" in info
    assert "in_container=true" in info


@given(st.dictionaries(st.sampled_from(["load", "fs", "net", "cpu_cores", "collector_errors", "host_name"]), json))
def test_no_resources_raise_or_write_what_can_not_be_read(resources: dict[str, Any]) -> None:
    list(text_string_to_metric_families(written_text(host_families("d", resources)).decode()))


# --- the daemon's text, and wrong answers --------------------------------------------------------------------------


def test_the_daemons_text_is_relabelled_and_what_is_dropped_counted(make_daemon: Make) -> None:
    collector = DaemonCollector(make_daemon(get_metrics=lambda _: b"a 1\nb b\n"), frozenset(), 10)
    assert written_text(collector.collect(Deadline.after(1))) == b'# TYPE a untyped\na{daemon="node-a"} 1\n'
    assert collector.dropped == {MALFORMED: 1}


def test_what_a_daemon_answers_has_to_be_of_its_kind(make_daemon: Make) -> None:
    wrong = make_daemon(get_metrics=lambda _: "text", list_apps=dict.fromkeys, get_host_resources=lambda _: [])
    wrong.answers["list_apps"] = lambda _: {}
    for collector in (DaemonCollector(wrong, frozenset(), 1), AppsCollector(wrong), HostCollector(wrong)):
        with pytest.raises(InvalidAnswerError):
            collector.collect(Deadline.after(1))


def test_calls_get_the_time_that_is_left(make_daemon: Make) -> None:
    given_seconds: list[float] = []

    def answer(seconds: float) -> list[Any]:
        given_seconds.append(seconds)
        return []

    daemon = make_daemon(list_apps=answer)
    AppsCollector(daemon).collect(Deadline.after(5))
    AppsCollector(daemon).collect(Deadline.after(-5))
    assert 4 < given_seconds[0] <= 5
    assert given_seconds[1] == 0


# --- own -----------------------------------------------------------------------------------------------------------


def sources(**parts: Callable[[], Any]) -> Sources:
    fine: dict[str, Callable[[], Any]] = {
        "daemons": list,
        "links": lambda: [LinkStatus("a", LinkState.UP, token_expires_at=99.5), LinkStatus("b")],
        "sinks": lambda: [SinkStatus("s", SinkState.UP, lag_events=3, lag_seconds=1.5, dead_letters=2)],
        "journal": lambda: JournalStatus("/j", open=True, bytes=4096, max_bytes=2**30, events=7),
        "ready": list,
    }
    return Sources(**fine | parts)


def test_states_become_gauges() -> None:
    families, whole = own_families(sources(), CollectorRegistry())
    text = written_text(families).decode()
    assert whole
    for line in (
        'meshbridge_daemon_up{daemon="a"} 1',
        'meshbridge_daemon_up{daemon="b"} 0',
        'meshbridge_token_expiry_timestamp_seconds{daemon="a"} 99.5',
        'meshbridge_sink_up{sink="s"} 1',
        'meshbridge_sink_lag_events{sink="s"} 3',
        'meshbridge_sink_lag_seconds{sink="s"} 1.5',
        'meshbridge_dead_letters{sink="s"} 2',
        "meshbridge_journal_up 1",
        "meshbridge_journal_bytes 4096",
        "meshbridge_journal_max_bytes 1073741824",
        "meshbridge_journal_events 7",
    ):
        assert line in text.splitlines()
    assert 'meshbridge_token_expiry_timestamp_seconds{daemon="b"}' not in text


@pytest.mark.parametrize(
    "journal", [JournalStatus("/j"), JournalStatus("/j", open=True, last_error="no space left on device")]
)
def test_a_journal_that_takes_nothing_is_down_and_an_unknown_limit_is_not_told(journal: JournalStatus) -> None:
    families, _ = own_families(sources(journal=lambda: journal), CollectorRegistry())
    series = {family.name: family.series for family in families}
    assert "meshbridge_journal_up 0" in written_text(families).decode().splitlines()
    assert (series["meshbridge_journal_bytes"], series["meshbridge_journal_max_bytes"]) == (1, 0)


@pytest.mark.parametrize("part", ["links", "sinks", "journal"])
def test_a_part_that_raises_costs_its_own_families_only(part: str) -> None:
    def broken() -> Any:
        raise RuntimeError("bug")

    families, whole = own_families(sources(**{part: broken}), CollectorRegistry())
    assert not whole
    names = {family.name for family in families}
    assert ("meshbridge_daemon_up" in names) is (part != "links")
    assert ("meshbridge_sink_up" in names) is (part != "sinks")
    assert ("meshbridge_journal_bytes" in names) is (part != "journal")


def test_a_registry_is_written_as_prometheus_client_would_but_without_created() -> None:
    registry = CollectorRegistry()
    Counter("c", "Count\nof \\ things", ["a"], registry=registry).labels('x"y').inc(2)
    Histogram("h_seconds", "H", buckets=(1, math.inf), registry=registry).observe(0.5)
    Info("i", "I", registry=registry).info({"version": "1"})
    assert written_text(registry_families(registry)).decode().splitlines() == [
        "# HELP c_total Count\\nof \\\\ things",
        "# TYPE c_total counter",
        'c_total{a="x\\"y"} 2.0',
        "# HELP h_seconds H",
        "# TYPE h_seconds histogram",
        'h_seconds_bucket{le="1.0"} 1.0',
        'h_seconds_bucket{le="+Inf"} 1.0',
        "h_seconds_count 1.0",
        "h_seconds_sum 0.5",
        "# HELP i_info I",
        "# TYPE i_info gauge",
        'i_info{version="1"} 1.0',
    ]
