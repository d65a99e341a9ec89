"""librdkafka's mock cluster. It fails requests, not single events, so it can refuse none of them."""

from pathlib import Path

from meshbridge.model.events import Event
from meshbridge.sinks.base import Sink
from meshbridge.sinks.kafka import KafkaOptions
from tests.contract.sinks.far_end import Say, Script
from tests.contract.sinks.kafka_cluster import KafkaCluster

_TOPIC_AUTHORIZATION_FAILED = 29  # librdkafka doesn't try again by itself after this one


class _Requests(Script):
    """Plans for the next request what the test plans for an event, which will be in it."""

    def __init__(self, cluster: KafkaCluster) -> None:
        super().__init__()
        self._cluster = cluster

    def plan(self, event: Event, *says: Say) -> None:
        del event
        if says[0] is Say.BUSY:
            self._cluster.fail(_TOPIC_AUTHORIZATION_FAILED)
        elif says[0] is Say.SILENT:
            self._cluster.delay(20_000)


class KafkaFarEnd:
    says = frozenset({Say.OK, Say.BUSY, Say.SILENT})
    keeps_first_order = True

    def __init__(self, directory: Path) -> None:
        self._cluster = KafkaCluster(partitions=1)
        self.script: Script = _Requests(self._cluster)
        self._directory = directory

    def start(self) -> None:
        self._cluster.up()

    def stop(self) -> None:
        self._cluster.down()

    def sink(self) -> Sink:
        return KafkaOptions.model_validate({"type": "kafka", "brokers": self._cluster.brokers}).build(
            "kafka", self._directory
        )

    def arrived(self) -> list[str]:
        return [dict(message.headers())["id"].decode() for message in self._cluster.messages()]

    def close(self) -> None:
        self._cluster.close()
