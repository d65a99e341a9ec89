"""The scrape path, without a socket."""

import gzip
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from meshbridge.exporter import Collectors, ExporterOptions, Sources
from meshbridge.exporter.collectors import Deadline
from meshbridge.exporter.handler import BadScrapeError, ScrapeAnswer, ScrapeHandler, time_allowed
from meshbridge.model.status import JournalStatus, LinkStatus, SinkStatus

Make = Callable[..., Any]


def sources(*daemons: Any) -> Sources:
    return Sources(
        lambda: daemons,
        lambda: [LinkStatus(daemon.name) for daemon in daemons],
        lambda: [SinkStatus("log")],
        lambda: JournalStatus("/j"),
        list,
    )


def scrape(
    handler: ScrapeHandler, query: Mapping[str, Sequence[str]] | None = None, seconds: float = 30, **headers: str
) -> ScrapeAnswer:
    return handler.scrape(query or {}, headers, Deadline.after(seconds))


def body(answer: ScrapeAnswer) -> bytes:
    return b"".join(answer.pieces)


def text(handler: ScrapeHandler, query: Mapping[str, Sequence[str]] | None = None, seconds: float = 30) -> str:
    return body(scrape(handler, query, seconds)).decode()


def names(exposition: str) -> set[str]:
    return {line.split()[2] for line in exposition.splitlines() if line.startswith("# TYPE")}


def test_a_scrape_has_everything_each_family_once(make_daemon: Make) -> None:
    found = text(ScrapeHandler(ExporterOptions(), sources(make_daemon("node-a"), make_daemon("node-b"))))
    type_lines = [line for line in found.splitlines() if line.startswith("# TYPE")]
    assert len(type_lines) == len(names(found))
    assert [line.split()[2] for line in type_lines] == sorted(names(found))
    for name in ("appmesh_build_info", "appmesh_app_info", "appmesh_host_load1", "meshbridge_daemon_up"):
        assert name in names(found)
        for daemon in ("node-a", "node-b"):
            assert f'{name}{{daemon="{daemon}"' in found
    for daemon in ("node-a", "node-b"):
        for collector in ("daemon", "host", "apps"):
            assert f'meshbridge_collector_success{{daemon="{daemon}",collector="{collector}"}} 1' in found


def test_openmetrics_and_text_have_the_same_series(make_daemon: Make) -> None:
    handler = ScrapeHandler(ExporterOptions(), sources(make_daemon()))
    answer = scrape(handler, accept="application/openmetrics-text")
    assert dict(answer.headers)["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    opened = list(openmetrics_parser.text_string_to_metric_families(body(answer).decode()))  # type: ignore[no-untyped-call]
    plain = list(text_string_to_metric_families(text(handler)))
    assert {s.name for f in opened for s in f.samples} == {s.name for f in plain for s in f.samples}


def test_gzip_where_accepted(make_daemon: Make) -> None:
    handler = ScrapeHandler(ExporterOptions(), sources(make_daemon()))
    answer = handler.scrape({}, {"accept-encoding": "gzip"}, Deadline.after(30))
    assert dict(answer.headers)["content-encoding"] == "gzip"
    assert b"appmesh_build_info" in gzip.decompress(body(answer))


def test_a_large_answer_comes_in_pieces_that_make_up_the_whole(make_daemon: Make) -> None:
    many = b"".join(b'# TYPE f%d gauge\nf%d{a="%d"} 1\n' % (n, n, n) for n in range(20_000))
    handler = ScrapeHandler(ExporterOptions(), sources(make_daemon(get_metrics=lambda _: many)))
    answer = handler.scrape({"collect[]": ["daemon"]}, {}, Deadline.after(30))
    assert len(answer.pieces) > 2
    assert body(answer).count(b'daemon="node-a",a=') == 20_000
    zipped = handler.scrape({"collect[]": ["daemon"]}, {"accept-encoding": "gzip"}, Deadline.after(30))
    assert gzip.decompress(body(zipped)).count(b'daemon="node-a",a=') == 20_000


def test_one_that_raises_costs_its_own_families(make_daemon: Make) -> None:
    def broken(_: float) -> Any:
        raise PermissionError("lacks required permission 'app-view-all'")

    found = text(ScrapeHandler(ExporterOptions(), sources(make_daemon("bad", list_apps=broken), make_daemon("good"))))
    assert 'meshbridge_collector_success{daemon="bad",collector="apps"} 0' in found
    assert 'appmesh_app_info{daemon="bad"' not in found
    assert 'appmesh_app_info{daemon="good"' in found
    assert 'appmesh_host_load1{daemon="bad"' in found
    assert 'appmesh_build_info{daemon="bad"' in found


def test_own_metrics_are_served_though_every_daemon_hangs(make_daemon: Make) -> None:
    release = threading.Event()
    hang = {name: lambda _: release.wait(60) for name in ("get_metrics", "get_host_resources", "list_apps")}
    try:
        found = text(ScrapeHandler(ExporterOptions(), sources(make_daemon(**hang))), seconds=0.1)
    finally:
        release.set()
    assert 'meshbridge_daemon_up{daemon="node-a"} 0' in found
    assert 'meshbridge_collector_success{daemon="node-a",collector="daemon"} 0' in found
    assert "process_cpu_seconds_total" in found


def test_what_is_gone_leaves_no_series(make_daemon: Make) -> None:
    daemons = [make_daemon("stays"), make_daemon("goes")]
    apps = [{"name": "a", "status": 1}, {"name": "b", "status": 1}]
    daemons[0].answers["list_apps"] = lambda _: apps
    parts = sources(*daemons)
    handler = ScrapeHandler(ExporterOptions(), Sources(lambda: daemons, list, parts.sinks, parts.journal, parts.ready))
    assert 'app="b"' in text(handler)
    daemons.pop()
    apps.pop()
    found = text(handler)
    assert 'app="a"' in found
    assert 'app="b"' not in found
    assert '"goes"' not in found


def test_what_is_dropped_is_counted_over_scrapes(make_daemon: Make) -> None:
    bad = b"# TYPE process_open_fds gauge\nprocess_open_fds 1\nmeshbridge_x 1\nbroken\nfine 1\n"
    other = make_daemon("b", get_metrics=lambda _: b"# TYPE fine histogram\nfine_sum 1\n")
    handler = ScrapeHandler(ExporterOptions(), sources(make_daemon("a", get_metrics=lambda _: bad), other))
    for scrapes in (1, 2):
        found = text(handler)
        name = "meshbridge_scrape_series_dropped_total"
        assert f'{name}{{daemon="a",reason="clash"}} {2 * scrapes}\n' in found
        assert f'{name}{{daemon="a",reason="malformed"}} {scrapes}\n' in found
        assert f'{name}{{daemon="b",reason="conflict"}} {scrapes}\n' in found
        assert f'{name}{{daemon="b",reason="malformed"}} 0\n' in found


def test_a_runaway_daemon_is_cut_and_the_others_are_not(make_daemon: Make) -> None:
    runaway = make_daemon("a", get_metrics=lambda _: b"".join(b'x{n="%d"} 1\n' % n for n in range(1000)))
    found = text(ScrapeHandler(ExporterOptions(max_series=200), sources(runaway, make_daemon("b"))))
    own = [line for line in found.splitlines() if '{daemon="a"' in line and line.startswith(("x", "appmesh_"))]
    assert len(own) == 200
    assert 'appmesh_app_info{daemon="a"' in found
    assert f'dropped_total{{daemon="a",reason="limit"}} {1000 - sum(line[0] == "x" for line in own)}\n' in found
    assert 'appmesh_build_info{daemon="b"' in found


@pytest.mark.parametrize(
    ("query", "called"),
    [
        ({}, {"get_metrics", "get_host_resources", "list_apps"}),
        ({"collect[]": ["apps"]}, {"list_apps"}),
        ({"collect[]": ["apps", "host"]}, {"list_apps", "get_host_resources"}),
        ({"exclude[]": ["apps", "own"]}, {"get_metrics", "get_host_resources"}),
        ({"collect[]": ["own"]}, set()),
    ],
)
def test_collectors_can_be_chosen(query: dict[str, list[str]], called: set[str], make_daemon: Make) -> None:
    daemon = make_daemon()
    found = text(ScrapeHandler(ExporterOptions(), sources(daemon)), query)
    assert set(daemon.calls) == called
    own = not query or query == {"collect[]": ["own"]}
    assert ("meshbridge_daemon_up" in names(found)) is own


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"collect[]": ["nope"]}, "unknown collector 'nope': use daemon, apps, own"),
        ({"exclude[]": ["nope"]}, "unknown collector 'nope': use daemon, apps, own"),
        ({"collect[]": ["host"]}, "disabled collector 'host': use daemon, apps, own"),
        ({"collect[]": ["apps"], "exclude[]": ["own"]}, "collect[] and exclude[] can't be combined"),
        ({"collect[]": ["a\nb"]}, "unknown collector 'a\\nb': use daemon, apps, own"),
    ],
)
def test_a_wrong_choice_is_told_in_one_line(query: dict[str, list[str]], message: str, make_daemon: Make) -> None:
    handler = ScrapeHandler(ExporterOptions(collectors=Collectors(host=False)), sources(make_daemon()))
    with pytest.raises(BadScrapeError) as caught:
        scrape(handler, query)
    assert str(caught.value) == message


def test_collectors_that_are_off_are_not_asked(make_daemon: Make) -> None:
    daemon = make_daemon()
    options = ExporterOptions(collectors=Collectors(daemon=False, host=False, apps=False))
    assert "meshbridge_daemon_up" in names(text(ScrapeHandler(options, sources(daemon))))
    assert daemon.calls == []


def test_name_chooses_families(make_daemon: Make) -> None:
    handler = ScrapeHandler(ExporterOptions(), sources(make_daemon()))
    chosen = ["appmesh_app_info", "appmesh_http_request_duration_seconds_bucket", "nothing"]
    found = text(handler, {"name[]": chosen})
    assert names(found) == {"appmesh_app_info", "appmesh_http_request_duration_seconds"}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 9.5), ("10", 9.5), ("3.5", 3.0), ("0.4", 0.2), ("1e9", 299.5), ("0", 9.5), ("-1", 9.5), ("nan", 9.5),
     ("inf", 9.5), ("ten", 9.5), ("", 9.5)],
)  # fmt: skip
def test_time_is_what_prometheus_gives_less_half_a_second(header: str | None, seconds: float) -> None:
    assert time_allowed(header) == pytest.approx(seconds)
