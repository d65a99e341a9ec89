"""The MQTT sink against a real mosquitto."""

import signal
from pathlib import Path

import pytest

from meshbridge.fields import Format
from meshbridge.sinks.base import NotConnected, Retry
from meshbridge.sinks.memory import VolatileMemory
from meshbridge.sinks.mqtt.sink import MqttOptions, MqttSink
from tests.support import Mosquitto, Subscriber, envelopes, free_port, make_event, returns_in_time, wait_for

pytestmark = pytest.mark.needs("mosquitto")


def sink_for(url: str, **options: object) -> MqttSink:
    return MqttSink(MqttOptions.model_validate({"type": "mqtt", "url": url} | options), "meshbridge-test")


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_every_event_arrives_once_and_in_order(mosquitto: Mosquitto, protocol: str, qos: int) -> None:
    sink = sink_for(mosquitto.url, protocol=protocol, qos=qos)
    batch = envelopes([make_event(number) for number in range(1, 1001)])
    with Subscriber(mosquitto.port) as subscriber:
        sink.connect(5)
        sink.write(batch, 20)
        sink.write(batch[:1], 20)
        wait_for(lambda: len(subscriber.messages) == 1001, "1,001 messages")
        sink.close(2)
    ids = [event["id"] for event in subscriber.events()]
    assert ids == [envelope.event.id for envelope in [*batch, batch[0]]]


def test_binary_mode_carries_the_attributes_beside_the_data(mosquitto: Mosquitto) -> None:
    sink = sink_for(mosquitto.url, format=Format.BINARY)
    with Subscriber(mosquitto.port) as subscriber:
        sink.connect(5)
        sink.write(envelopes([make_event(7, "EXIT", data={"exit_code": 3})]), 5)
        wait_for(lambda: subscriber.messages, "the message")
        sink.close(2)
    (message,) = subscriber.messages
    assert message.payload == b'{"exit_code":3}'
    properties = vars(message.properties)
    assert properties["ContentType"] == "application/json"
    assert ("type", "io.appmesh.app.exit") in properties["UserProperty"]
    assert ("id", "node-a/1/7") in properties["UserProperty"]


def test_a_broker_that_is_not_there_is_named() -> None:
    port = free_port()
    with pytest.raises(NotConnected, match=f"cannot connect to broker 127.0.0.1:{port}: Connection refused"):
        sink_for(f"mqtt://127.0.0.1:{port}").connect(5)


def test_a_broker_that_ends_is_noticed_when_idle_and_when_writing(mosquitto: Mosquitto) -> None:
    sink = sink_for(mosquitto.url)
    sink.connect(5)
    sink.idle()
    mosquitto.stop()

    def noticed() -> bool:
        try:
            sink.idle()
        except NotConnected:
            return True
        return False

    wait_for(noticed, "the loss")
    with pytest.raises(NotConnected):
        sink.write(envelopes([make_event(1)]), 5)
    mosquitto.start()
    sink.connect(5)
    sink.write(envelopes([make_event(1)]), 5)
    sink.close(2)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_broker_that_stands_still_ends_the_write_in_time_with_what_is_acknowledged(
    mosquitto: Mosquitto, protocol: str
) -> None:
    sink = sink_for(mosquitto.url, protocol=protocol)
    sink.connect(5)
    mosquitto.send(signal.SIGSTOP)
    try:
        with returns_in_time(0.5):
            big = {"finished": False, "output": "x" * 100_000, "position": 0}
            with pytest.raises(NotConnected, match=r"acknowledges nothing|does not read") as caught:
                sink.write(envelopes([make_event(number, data=big) for number in range(1, 200)]), 0.5)
        assert caught.value.acknowledged == 0
    finally:
        mosquitto.send(signal.SIGCONT)
    sink.close(2)


def test_a_topic_that_may_not_be_written_is_tried_again_and_the_broker_names_why(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite meshbridge/node-a/web/#\n")
    rules.chmod(0o644)
    tmp_path.chmod(0o755)
    with Mosquitto(tmp_path / "acl-broker", f"acl_file {rules}\nuser root\n") as broker:
        sink = sink_for(broker.url)
        sink.connect(5)
        with pytest.raises(Retry, match=r"Not authorized \(topic meshbridge/node-a/db/stdout\)") as caught:
            sink.write(envelopes([make_event(1), make_event(2, app="db"), make_event(3)]), 5)
        assert caught.value.acknowledged == 1
        assert caught.value.reason == "not_authorized"
        sink.close(2)


def test_keep_alive_is_served_while_idle(mosquitto: Mosquitto) -> None:
    sink = sink_for(mosquitto.url, keepalive=5)
    sink.connect(5)
    client = sink._connection.client
    assert client is not None
    client._last_msg_out -= 10  # as if nothing had been sent for long
    sink.idle()
    assert client._ping_t > 0

    def answered() -> bool:
        sink.idle()
        return client._ping_t == 0

    wait_for(answered, "the answer to the ping")
    sink.close(2)


def test_a_client_id_is_kept_and_each_sink_has_its_own(tmp_path: Path) -> None:
    options = MqttOptions.model_validate({"type": "mqtt", "url": "mqtt://h"})
    memories = {"a": VolatileMemory(), "b": VolatileMemory()}
    ids = []
    for name in ("a", "b", "a"):
        sink = options.build(name, tmp_path)
        sink.use_memory(memories[name])
        ids.append(sink._client_id)
    assert ids[0] == ids[2] != ids[1]
    assert all(client_id.startswith("meshbridge-") and len(client_id) <= 23 for client_id in ids)


@pytest.mark.parametrize(
    ("extra", "options", "refusal"),
    [
        ("", {}, None),
        ("max_qos 1\n", {"qos": 2}, "takes QoS 1 at most; set qos to 1"),
        ("max_qos 1\n", {"qos": 1}, None),
        ("retain_available false\n", {}, "retains nothing; set state_topics: false"),
        ("retain_available false\n", {"state_topics": False}, None),
    ],
)
def test_probe_tells_what_the_broker_does_not_take(
    tmp_path: Path, extra: str, options: dict[str, object], refusal: str | None
) -> None:
    with Mosquitto(tmp_path / "broker", extra) as broker:
        settings = MqttOptions.model_validate({"type": "mqtt", "url": broker.url} | options)
        if refusal is None:
            assert settings.probe(5).text == f"broker 127.0.0.1:{broker.port} lets this bridge in (MQTT 5)"
        else:
            with pytest.raises(NotConnected, match=refusal):
                settings.probe(5)


def test_probe_leaves_no_trace(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port, retained=True) as subscriber:
        MqttOptions.model_validate({"type": "mqtt", "url": mosquitto.url}).probe(5)
        sink = MqttSink(MqttOptions.model_validate({"type": "mqtt", "url": mosquitto.url}), "meshbridge-test")
        sink.connect(5)
        sink.write(envelopes([make_event(1)]), 5)
        sink.close(2)
        wait_for(lambda: subscriber.messages, "the event that was published after the probe")
        assert not any("check" in message.topic for message in subscriber.messages)
        assert len([one for one in subscriber.messages if one.topic.endswith("/stdout")]) == 1
