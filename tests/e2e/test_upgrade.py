"""A journal, its client id and its topics as version 0.1.0 left them: this version goes on where that one stopped."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.contract.sinks.http_server import HttpServer
from tests.support import Mosquitto, Process, Subscriber, free_port, meshbridge_command, wait_for, write_config

pytestmark = pytest.mark.needs("mosquitto")

OLD = Path(__file__).parents[1] / "data" / "upgrade" / "0.1.0"
RUN = "1795856976"
WAITING = [f"node-a/{RUN}/{number}" for number in (3, 6, 9)]
"""START of web and job, and EXIT of job: the hook had refused them for a while when the old version was stopped."""


def unreachable() -> dict[str, Any]:
    return {"node-a": {"url": f"tcp://127.0.0.1:{free_port()}", "username": "admin", "password": "unused"}}


def test_what_0_1_0_had_not_delivered_is_delivered_and_its_client_id_stays(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    shutil.copytree(OLD, tmp_path / "journal")
    with HttpServer(lambda exchange: exchange.answer(204)) as hook:
        config = write_config(
            tmp_path / "meshbridge.yaml",
            {
                "daemons": unreachable(),
                "journal": {"path": str(tmp_path / "journal"), "max_age": "36500d"},
                "sinks": {
                    "broker": {"type": "mqtt", "url": mosquitto.url},
                    "hook": {"type": "webhook", "url": hook.url, "when": {"events": ["start", "exit"]}},
                },
                "exporter": {"listen": f"127.0.0.1:{free_port()}"},
            },
        )
        with (
            Subscriber(mosquitto.port, "meshbridge/#", retained=True) as subscriber,
            Process(meshbridge_command("run", "--config", str(config)), tmp_path / "log") as bridge,
        ):
            wait_for(lambda: len(hook.requests) >= len(WAITING), "the events that waited")
            client_id = (OLD / "mqtt-client-id-broker").read_text().strip()
            state = "meshbridge/node-a/web/state"
            availability = f"meshbridge/bridge/{client_id}/availability"
            wait_for(lambda: {state, availability} <= {message.topic for message in subscriber.messages}, "retained")
            assert bridge.end() == 0
    assert [orjson.loads(request.body)["id"] for request in hook.requests] == WAITING


def test_a_newer_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "journal")
    database = tmp_path / "journal" / "journal.db"
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 1000")
    connection.commit()
    connection.close()
    before = database.read_bytes()
    config = write_config(
        tmp_path / "meshbridge.yaml",
        {
            "daemons": unreachable(),
            "journal": {"path": str(tmp_path / "journal")},
            "exporter": {"listen": f"127.0.0.1:{free_port()}"},
        },
    )
    with Process(meshbridge_command("run", "--config", str(config)), tmp_path / "log") as bridge:
        bridge.wait_for_output("newer meshbridge")
    assert database.read_bytes() == before
