"""The webhook sink and a real HTTP server with every bad habit; what is written against what arrives."""

import contextlib
import email.utils
import gzip
import random
import select
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from standardwebhooks import Webhook

from meshbridge.sinks.base import Found, Gone, NotConnected, Refused, Retry, SinkError
from meshbridge.sinks.webhook import WebhookOptions, WebhookSink
from tests.contract.sinks.driver import assert_complete, deliver
from tests.contract.sinks.far_webhook import BatchWebhookFarEnd, WebhookFarEnd
from tests.contract.sinks.http_server import Exchange, HttpServer
from tests.support import DEADLINE_SECONDS, envelopes, free_port, make_event, returns_in_time, wait_for

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEW_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD8oCBuJGJbnM="
SECONDS = 3.0


def answer_204(exchange: Exchange) -> None:
    exchange.answer(204)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer(answer_204) as running:
        yield running


@contextlib.contextmanager
def connected(url: str, **settings: Any) -> Iterator[WebhookSink]:
    sink = WebhookSink(WebhookOptions.model_validate({"type": "webhook", "url": url, **settings}))
    sink.connect(SECONDS)
    try:
        yield sink
    finally:
        sink.close(SECONDS)


def failed(sink: WebhookSink, count: int = 1, seconds: float = SECONDS) -> SinkError:
    with pytest.raises(SinkError) as caught:
        sink.write(envelopes([make_event(n + 1) for n in range(count)]), seconds)
    return caught.value


def ids(server: HttpServer) -> list[str]:
    return [request.headers["webhook-id"] for request in server.requests]


# --- what goes out -------------------------------------------------------------------------------------------------


def test_each_event_is_a_request_with_its_own_id(server: HttpServer) -> None:
    batch = envelopes([make_event(n) for n in (1, 2, 3)])
    with connected(server.url) as sink:
        sink.write(batch, SECONDS)
    assert ids(server) == [envelope.event.id for envelope in batch]
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/hook")
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert orjson.loads(request.body)["id"] == batch[0].event.id
    assert {request.connection for request in server.requests} == {2}, "one connection, kept alive (1 was the trial)"


def test_a_batch_is_one_request(server: HttpServer) -> None:
    batch = envelopes([make_event(n) for n in range(1, 101)])
    with connected(server.url, batch={"max_events": 100}) as sink:
        sink.write(batch, SECONDS)
    [request] = server.requests
    assert request.headers["content-type"] == "application/cloudevents-batch+json"
    assert [event["id"] for event in orjson.loads(request.body)] == [envelope.event.id for envelope in batch]
    assert request.headers["webhook-id"] == f"{batch[0].event.id}/x100"


def test_binary_mode_has_the_attributes_in_headers_and_the_data_in_the_body(server: HttpServer) -> None:
    with connected(server.url, format="binary") as sink:
        sink.write(envelopes([make_event(7, app="web 100%")]), SECONDS)
    [request] = server.requests
    assert request.headers["content-type"] == "application/json"
    assert request.headers["ce-id"] == "node-a/1/7"
    assert request.headers["ce-specversion"] == "1.0"
    assert request.headers["ce-type"] == "io.appmesh.app.stdout"
    assert request.headers["ce-subject"] == "web%20100%25"
    assert orjson.loads(request.body)["output"] == "line 7\n"


def test_raw_events_go_out_as_a_json_array(server: HttpServer) -> None:
    with connected(server.url, format="raw", batch={"max_events": 10}) as sink:
        sink.write(envelopes([make_event(1), make_event(2)]), SECONDS)
    [request] = server.requests
    assert request.headers["content-type"] == "application/json"
    assert [event["sequence"] for event in orjson.loads(request.body)] == [1, 2]


def test_a_receiver_of_either_secret_can_verify(server: HttpServer, tmp_path: Path) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text(f"{SECRET}\n{NEW_SECRET}\n", encoding="ascii")
    for settings in ({"secret": [SECRET, NEW_SECRET]}, {"secret_file": str(secret_file)}):
        server.requests.clear()
        with connected(server.url, **settings) as sink:
            sink.write(envelopes([make_event(1)]), SECONDS)
        [request] = server.requests
        for secret in (SECRET, NEW_SECRET):
            verified = Webhook(secret).verify(request.body, dict(request.headers))
            assert verified["id"] == "node-a/1/1"
        with pytest.raises(Exception, match="No matching signature"):
            Webhook("whsec_" + "A" * 32).verify(request.body, dict(request.headers))


def test_a_rotated_secret_is_used_without_a_restart(server: HttpServer, tmp_path: Path) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET, encoding="ascii")
    with connected(server.url, secret_file=str(secret_file)) as sink:
        sink.write(envelopes([make_event(1)]), SECONDS)
        secret_file.write_text(NEW_SECRET, encoding="ascii")
        sink.write(envelopes([make_event(2)]), SECONDS)
    Webhook(SECRET).verify(server.requests[0].body, dict(server.requests[0].headers))
    Webhook(NEW_SECRET).verify(server.requests[1].body, dict(server.requests[1].headers))


@pytest.mark.parametrize("batched", [False, True])
def test_the_id_stays_over_attempts_and_the_timestamp_is_of_each(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    clock = iter(range(1_800_000_000, 1_800_000_100))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    statuses = iter([503, 429, 204])
    server.answer = lambda exchange: exchange.answer(next(statuses))
    batch = envelopes([make_event(1)]) if not batched else envelopes([make_event(1), make_event(2)])
    settings = {"batch": {"max_events": 10}} if batched else {}
    with connected(server.url, secret=SECRET, **settings) as sink:
        for _ in range(2):
            with pytest.raises(Retry):
                sink.write(batch, SECONDS)
        sink.write(batch, SECONDS)
    assert len(set(ids(server))) == 1
    assert len({request.headers["webhook-timestamp"] for request in server.requests}) == 3
    assert len({request.body for request in server.requests}) == 1


def test_headers_and_authorization(server: HttpServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t-1\n", encoding="ascii")
    with connected(server.url, headers={"X-Team": "ops"}, auth={"bearer_file": str(token)}) as sink:
        sink.write(envelopes([make_event(1)]), SECONDS)
        token.write_text("t-2\n", encoding="ascii")
        sink.write(envelopes([make_event(2)]), SECONDS)
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer t-1", "Bearer t-2"]
    assert server.requests[0].headers["x-team"] == "ops"
    assert server.requests[0].headers["user-agent"].startswith("meshbridge/")
    with connected(server.url, auth={"username": "u", "password": "p"}) as sink:
        sink.write(envelopes([make_event(3)]), SECONDS)
    assert server.requests[-1].headers["authorization"] == "Basic dTpw"


def test_a_template_feeds_another_kind_of_hook(server: HttpServer) -> None:
    template = '{"text": {{ (app + " ended with " + (data.exit_code | string)) | tojson }}}'
    exit_data = {"exit_code": 3, "last_error": "", "pid": 9}
    with connected(server.url, template=template) as sink:
        sink.write(envelopes([make_event(1, "EXIT", data=exit_data)]), SECONDS)
        refused = failed(sink)
    assert orjson.loads(server.requests[0].body) == {"text": "web ended with 3"}
    assert server.requests[0].headers["content-type"] == "application/json"
    assert isinstance(refused, Refused)
    assert "exit_code" in str(refused)


def test_a_template_of_several_events(server: HttpServer) -> None:
    alert = '{"labels": {"alertname": {{ e.event | tojson }}, "app": {{ e.app | tojson }}}}'
    template = f'[{{% for e in events %}}{alert}{{{{ "," if not loop.last }}}}{{% endfor %}}]'
    with connected(server.url, template=template, mode="batch", batch={"max_events": 10}) as sink:
        sink.write(envelopes([make_event(1), make_event(2, app="db")]), SECONDS)
    [request] = server.requests
    assert [alert["labels"]["app"] for alert in orjson.loads(request.body)] == ["web", "db"]


@pytest.mark.parametrize("batched", [False, True])
def test_output_above_the_limit_goes_out_in_parts(server: HttpServer, batched: bool) -> None:
    text = 'é€𝄞\x1b[31m"\\\n' * 3000
    events = [make_event(1), make_event(2, data={"finished": False, "output": text, "position": 40}), make_event(3)]
    settings = {"batch": {"max_events": 10}} if batched else {}
    with connected(server.url, max_body_bytes="16KiB", **settings) as sink:
        sink.write(envelopes(events), SECONDS)
    assert all(len(request.body) <= 16 * 1024 for request in server.requests)
    bodies = [orjson.loads(request.body) for request in server.requests]
    sent = [event for body in bodies for event in (body if batched else [body])]
    parts = [event for event in sent if event["id"].startswith("node-a/1/2/")]
    assert [event["id"] for event in parts] == [f"node-a/1/2/{n}" for n in range(len(parts))]
    assert "".join(event["data"]["output"] for event in parts) == text
    assert [sent[0]["id"], sent[-1]["id"]] == ["node-a/1/1", "node-a/1/3"]


# --- several at once -----------------------------------------------------------------------------------------------


def test_several_requests_are_under_way_and_each_app_stays_in_order(server: HttpServer) -> None:
    together = threading.Barrier(4)
    at_once = Counter[str]()
    overlapped: list[str] = []

    def answer(exchange: Exchange) -> None:
        app = orjson.loads(exchange.request.body)["subject"]
        at_once[app] += 1
        if at_once[app] > 1:
            overlapped.append(app)
        together.wait(DEADLINE_SECONDS)  # no answer before four requests are here
        at_once[app] -= 1
        exchange.answer(204)

    server.answer = answer
    events = [make_event(n, app=f"app-{n % 8}") for n in range(40)]
    with connected(server.url, concurrency=4) as sink:
        sink.write(envelopes(events), SECONDS)
    assert overlapped == []
    for app in {event.app for event in events}:
        of_app = [event.id for event in events if event.app == app]
        assert [one for one in ids(server) if one in of_app] == of_app
    assert server.connections <= 5


def test_what_other_lanes_delivered_is_not_sent_twice(server: HttpServer) -> None:
    busy = {"node-a/1/0"}
    server.answer = lambda exchange: exchange.answer(503 if exchange.request.headers["webhook-id"] in busy else 204)
    batch = envelopes([make_event(n, app=f"app-{n % 4}") for n in range(20)])
    with connected(server.url) as sink:
        with pytest.raises(Retry) as caught:
            sink.write(batch, SECONDS)
        assert caught.value.acknowledged == 0
        busy.clear()
        sink.write(batch, SECONDS)
    assert Counter(ids(server)) == Counter({envelope.event.id: 1 for envelope in batch} | {"node-a/1/0": 2})


def test_no_request_is_begun_that_would_be_cut_off(server: HttpServer) -> None:
    """After one that took more than half the time there is no time for another."""
    arrived: list[str] = []

    def answer(exchange: Exchange) -> None:
        exchange.ended.wait(1.6)
        arrived.append(exchange.request.headers["webhook-id"])
        exchange.answer(204)

    server.answer = answer
    batch = envelopes([make_event(n) for n in range(40)])
    with connected(server.url) as sink:
        with pytest.raises(Retry) as caught:
            sink.write(batch, 3.0)
        assert (caught.value.acknowledged, caught.value.reason, caught.value.after_seconds) == (1, "slow", 0.0)
    assert arrived == [batch[0].event.id]


# --- statuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (101, Retry, "http_101"),
        (300, Retry, "redirect"),
        (307, Retry, "redirect"),
        *((status, Refused, f"http_{status}") for status in (400, 409, 411, 413, 414, 415, 422, 431)),
        (410, Gone, "gone"),
        *(
            (status, Retry, f"http_{status}")
            for status in (401, 402, 403, 404, 405, 406, 407, 408, 418, 421, 425, 426, 428, 429, 451, 499)
        ),
        *((status, Retry, f"http_{status}") for status in (500, 501, 502, 503, 504, 505, 511, 599)),
    ],
)
def test_what_a_status_means(server: HttpServer, status: int, kind: type[SinkError], reason: str) -> None:
    server.answer = lambda exchange: exchange.answer(status, {"Location": "http://127.0.0.1:1/"}, b"words")
    with connected(server.url) as sink:
        error = failed(sink, 3)
    assert type(error) is kind
    assert (error.reason, error.acknowledged) == (reason, 0)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_retry_after_is_passed_on(server: HttpServer, status: int) -> None:
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    for value, least, most in (("7", 7, 7), (later, 80, 90), ("99999999999", 86_400, 86_400), ("0", 0, 0)):
        server.answer = lambda exchange, value=value: exchange.answer(status, {"Retry-After": value})  # type: ignore[misc]
        with connected(server.url) as sink:
            error = failed(sink)
        assert isinstance(error, Retry)
        assert error.after_seconds is not None
        assert least <= error.after_seconds <= most
    for value in ("soon", "-5", ""):
        server.answer = lambda exchange, value=value: exchange.answer(status, {"Retry-After": value})  # type: ignore[misc]
        with connected(server.url) as sink:
            error = failed(sink)
        assert isinstance(error, Retry)
        assert error.after_seconds is None


def test_redirects_are_not_followed(server: HttpServer) -> None:
    with HttpServer(answer_204) as other:
        server.answer = lambda exchange: exchange.answer(302, {"Location": other.url})
        with connected(server.url, auth={"bearer": "secret-token"}) as sink:
            failed(sink)
        assert other.requests == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_refusal_tells_the_beginning_of_what_the_server_says(server: HttpServer, chunked: bool) -> None:
    said = b'{"error":\r\n  "no field \xc3\xbc\x1b[31m"}' + b" very" * 100

    def answer(exchange: Exchange) -> None:
        if not chunked:
            exchange.answer(422, body=said)
            return
        exchange.send(b"HTTP/1.1 422 No\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (said[:20], said[20:], b""):
            exchange.send(b"%x\r\n%b\r\n" % (len(part), part))

    server.answer = answer
    with connected(server.url) as sink:
        text = str(failed(sink)).partition(" answers 422: ")[2]
        assert text.startswith('{"error": "no field ü [31m"} very very')
        assert len(text) == 200
        server.answer = answer_204
        sink.write(envelopes([make_event(2)]), SECONDS)
    assert len({request.connection for request in server.requests}) == 1


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Encoding": "gzip"}, gzip.compress(b"no such key", mtime=0)),
        ({"Content-Encoding": "br"}, b"letters"),
        ({"Content-Type": "application/json"}, gzip.compress(b"no such key", mtime=0)),
        ({"Content-Type": "application/octet-stream"}, b"letters"),
        ({"Content-Type": "image/png"}, b"\x89PNG\r\n"),
        ({"Content-Type": "text/plain; charset=utf-16"}, "letters".encode("utf-16")),
        ({}, b"lett\0ers"),
        ({}, b"\x01\x02\x03abc"),
    ],
)
@pytest.mark.parametrize("status", [422, 403])
def test_a_body_that_is_no_text_is_not_repeated(
    server: HttpServer, headers: dict[str, str], body: bytes, status: int
) -> None:
    server.answer = lambda exchange: exchange.answer(status, headers, body)
    with connected(server.url) as sink:
        said = str(failed(sink))
    assert said.partition(";")[0] == f"http://127.0.0.1:{server.port} answers {status}"


def test_a_body_in_another_charset_is_read(server: HttpServer) -> None:
    server.answer = lambda exchange: exchange.answer(
        422, {"Content-Type": "application/problem+json; charset=ISO-8859-1"}, "größer".encode("latin-1")
    )
    with connected(server.url) as sink:
        assert str(failed(sink)).endswith("answers 422: größer")


@pytest.mark.parametrize("interim", [(100,), (102,), (103, 103), (100, 102, 103)])
@pytest.mark.parametrize("status", [204, 422])
def test_interim_responses_are_skipped(server: HttpServer, interim: tuple[int, ...], status: int) -> None:
    def answer(exchange: Exchange) -> None:
        for one in interim:
            exchange.send(b"HTTP/1.1 %d Early\r\nLink: </style.css>\r\n\r\n" % one)
        exchange.answer(status, body=b"")

    server.answer = answer
    with connected(server.url) as sink:
        for number in (1, 2):
            batch = envelopes([make_event(number)])
            if status == 204:
                sink.write(batch, SECONDS)
            else:
                with pytest.raises(Refused):
                    sink.write(batch, SECONDS)
    assert len(server.requests) == 2
    assert len({request.connection for request in server.requests}) == 1


def test_endless_interim_responses_are_no_answer(server: HttpServer) -> None:
    def answer(exchange: Exchange) -> None:
        while True:
            exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")

    server.answer = answer
    with connected(server.url) as sink:
        assert isinstance(failed(sink), Retry)


def not_whole(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 400 No\r\nContent-Length: 1000\r\n\r\nwords of it")
    exchange.hold()


@pytest.mark.parametrize(
    "answer",
    [
        not_whole,
        lambda exchange: exchange.answer(400, body=b"words of it" + b" " * 100_000),
        lambda exchange: exchange.answer(400, body=b"no page " + exchange.request.path.encode()),
        lambda exchange: exchange.answer(400, body=b"bad token ABCDEFGH for you"),
        lambda exchange: exchange.answer(400, body=b"cannot take " + exchange.request.body),
        lambda exchange: exchange.answer(400, body=b"no user somebody, or not with that password"),
        lambda exchange: exchange.answer(400, body=exchange.request.headers["authorization"].encode()),
        lambda exchange: exchange.answer(400, body=exchange.request.headers["x-key"].upper().encode()),
    ],
)
def test_of_what_a_server_repeats_or_does_not_end_nothing_is_told(server: HttpServer, answer: Any) -> None:
    server.answer = answer
    url, auth = f"{server.url}/abcdefgh/x?key=quite%20hidden", {"username": "somebody", "password": "p"}
    with connected(url, headers={"X-Key": "a-key"}, auth=auth) as sink, returns_in_time(2.5):
        assert str(failed(sink, 1, 60.0)).endswith(" answers 400")


# --- bad habits ----------------------------------------------------------------------------------------------------


def drip_headers(exchange: Exchange) -> None:
    exchange.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 10_000)


def drip_status_then_nothing(exchange: Exchange) -> None:
    exchange.drip(b"HTTP/1.1 ")
    exchange.hold()


@pytest.mark.parametrize("habit", [drip_headers, drip_status_then_nothing, Exchange.hold])
def test_an_answer_that_does_not_come_costs_the_time_given_and_no_more(server: HttpServer, habit: Any) -> None:
    server.answer = habit
    with connected(server.url) as sink:
        with returns_in_time(1.0):
            error = failed(sink, 3, 1.0)
        assert isinstance(error, Retry)
        assert error.reason == "timeout"
        server.answer = answer_204
        sink.write(envelopes([make_event(9)]), SECONDS)


def test_the_timeout_of_the_settings_holds_for_a_whole_exchange(server: HttpServer) -> None:
    server.answer = drip_headers
    with connected(server.url, timeout="500ms") as sink, returns_in_time(1.5):
        assert failed(sink, 1, 60.0).reason == "timeout"


def test_a_body_that_drips_behind_a_status_is_not_waited_for(server: HttpServer) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        exchange.drip(b"x" * 1_000_000)

    server.answer = answer
    with connected(server.url) as sink:
        with returns_in_time(2.5):
            sink.write(envelopes([make_event(1)]), 60.0)
        server.answer = answer_204
        sink.write(envelopes([make_event(2)]), SECONDS)
    assert ids(server) == ["node-a/1/1", "node-a/1/2"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("status", [200, 302, 500])
def test_an_endless_body_is_not_read(server: HttpServer, status: int, chunked: bool) -> None:
    sent = 0

    def answer(exchange: Exchange) -> None:
        nonlocal sent
        length = b"Transfer-Encoding: chunked" if chunked else b"X: y"
        exchange.send(b"HTTP/1.1 %d OK\r\nLocation: http://127.0.0.1:1/\r\n%b\r\n\r\n" % (status, length))
        block = b"2000\r\n" + b"x" * 8192 + b"\r\n"
        while not exchange.ended.is_set():
            exchange.send(block)
            sent += len(block)

    server.answer = answer
    with connected(server.url) as sink:
        with returns_in_time(1.5):
            if status == 200:
                sink.write(envelopes([make_event(1)]), 60.0)
            else:
                assert isinstance(failed(sink, 1, 60.0), Retry)
        assert sent < 32 * 1024 * 1024


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 20", b"rubbish\r\n\r\n", b"HTTP/1.1 999999 ?\r\n\r\n"])
def test_an_answer_that_is_cut_off_or_none_is_offered_again(server: HttpServer, words: bytes) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send(words)
        exchange.cut()

    server.answer = answer
    with connected(server.url) as sink:
        error = failed(sink)
        assert isinstance(error, Retry)
        server.answer = answer_204
        sink.write(envelopes([make_event(1)]), SECONDS)


@pytest.mark.parametrize("words", [b"Content-Length: 100\r\n\r\nhalf", b"Content-Le"])
def test_what_is_cut_off_behind_a_status_changes_nothing(
    server: HttpServer, words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n" + words)
        exchange.cut()

    server.answer = answer
    with connected(server.url) as sink:
        sink.write(envelopes([make_event(1)]), SECONDS)
        server.answer = answer_204
        sink.write(envelopes([make_event(2)]), SECONDS)
    assert ids(server) == ["node-a/1/1", "node-a/1/2"]
    assert "hook" not in caplog.text, "the path of a hook is often its secret"


def test_endless_headers_are_bounded(server: HttpServer) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n")
        while not exchange.ended.is_set():
            exchange.send(b"X-More: " + b"y" * 8000 + b"\r\n")

    server.answer = answer
    with connected(server.url) as sink:
        assert isinstance(failed(sink), Retry)


def test_a_server_that_closes_each_connection_is_served(server: HttpServer) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.answer(204, {"Connection": "close"})
        exchange.cut()

    server.answer = answer
    with connected(server.url) as sink:
        sink.write(envelopes([make_event(n) for n in range(10)]), SECONDS)
    assert len(server.requests) == 10


def test_a_connection_that_ended_while_idle_is_replaced(server: HttpServer) -> None:
    with connected(server.url) as sink:
        sink.write(envelopes([make_event(1)]), SECONDS)
        server.stop()
        server.start()
        sink.write(envelopes([make_event(2)]), SECONDS)
    assert ids(server) == ["node-a/1/1", "node-a/1/2"]


@pytest.mark.parametrize("batched", [False, True])
def test_a_hook_with_every_habit_loses_nothing(server: HttpServer, tmp_path: Path, batched: bool) -> None:
    """The oracle: what was written against what arrived, ids and order."""
    far = (BatchWebhookFarEnd if batched else WebhookFarEnd)(tmp_path)
    chance = random.Random(20260131)
    habits: list[Callable[[Exchange], None]] = [
        lambda exchange: exchange.answer(429, {"Retry-After": "1"}),
        lambda exchange: exchange.answer(503),
        lambda exchange: exchange.answer(301, {"Location": "/elsewhere"}),
        lambda exchange: exchange.send(b"HTTP/1.1 2"),
        Exchange.cut,
        Exchange.hold,
        drip_headers,
    ]

    def answer(exchange: Exchange) -> None:
        if chance.random() < (0.3 if batched else 0.03):
            chance.choice(habits)(exchange)
            exchange.cut()
        else:
            far.meet(exchange)  # takes it, and yet its answer may be lost
            if chance.random() < 0.03:
                exchange.cut()

    far.server.answer = answer
    far.start()
    try:
        batch = envelopes([make_event(n, app=f"app-{n % 7}") for n in range(400)])
        sink = far.sink()
        sink.connect(SECONDS)
        for first in range(0, 400, 20):
            deliver(sink, far, batch[first : first + 20], 0.4)
        sink.close(SECONDS)
        assert_complete(far, batch)
    finally:
        far.stop()


# --- TLS, proxies --------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def test_a_trusted_certificate_is_served_and_another_is_not(authority: trustme.CA, tmp_path: Path) -> None:
    with HttpServer(answer_204, server_context(authority.issue_cert("127.0.0.1"))) as server:
        with connected(server.url, tls={"ca_file": str(tmp_path / "ca.pem")}) as sink:
            sink.write(envelopes([make_event(1), make_event(2)]), SECONDS)
        with connected(server.url, tls={"verify": False}) as sink:
            sink.write(envelopes([make_event(3)]), SECONDS)
        with pytest.raises(NotConnected, match=r"not trusted: .*; set tls\.ca_file"), connected(server.url):
            pass
    assert len(server.requests) == 3


@pytest.mark.parametrize("what", ["expired", "wrong name"])
def test_a_bad_certificate_is_refused(authority: trustme.CA, tmp_path: Path, what: str) -> None:
    if what == "expired":
        bad = authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    else:
        bad = authority.issue_cert("other.example")
    with HttpServer(answer_204, server_context(bad)) as server:
        tls = {"ca_file": str(tmp_path / "ca.pem")}
        with (
            pytest.raises(NotConnected, match="expired" if what == "expired" else "not valid for"),
            connected(server.url, tls=tls),
        ):
            pass
        assert server.requests == []


def test_a_certificate_that_expires_between_two_writes_is_noticed(authority: trustme.CA, tmp_path: Path) -> None:
    expired = authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    with (
        HttpServer(answer_204, server_context(authority.issue_cert("127.0.0.1"))) as server,
        connected(server.url, tls={"ca_file": str(tmp_path / "ca.pem")}) as sink,
    ):
        sink.write(envelopes([make_event(1)]), SECONDS)
        server.stop()
        server._context = server_context(expired)
        server.start()
        error = failed(sink)
    assert isinstance(error, NotConnected)
    assert "expired" in str(error)
    assert len(server.requests) == 1


def test_the_ca_file_is_the_only_authority(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "other.pem"))
    with (
        HttpServer(answer_204, server_context(other.issue_cert("127.0.0.1"))) as server,
        pytest.raises(NotConnected, match="not trusted"),
        connected(server.url, tls={"ca_file": str(tmp_path / "ca.pem")}),
    ):
        pass


def test_mutual_tls(authority: trustme.CA, tmp_path: Path) -> None:
    context = server_context(authority.issue_cert("127.0.0.1"))
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("bridge@example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    with HttpServer(answer_204, context) as server:
        tls = {"ca_file": str(tmp_path / "ca.pem"), "client_cert": str(tmp_path / "client.pem")}
        with connected(server.url, tls=tls) as sink:
            sink.write(envelopes([make_event(1)]), SECONDS)
        del tls["client_cert"]
        with connected(server.url, tls=tls) as sink:  # TLS 1.3: a client learns it with the first answer
            assert isinstance(failed(sink), SinkError)
    assert len(server.requests) == 1


class Tunnel:
    """A proxy that understands CONNECT and asks for a password."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.server = HttpServer(self._answer)

    def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        self.seen.append(f"{request.method} {request.path} {request.headers.get('proxy-authorization')}")
        if request.method != "CONNECT":
            exchange.answer(204)
            return
        host, _, port = request.path.rpartition(":")
        with socket.create_connection((host, int(port))) as onward:
            exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                for ready in select.select([exchange.sock, onward], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        exchange.cut()
                        return
                    (onward if ready is exchange.sock else exchange.sock).sendall(data)


def test_a_proxy_is_used_for_https_and_http(authority: trustme.CA, tmp_path: Path) -> None:
    tunnel = Tunnel()
    with tunnel.server, HttpServer(answer_204, server_context(authority.issue_cert("127.0.0.1"))) as server:
        proxy = tunnel.server.url.replace("://", "://u:p@").removesuffix("/hook")
        with connected(server.url, proxy=proxy, tls={"ca_file": str(tmp_path / "ca.pem")}) as sink:
            sink.write(envelopes([make_event(1)]), SECONDS)
        assert tunnel.seen == [f"CONNECT 127.0.0.1:{server.port} Basic dTpw"]
        assert len(server.requests) == 1
        with connected("http://hook.example/in", proxy=proxy) as sink:
            sink.write(envelopes([make_event(2)]), SECONDS)
        assert tunnel.seen[1] == "POST http://hook.example/in Basic dTpw"


def test_the_proxy_of_the_environment_is_not_used(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with connected(server.url) as sink:
        sink.write(envelopes([make_event(1)]), SECONDS)
    assert len(server.requests) == 1


# --- what is said --------------------------------------------------------------------------------------------------


def test_no_error_shows_the_path_or_the_query(server: HttpServer) -> None:
    port = free_port()
    errors: list[SinkError] = []
    with pytest.raises(NotConnected) as caught, connected(f"http://127.0.0.1:{port}/hidden?key=hidden"):
        pass
    errors.append(caught.value)
    with connected(f"{server.url}/hidden?key=hidden", proxy=None) as sink:
        server.answer = lambda exchange: exchange.answer(500)
        errors.append(failed(sink))
        server.stop()
        errors.append(failed(sink))
    with pytest.raises(NotConnected) as caught, connected("http://no-such-host.invalid/hidden?key=hidden"):
        pass
    errors.append(caught.value)
    assert isinstance(errors[2], NotConnected)
    for error in errors:
        assert "hidden" not in f"{error} {error!r} {error.__cause__!r}"
        assert "http://" in str(error)


def test_the_threads_of_a_write_end_with_it(server: HttpServer) -> None:
    server.answer = Exchange.hold
    with connected(server.url) as sink:
        failed(sink, 1, 0.5)
    wait_for(lambda: not any(one.name == "http-lane" for one in threading.enumerate()), "the lane's thread to end")


def test_probe_posts_nothing(server: HttpServer) -> None:
    options = WebhookOptions.model_validate({"type": "webhook", "url": server.url, "secret": SECRET})
    assert options.probe(SECONDS) == Found(f"http://127.0.0.1:{server.port} answers")
    assert [(request.method, request.body) for request in server.requests] == [("OPTIONS", b"")]
    server.stop()
    with pytest.raises(NotConnected, match="Connection refused"):
        options.probe(SECONDS)


@pytest.mark.parametrize(
    ("status", "doubt", "remedy"),
    [
        (204, None, None),
        (405, None, None),  # many take a POST and nothing else
        (401, "answers 401 to OPTIONS (nothing was posted)", "set auth or headers"),
        (404, "answers 404", "set url to the path that takes events"),
        (503, "answers 503", "see the server's log"),
    ],
)
def test_probe_tells_what_the_server_makes_of_the_url(
    server: HttpServer, status: int, doubt: str | None, remedy: str | None
) -> None:
    server.answer = lambda exchange: exchange.answer(status)
    found = WebhookOptions.model_validate({"type": "webhook", "url": server.url}).probe(SECONDS)
    assert (doubt or "") in (found.doubt or "")
    assert (found.doubt is None) == (doubt is None)
    assert (remedy or "") in (found.remedy or "")


def test_probe_refuses_a_url_that_has_moved_and_a_server_that_is_silent(server: HttpServer) -> None:
    options = WebhookOptions.model_validate({"type": "webhook", "url": server.url, "timeout": "200ms"})
    server.answer = lambda exchange: exchange.answer(308, {"Location": "https://elsewhere.example"})
    with pytest.raises(NotConnected, match="redirects are not followed; set url to where it is now"):
        options.probe(SECONDS)
    server.answer = Exchange.hold
    with pytest.raises(SinkError, match="gives no answer within"):
        options.probe(SECONDS)
