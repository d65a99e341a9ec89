"""``meshbridge sinks clear`` against a real broker, and sinks that a reload removes."""

import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshbridge.cli import app
from meshbridge.config.load import load
from meshbridge.journal import Journal
from meshbridge.service.reload import changes
from meshbridge.service.supervisor import Parts, end
from tests.support import Mosquitto, Subscriber, wait_for, write_config

pytestmark = pytest.mark.needs("mosquitto")


def retained(broker: Mosquitto) -> set[str]:
    with Subscriber(broker.port, client_id="newcomer", retained=True) as newcomer:
        newcomer._client.publish("the/end", b"", qos=1)
        wait_for(lambda: any(message.topic == "the/end" for message in newcomer.messages), "the end")
        return {message.topic for message in newcomer.messages if message.retain}


def leave(broker: Mosquitto, *topics: str) -> None:
    with Subscriber(broker.port, client_id="older") as older:
        for topic in topics:
            payload = b"offline" if "/bridge/" in topic else b"online"
            older._client.publish(topic, payload, qos=1, retain=True).wait_for_publish(10)


def config(path: Path, broker: Mosquitto, **more: Any) -> Path:
    sinks = {"broker": {"type": "mqtt", "url": broker.url}, "log": {"type": "file", "path": str(path / "log")}}
    daemon = {"url": "tcp://127.0.0.1:1", "username": "u", "password": "p"}
    settings = {"daemons": {"node-a": daemon}, "journal": {"path": str(path / "journal")}, "sinks": sinks}
    return write_config(path / "meshbridge.yaml", settings | more)


OTHERS = ("homeassistant/device/meshbridge_node-a_web/config", "meshbridge/node-a/web/state")
LEFT = (
    "homeassistant/device/meshbridge_gone_web/config",
    "meshbridge/bridge/meshbridge-old/availability",
    "meshbridge/gone/availability",
    "meshbridge/gone/web/state",
)
STRANGERS = ("homeassistant/device/lamp/config", "meshbridge/gone/web/other", "other/gone/web/state")


def test_what_former_bridges_have_left_is_shown_and_cleared(mosquitto: Mosquitto, tmp_path: Path) -> None:
    leave(mosquitto, *LEFT, *OTHERS, *STRANGERS)
    command = ["sinks", "clear", "broker", "--config", str(config(tmp_path, mosquitto))]
    refused = CliRunner().invoke(app, command, input="n\n")
    assert refused.exit_code == 1
    assert all(topic in refused.output for topic in LEFT)
    assert not any(topic in refused.output for topic in (*OTHERS, *STRANGERS))
    assert retained(mosquitto) == {*LEFT, *OTHERS, *STRANGERS}
    done = CliRunner().invoke(app, [*command, "--yes"])
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "4 topics cleared")
    assert retained(mosquitto) == {*OTHERS, *STRANGERS}
    assert CliRunner().invoke(app, command).output == "nothing is left\n"
    assert CliRunner().invoke(app, [*command, "--all", "--yes"]).exit_code == 0
    assert retained(mosquitto) == {*STRANGERS}


@pytest.mark.parametrize(("sink", "words"), [("none", "there is no sink"), ("log", "not of type mqtt")])
def test_a_sink_that_leaves_nothing_is_refused(mosquitto: Mosquitto, tmp_path: Path, sink: str, words: str) -> None:
    done = CliRunner().invoke(app, ["sinks", "clear", sink, "--config", str(config(tmp_path, mosquitto))])
    assert done.exit_code == 2
    assert words in done.output


def test_a_sink_that_a_reload_removes_or_renames_takes_its_topics_along(mosquitto: Mosquitto, tmp_path: Path) -> None:
    old = load(config(tmp_path, mosquitto), {})
    broker = {"type": "mqtt", "url": mosquitto.url}
    renamed = load(config(tmp_path, mosquitto, sinks={"renamed": broker | {"client_id": "renamed"}}), {})
    removed = load(config(tmp_path, mosquitto, sinks={}), {})
    journal = Journal(old.journal)
    journal.open()
    parts = Parts(journal)
    try:
        parts.start(old)
        wait_for(lambda: any("/bridge/" in topic for topic in retained(mosquitto)), "the first sink")
        parts.exchange(renamed, changes(old, renamed, listening=False), ending=threading.Event())
        own = "meshbridge/bridge/renamed/availability"
        wait_for(lambda: {topic for topic in retained(mosquitto) if "/bridge/" in topic} == {own}, "the renamed one")
        parts.exchange(removed, changes(renamed, removed, listening=False), ending=threading.Event())
        assert retained(mosquitto) == set()
    finally:
        end(parts.links, 10)
        end(parts.couriers, 10)
        journal.close()
