"""The Loki sink against a push endpoint that is held to Loki's documented API."""

import contextlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from meshbridge.sinks.base import NotConnected, Refused, Retry
from meshbridge.sinks.loki import LokiOptions, LokiSink
from tests.contract.sinks.far_loki import entries_of
from tests.contract.sinks.http_server import Exchange, HttpServer
from tests.support import envelopes, make_event, returns_in_time

SECONDS = 3.0
Entry = tuple[dict[str, str], int, str, dict[str, str]]


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer(lambda exchange: exchange.answer(204)) as running:
        yield running


@contextlib.contextmanager
def connected(server: HttpServer, **settings: Any) -> Iterator[LokiSink]:
    url = server.url.removesuffix("/hook")
    sink = LokiSink(LokiOptions.model_validate({"type": "loki", "url": url, **settings}))
    sink.connect(SECONDS)
    try:
        yield sink
    finally:
        sink.close(SECONDS)


def entries(server: HttpServer) -> list[Entry]:
    return [entry for request in server.requests for entry in entries_of(request)]


def stdout(sequence: int, text: str, position: int = 0) -> Any:
    return make_event(sequence, data={"finished": False, "output": text, "position": position})


def test_output_arrives_as_lines_in_order(server: HttpServer) -> None:
    with connected(server) as sink:
        sink.write(envelopes([stdout(1, "one\ntwo\r\n\nthree"), stdout(2, "four\n")]), SECONDS)
    got = entries(server)
    assert [line for _, _, line, _ in got] == ["one", "two", "", "three", "four"]
    moments = [moment for _, moment, _, _ in got]
    assert moments == sorted(set(moments))
    assert {moment // 10**9 for moment in moments} == {1795515820}
    assert got[0][0] == {"job": "meshbridge", "daemon": "node-a", "event": "stdout"}
    assert got[0][3] == {"app": "web", "id": "node-a/1/1", "run": "1", "sequence": "1", "position": "0"}


def test_other_events_arrive_as_a_line_of_json(server: HttpServer) -> None:
    with connected(server, label_fields=["app"], labels={"env": "prod"}, format="raw") as sink:
        sink.write(envelopes([make_event(1, "STATUS", data={"status": "enabled"})]), SECONDS)
    [(labels, _, line, metadata)] = entries(server)
    assert labels == {"env": "prod", "app": "web"}
    assert metadata["event"] == "status"
    assert '"status":"enabled"' in line
    assert "subscription_id" not in line


def test_a_batch_is_one_request_with_a_stream_for_each_set_of_labels(server: HttpServer) -> None:
    events = [stdout(1, "a\n"), make_event(2, "HEALTH", data={"health": 1}), stdout(3, "b\n")]
    with connected(server, tenant="team-a") as sink:
        sink.write(envelopes(events), SECONDS)
    [request] = server.requests
    assert request.headers["x-scope-orgid"] == "team-a"
    assert [line for labels, _, line, _ in entries(server) if labels["event"] == "stdout"] == ["a", "b"]


def test_a_batch_above_the_limit_takes_several_requests(server: HttpServer) -> None:
    events = [stdout(n, "x" * 20_000 + "\n") for n in range(20)]
    with connected(server, max_body_bytes="64KiB") as sink:
        sink.write(envelopes(events), SECONDS)
    assert len(server.requests) > 5
    assert all(len(request.body) <= 64 * 1024 for request in server.requests)
    assert [metadata["sequence"] for _, _, _, metadata in entries(server)] == [str(n) for n in range(20)]


def test_a_long_line_is_cut_into_parts_with_ids_of_their_own(server: HttpServer) -> None:
    text = "é€𝄞" * 2000
    with connected(server, max_line_bytes="4KiB") as sink:
        sink.write(envelopes([stdout(7, text, position=100)]), SECONDS)
    got = entries(server)
    assert "".join(line for _, _, line, _ in got) == text
    assert all(len(line.encode()) <= 4096 for _, _, line, _ in got)
    assert [metadata["id"] for *_, metadata in got] == [f"node-a/1/7/{n}" for n in range(len(got))]
    assert int(got[1][3]["position"]) == 100 + len(got[0][2].encode())
    assert [moment for _, moment, _, _ in got] == sorted(moment for _, moment, _, _ in got)


def test_an_event_without_a_line_is_through(server: HttpServer) -> None:
    with connected(server) as sink:
        sink.write(envelopes([stdout(1, "")]), SECONDS)
        assert server.requests == []
        sink.write(envelopes([stdout(2, ""), stdout(3, "x\n"), stdout(4, "")]), SECONDS)
    assert [line for _, _, line, _ in entries(server)] == ["x"]


@pytest.mark.parametrize(("status", "kind"), [(429, Retry), (500, Retry), (503, Retry), (400, Refused)])
def test_what_is_behind_a_failed_request_is_offered_again(server: HttpServer, status: int, kind: type) -> None:
    events = [stdout(n, "x" * 20_000 + "\n") for n in range(6)]
    statuses = iter([204, status])
    server.answer = lambda exchange: exchange.answer(next(statuses), {"Retry-After": "3"})
    with connected(server, max_body_bytes="64KiB") as sink, pytest.raises((Retry, Refused)) as caught:
        sink.write(envelopes(events), SECONDS)
    assert type(caught.value) is kind
    assert caught.value.acknowledged == len(entries_of(server.requests[0]))
    if status in {429, 503}:
        assert getattr(caught.value, "after_seconds", None) == 3.0


DISALLOWED = b"stream '{job=\"meshbridge\"}' includes structured metadata, but this feature is disallowed. Please see \
`limits_config.allow_structured_metadata` or contact your Loki administrator to enable it."


def test_a_loki_without_structured_metadata_is_waited_for_and_named(server: HttpServer) -> None:
    server.answer = lambda exchange: exchange.answer(400, body=DISALLOWED)
    with connected(server) as sink, pytest.raises(Retry, match="set structured_metadata: false") as caught:
        sink.write(envelopes([stdout(n, "x\n") for n in range(5)]), SECONDS)
    assert (caught.value.reason, caught.value.acknowledged) == ("structured_metadata", 0)


def test_without_structured_metadata_the_app_is_a_label(server: HttpServer) -> None:
    events = [stdout(1, "a\n"), make_event(2, "STATUS", app="db", data={"status": "enabled"})]
    with connected(server, structured_metadata=False) as sink:
        sink.write(envelopes(events), SECONDS)
    [request] = server.requests
    streams = orjson.loads(request.body)["streams"]
    assert [stream["stream"]["app"] for stream in streams] == ["web", "db"]
    assert [len(value) for stream in streams for value in stream["values"]] == [2, 2]
    assert streams[0]["values"][0][1] == "a"
    assert orjson.loads(streams[1]["values"][0][1])["id"] == "node-a/1/2"


CONFIGURATION = b"limits_config:\n  allow_structured_metadata: %b\n  max_line_size: 256KB\n"


@pytest.mark.parametrize(
    ("status", "body", "doubts"),
    [
        (200, CONFIGURATION % b"false", True),
        (200, CONFIGURATION % b"true", False),
        (200, b"#" * 200_000 + b"\n" + CONFIGURATION % b"false", True),
        (404, CONFIGURATION % b"false", False),
        (200, b"", False),
    ],
)
def test_probe_sees_whether_structured_metadata_is_taken(
    server: HttpServer, status: int, body: bytes, doubts: bool
) -> None:
    def answer(exchange: Exchange) -> None:
        shows = exchange.request.path == "/config"
        exchange.answer(status if shows else 204, {"Content-Type": "text/plain"}, body if shows else b"")

    server.answer = answer
    settings = {"type": "loki", "url": server.url.removesuffix("/hook")}
    found = LokiOptions.model_validate(settings).probe(SECONDS)
    assert ("takes no structured metadata" in (found.doubt or "")) == doubts
    assert {request.method for request in server.requests} == {"OPTIONS", "GET"}
    assert LokiOptions.model_validate(settings | {"structured_metadata": False}).probe(SECONDS).doubt is None


def test_an_event_that_is_too_long_is_refused_behind_those_before_it(server: HttpServer) -> None:
    long = make_event(2, "EXIT", data={"exit_code": 1, "last_error": "x" * 2000, "pid": 1})
    with connected(server, max_line_bytes="1KiB") as sink, pytest.raises(Refused) as caught:
        sink.write(envelopes([stdout(1, "a\n"), long, stdout(3, "b\n")]), SECONDS)
    assert caught.value.acknowledged == 1
    assert [line for _, _, line, _ in entries(server)] == ["a"]


def test_a_slow_server_gets_as_far_as_the_time_allows(server: HttpServer) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.ended.wait(0.3)
        exchange.answer(204)

    server.answer = answer
    events = [stdout(n, "x" * 50_000 + "\n") for n in range(10)]
    with connected(server, max_body_bytes="64KiB") as sink, returns_in_time(1.0), pytest.raises(Retry) as caught:
        sink.write(envelopes(events), 1.0)
    assert 1 <= caught.value.acknowledged <= 3


def test_what_cannot_be_set_is_said() -> None:
    for settings, words in (
        ({"label_fields": ["id"]}, "unknown field 'id'"),
        ({"labels": {"app": "x"}}, "can be no label"),
        ({"labels": {"a-b": "x"}}, "can be no label"),
        ({"labels": {"a": ""}}, "empty"),
        ({"format": "binary"}, "cloudevents or raw"),
    ):
        with pytest.raises(ValidationError, match=words):
            LokiOptions.model_validate({"type": "loki", "url": "http://loki:3100", **settings})
    options = LokiOptions.model_validate({"type": "loki", "url": "http://loki:3100/gateway/push?x=y"})
    assert options.address() == "http://loki:3100/gateway/push?x=y"
    with pytest.raises(NotConnected):
        LokiOptions.model_validate({"type": "loki", "url": "http://127.0.0.1:1"}).probe(SECONDS)
