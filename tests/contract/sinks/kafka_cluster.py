"""librdkafka's mock cluster: brokers that speak the real protocol on loopback, and fail on request."""

import ctypes
import time
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, TopicPartition

PRODUCE = 0  # the API key
_PRODUCER = 0  # the kind of client


def _library() -> ctypes.CDLL:
    beside = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    [path] = beside.glob("librdkafka*.so*")
    library = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class KafkaCluster:
    """One broker, one topic."""

    def __init__(self, topic: str = "meshbridge", partitions: int = 3) -> None:
        self.topic = topic
        self._partitions = partitions
        self._library = _library()
        error = ctypes.create_string_buffer(512)
        settings = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._library.rd_kafka_conf_set(settings, b"log_level", b"0", error, ctypes.c_size_t(512))
        client = self._library.rd_kafka_new(_PRODUCER, settings, error, ctypes.c_size_t(512))
        assert client, error.value
        self._client = ctypes.c_void_p(client)
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._client, 1))
        self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        self.brokers = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self._consumer: Consumer | None = None
        self._messages: list[Any] = []

    def fail(self, *errors: int, request: int = PRODUCE) -> None:
        """The next requests of this kind fail so; -195 cuts their connection."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(errors)), array
        )

    def delay(self, milliseconds: int) -> None:
        """The next request to produce is answered so much later."""
        self._library.rd_kafka_mock_broker_push_request_error_rtts(
            self._cluster,
            ctypes.c_int32(1),
            ctypes.c_int16(PRODUCE),
            ctypes.c_size_t(1),
            ctypes.c_int(0),
            ctypes.c_int(milliseconds),
        )

    def down(self) -> None:
        self._library.rd_kafka_mock_broker_set_down(self._cluster, ctypes.c_int32(1))

    def up(self) -> None:
        self._library.rd_kafka_mock_broker_set_up(self._cluster, ctypes.c_int32(1))

    def messages(self) -> list[Any]:
        """What the topic holds, partition by partition, in order."""
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    "bootstrap.servers": self.brokers,
                    "group.id": "oracle",
                    "enable.auto.commit": False,
                    "isolation.level": "read_uncommitted",
                    "fetch.wait.max.ms": 10,
                    "log_level": 0,
                }
            )
            self._consumer.assign([TopicPartition(self.topic, n, 0) for n in range(self._partitions)])
        ends = {
            n: self._consumer.get_watermark_offsets(TopicPartition(self.topic, n), timeout=10)[1]
            for n in range(self._partitions)
        }
        deadline = time.monotonic() + 20
        while len(self._messages) < sum(ends.values()):
            assert time.monotonic() < deadline, "the oracle reads nothing"
            self._messages += [one for one in self._consumer.consume(1000, timeout=0.05) if one.error() is None]
        return sorted(self._messages, key=lambda one: (one.partition(), one.offset()))

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)
