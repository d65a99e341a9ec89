"""The emulator answers what a real daemon answered: the recorded exchanges again, in order, over TCP."""

import base64
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshbridge.appmesh.tcp_messages import ResponseMessage
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.emulator.tokens import totp_codes_now
from tests.unit.emulator.golden import event_story, records, shape
from tests.unit.emulator.wire_client import TcpClient

EXCHANGES = records("exchanges.jsonl")
BACK_TO_ADMIN = 42
"""From this record on the recorder used the administrator's token again."""

FRAMES_OF_A_FILE = 86, 87, 89, 114, 115, 118
OWN_BEHAVIOUR = 91
"""Unsubscribing failed there only because the file transfer before had cost the recorder its connection."""

TASK_SERVER = """
import sys
from pathlib import Path
from appmesh.server_tcp import AppMeshServerTCP

server = AppMeshServerTCP(tcp_address=(sys.argv[1], int(sys.argv[2])), ssl_verify=sys.argv[3])
while True:
    server.task_return(b"got:" + bytes(server.task_fetch()))
"""


class Replay:
    """Sends the recorded requests with what must differ put in: tokens, paths, names that the daemon made."""

    def __init__(self, emulator: Emulator, directory: Path) -> None:
        self.emulator = emulator
        self.directory = directory
        self.client = TcpClient(emulator.tcp_address, emulator.ca_file)
        self.watcher = TcpClient(emulator.tcp_address, emulator.ca_file)
        self.watcher.login()
        self.watcher.subscribe()
        self.tokens: dict[str, str] = {}
        self.user = ""
        self.totp_key = ""
        self.made = {"/srv/demo": str(directory)}
        server = directory / "server.py"
        server.write_text(TASK_SERVER, encoding="utf-8")
        host, port = emulator.tcp_address or ("", 0)
        self.made["python3 /srv/demo/srv.py"] = f"{sys.executable} {server} {host} {port} {emulator.ca_file}"

    def send(self, number: int, record: dict[str, Any]) -> ResponseMessage:
        request = record["request"]
        if number == BACK_TO_ADMIN:
            self.user = "admin"
        headers = {name: self.filled(value) for name, value in request["headers"].items()}
        if headers.get("X-Totp-Code", "000000") != "000000":
            headers["X-Totp-Code"] = self._code()
        body = self.filled(request["body"])
        if '"totp_code": "710899"' in body:
            body = body.replace("710899", self._code())
        self.client.token = ""
        answer = self.client.request(
            request["http_method"],
            self.filled(request["request_uri"]),
            body.encode(),
            headers=headers,
            query={name: self.filled(value) for name, value in request["query"].items()},
        )
        self._learn(record, answer)
        return answer

    def filled(self, text: str) -> str:
        for recorded, own in sorted(self.made.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(recorded, own)
        return text.replace("<jwt>", self.tokens.get(self.user, ""))

    def _code(self) -> str:
        return list(totp_codes_now(self.totp_key))[1]

    def _learn(self, record: dict[str, Any], answer: ResponseMessage) -> None:
        recorded_body = record["response"]["body"]
        if answer.body_msg_type != "application/json" or not recorded_body.startswith("{"):
            return
        recorded, own = json.loads(recorded_body), json.loads(answer.body)
        if "access_token" in own and answer.http_status == 200:
            self.user = own["profile"]["name"]
            self.tokens[self.user] = own["access_token"]
        if "mfa_uri" in own:
            found = re.search("secret=([A-Z2-7]+)", _unbase64(own["mfa_uri"]))
            assert found is not None
            self.totp_key = found[1]
        for field in ("process_uuid", "subscription_id", "totp_challenge"):
            if field in recorded:
                self.made[recorded[field]] = own[field]
        if "process_uuid" in recorded:
            self.made[recorded["name"]] = own["name"]


def _unbase64(text: str) -> str:
    return base64.b64decode(text).decode()


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    with Emulator(EmulatorOptions(wss_port=None, https_port=None)) as emulator:
        replay = Replay(emulator, tmp_path)
        with replay.client, replay.watcher:
            yield replay


def test_answers_are_those_of_the_real_daemon(replay: Replay) -> None:
    for number, record in enumerate(EXCHANGES):
        if number in FRAMES_OF_A_FILE:
            _carry_file(replay, record)
            continue
        _arrange(replay, number, record["operation"])
        answer = replay.send(number, record)
        if number != OWN_BEHAVIOUR:
            assert _like({**record["response"], "body": replay.filled(record["response"]["body"])}, answer), (
                number,
                record["operation"],
                record["response"],
                answer,
            )
    _events_are_alike(replay)


def _arrange(replay: Replay, number: int, operation: str) -> None:
    """Waits for what the recorder had slept for."""
    watcher = replay.watcher
    by_number: dict[int, Callable[[], object]] = {
        67: lambda: watcher.wait_type("rec-long", "HEALTH", 3),  # the first look after enabling
        75: lambda: watcher.wait_type("rec-int", "EXIT", 2),  # removed after two runs
        79: lambda: watcher.wait_event(lambda event: _output(event) == "async1\n"),
        80: lambda: watcher.wait_type(replay.made["8yJmUXZ938v"], "EXIT"),
        83: lambda: watcher.wait_type("rec-sub", "EXIT"),
    }
    by_operation: dict[str, Callable[[], object]] = {
        "get_app short": lambda: watcher.wait_type("rec-short", "EXIT"),
        "get_app long": lambda: watcher.wait_type("rec-long", "HEALTH"),
        "get_app_output long pos": lambda: watcher.wait_event(lambda event: _position(event) >= 35),
        "get_app cron": lambda: watcher.wait_type("rec-cron", "EXIT"),
    }
    wait = by_number.get(number) or by_operation.get(operation)
    if wait is not None:
        wait()


def _output(event: dict[str, Any]) -> str:
    return str(event["data"]["output"]) if event["event_type"] == "STDOUT" else ""


def _position(event: dict[str, Any]) -> int:
    data = event["data"]
    return int(data["position"]) if event["event_type"] == "STDOUT" else -1


def _carry_file(replay: Replay, record: dict[str, Any]) -> None:
    size = record["file_socket_bytes"]
    if record["direction"] == ">":
        replay.client.send(b"x" * size)
    else:
        received = b"".join(iter(lambda: replay.client.receive_body(time.monotonic() + 10), b""))
        assert received == b"x" * size


def _like(recorded: dict[str, Any], answer: ResponseMessage) -> bool:
    """Same status, type and headers, and a body of the same shape; where it is a message, the same one."""
    if (recorded["http_status"], recorded["body_msg_type"]) != (answer.http_status, answer.body_msg_type):
        return False
    if set(recorded["headers"]) != set(answer.headers):
        return False
    if answer.body_msg_type != "application/json":
        return bool(recorded["body"]) == bool(answer.body)
    expected, own = json.loads(recorded["body"]), json.loads(answer.body)
    if isinstance(expected, dict) and set(expected) == {"message"}:
        return bool(expected == own)
    if isinstance(expected, list):
        return len(expected) == len(own) and all(shape(a) == shape(b) for a, b in zip(expected, own, strict=True))
    assert list(own) == sorted(own, key=lambda name: (name == "subscription_id", name)) or "subscription_id" in own
    return bool(shape(expected) == shape(own))


def _events_are_alike(replay: Replay) -> None:
    """For each app whose events do not depend on when somebody looks, the story that the recording tells."""
    recorded = [json.loads(record["body"]) for record in records("events.jsonl")]
    main = recorded[0]["subscription_id"]
    recorded = [event for event in recorded if event["subscription_id"] == main]
    replay.watcher.wait_type("rec-full", "EXIT")
    names = {"rec-short": "rec-short", "rec-sub": "rec-sub", "rec-int": "rec-int", "8yJmUXZ938v": ""}
    names["8yJmUXZ938v"] = replay.made["8yJmUXZ938v"]
    for name, own in names.items():
        expected = _without_clock_text(event_story([event for event in recorded if event["app_name"] == name]))
        assert _without_clock_text(event_story(replay.watcher.of(own))) == expected, name
    numbers = [event["sequence"] for event in replay.watcher.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _without_clock_text(story: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(kind, "output" if kind == "STDOUT" and "UTC" in data["output"] else data) for kind, data in story]
