"""The settings of the amqp sink, and what it would publish."""

from pathlib import Path
from typing import Any

import pytest

from meshbridge.sinks.amqp.sink import AmqpOptions
from tests.support import make_event


def options(**settings: Any) -> AmqpOptions:
    return AmqpOptions.model_validate({"type": "amqp", "url": "amqp://localhost"} | settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": "http://x"}, "not the address"),
        ({"url": "amqp:///vhost"}, "not the address"),
        ({"url": "amqp://u:p@x"}, "stand in username"),
        ({"url": "amqp://x/a/b"}, "written as %2F"),
        ({"url": "amqp://x?heartbeat=1"}, "nothing follows"),
        ({"url": "amqp://x:0"}, "port 0"),
        ({"url": "amqp://x:99999"}, "out of range"),
        ({"username": "bridge"}, "needs password"),
        ({"routing_key": "{host}"}, "unknown place"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        options(**settings)


@pytest.mark.parametrize(
    ("app", "word"), [("web", "web"), ("web.api", "web%2Eapi"), ("a*b#c d%", "a%2Ab%23c%20d%25"), ("ü", "%C3%BC")]
)
def test_a_name_is_one_word_of_the_routing_key(app: str, word: str) -> None:
    [message] = options().build("a", Path()).preview(make_event(1, app=app))
    assert message.to == f"exchange meshbridge, routing key node-a.{word}.stdout"
    assert message.headers["message_id"] == "node-a/1/1"
