"""Tasks over MQTT to real worker processes of an emulated daemon: each answered once, in order, or with its error."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from meshbridge.appmesh import App
from meshbridge.emulator import Emulator, EmulatorOptions
from tests.integration.command_stage import Sender, Stage, add_worker, client_of
from tests.support import Mosquitto, wait_for

pytestmark = pytest.mark.needs("mosquitto")

COMMANDS: dict[str, Any] = {"allow": ["task"], "timeout": "2s", "max_concurrent": 1000}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(wss_port=None, https_port=None, restart_seconds=0.05)) as running:
        yield running


@pytest.mark.parametrize(("publishers", "each"), [(5, 20), pytest.param(50, 20, marks=pytest.mark.slow)])
def test_many_tasks_of_many_publishers_are_each_answered_once_and_in_order(
    tmp_path: Path, mosquitto: Mosquitto, emulator: Emulator, publishers: int, each: int
) -> None:
    notes = add_worker(emulator, tmp_path, f"worker-{publishers}")
    stage = Stage(tmp_path, mosquitto.url, emulator, "5", COMMANDS | {"timeout": "5m"})
    topic = f"meshbridge/node-a/worker-{publishers}/task"
    senders = [Sender(mosquitto.port, reply_to=f"replies/{number}") for number in range(publishers)]
    try:
        for count in range(each):
            for number, sender in enumerate(senders):
                sender.send(topic, b"%d-%d\x00" % (number, count), correlation=b"%d" % count)
        for number, sender in enumerate(senders):
            answers = [sender.answer() for _ in range(each)]
            assert [vars(one.properties)["CorrelationData"] for one in answers] == [b"%d" % n for n in range(each)]
            assert [one.payload for one in answers] == [b"\xff%d-%d\x00" % (number, n) for n in range(each)]
            assert sender.answers.empty()
        took = notes.read_bytes().splitlines()
        assert len(took) == len(set(took)) == publishers * each
    finally:
        for sender in senders:
            sender.close()
        stage.close()


@pytest.fixture
def stage(tmp_path: Path, mosquitto: Mosquitto, emulator: Emulator) -> Iterator[Stage]:
    made = Stage(tmp_path, mosquitto.url, emulator, "5", COMMANDS)
    yield made
    made.close()


def task(stage: Stage, payload: bytes, app: str) -> tuple[bool, bytes]:
    """(whether it went well, the reply) of a task."""
    stage.sender.send(f"meshbridge/node-a/{app}/task", payload, correlation=random.randbytes(8))
    answer = stage.sender.answer()
    is_ok = dict(vars(answer.properties)["UserProperty"])["ok"] == "true"
    return is_ok, bytes(answer.payload)


def test_any_bytes_go_to_the_process_and_come_back(stage: Stage, emulator: Emulator, tmp_path: Path) -> None:
    add_worker(emulator, tmp_path, "echo")
    every = bytes(range(256)) * 400
    for payload in (b"\x00", b"\xff\xfe", every, b'{"command": "restart"}', b"restart"):
        assert task(stage, payload, "echo") == (True, b"\xff" + payload)


def test_each_task_that_fails_has_its_error(stage: Stage, emulator: Emulator, tmp_path: Path) -> None:
    notes = add_worker(emulator, tmp_path)
    client = client_of(emulator)
    client.add_app(App({"name": "idle", "command": "sleep 600", "shell": True}))
    client.add_app(App({"name": "off", "command": "sleep 600", "shell": True, "status": 0}))

    def error(payload: bytes, app: str) -> str:
        is_ok, reply = task(stage, payload, app)
        fields = orjson.loads(reply)
        assert (is_ok, fields["ok"], fields["command"], fields["app"]) == (False, False, "task", app)
        return f"{fields['error']}; {fields['hint']}"

    assert "no process of idle took the task, or it did not reply, within 2 s" in error(b"x", "idle")
    assert "within 2 s" in error(b"hang", "worker")
    assert "No process running" in error(b"x", "off")
    assert "no app 'missing'" in error(b"x", "missing")
    # A process that ends over a task is started again, and gets it again: the daemon keeps it until its time is over.
    assert "within 2 s" in error(b"die", "worker")
    assert notes.read_bytes().count(b"die\n") > 1
    wait_for(lambda: client.get_app_json("worker").get("task_status") == "idle", "the worker to ask for work")
    assert task(stage, b"again", "worker") == (True, b"\xffagain")
    client.close()
