"""Messages that are large for the settings or the broker, and how long brokers keep them, on a real mosquitto."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from meshbridge.fields import Format
from meshbridge.model.events import Event
from meshbridge.sinks.base import Refused, Retry
from meshbridge.sinks.mqtt.sink import MqttOptions, MqttSink
from tests.support import Mosquitto, Subscriber, envelopes, make_event, wait_for

pytestmark = pytest.mark.needs("mosquitto")

# Two million bytes: characters of one to four bytes, quotes and line ends that JSON escapes, colours.
TEXT = ('aé€𝄞"\n\x1b[31mred\x1b[0m' * 91_000)[: 2 * 1024 * 1024]


def sink_for(url: str, **options: object) -> MqttSink:
    return MqttSink(MqttOptions.model_validate({"type": "mqtt", "url": url} | options), "meshbridge-test")


def output(sequence: int, text: str) -> Event:
    return make_event(sequence, data={"finished": True, "output": text, "position": 100})


def data_of(message: Any, form: Format) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(message.payload)
    return body if form is Format.BINARY else body["data"]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("form", Format)
def test_two_megabytes_arrive_in_parts_that_join_to_the_whole(mosquitto: Mosquitto, form: Format, qos: int) -> None:
    sink = sink_for(mosquitto.url, format=form, qos=qos)
    with Subscriber(mosquitto.port) as subscriber:
        sink.connect(5)
        sink.write(envelopes([make_event(1), output(2, TEXT), make_event(3)]), 20)
        wait_for(lambda: subscriber.messages and b"line 3" in subscriber.messages[-1].payload, "the last event")
        sink.close(2)
    parts = subscriber.messages[1:-1]
    ids = [dict(vars(message.properties)["UserProperty"])["id"] for message in parts]
    assert ids == [f"node-a/1/2/{number}" for number in range(len(parts))]
    assert all(len(message.payload) <= 256 * 1024 for message in parts)
    said = [data_of(message, form) for message in parts]
    assert "".join(one["output"] for one in said) == TEXT
    assert [one["finished"] for one in said] == [False] * (len(parts) - 1) + [True]
    positions = [one["position"] for one in said]
    lengths = [len(one["output"].encode()) for one in said]
    assert positions == [100 + sum(lengths[:number]) for number in range(len(parts))]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_parts_are_more_than_a_window_holds(tmp_path: Path, protocol: str) -> None:
    with Mosquitto(tmp_path / "narrow", "max_inflight_messages 3\n") as broker, Subscriber(broker.port) as subscriber:
        sink = sink_for(broker.url, protocol=protocol, max_payload_bytes="2KiB")
        sink.connect(5)
        sink.write(envelopes([output(1, TEXT[:40_000]), make_event(2), output(3, TEXT[:40_000])]), 20)

        def last_output() -> str:
            events = [event for event in subscriber.events() if event["id"].startswith("node-a/1/3/")]
            return "".join(event["data"]["output"] for event in events)

        wait_for(lambda: last_output() == TEXT[:40_000], "all parts of the last event")
        sink.close(2)
    ids = [event["id"] for event in subscriber.events()]
    half = (len(ids) - 1) // 2
    assert ids == [f"node-a/1/1/{n}" for n in range(half)] + ["node-a/1/2"] + [f"node-a/1/3/{n}" for n in range(half)]


@pytest.mark.parametrize("form", Format)
def test_parts_fit_a_broker_that_takes_little(tmp_path: Path, form: Format) -> None:
    with Mosquitto(tmp_path / "small", "max_packet_size 4000\n") as broker, Subscriber(broker.port) as subscriber:
        sink = sink_for(broker.url, format=form)
        sink.connect(5)
        sink.write(envelopes([output(1, TEXT[:30_000]), make_event(2)]), 10)
        wait_for(lambda: subscriber.messages and b"line 2" in subscriber.messages[-1].payload, "the last event")
        sink.close(2)
    said = [data_of(message, form) for message in subscriber.messages[:-1]]
    assert len(said) > 8
    assert "".join(one["output"] for one in said) == TEXT[:30_000]


def test_a_message_larger_than_the_broker_takes_is_refused_alone(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "small", "max_packet_size 4000\n") as broker, Subscriber(broker.port) as subscriber:
        sink = sink_for(broker.url)
        sink.connect(5)
        big = make_event(3, "EXIT", data={"exit_code": 1, "last_error": "x" * 5000})
        with pytest.raises(Refused, match=r"cannot be divided, and the limit is 3\d\d\d") as caught:
            sink.write(envelopes([make_event(1), make_event(2), big, make_event(4)]), 5)
        assert caught.value.acknowledged == 2
        sink.write(envelopes([make_event(4)]), 5)
        wait_for(lambda: len(subscriber.messages) == 3, "the others")
        sink.close(2)


def test_a_part_that_the_broker_refuses_ends_the_batch_at_its_event(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite meshbridge/node-a/web/#\n")
    rules.chmod(0o644)
    tmp_path.chmod(0o755)
    with Mosquitto(tmp_path / "acl-broker", f"acl_file {rules}\nuser root\n") as broker:
        sink = sink_for(broker.url, max_payload_bytes="2KiB")
        sink.connect(5)
        large = make_event(2, app="db", data={"finished": False, "output": "x" * 20_000, "position": 0})
        with pytest.raises(Retry, match=r"Not authorized \(topic meshbridge/node-a/db/stdout\)") as caught:
            sink.write(envelopes([output(1, "y" * 20_000), large, make_event(3)]), 5)
        assert caught.value.acknowledged == 1
        sink.close(2)


def test_an_event_that_nobody_took_expires(mosquitto: Mosquitto) -> None:
    sink = sink_for(mosquitto.url, message_expiry="1h")
    with Subscriber(mosquitto.port) as subscriber:
        sink.connect(5)
        sink.write(envelopes([make_event(1)]), 5)
        wait_for(lambda: subscriber.messages, "the event")
        sink.close(2)
    (message,) = subscriber.messages
    assert 3590 < vars(message.properties)["MessageExpiryInterval"] <= 3600
