"""The Kafka sink and librdkafka's mock cluster, whose brokers speak the real protocol and fail on request."""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from pydantic import ValidationError

from meshbridge.model.events import Envelope
from meshbridge.sinks.base import NotConnected, Refused, Retry, SinkError
from meshbridge.sinks.kafka import KafkaOptions, KafkaSink
from tests.contract.sinks.http_server import HttpServer
from tests.contract.sinks.kafka_cluster import KafkaCluster
from tests.support import envelopes, free_port, make_event, returns_in_time, wait_for

SECONDS = 5.0
CUT, NOT_LEADER, NOT_ENOUGH_REPLICAS, TOO_LARGE, NOT_AUTHORIZED = -195, 6, 19, 10, 29


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    made = KafkaCluster()
    yield made
    made.close()


@contextlib.contextmanager
def connected(cluster: KafkaCluster, **settings: Any) -> Iterator[KafkaSink]:
    sink = KafkaSink(KafkaOptions.model_validate({"type": "kafka", "brokers": cluster.brokers, **settings}))
    try:
        sink.connect(SECONDS)
        yield sink
    finally:
        sink.close(SECONDS)


def some(count: int, first: int = 1) -> list[Envelope]:
    return envelopes([make_event(first + n, app=f"app-{n % 7}") for n in range(count)], first)


def headers_of(message: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers()}


def assert_complete(cluster: KafkaCluster, batch: list[Envelope], *, once: bool = True) -> None:
    """The oracle: ids and order of each app, and each app in one partition."""
    messages = cluster.messages()
    for app in {envelope.event.app for envelope in batch}:
        of_app = [message for message in messages if message.key() == app.encode()]
        assert len({message.partition() for message in of_app}) == 1
        written = [envelope.event.id for envelope in batch if envelope.event.app == app]
        arrived = [headers_of(message)["id"] for message in of_app]
        if not once:
            arrived = list(dict.fromkeys(reversed(arrived)))[::-1]
        assert arrived == written
    assert len(messages) == len(batch) or not once


def test_events_are_stored_by_app_in_order(cluster: KafkaCluster) -> None:
    with connected(cluster) as sink:
        for first in range(1, 1001, 250):
            sink.write(some(250, first), SECONDS)
    assert_complete(cluster, [one for first in range(1, 1001, 250) for one in some(250, first)])
    message = cluster.messages()[0]
    assert headers_of(message)["content-type"] == "application/cloudevents+json"
    assert orjson.loads(message.value())["id"] == headers_of(message)["id"]
    assert len({one.partition() for one in cluster.messages()}) > 1


def test_binary_mode_has_the_attributes_in_headers(cluster: KafkaCluster) -> None:
    with connected(cluster, format="binary") as sink:
        sink.write(envelopes([make_event(1, app="wéb")]), SECONDS)
    [message] = cluster.messages()
    assert message.key() == "wéb".encode()
    assert headers_of(message)["ce_id"] == "node-a/1/1"
    assert headers_of(message)["ce_subject"] == "wéb"
    assert headers_of(message)["content-type"] == "application/json"
    assert orjson.loads(message.value())["output"] == "line 1\n"


@pytest.mark.parametrize("error", [CUT, NOT_LEADER, NOT_ENOUGH_REPLICAS])
def test_what_passes_by_itself_costs_no_event_no_order_and_no_duplicate(cluster: KafkaCluster, error: int) -> None:
    with connected(cluster) as sink:
        sink.write(some(50), SECONDS)
        cluster.fail(error, error)
        sink.write(some(50, 51), SECONDS)
    assert_complete(cluster, some(50) + some(50, 51))


def test_a_broker_that_restarts_loses_nothing(cluster: KafkaCluster) -> None:
    batches = [some(50, first) for first in range(1, 301, 50)]
    failures = 0
    with connected(cluster, properties={"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 50}) as sink:
        online = True
        for number, batch in enumerate(batches):
            rest = list(batch)
            patience = 0.5  # of the first try, which meets the broker away; a producer's first write takes as long
            if number in {1, 3}:
                cluster.down()
                threading.Timer(0.7, cluster.up).start()

            def attempt(rest: list[Envelope] = rest) -> bool:
                nonlocal failures, online, patience
                try:
                    if not online:
                        sink.connect(SECONDS)
                        online = True
                    sink.write(rest, patience)
                    rest.clear()
                except SinkError as error:
                    failures += 1
                    patience = SECONDS
                    del rest[: error.acknowledged]
                    online = online and not isinstance(error, NotConnected)
                return not rest

            wait_for(attempt, "the batch to be stored")
    assert failures
    assert_complete(cluster, [one for batch in batches for one in batch], once=False)


def test_a_broker_that_does_not_answer_costs_the_time_given(cluster: KafkaCluster) -> None:
    with connected(cluster) as sink:
        sink.write(some(10), SECONDS)
        cluster.delay(20_000)
        with returns_in_time(1.0), pytest.raises(NotConnected, match="messages wait") as caught:
            sink.write(some(10, 11), 1.0)
        assert caught.value.acknowledged <= 10
        sink.connect(SECONDS)
        sink.write(some(10, 11)[caught.value.acknowledged :], SECONDS)
    assert_complete(cluster, some(10) + some(10, 11), once=False)


def test_a_verdict_that_stays_is_told(cluster: KafkaCluster) -> None:
    for error, kind, reason in (
        (NOT_AUTHORIZED, Retry, "topic_authorization_failed"),
        (TOO_LARGE, Refused, "too_large"),
    ):
        with connected(cluster) as sink:
            cluster.fail(error)
            with pytest.raises(kind) as caught:
                sink.write(envelopes([make_event(1)]), SECONDS)
        assert (caught.value.acknowledged, caught.value.reason) == (0, reason)


def test_output_that_the_brokers_refuse_for_its_size_is_divided(cluster: KafkaCluster) -> None:
    text = "0123456789" * 1200
    large = make_event(2, data={"finished": False, "output": text, "position": 0})
    with connected(cluster) as sink:
        cluster.fail(TOO_LARGE, TOO_LARGE)
        sink.write(envelopes([large]), SECONDS)
        sink.write(envelopes([make_event(3)]), SECONDS)
    messages = cluster.messages()
    outputs = [orjson.loads(message.value())["data"]["output"] for message in messages]
    assert len(outputs) > 3
    assert "".join(outputs) == f"{text}line 3\n"


def test_a_topic_that_is_denied_makes_a_dead_letter_at_once_where_that_is_set(cluster: KafkaCluster) -> None:
    with connected(cluster, on_denied="dead-letter") as sink:
        cluster.fail(NOT_AUTHORIZED)
        with pytest.raises(Refused, match=r"topic meshbridge\); allow it there"):
            sink.write(envelopes([make_event(1)]), SECONDS)


def cause_at(port: int, **settings: Any) -> str:
    options = {"type": "kafka", "brokers": f"127.0.0.1:{port}", **settings}
    sink = KafkaSink(KafkaOptions.model_validate(options))
    with pytest.raises(NotConnected) as caught:
        sink.connect(SECONDS)
    sink.close(0)
    return str(caught.value)


def test_the_cause_of_a_connection_that_fails_is_told(tmp_path: Path) -> None:
    assert "connection refused; see whether the broker runs" in cause_at(free_port())
    with HttpServer(lambda exchange: exchange.answer(400)) as server:
        assert "speaks HTTP, not Kafka" in cause_at(server.port)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with HttpServer(lambda exchange: exchange.answer(400), context) as server:
        assert "speaks TLS; set tls" in cause_at(server.port)
        assert "not trusted" in cause_at(server.port, tls={})


@pytest.mark.parametrize("shape", ["cloudevents", "binary"])
def test_output_above_the_limit_is_divided(cluster: KafkaCluster, shape: str) -> None:
    text = "é€𝄞\x1b[1m\n" * 4000
    large = make_event(2, data={"finished": False, "output": text, "position": 9})
    with connected(cluster, max_message_bytes="16KiB", format=shape) as sink:
        sink.write(envelopes([make_event(1), large, make_event(3)]), SECONDS)
    messages = cluster.messages()
    assert all(len(message.value()) <= 16 * 1024 for message in messages)
    bodies = [orjson.loads(message.value()) for message in messages]
    outputs = [(body if shape == "binary" else body["data"])["output"] for body in bodies]
    assert "".join(outputs) == f"line 1\n{text}line 3\n"


def test_an_event_that_is_too_large_is_refused_behind_those_before_it(cluster: KafkaCluster) -> None:
    large = make_event(2, "EXIT", data={"last_error": "x" * 9000})
    with connected(cluster, max_message_bytes="4KiB") as sink, pytest.raises(Refused) as caught:
        sink.write(envelopes([make_event(1), large, make_event(3)]), SECONDS)
    assert (caught.value.acknowledged, caught.value.reason) == (1, "too_large")
    assert [headers_of(message)["id"] for message in cluster.messages()] == ["node-a/1/1"]


def test_a_topic_for_each_app(cluster: KafkaCluster) -> None:
    with connected(cluster, topic="mesh{app}") as sink:
        sink.write(envelopes([make_event(1, app="bridge")]), SECONDS)
    assert len(cluster.messages()) == 1
    made = KafkaSink(KafkaOptions.model_validate({"type": "kafka", "brokers": "b", "topic": "x.{app}.{event}"}))
    assert made._topic(make_event(1, app="a b/é")) == "x.a_b__.stdout"


def test_a_queue_that_is_full_is_waited_for(cluster: KafkaCluster) -> None:
    with connected(cluster, properties={"queue.buffering.max.messages": 10}) as sink:
        sink.write(some(200), SECONDS)
    assert_complete(cluster, some(200))


def test_what_is_missing_is_said(cluster: KafkaCluster) -> None:
    absent = KafkaOptions.model_validate({"type": "kafka", "brokers": f"127.0.0.1:{free_port()}"})
    with pytest.raises(NotConnected, match="cannot connect to Kafka at"):
        absent.probe(1.0)
    KafkaOptions.model_validate({"type": "kafka", "brokers": cluster.brokers}).probe(SECONDS)
    with (
        pytest.raises(NotConnected, match=r"see compression\.") as caught,
        connected(cluster, properties={"compression.type": "hunter2"}),
    ):
        pass
    with (
        pytest.raises(NotConnected, match=r"see no\.such\.thing"),
        connected(cluster, properties={"no.such.thing": "hunter2"}),
    ):
        pass
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"brokers": []}, "at least 1"),
        ({"topic": "a b"}, "letters, digits"),
        ({"topic": "{thing}"}, "unknown place"),
        ({"username": "u"}, "go together"),
        ({"properties": {"acks": "1"}}, "set by meshbridge"),
        ({"properties": {"sasl.password": "hunter2"}}, "key of its own"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        KafkaOptions.model_validate({"type": "kafka", "brokers": "b:9092", **settings})
    assert "hunter2" not in " ".join(error["msg"] for error in caught.value.errors())


def test_secrets_and_tls_reach_the_library_and_nobody_else(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2\n", encoding="ascii")
    tls = {"ca_file": "/ca.pem", "client_cert": "/both.pem"}
    given = {"username": "u", "password_file": str(password), "tls": tls, "properties": {"linger.ms": 7}}
    options = KafkaOptions.model_validate({"type": "kafka", "brokers": "a:1,b:2", **given})
    settings = KafkaSink(options)._settings()
    assert settings["security.protocol"] == "SASL_SSL"
    assert settings["sasl.password"] == "hunter2"
    assert settings["enable.ssl.certificate.verification"] is True
    assert settings["ssl.key.location"] == "/both.pem"
    assert settings["bootstrap.servers"] == "a:1,b:2"
    assert settings["linger.ms"] == "7"
    assert "hunter2" not in str(options.model_dump(mode="json"))
    password.unlink()
    with pytest.raises(NotConnected, match="cannot read password_file"):
        KafkaSink(options)._settings()


def test_without_the_extra_there_is_one_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ValidationError) as caught:
        KafkaOptions.model_validate({"type": "kafka", "brokers": "b"})
    [problem] = caught.value.errors()
    assert problem["msg"].endswith("needs the extra kafka: pip install 'meshbridge[kafka]'")
