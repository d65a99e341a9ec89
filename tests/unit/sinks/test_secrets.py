"""Files of secrets that can't be used: every sink reports it, and reads the repaired file with its next attempt."""

from pathlib import Path
from typing import Any

import pytest

from meshbridge.sinks.amqp import AmqpOptions
from meshbridge.sinks.base import NotConnected
from meshbridge.sinks.http.options import HttpAuth
from meshbridge.sinks.kafka import KafkaOptions
from meshbridge.sinks.mqtt.sink import MqttOptions
from meshbridge.sinks.nats import NatsOptions
from meshbridge.sinks.redis import RedisOptions

SINKS: list[tuple[Any, dict[str, object]]] = [
    (MqttOptions, {"type": "mqtt", "url": "mqtt://127.0.0.1:1"}),
    (NatsOptions, {"type": "nats", "url": "nats://127.0.0.1:1"}),
    (KafkaOptions, {"type": "kafka", "brokers": "127.0.0.1:1"}),
    (AmqpOptions, {"type": "amqp", "url": "amqp://127.0.0.1:1"}),
    (RedisOptions, {"type": "redis", "url": "redis://127.0.0.1:1"}),
]


@pytest.mark.parametrize(("options", "settings"), SINKS)
def test_a_password_file_that_cannot_be_read_is_named(
    options: Any, settings: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "password"
    made = options.model_validate(settings | {"username": "u", "password_file": str(file)})
    sink = made.build("sink", tmp_path)
    with pytest.raises(NotConnected, match=r"cannot read password_file .*password: No such file"):
        sink.connect(2)
    file.write_bytes(b"hidden\xff")
    with pytest.raises(NotConnected, match=r"cannot read password_file .*password: it is not UTF-8") as caught:
        sink.connect(2)
    assert "hidden" not in str(caught.value)
    sink.close(0)


@pytest.mark.parametrize("token", ["hid\nden", "hid\x00den", "hiddén"])
def test_a_token_that_no_header_can_have_is_refused_unseen(token: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token, encoding="utf-8")
    with pytest.raises(NotConnected, match="no header can have") as caught:
        HttpAuth.model_validate({"bearer_file": str(file)}).header()
    assert "hid" not in str(caught.value)
    file.write_text("good\n", encoding="utf-8")
    assert HttpAuth.model_validate({"bearer_file": str(file)}).header() == "Bearer good"


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"", "it is empty"), ("key".encode("utf-16"), "it is not UTF-8")]
)
def test_a_credentials_file_of_nats_that_cannot_be_used_is_named(
    content: bytes | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "bridge.creds"
    if content is not None:
        file.write_bytes(content)
    settings = {"type": "nats", "url": "nats://127.0.0.1:1", "credentials": str(file)}
    sink = NatsOptions.model_validate(settings).build("sink", tmp_path)
    with pytest.raises(NotConnected, match=f"cannot read credentials .*bridge.creds: {words}") as caught:
        sink.connect(2)
    assert caught.value.reason == "secret"
    sink.close(0)
