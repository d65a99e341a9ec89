"""Commands over a real broker to apps of an emulated daemon, by the whole bridge, in both versions of MQTT."""

import json
import random
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from meshbridge.appmesh import App, AppMeshClientTCP
from meshbridge.emulator import Emulator, EmulatorOptions
from tests.command_line import run_command
from tests.e2e.conftest import address_of
from tests.integration.command_stage import Stage, client_of
from tests.support import DEADLINE_SECONDS, Mosquitto, wait_for

pytestmark = pytest.mark.needs("mosquitto")

COMMANDS = {"allow": ["enable", "disable", "restart", "run", "task"], "when": {"not_apps": ["private"]}}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(wss_port=None, https_port=None)) as running:
        client = AppMeshClientTCP(address_of(running), ssl_verify=str(running.ca_file))
        client.login("admin", "admin123")
        for name, command in (("web", "sleep 600"), ("job", "echo hello; exit 3"), ("private", "sleep 600")):
            client.add_app(App({"name": name, "command": command, "shell": True}))
        client.close()
        yield running


@pytest.fixture(params=["5", "3.1.1"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, mosquitto: Mosquitto, emulator: Emulator) -> Iterator[Stage]:
    made = Stage(tmp_path, mosquitto.url, emulator, request.param, COMMANDS)
    yield made
    made.close()


def test_each_command_does_what_it_says_and_is_answered(stage: Stage, emulator: Emulator) -> None:
    client = client_of(emulator)
    before = wait_for(lambda: client.get_app("web").pid, "the app to run")
    assert stage.command("restart")["ok"] is True
    assert wait_for(lambda: client.get_app("web").pid, "the app to run again") != before
    assert stage.command("disable")["ok"] is True
    assert client.get_app("web").status == 0
    assert stage.command('{"command": "enable", "id": "x"}') | {"duration_seconds": 0} == {
        "id": "x", "command": "enable", "daemon": "node-a", "app": "web", "ok": True, "error": None, "hint": None,
        "exit_code": None, "output": None, "duration_seconds": 0,
    }  # fmt: skip
    ran = stage.command("run", "job")
    assert (ran["ok"], ran["exit_code"], ran["output"]) == (True, 3, "hello\n")
    client.close()


def test_refusals_are_answered_and_audited(stage: Stage) -> None:
    assert "not allowed" in stage.command("restart", "private")["error"]
    assert "no app" in stage.command("restart", "ghost")["error"]
    assert "unknown command" in stage.command("rm -rf /")["error"]
    assert stage.bridge.output().count("result=forbidden") == 1
    served = requests.get(f"http://127.0.0.1:{stage.exporter_port}/metrics", timeout=DEADLINE_SECONDS).text
    found = {
        (sample.labels["command"], sample.labels["result"]): sample.value
        for family in text_string_to_metric_families(served)
        for sample in family.samples
        if sample.name == "meshbridge_commands_total"
    }
    assert found == {("restart", "forbidden"): 1, ("restart", "unknown_app"): 1, ("none", "invalid"): 1}
    assert "meshbridge_command_seconds_bucket" in served


def test_retained_commands_are_ignored(stage: Stage) -> None:
    stage.bridge.end(signal.SIGTERM)
    stage.sender.send("meshbridge/node-a/web/command", "disable", retain=True)
    stage.bridge = stage.run()
    if stage.protocol == "5":  # which shows it of a message that arrives while the bridge is there, too
        stage.sender.send("meshbridge/node-a/web/command", "disable", retain=True)
    assert stage.command("enable")["command"] == "enable"
    stage.sender.send("meshbridge/node-a/web/command", b"", retain=True)


def test_a_reply_goes_to_the_response_topic_with_its_correlation(
    tmp_path: Path, mosquitto: Mosquitto, emulator: Emulator
) -> None:
    stage = Stage(tmp_path, mosquitto.url, emulator, "5", COMMANDS)

    def run(correlation: bytes) -> None:
        stage.sender.send("meshbridge/node-a/job/command", "run", correlation=correlation)

    run(b"\x00\xff")
    answer = stage.sender.answer()
    assert (answer.topic, vars(answer.properties)["CorrelationData"]) == ("replies/me", b"\x00\xff")
    assert orjson.loads(answer.payload)["exit_code"] == 3
    run(b"\x00\xff")  # repeated: it runs once
    run(b"other")
    assert vars(stage.sender.answer().properties)["CorrelationData"] == b"other"
    stage.close()


def test_the_last_commands_are_shown_and_a_command_is_explained(stage: Stage) -> None:
    stage.command('{"command": "enable", "id": "x"}')
    stage.command("restart", "private")

    def cli(*arguments: str) -> str:
        done = run_command(*arguments, "--config", str(stage.config))
        assert done.returncode == 0, done.stderr
        return done.stdout

    last, first = json.loads(cli("commands", "--json"))
    assert (last["app"], last["command"], last["result"]) == ("private", "restart", "forbidden")
    assert (first["sink"], first["id"], first["result"]) == ("broker", "x", "ok")
    assert "forbidden" in cli("commands").splitlines()[1]
    said = cli("explain", "--command", "meshbridge/node-a/private/command", "restart")
    assert "broker: refused, by when.not_apps: a pattern matches private" in said
    (explained,) = json.loads(cli("explain", "--command", "meshbridge/node-a/web/task", "any", "--json"))
    assert (explained["wanted"], explained["command"]) == (True, "task")


HOSTILE = [
    b"",
    b"\0" * 1000,
    b"{" * 5000,
    b'{"command": "' + b"x" * 100_000 + b'"}',
    b'{"command": "restart", "id": "' + b"y" * 300 + b'"}',
    b'{"command": ["restart"]}',
    b'{"command": "restart", "shell": "rm -rf /"}',
    b"restart; reboot",
    b"x" * 300_000,
    random.Random(32).randbytes(50_000),
]


def test_hostile_messages_cost_no_connection_and_reach_no_app(stage: Stage, emulator: Emulator) -> None:
    """Also one that no bridge would take in: 9 MB, which with 3.1.1 the broker does not know to be too large."""
    client = client_of(emulator)
    before = wait_for(lambda: client.get_app("web").pid, "the app to run")
    sender = stage.sender
    for payload in HOSTILE:
        sender.send("meshbridge/node-a/web/command", payload)
        assert sender.json_answer()["ok"] is False
    for place in ("..", "web%2F..", "$SYS", "x" * 2000, "\u202eweb", "' OR 1=1", "%s%n", "web "):
        sender.send(f"meshbridge/node-a/{place}/command", "restart")
        assert "error" in sender.json_answer()
    sender.send("meshbridge/node-a/web/command", b"z" * 9_000_000)
    if stage.protocol == "5":
        for reply_to in ("meshbridge/node-a/web/command", "$SYS/x", "meshbridge/node-a/web/task"):
            sender.send("meshbridge/node-a/web/command", "nonsense", reply_to=reply_to)
            assert sender.answer().topic == "meshbridge/node-a/web/result"
        sender.send("meshbridge/node-a/web/command", "restart", correlation=b"1", user=[("", "")] * 60_000)
        assert "bytes of properties" in sender.json_answer()["error"]
    else:
        assert "message of 9" in sender.json_answer()["error"]
    for _ in range(2000):  # a flood
        sender.client.publish("meshbridge/node-a/web/command", "nonsense", qos=0)
    sender.send("meshbridge/node-a/job/command", '{"command": "run", "id": "after"}')
    wait_for(lambda: sender.json_answer()["id"] == "after", "the answer behind the flood")
    assert client.get_app("web").pid == before
    assert stage.bridge.output().count("sink connected") == 1
    assert "Traceback" not in stage.bridge.output()
    client.close()


def test_an_answer_that_the_broker_does_not_take_has_a_short_one_in_its_place(
    tmp_path: Path, emulator: Emulator
) -> None:
    client = client_of(emulator)
    client.add_app(App({"name": "loud", "command": "head -c 9000 /dev/zero | tr '\\0' x", "shell": True}))
    client.close()
    with Mosquitto(tmp_path / "small", "message_size_limit 5000\n") as broker:
        stage = Stage(tmp_path, broker.url, emulator, "5", COMMANDS, state_topics=False)
        stage.sender.send("meshbridge/node-a/loud/command", "run", correlation=b"c")
        answer = stage.sender.json_answer()
        assert (answer["ok"], answer["exit_code"], answer["output"]) == (False, 0, None)
        assert "was carried out" in answer["error"]
        assert stage.bridge.output().count("sink connected") == 1
        stage.close()


def test_a_command_is_answered_while_events_are_not_taken(tmp_path: Path, emulator: Emulator) -> None:
    """The broker forbids the topics of events, which wait; commands do not."""
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite replies/#\ntopic readwrite meshbridge/node-a/+/command\ntopic read #\n")
    with Mosquitto(tmp_path / "strict", f"acl_file {rules}\nuser root\n") as broker:
        stage = Stage(
            tmp_path, broker.url, emulator, "5", COMMANDS, state_topics=False, on_denied="wait",
            retry={"initial": "30s", "max": "1m"},
        )  # fmt: skip
        for number in range(4):
            if number == 1:  # the events of the first run are not taken
                stage.bridge.wait_for_output("Not authorized")
            stage.sender.send("meshbridge/node-a/job/command", "run", correlation=b"%d" % number)
            assert stage.sender.json_answer()["exit_code"] == 3
        stage.close()


def test_check_tries_the_subscriptions_of_the_daemons(stage: Stage) -> None:
    done = run_command("check", "--json", "--config", str(stage.config))
    found = [one["verdict"] for one in json.loads(done.stdout)["checks"] if one["aspect"] == "commands"]
    assert found == ["ok"]


@pytest.mark.needs("mosquitto_rr")
def test_the_documented_request_is_answered(tmp_path: Path, mosquitto: Mosquitto, emulator: Emulator) -> None:
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    asked, answer = re.findall(r"^\$ (mosquitto_rr .*)\n({.*})$", page, re.MULTILINE)[0]
    client = client_of(emulator)
    client.add_app(App({"name": "web-1", "command": "sleep 600", "shell": True}))
    client.close()
    stage = Stage(tmp_path, mosquitto.url, emulator, "5", COMMANDS)
    words = [*shlex.split(asked), "-p", str(mosquitto.port), "-W", "30"]
    done = subprocess.run(words, capture_output=True, check=True, timeout=DEADLINE_SECONDS)
    took = {"duration_seconds": 0}
    assert orjson.loads(done.stdout) | took == orjson.loads(answer) | took
    stage.close()
