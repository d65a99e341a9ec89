"""The redis sink at a real Redis server: streams, repetitions, limits, states, restarts, and what ``check`` finds."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from meshbridge.sinks.base import NotConnected, Refused, Retry
from meshbridge.sinks.redis import RedisOptions, RedisSink
from meshbridge.sinks.states import StateFigures
from tests.support import Process, envelopes, free_port, make_event, program, wait_for

pytestmark = pytest.mark.needs("redis-server")

SECONDS = 5.0


class Server:
    def __init__(self, directory: Path, *settings: str) -> None:
        self.port = free_port()
        self.directory = directory
        self._settings = settings
        self._process: Process | None = None

    def start(self) -> None:
        binary = program("redis-server")
        assert binary is not None
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--appendonly", "yes"]
        self._process = Process([binary, *fixed, *self._settings], self.directory / "redis.log")
        wait_for(self._answers, "redis-server")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    @property
    def client(self) -> Any:
        return redis.Redis(port=self.port, decode_responses=True)

    def sink(self, **settings: Any) -> RedisSink:
        url = f"redis://127.0.0.1:{self.port}"
        return RedisOptions.model_validate({"type": "redis", "url": url} | settings).build("r", self.directory)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.stop()


def ids(server: Server, stream: str = "meshbridge") -> list[str]:
    return [fields["id"] for _, fields in server.client.xrange(stream)]


def test_events_stand_in_the_stream_in_order_and_survive_a_restart(server: Server) -> None:
    sink = server.sink()
    sink.connect(SECONDS)
    batch = envelopes([make_event(number) for number in range(1, 501)])
    sink.write(batch, SECONDS)
    assert ids(server) == [envelope.event.id for envelope in batch]
    [(_, first), *_] = server.client.xrange("meshbridge", count=1)
    assert orjson.loads(first["event"])["id"] == first["id"] == "node-a/1/1"
    server.stop()
    with pytest.raises(NotConnected):
        sink.write(batch, SECONDS)
    server.start()
    sink.connect(SECONDS)
    sink.write(envelopes([make_event(501)]), SECONDS)
    assert len(ids(server)) == 501
    sink.close(SECONDS)


def test_exactly_once_adds_what_is_offered_again_once(server: Server) -> None:
    sink = server.sink(exactly_once=True, stream="events:{daemon}")
    sink.connect(SECONDS)
    batch = envelopes([make_event(number, run="1700000000") for number in range(1, 101)])
    for _ in range(2):
        sink.write(batch, SECONDS)
    sink.write(envelopes([make_event(2**40, run="1800000000")]), SECONDS)
    assert len(ids(server, "events:node-a")) == 101
    with pytest.raises(Refused, match="newer entries"):  # never there, and not to be added: told, not dropped
        sink.write(envelopes([make_event(200, run="1700000000")]), SECONDS)
    sink.close(SECONDS)


def test_large_output_is_divided_and_what_cannot_be_is_refused(server: Server) -> None:
    sink = server.sink(max_value_bytes=2048)
    sink.connect(SECONDS)
    large = make_event(1, data={"output": "x" * 10_000, "position": 0, "finished": False})
    sink.write(envelopes([large]), SECONDS)
    assert ids(server)[0] == "node-a/1/1/0"
    with pytest.raises(Refused) as caught:
        sink.write(envelopes([make_event(2), make_event(3, "EXIT", data={"last_error": "y" * 3000})]), SECONDS)
    assert caught.value.acknowledged == 1
    sink.close(SECONDS)


def test_a_full_server_is_waited_for(server: Server) -> None:
    sink = server.sink()
    sink.connect(SECONDS)
    server.client.config_set("maxmemory", "1")
    with pytest.raises(Retry, match="maxmemory"):
        sink.write(envelopes([make_event(1)]), SECONDS)
    server.client.config_set("maxmemory", "0")
    sink.write(envelopes([make_event(1)]), SECONDS)
    sink.close(SECONDS)


def test_a_stream_that_an_acl_forbids_costs_its_own_events_alone(server: Server) -> None:
    server.client.acl_setuser(
        "bridge", enabled=True, passwords=["+secret-of-bridge"], keys=["events:web"], commands=["+@all"]
    )
    settings = {"username": "bridge", "password": "secret-of-bridge", "stream": "events:{app}"}
    batch = envelopes([make_event(1), make_event(2, app="db"), make_event(3)])
    waiting = server.sink(**settings)
    waiting.connect(SECONDS)
    with pytest.raises(Retry, match="allow it there") as held:
        waiting.write(batch, SECONDS)
    assert (held.value.acknowledged, held.value.reason) == (1, "not_authorized")
    sink = server.sink(on_denied="dead-letter", **settings)
    sink.connect(SECONDS)
    with pytest.raises(Refused, match="dead-letters retry") as caught:
        sink.write(batch, SECONDS)
    assert caught.value.acknowledged == 1
    sink.write(batch[2:], SECONDS)
    assert ids(server, "events:web")[-1] == "node-a/1/3"
    server.client.acl_setuser("bridge", keys=["events:*"])
    waiting.write(batch[1:], SECONDS)
    assert ids(server, "events:db") == ["node-a/1/2"]
    for one in (sink, waiting):
        one.close(SECONDS)


class States:
    def __init__(self) -> None:
        self.changed: dict[tuple[str, str], str | None] = {}

    def everything(self) -> Mapping[tuple[str, str], str]:
        return {("node-a", "web"): "{}"}

    def changes(self) -> Mapping[tuple[str, str], str | None]:
        changed, self.changed = self.changed, {}
        return changed

    def figures(self) -> Mapping[tuple[str, str], StateFigures]:
        return {}

    def daemons(self) -> Mapping[str, bool | None]:
        return {}


def test_states_are_a_hash_that_follows_the_apps(server: Server) -> None:
    sink, states = server.sink(states="state:{daemon}"), States()
    sink.tell_states(states)
    sink.connect(SECONDS)
    sink.idle()
    assert server.client.hgetall("state:node-a") == {"web": "{}"}
    states.changed = {("node-a", "web"): None, ("node-a", "db"): '{"running":true}'}
    sink.idle()
    assert server.client.hgetall("state:node-a") == {"db": '{"running":true}'}
    sink.close(SECONDS)


def test_check_says_what_is_wrong(server: Server, tmp_path: Path) -> None:
    options = RedisOptions.model_validate({"type": "redis", "url": f"redis://127.0.0.1:{server.port}"})
    assert "accepts this user" in options.probe(SECONDS).text
    server.client.set("meshbridge", "x")
    with pytest.raises(NotConnected, match="is a string"):
        options.probe(SECONDS)
    server.client.config_set("requirepass", "right")
    wrong = options.model_copy(update={"username": "default"})
    with pytest.raises(NotConnected, match="refuses this user"):
        wrong.probe(SECONDS)
    nowhere = RedisOptions.model_validate({"type": "redis", "url": f"redis://127.0.0.1:{free_port()}"})
    with pytest.raises(NotConnected, match="cannot connect"):
        nowhere.probe(SECONDS)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": "http://x"}, "not the address"),
        ({"url": "redis://u:p@x"}, "stand in username"),
        ({"url": "redis+sentinel://x"}, "name of the service"),
        ({"exactly_once": True}, "stream for each daemon"),
        ({"states": "{event}"}, "belongs to no event"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RedisOptions.model_validate({"type": "redis", "url": "redis://localhost"} | settings)
