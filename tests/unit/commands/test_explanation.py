"""What ``explain --command`` says: what a message would do, and by which rule."""

from typing import Any

import pytest

from meshbridge.commands.explanation import CommandExplanation, explain_command
from meshbridge.sinks.mqtt.sink import MqttOptions, MqttSink


def explained(topic: str, payload: str, commands: dict[str, Any] | None) -> CommandExplanation:
    options = MqttOptions.model_validate({"type": "mqtt", "url": "mqtt://broker.invalid", "commands": commands})
    return explain_command(
        "broker",
        MqttSink(options),
        topic,
        payload.encode(),
        daemons=["node-a"],
        known_apps=lambda _daemon: ["web", "a/b", "x+y", "x/y"],
    )


ALL = {"allow": ["enable", "restart", "task"], "when": {"not_apps": ["a/*"]}}


def test_a_command_that_would_be_carried_out() -> None:
    assert explained("meshbridge/node-a/web/command", '{"command": "restart", "id": "7"}', ALL) == CommandExplanation(
        "broker",
        True,
        "commands.allow: restart is in it",
        None,
        "node-a",
        "web",
        "restart",
        "7",
        "disables the app, waits until its process has ended, enables it",
        "meshbridge/node-a/web/result",
    )
    task = explained("meshbridge/node-a/web/task", "restart", ALL)
    assert (task.wanted, task.command) == (True, "task")


@pytest.mark.parametrize(
    ("topic", "payload", "rule"),
    [
        ("meshbridge/node-a/web/state", "restart", "commands.topic: it is not like meshbridge/{daemon}/{app}/command"),
        ("meshbridge/node-a/web/command", "disable", "forbidden: disable is not allowed here"),
        ("meshbridge/node-a/web/command", "explode", "invalid: unknown command 'explode'"),
        ("meshbridge/node-b/web/command", "restart", "unknown_app: there is no daemon 'node-b' here"),
        ("meshbridge/node-a/a_b/command", "restart", "when.not_apps: a pattern matches a/b"),
        ("meshbridge/node-a/x_y/command", "restart", "unknown_app: 'x_y' stands for several apps: x+y, x/y"),
    ],
)
def test_a_command_that_would_be_refused_and_why(topic: str, payload: str, rule: str) -> None:
    found = explained(topic, payload, ALL)
    assert (found.wanted, found.action) == (False, None)
    assert found.rule.startswith(rule)


def test_an_app_that_the_bridge_does_not_know_is_said_so() -> None:
    found = explained("meshbridge/node-a/new/command", "restart", ALL)
    assert (found.wanted, "the daemon's list decides" in (found.hint or "")) == (True, True)


def test_a_sink_without_commands_takes_none() -> None:
    assert explained("meshbridge/node-a/web/command", "restart", None).rule == "commands: not set, so none are taken"
