"""A restart of each server under load: its sink, driven by a courier over a journal, loses nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import orjson
import pytest

from meshbridge.delivery import Courier
from meshbridge.fields import RetryWaits
from meshbridge.journal import Journal, JournalOptions
from meshbridge.sinks.nats import NatsOptions
from tests.contract.sinks.far_otlp import OtlpFarEnd
from tests.integration.rabbitmq import RabbitMq
from tests.integration.test_sink_nats import NatsServer
from tests.integration.test_sink_redis import Server as RedisServer
from tests.integration.test_sink_syslog import Server as SyslogServer
from tests.integration.test_sink_syslog import ids as syslog_ids
from tests.support import make_event, thread, wait_for

pytestmark = pytest.mark.slow

EVENTS, RESTARTS, STEP = 3_000, 3, 50
# Syslog has no acknowledgement: what the server's host had received, and the server had not read, goes with it.
UNREAD = {"rsyslog": RESTARTS * 128 * 1024 // 200}
APPS = ("web", "db", "cache")


class Place(Protocol):
    """A server that can be stopped and started, and the sink that sends there."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def options(self) -> Any: ...
    def arrived(self) -> list[str]: ...


class Redis(RedisServer):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "--appendfsync", "always")

    def options(self) -> Any:
        return self.sink(max_length=None)._options

    def arrived(self) -> list[str]:
        return [fields["id"] for _, fields in self.client.xrange("meshbridge")]


class Rabbit(RabbitMq):
    def start(self) -> None:
        super().start()
        self.queue("all", **{"x-queue-type": "quorum"})

    def arrived(self) -> list[str]:
        return [str(properties.message_id) for _, properties, _ in self.take("all")]


class Syslog(SyslogServer):
    def options(self) -> Any:
        return self.sink()._options

    def arrived(self) -> list[str]:
        return syslog_ids(self)


class Nats(NatsServer):
    def start(self) -> None:
        super().start()
        if not self._has_stream:
            self.make_stream()
            self._has_stream = True

    _has_stream = False

    def options(self) -> Any:
        return NatsOptions.model_validate({"type": "nats", "url": self.url})

    def arrived(self) -> list[str]:
        return [str(orjson.loads(message.data)["id"]) for message in self.stored()]


class Otlp(OtlpFarEnd):
    def options(self) -> Any:
        return self.sink()._options  # type: ignore[attr-defined]


PLACES: dict[str, Callable[[Path], Any]] = {
    "redis": Redis,
    "rabbitmq": Rabbit,
    "rsyslog": Syslog,
    "nats": Nats,
    "otlp": Otlp,
}
NEEDS = {"redis": "redis-server", "rabbitmq": "rabbitmq-server", "rsyslog": "rsyslogd", "nats": "nats-server"}


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.needs(NEEDS[name]) if name in NEEDS else ()) for name in PLACES]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    directory = tmp_path / "server"
    if request.param != "nats":
        directory.mkdir()
    made = PLACES[request.param](directory)
    made.start()
    yield made
    made.stop()


def test_restarts_under_load_lose_nothing(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    journal = Journal(JournalOptions(path=tmp_path / "journal"))
    journal.open()
    options = place.options().model_copy(update={"retry": RetryWaits(initial=0.02, max=0.2)})
    courier = Courier("s", options.build("s", tmp_path), journal, options)
    courier.start()
    events = [make_event(number, app=APPS[number % len(APPS)]) for number in range(1, EVENTS + 1)]

    for begin in range(0, EVENTS, EVENTS // RESTARTS):

        def produce(begin: int = begin) -> None:
            for first in range(begin, begin + EVENTS // RESTARTS, STEP):
                journal.append(events[first : first + STEP])

        with thread(produce, "producer"):
            wait_for(lambda least=begin: courier.status().delivered > least, "the first of these events")  # type: ignore[misc]
            place.stop()
            place.start()
    wait_for(lambda: courier.status().lag_events == 0, "everything to be delivered")
    assert courier.stop(10)
    assert journal.dead_letters("s") == 0
    journal.close()
    ids, arrived = {event.id for event in events}, set[str]()
    lost = UNREAD.get(request.node.callspec.params["place"], 0)

    def complete() -> bool:
        arrived.update(place.arrived())
        return len(ids - arrived) <= lost

    wait_for(complete, "all of it at the server")
    assert arrived <= ids
