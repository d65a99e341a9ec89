"""The amqp sink at a real RabbitMQ: messages, permissions, queues that are full or missing, alarms, restarts, TLS."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme

from meshbridge.sinks.amqp.sink import AmqpSink
from meshbridge.sinks.base import NotConnected, Refused, Retry
from tests.integration.rabbitmq import PASSWORD, RabbitMq
from tests.support import envelopes, free_port, make_event, wait_for

pytestmark = [pytest.mark.needs("rabbitmq-server", "epmd"), pytest.mark.slow]

SECONDS = 10.0
OUTPUT = {"finished": False, "position": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    directory = tmp_path_factory.mktemp("rabbitmq")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(directory / "server.pem"))
    certificate.private_key_pem.write_to_path(str(directory / "server.key"))
    secure = free_port()
    made = RabbitMq(
        directory,
        settings=f"max_message_size = 20000\nlisteners.ssl.1 = 127.0.0.1:{secure}\n"
        f"ssl_options.certfile = {directory}/server.pem\nssl_options.keyfile = {directory}/server.key\n",
    )
    made.secure = f"amqps://127.0.0.1:{secure}"  # type: ignore[attr-defined]
    made.start()
    yield made
    made.stop()


@pytest.fixture
def sinks() -> Iterator[list[AmqpSink]]:
    made: list[AmqpSink] = []
    yield made
    for sink in made:
        sink.close(SECONDS)


def connected(sinks: list[AmqpSink], server: RabbitMq, **settings: Any) -> AmqpSink:
    sink = server.sink(**settings)
    sinks.append(sink)
    sink.connect(SECONDS)
    return sink


def ids(server: RabbitMq, queue: str) -> list[str]:
    return [str(properties.message_id) for _, properties, _ in server.take(queue)]


def test_messages_are_in_order_persistent_and_say_what_they_are(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    server.queue("all", exchange="shapes", **{"x-queue-type": "quorum"})
    sink = connected(sinks, server, exchange="shapes")
    batch = envelopes([make_event(number, app="web.api") for number in range(1, 1201)])
    sink.write(batch, SECONDS)
    found = server.take("all")
    assert [properties.message_id for _, properties, _ in found] == [one.event.id for one in batch]
    key, properties, body = found[0]
    assert key == "node-a.web%2Eapi.stdout"
    assert (properties.delivery_mode, properties.content_type) == (2, "application/cloudevents+json")
    assert orjson.loads(body)["id"] == properties.headers["id"] == "node-a/1/1"


def test_binary_has_the_attributes_as_headers(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    server.queue("binary", exchange="binary")
    connected(sinks, server, exchange="binary", format="binary").write(envelopes([make_event(7)]), SECONDS)
    [(_, properties, body)] = server.take("binary")
    assert properties.content_type == "application/json"
    assert properties.headers["cloudEvents_specversion"] == "1.0"
    assert properties.headers["cloudEvents_id"] == "node-a/1/7"
    assert properties.headers["cloudEvents_source"] == "appmesh://node-a"
    assert "cloudEvents_datacontenttype" not in properties.headers
    assert orjson.loads(body)["output"] == "line 7\n"


def test_names_that_no_short_string_holds_arrive(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    server.queue("long", "*.*.stdout", exchange="long")
    event = make_event(1, app="ü" * 400)
    connected(sinks, server, exchange="long").write(envelopes([event]), SECONDS)
    [(key, _, body)] = server.take("long")
    assert len(key) <= 255
    assert orjson.loads(body)["subject"] == event.app


def test_without_a_queue_an_event_is_waited_for_and_then_refused(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    server.queue("exits", "*.*.exit", exchange="partly")
    sink = connected(sinks, server, exchange="partly", denied_wait=0.1)
    batch = envelopes([make_event(1, "EXIT", data={"exit_code": 1}), make_event(2), make_event(3)])
    with pytest.raises(Retry, match=r"no queue is bound .* for node-a\.web\.stdout; bind one") as caught:
        sink.write(batch, SECONDS)
    assert (caught.value.acknowledged, caught.value.reason) == (1, "no_route")

    def refused() -> bool:
        with pytest.raises((Retry, Refused)) as again:
            sink.write(batch[1:], SECONDS)
        return isinstance(again.value, Refused)

    wait_for(refused, "the wait to be over")
    server.queue("output", "*.*.stdout", exchange="partly")
    sink.write(batch[1:], SECONDS)
    assert ids(server, "output") == ["node-a/1/2", "node-a/1/3"]


def test_what_nobody_wants_may_be_dropped(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    server.queue("only-exits", "*.*.exit", exchange="dropping")
    sink = connected(sinks, server, exchange="dropping", on_unroutable="drop")
    sink.write(envelopes([make_event(1), make_event(2, "EXIT", data={"exit_code": 1}), make_event(3)]), SECONDS)
    assert ids(server, "only-exits") == ["node-a/1/2"]


def test_a_full_queue_is_waited_for(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    limits: dict[str, Any] = {"x-max-length": 2, "x-overflow": "reject-publish"}
    server.queue("full", exchange="full", **limits)
    sink = connected(sinks, server, exchange="full")
    batch = envelopes([make_event(number) for number in range(1, 9)])
    with pytest.raises(Retry, match="nack") as caught:
        sink.write(batch, SECONDS)
    assert 2 <= caught.value.acknowledged < 8
    done = caught.value.acknowledged
    assert set(ids(server, "full")) >= {one.event.id for one in batch[:done]}


def test_a_topic_that_is_forbidden_costs_its_own_events_alone(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    server.queue("limited")
    sink = connected(sinks, server, username="limited", on_denied="dead-letter")
    apps = ["web", "web", "db", "web", "db", "web"]
    rest = envelopes([make_event(number, app=app) for number, app in enumerate(apps, 1)])
    dead = []
    for _ in range(2):
        with pytest.raises(Refused, match="topic") as caught:
            sink.write(rest, SECONDS)
        del rest[: caught.value.acknowledged]
        dead.append(rest.pop(0).event.app)
    sink.write(rest, SECONDS)
    assert dead == ["db", "db"]
    assert list(dict.fromkeys(ids(server, "limited"))) == [f"node-a/1/{number}" for number in (1, 2, 4, 6)]
    waiting = connected(sinks, server, username="limited")
    with pytest.raises(Retry, match="allow it there"):
        waiting.write(envelopes([make_event(9, app="db")]), SECONDS)


def test_a_user_who_may_not_write_is_waited_for(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    server.queue("unused")
    with pytest.raises(Retry, match="access to exchange") as caught:
        connected(sinks, server, username="reader").write(envelopes([make_event(1)]), SECONDS)
    assert caught.value.reason == "not_authorized"
    assert PASSWORD not in str(caught.value)


def test_output_that_the_broker_finds_too_large_is_divided(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    server.queue("large", exchange="large")
    sink = connected(sinks, server, exchange="large")
    large = make_event(2, data=OUTPUT | {"output": "x" * 50_000})
    sink.write(envelopes([make_event(1), large, make_event(3)]), SECONDS)
    bodies = [orjson.loads(body) for _, _, body in server.take("large")]
    arrived = list(dict.fromkeys(body["id"] for body in bodies))
    assert (arrived[0], arrived[-1]) == ("node-a/1/1", "node-a/1/3")
    parts = {body["id"]: body["data"]["output"] for body in bodies if body["id"].startswith("node-a/1/2/")}
    assert "".join(parts.values()) == "x" * 50_000
    with pytest.raises(Refused) as caught:
        sink.write(envelopes([make_event(4), make_event(5, "EXIT", data={"last_error": "y" * 30_000})]), SECONDS)
    assert (caught.value.acknowledged, caught.value.reason) == (1, "too_large")


def test_an_exchange_that_is_deleted_is_made_again(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    sink = connected(sinks, server, exchange="passing")
    client = server.client()
    client.channel().exchange_delete("passing")
    client.close()
    with pytest.raises(NotConnected, match="no exchange") as caught:
        sink.write(envelopes([make_event(1)]), SECONDS)
    assert caught.value.reason == "no_exchange"
    sink.connect(SECONDS)
    server.queue("passing", exchange="passing")
    sink.write(envelopes([make_event(1)]), SECONDS)
    assert ids(server, "passing") == ["node-a/1/1"]


def test_an_alarm_of_the_broker_is_waited_for(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    server.queue("alarm", exchange="alarm")
    sink = connected(sinks, server, exchange="alarm")
    server.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:

        def is_blocked() -> bool:
            try:
                sink.write(envelopes([make_event(1)]), 1.0)
            except Retry as error:
                return error.reason == "blocked" and "memory" in str(error)
            except NotConnected:
                sink.connect(SECONDS)
            return False

        wait_for(is_blocked, "the sink to say that it is blocked")
    finally:
        server.control("set_vm_memory_high_watermark", "absolute", "4GB")

    def is_through() -> bool:
        try:
            sink.write(envelopes([make_event(2)]), SECONDS)
        except Retry:
            return False
        return True

    wait_for(is_through, "the alarm to end")
    assert ids(server, "alarm")[-1] == "node-a/1/2"


def test_heartbeats_keep_an_idle_connection(server: RabbitMq, sinks: list[AmqpSink]) -> None:
    sink = connected(sinks, server, heartbeat=1, exchange="alarm")
    until = time.monotonic() + 5  # a broker ends a connection that is silent for three heartbeats

    def idled() -> bool:
        sink.idle()
        return time.monotonic() > until

    wait_for(idled, "five seconds to be over")


def test_check_says_what_is_wrong(server: RabbitMq, tmp_path: Path) -> None:
    found = server.options(exchange="nowhere").probe(SECONDS)
    assert "RabbitMQ 3" in found.text
    assert "exchange nowhere will be made" in found.text
    with pytest.raises(NotConnected, match="no exchange 'nowhere'"):
        server.options(exchange="nowhere", declare_exchange=False).probe(SECONDS)
    with pytest.raises(NotConnected, match="refuses user bridge") as caught:
        server.options(password="wrong-password").probe(SECONDS)
    assert "wrong-password" not in str(caught.value)
    with pytest.raises(NotConnected, match="refuses virtual host other"):
        server.options(url=f"amqp://127.0.0.1:{server.port}/other").probe(SECONDS)
    with pytest.raises(NotConnected, match=r"cannot connect .* refused"):
        server.options(url=f"amqp://127.0.0.1:{free_port()}").probe(SECONDS)
    secure = server.secure  # type: ignore[attr-defined]
    with pytest.raises(NotConnected, match=r"not trusted: .*; set tls\.ca_file"):
        server.options(url=secure).probe(SECONDS)
    trusted = server.options(url=secure, tls={"ca_file": str(server.directory / "ca.pem")})
    assert "accepts this user" in trusted.probe(SECONDS).text
    with pytest.raises(NotConnected, match="speaks TLS alone"):
        server.options(url=secure.replace("amqps", "amqp")).probe(SECONDS)
    with pytest.raises(NotConnected, match="no TLS"):
        server.options(url=f"amqps://127.0.0.1:{server.port}").probe(SECONDS)
