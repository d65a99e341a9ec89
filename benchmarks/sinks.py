"""Each sink beside the plain loop of its client library, in one run: events a second that the destination acknowledged.

    python benchmarks/sinks.py [--quick] [--json FILE]

Both send the same STDOUT events of 50 apps, encoded by each. Destinations are real and local: an HTTP server (in a
process of its own, as fast as Python lets it be), mosquitto, nats-server, librdkafka's mock cluster, redis-server,
rsyslogd, a file. What is missing here is left out and said. A sink gets its events as its courier hands them over: 100
at a time for a webhook's batches, else 500. Contenders take turns, and each figure is the best of several rounds, since
other work on the machine can only make it worse.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.client as paho
import requests
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from meshbridge.model.events import Envelope, cloudevent
from meshbridge.sinks.base import Sink
from meshbridge.sinks.file import FileOptions
from meshbridge.sinks.kafka import KafkaOptions
from meshbridge.sinks.loki import LokiOptions
from meshbridge.sinks.mqtt.sink import MqttOptions
from meshbridge.sinks.nats import NatsOptions
from meshbridge.sinks.otlp import OtlpOptions
from meshbridge.sinks.webhook import WebhookOptions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the destinations that the tests have already
from tests.contract.sinks.kafka_cluster import KafkaCluster
from tests.integration.rabbitmq import RabbitMq
from tests.integration.test_sink_nats import NatsServer
from tests.integration.test_sink_redis import Server as RedisServer
from tests.integration.test_sink_syslog import Server as SyslogServer
from tests.support import Mosquitto, envelopes, make_event, program

EVENTS, ROUNDS, SECONDS = 10_000, 3, 60.0
OUTPUT = "2026-01-31T12:00:00Z INFO request served in 12 ms, status 200, 4096 bytes\n" * 3
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Contender:
    """``run`` sends a list of events, and returns when all are acknowledged."""

    name: str
    run: Callable[[Sequence[Envelope]], None]
    events: int
    target: float | None = None
    best: float = 0.0
    close: Callable[[], None] = field(default=lambda: None)


Comparison = tuple[Contender, list[Contender]]  # the plain loop, and ours


def made(sink: Sink, name: str, size: int, events: int, target: float | None = None) -> Contender:
    """One of ours, connected."""
    sink.connect(SECONDS)

    def run(batch: Sequence[Envelope]) -> None:
        for first in range(0, len(batch), size):
            sink.write(batch[first : first + size], SECONDS)

    return Contender(name, run, events, target, close=lambda: sink.close(1.0))


# --- the HTTP server -----------------------------------------------------------------------------------------------


class Hook(asyncio.Protocol):
    """Answers 204 to each request with a Content-Length, and reads nothing of it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.waiting = bytearray()
        self.due = 0  # bytes of the body at hand that have not come

    def data_received(self, data: bytes) -> None:
        if self.due > len(data):
            self.due -= len(data)
            return
        self.waiting += memoryview(data)[self.due :]
        if self.due:
            self.due = 0
            self.answer()
        while (end := self.waiting.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.waiting[:end]).lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            here = len(self.waiting) - end - 4
            del self.waiting[: end + 4 + size]
            if here < size:
                self.due = size - here
                return
            self.answer()

    def answer(self) -> None:
        self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")  # type: ignore[attr-defined]


def serve(ready: Any) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Hook, "127.0.0.1", 0)
        ready.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def http_server() -> Iterator[str]:
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Queue()
    process = spawn.Process(target=serve, args=(ready,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ready.get(timeout=60)}"
    finally:
        process.kill()
        process.join()


def poster(session: requests.Session, url: str, body: Callable[[Envelope], bytes]) -> Callable[..., None]:
    def run(batch: Sequence[Envelope]) -> None:
        for envelope in batch:
            session.post(url, data=body(envelope), headers={"Content-Type": "application/json"}).raise_for_status()

    return run


@contextlib.contextmanager
def webhook(events: int) -> Iterator[Comparison]:
    with http_server() as url, requests.Session() as session:
        plain = Contender(
            "requests.Session, one by one", poster(session, url, lambda one: cloudevent(one.event)), events // 10
        )

        def of(name: str, size: int, count: int, target: float | None = None, **settings: Any) -> Contender:
            options = WebhookOptions.model_validate({"type": "webhook", "url": url, **settings})
            return made(options.build("hook", Path()), name, size, count, target)

        yield (
            plain,
            [
                of("batches of 100", 100, events, 15.0, batch={"max_events": 100}),
                of("batches of 100, signed", 100, events, 15.0, batch={"max_events": 100}, secret=SECRET),
                of("single, 4 at once", 64, events // 10),
                of("single, 1 at once", 64, events // 10, concurrency=1),
            ],
        )


@contextlib.contextmanager
def loki(events: int) -> Iterator[Comparison]:
    def push(envelope: Envelope) -> bytes:
        event = envelope.event
        output = orjson.loads(event.data)["output"]
        entry = [str(time.time_ns()), output, {"id": event.id, "app": event.app}]
        return orjson.dumps({"streams": [{"stream": {"daemon": event.daemon}, "values": [entry]}]})

    with http_server() as url, requests.Session() as session:
        plain = Contender("requests.Session, one by one", poster(session, url, push), events // 10)
        sink = LokiOptions.model_validate({"type": "loki", "url": url}).build("loki", Path())
        yield plain, [made(sink, "loki", 500, events)]


# --- the others ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def file(events: int) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        with (place / "plain").open("ab") as target:

            def run(batch: Sequence[Envelope]) -> None:
                for envelope in batch:
                    target.write(cloudevent(envelope.event) + b"\n")
                    target.flush()

            settings = {"type": "file", "path": str(place / "ours")}
            rotate = {"max_bytes": "1MiB", "keep": 3}
            yield (
                Contender("write and flush, line by line, no fsync", run, events),
                [
                    made(FileOptions.model_validate(settings).build("f", place), "file, fsync each 500", 500, events),
                    made(
                        FileOptions.model_validate(settings | {"path": str(place / "rotated"), "rotate": rotate}).build(
                            "f", place
                        ),
                        "file, rotated at 1 MiB",
                        500,
                        events,
                    ),
                ],
            )


@contextlib.contextmanager
def mqtt(events: int) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as directory, Mosquitto(Path(directory) / "m") as broker:
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        client.max_inflight_messages_set(1000)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()

        def run(batch: Sequence[Envelope]) -> None:
            sent = [client.publish(f"plain/{one.event.app}", cloudevent(one.event), qos=1) for one in batch]
            for info in sent:
                info.wait_for_publish(SECONDS)

        sink = MqttOptions.model_validate({"type": "mqtt", "url": broker.url}).build("mqtt", Path(directory))
        yield Contender("paho loop_start, 1,000 in flight", run, events), [made(sink, "mqtt, QoS 1", 500, events)]
        client.disconnect()
        client.loop_stop()


@contextlib.contextmanager
def nats(events: int) -> Iterator[Comparison]:
    import nats as library  # noqa: PLC0415 named like the comparison

    with tempfile.TemporaryDirectory() as directory, asyncio.Runner() as runner:
        server = NatsServer(Path(directory) / "nats")
        server.start()
        server.make_stream(duplicate_window=1)
        client = runner.run(library.connect(server.url))
        stream = client.jetstream()

        async def publish(batch: Sequence[Envelope]) -> None:
            for envelope in batch:
                event = envelope.event
                subject = f"meshbridge.plain.{event.app}"
                await stream.publish(
                    subject, cloudevent(event), headers={"Nats-Msg-Id": f"{event.id}-{time.time_ns()}"}
                )

        sink = NatsOptions.model_validate({"type": "nats", "url": server.url}).build("nats", Path())
        ours = made(sink, "nats, 50 apps", 500, events // 2)
        yield Contender("await js.publish, one by one", lambda b: runner.run(publish(b)), events // 2), [ours]
        runner.run(client.close())
        server.stop()


@contextlib.contextmanager
def kafka(events: int) -> Iterator[Comparison]:
    from confluent_kafka import Producer  # noqa: PLC0415 an extra

    cluster = KafkaCluster()
    producer = Producer({"bootstrap.servers": cluster.brokers, "enable.idempotence": True, "log_level": 0})

    def run(batch: Sequence[Envelope]) -> None:
        for envelope in batch:
            producer.produce(cluster.topic, cloudevent(envelope.event), envelope.event.app)
            producer.poll(0)
        producer.flush()

    def one_by_one(batch: Sequence[Envelope]) -> None:
        for envelope in batch:
            producer.produce(cluster.topic, cloudevent(envelope.event), envelope.event.app)
            producer.flush()

    sink = KafkaOptions.model_validate({"type": "kafka", "brokers": cluster.brokers}).build("kafka", Path())
    yield (
        Contender("produce and poll, nothing waited for", run, events),
        [
            Contender("(produce and flush, one by one)", one_by_one, events // 10),
            made(sink, "kafka, acknowledged each 500", 500, events),
        ],
    )
    cluster.close()


@contextlib.contextmanager
def redis(events: int) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        server.start()
        client = server.client

        def run(batch: Sequence[Envelope]) -> None:
            for envelope in batch:
                event = envelope.event
                client.xadd("plain", {"id": event.id, "event": cloudevent(event)}, maxlen=100_000, approximate=True)

        yield Contender("xadd, one by one", run, events // 5), [made(server.sink(), "redis, pipelined", 500, events)]
        client.close()
        server.stop()


@contextlib.contextmanager
def syslog(events: int) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as directory:
        server = SyslogServer(Path(directory))
        server.start()
        handler = SysLogHandler(("127.0.0.1", server.port), socktype=socket.SOCK_STREAM)
        handler.append_nul = False

        def run(batch: Sequence[Envelope]) -> None:
            for envelope in batch:
                for line in orjson.loads(envelope.event.data)["output"].splitlines():
                    handler.emit(logging.makeLogRecord({"msg": f"{line}\n", "levelno": logging.INFO}))

        ours = made(server.sink(), "syslog over TCP, confirmed each 500", 500, events)
        yield Contender("SysLogHandler over TCP, nothing waited for", run, events), [ours]
        handler.close()
        server.stop()


@contextlib.contextmanager
def otlp(events: int) -> Iterator[Comparison]:
    with http_server() as url, requests.Session() as session:
        sink = OtlpOptions.model_validate({"type": "otlp", "url": url}).build("otlp", Path())
        uncompressed = OtlpOptions.model_validate({"type": "otlp", "url": url, "compression": "none"})

        def push(envelope: Envelope) -> bytes:
            event = envelope.event
            body = {"stringValue": orjson.loads(event.data)["output"]}
            record = {"timeUnixNano": str(time.time_ns()), "body": body, "eventName": event.type.cloudevents_type}
            return orjson.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]})

        yield (
            Contender("requests.Session, JSON, one by one", poster(session, url, push), events // 10),
            [
                made(sink, "otlp, gzip", 500, events),
                made(uncompressed.build("otlp", Path()), "otlp, not compressed", 500, events),
            ],
        )


@contextlib.contextmanager
def amqp(events: int) -> Iterator[Comparison]:
    import pika  # noqa: PLC0415 an extra

    with tempfile.TemporaryDirectory() as directory:
        server = RabbitMq(Path(directory))
        server.start()
        server.queue("plain", exchange="plain")
        server.queue("ours")
        client = server.client()
        channel = client.channel()
        channel.confirm_delivery()
        persistent = pika.BasicProperties(delivery_mode=2)

        def run(batch: Sequence[Envelope]) -> None:
            for envelope in batch:
                channel.basic_publish("plain", envelope.event.app, cloudevent(envelope.event), persistent)

        ours = made(server.sink(), "amqp, 500 under way", 500, events)
        yield Contender("BlockingChannel, confirmed one by one", run, events // 10), [ours]
        client.close()
        server.stop()


COMPARISONS: dict[str, tuple[Callable[[int], Any], str | None]] = {
    "webhook": (webhook, None),
    "loki": (loki, None),
    "file": (file, None),
    "mqtt": (mqtt, "mosquitto"),
    "nats": (nats, "nats-server"),
    "kafka": (kafka, None),
    "amqp": (amqp, "rabbitmq-server"),
    "redis": (redis, "redis-server"),
    "syslog": (syslog, "rsyslogd"),
    "otlp": (otlp, None),
}


def compare(kind: str, events: int, rounds: int) -> list[dict[str, Any]]:
    make, needed = COMPARISONS[kind]
    if needed is not None and program(needed) is None:
        print(f"{kind}: left out, needs {needed}")
        return []
    with make(events) as (plain, ours):
        contenders = [plain, *ours]
        number = 0
        for _ in range(rounds):
            for contender in contenders:
                batch = some(contender.events, number)
                number += contender.events
                began = time.perf_counter()
                contender.run(batch)
                contender.best = max(contender.best, len(batch) / (time.perf_counter() - began))
        for contender in contenders:
            contender.close()
    return [
        {
            "sink": kind,
            "contender": contender.name,
            "events_per_second": round(contender.best),
            "ratio": round(contender.best / plain.best, 2),
            "target": contender.target,
        }
        for contender in contenders
    ]


def some(count: int, number: int) -> list[Envelope]:
    """Events that no round has had: a destination may know the others."""
    data = {"finished": False, "output": OUTPUT, "position": 0}
    return envelopes([make_event(number + n, app=f"app-{n % 50}", data=data) for n in range(count)], number + 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--only", choices=COMPARISONS, action="append", help="these sinks alone")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    arguments = parser.parse_args()
    events, rounds = (1_000, 1) if arguments.quick else (EVENTS, ROUNDS)

    rows = [row for kind in arguments.only or COMPARISONS for row in compare(kind, events, rounds)]
    print(f"{'sink':<10}{'contender':<42}{'events/s':>10}{'ratio':>9}{'target':>8}")
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:g}"
        print(f"{row['sink']:<10}{row['contender']:<42}{row['events_per_second']:>10,}{row['ratio']:>9.2f}{target:>8}")
    text = json.dumps({"sinks": rows})
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
