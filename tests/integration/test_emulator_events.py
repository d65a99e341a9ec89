"""The order of an emulated daemon's events is the measured one, scenario by scenario."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshbridge.emulator import Emulator, EmulatorOptions
from tests.support import thread, wait_for
from tests.unit.emulator.golden import event_story, records
from tests.unit.emulator.wire_client import Closed, TcpClient, WireClient, WssClient

SLEEP = "sleep 300"


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(https_port=None, restart_seconds=0.1, record=True)) as emulator:
        yield emulator


@pytest.fixture
def client(emulator: Emulator) -> Iterator[TcpClient]:
    with TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        client.login()
        client.subscribe()
        yield client


def types(client: WireClient, app: str) -> list[str]:
    """An app's events in short: type, and what it says."""
    shown = {"HEALTH": "health", "STATUS": "status", "EXIT": "exit_code"}
    return [
        f"{event['event_type']} {event['data'][shown[event['event_type']]]}"
        if event["event_type"] in shown
        else event["event_type"]
        for event in client.of(app)
    ]


def test_disabling_and_enabling_a_running_app(client: TcpClient) -> None:
    client.add_app("web", SLEEP)
    client.json("POST", "/appmesh/app/web/disable")
    client.wait_type("web", "EXIT")
    client.json("POST", "/appmesh/app/web/enable")
    client.wait_type("web", "START", 2)
    assert types(client, "web") == [
        "HEALTH 1", "HEALTH 0", "START", "STATUS disabled", "HEALTH 1", "EXIT 9", "STATUS enabled", "HEALTH 0", "START",
    ]  # fmt: skip


def test_enabling_an_enabled_app_and_disabling_a_disabled_one_say_nothing(client: TcpClient) -> None:
    client.add_app("web", "true", status=0)
    client.json("POST", "/appmesh/app/web/disable")
    client.json("POST", "/appmesh/app/web/enable")
    client.json("POST", "/appmesh/app/web/enable")
    client.wait_type("web", "EXIT")
    assert types(client, "web") == ["HEALTH 1", "STATUS enabled", "HEALTH 0", "START", "HEALTH 1", "EXIT 0"]


def test_removing_a_running_app_leaves_its_last_events_after_removed(client: TcpClient) -> None:
    client.add_app("web", "echo last; sleep 300", shell=True)
    client.wait_type("web", "START")
    client.json("DELETE", "/appmesh/app/web")
    client.wait_type("web", "EXIT")
    told = [kind for kind in types(client, "web") if kind != "STDOUT"]
    assert told == ["HEALTH 1", "HEALTH 0", "START", "REMOVED", "STATUS disabled", "HEALTH 1", "EXIT 9"]


def test_registering_again_tells_the_recorded_story(client: TcpClient) -> None:
    client.add_app("reg-twice", "sleep 100", shell=True)
    shown = client.add_app("reg-twice", "sleep 200", shell=True)
    client.wait_type("reg-twice", "START", 2)
    recorded = [record["event"] for record in records("output.jsonl") if "event" in record]
    expected = event_story([event for event in recorded if event["app_name"] == "reg-twice"])
    assert event_story(client.of("reg-twice")) == expected
    assert (shown["starts"], shown["status"], shown["health"]) == (2, 1, 0)
    assert shown["pid"] == client.of("reg-twice", "START")[1]["data"]["pid"]


@pytest.mark.parametrize("action", ["restart", "keepalive"])
def test_an_app_that_is_to_restart_starts_again_with_a_new_process(client: TcpClient, action: str) -> None:
    client.add_app("again", "exit 3", shell=True, behavior={"exit": action})
    client.wait_type("again", "START", 3)
    starts = client.of("again", "START")
    assert len({event["data"]["process_uuid"] for event in starts}) == 3
    assert types(client, "again")[3:8] == ["HEALTH 1", "EXIT 3", "HEALTH 0", "START", "HEALTH 1"]


def test_control_overrides_the_exit_behaviour_for_a_code(client: TcpClient) -> None:
    client.add_app("gone", "exit 7", shell=True, behavior={"exit": "restart", "control": {"7": "remove"}})
    client.wait_type("gone", "STATUS")
    assert types(client, "gone")[-3:] == ["EXIT 7", "REMOVED", "STATUS disabled"]
    assert client.request("GET", "/appmesh/app/gone").http_status == 404


def test_a_health_check_decides_the_health_of_a_running_app(client: TcpClient, tmp_path: Path) -> None:
    mark = tmp_path / "healthy"
    client.add_app("checked", SLEEP, health_check_cmd=f"test -f {mark}")
    client.wait_type("checked", "HEALTH")
    mark.touch()
    client.wait_type("checked", "HEALTH", 2)
    assert types(client, "checked") == ["START", "HEALTH 1", "HEALTH 0"]
    assert client.request("GET", "/appmesh/app/checked/health").body == b"0"


def test_an_app_that_is_due_while_it_runs_is_killed_and_started_again(client: TcpClient) -> None:
    client.add_app("due", SLEEP, start_interval_seconds=1)
    client.wait_type("due", "START", 2)
    client.wait_type("due", "EXIT")
    assert client.of("due", "EXIT")[0]["data"]["exit_code"] == 9
    assert client.of("due", "EXIT")[0]["data"]["pid"] == client.of("due", "START")[0]["data"]["pid"]


def test_retention_lets_the_process_before_finish(client: TcpClient) -> None:
    client.add_app("patient", "sleep 1.2; exit 4", shell=True, start_interval_seconds=1, retention="PT30S")
    client.wait_type("patient", "EXIT")
    assert len(client.of("patient", "START")) == 2
    assert client.of("patient", "EXIT")[0]["data"]["exit_code"] == 4


def test_an_app_stops_at_its_end_time_and_does_not_start_before_its_start_time(client: TcpClient) -> None:
    now = int(time.time())
    client.add_app("later", SLEEP, start_time=now + 3600)
    shown = client.add_app("ending", SLEEP, end_time=now + 2)
    assert (shown["starts"], shown["end_time_TEXT"][-3:]) == (1, "+08")
    assert client.wait_type("ending", "EXIT")["data"]["exit_code"] == 9
    waiting = client.json("GET", "/appmesh/app/later")
    assert (waiting["starts"], waiting["next_start_time"]) == (0, now + 3600)


def test_a_run_is_cut_off_by_its_timeout(client: TcpClient) -> None:
    run = client.json("POST", "/appmesh/app/run", {"command": SLEEP}, timeout="1", lifecycle="60")
    assert client.wait_type(run["name"], "EXIT")["data"]["exit_code"] == 9


def test_registering_again_is_finished_even_if_its_client_goes(emulator: Emulator, client: TcpClient) -> None:
    client.add_app("web", "sleep 100")
    with TcpClient(emulator.tcp_address, emulator.ca_file) as hasty:
        hasty.login()
        hasty.ask("PUT", "/appmesh/app/web", {"name": "web", "command": "sleep 200"})
    client.wait_type("web", "START", 2)
    assert client.json("GET", "/appmesh/app/web")["command"] == "sleep 200"


@pytest.mark.parametrize("signal", ["KILL", "SEGV", "ABRT", "TERM"])
def test_a_process_that_a_signal_of_others_ends_has_the_code_of_success(client: TcpClient, signal: str) -> None:
    client.add_app("killed", f"kill -{signal} $$", shell=True)
    ended = client.wait_type("killed", "EXIT")["data"]
    assert (ended["exit_code"], ended["last_error"]) == (0, "")
    shown = client.json("GET", "/appmesh/app/killed")
    assert (shown["return_code"], shown.get("last_error")) == (0, None)


def test_a_process_that_the_daemon_ended_has_the_code_9_in_the_app_too(client: TcpClient) -> None:
    client.add_app("disabled", "sleep 300")
    client.json("POST", "/appmesh/app/disabled/disable")
    assert client.wait_type("disabled", "EXIT")["data"]["exit_code"] == 9
    shown = client.json("GET", "/appmesh/app/disabled")
    assert shown["return_code"] == 9
    assert shown["last_exit_time"] > 0


def test_a_program_that_is_not_there_neither_starts_nor_ends_and_is_tried_again(client: TcpClient) -> None:
    shown = client.add_app("absent", "/no/such/program")
    assert shown["last_error"].endswith("command file </no/such/program> does not exist")
    assert (shown["health"], shown["starts"]) == (1, 1)
    assert shown["next_start_time"] >= shown["last_start_time"]
    wait_for(lambda: client.json("GET", "/appmesh/app/absent")["starts"] > 1)
    client.json("DELETE", "/appmesh/app/absent")
    client.wait_type("absent", "REMOVED")
    assert not client.of("absent", "START")
    assert not client.of("absent", "EXIT")


def test_a_run_of_a_program_that_is_not_there_is_removed_again(client: TcpClient) -> None:
    answer = client.request("POST", "/appmesh/app/run", {"name": "absent-run", "command": "/no/such/program"})
    assert (answer.http_status, b"does not exist" in answer.body) == (400, True)
    client.wait_type("absent-run", "REMOVED")
    assert [event["event_type"] for event in client.of("absent-run")] == ["HEALTH", "REMOVED"]


def test_a_name_that_is_being_replaced_is_a_conflict(emulator: Emulator, client: TcpClient) -> None:
    body = {"name": "often", "command": "sleep 300"}
    client.add_app(**body)
    uuids = [client.ask("PUT", "/appmesh/app/often", body) for _ in range(10)]
    answers: list[Any] = []
    while len(answers) < len(uuids):
        answers += [message for message in [client.receive()] if message.uuid in uuids]
    assert {answer.http_status for answer in answers} == {200, 409}
    assert all(not answer.body for answer in answers if answer.http_status == 409)


def test_a_negative_number_of_kept_outputs_has_no_answer(emulator: Emulator, client: TcpClient) -> None:
    with TcpClient(emulator.tcp_address, emulator.ca_file) as other:
        other.login()
        with pytest.raises(Closed):
            other.add_app("ends-it", "sleep 30", stdout_cache_num=-1)
    assert client.request("GET", "/appmesh/app/ends-it").http_status == 404


def test_a_subscription_in_the_same_step_misses_nothing_and_events_come_before_the_answer(emulator: Emulator) -> None:
    with TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        client.login()
        shown = client.json(
            "PUT",
            "/appmesh/app/quick",
            {"name": "quick", "command": "echo quick"},
            subscribe_events="START,EXIT,STDOUT",
        )
        assert [event["event_type"] for event in client.events] == ["START"]
        client.wait_type("quick", "EXIT")
        assert [event["event_type"] for event in client.events] == ["START", "STDOUT", "EXIT"]
        assert {event["subscription_id"] for event in client.events} == {shown["subscription_id"]}


def test_each_subscription_gets_its_copy_with_one_number_and_that_of_the_app_comes_first(client: TcpClient) -> None:
    client.add_app("web", SLEEP, status=0)
    client.subscribe()
    of_app = client.subscribe(events="STATUS", app="web")
    client.json("POST", "/appmesh/app/web/enable")
    client.wait_event(lambda _event: len(client.of("web", "STATUS")) == 3)
    copies = client.of("web", "STATUS")
    assert copies[0]["subscription_id"] == of_app
    assert len({event["sequence"] for event in copies}) == 1
    assert len({event["subscription_id"] for event in copies}) == 3


def test_an_event_on_the_wire_is_as_recorded(client: TcpClient) -> None:
    client.add_app("web", "true")
    client.wait_type("web", "EXIT")
    recorded = records("events.jsonl")[0]
    message = client.event_messages[0]
    assert len(message.uuid) == len(recorded["uuid"])
    assert list(json.loads(message.body)) == list(json.loads(recorded["body"]))
    assert b" " not in message.body
    assert sorted(message.headers) == sorted(recorded["headers"])
    assert message.headers["X-App-Name"] == "web"
    assert (message.http_status, message.body_msg_type) == (200, "application/json")


def test_output_that_nobody_subscribed_to_has_no_number(emulator: Emulator, client: TcpClient) -> None:
    client.add_app("talk", "echo one; sleep 0.5; echo two", shell=True)
    client.wait_type("talk", "EXIT")
    before = emulator.sequence
    with TcpClient(emulator.tcp_address, emulator.ca_file) as quiet:
        quiet.login()
        for subscription in {event["subscription_id"] for event in client.events}:
            client.json("DELETE", "/appmesh/subscribe", subscription_id=subscription)
        quiet.subscribe(events="START,EXIT")
        quiet.add_app("silent", "echo unheard")
        quiet.wait_type("silent", "EXIT")
    assert [event.type for event in emulator.history[before:]] == ["HEALTH", "HEALTH", "START", "HEALTH", "EXIT"]
    assert emulator.emit("silent", "STDOUT", {"output": ""}) == 0


def test_one_off_runs_have_status_2_and_end_with_their_lifecycle(client: TcpClient) -> None:
    run = client.json("POST", "/appmesh/app/run", {"command": "exit 5", "shell": True}, timeout="20", lifecycle="1")
    name = run["name"]
    client.wait_type(name, "EXIT")
    shown = next(app for app in client.json("GET", "/appmesh/applications") if app["name"] == name)
    assert (shown["status"], shown["return_code"]) == (2, 5)
    client.wait_type(name, "REMOVED")
    assert types(client, name) == ["HEALTH 1", "HEALTH 0", "START", "HEALTH 1", "EXIT 5", "REMOVED"]
    assert client.request("GET", f"/appmesh/app/{name}").http_status == 404


def test_a_run_of_an_existing_app_is_numbered(client: TcpClient) -> None:
    client.add_app("job", "echo done")
    names = [client.json("POST", "/appmesh/app/run", {"name": "job"})["name"] for _ in range(2)]
    assert names == ["job_1", "job_2"]
    refused = client.request("POST", "/appmesh/app/run", {"name": "job", "command": "true"})
    assert refused.http_status == 400


def test_injected_events_reach_subscribers_in_order_and_in_number(emulator: Emulator, client: TcpClient) -> None:
    first = emulator.emit("load", "STATUS", {"status": "enabled", "previous_status": "disabled"})

    def read() -> None:
        client.wait_event(lambda event: bool(event["sequence"] == first + 30_000))

    load = (("load", "STDOUT", {"output": "é", "position": place}) for place in range(30_000))
    with thread(read, "reader"):
        last = emulator.emit_many(load)
    numbers = [event["sequence"] for event in client.of("load")]
    assert numbers == list(range(first, last + 1))
    assert emulator.sequence == last
    assert client.events[-1]["data"] == {"output": "é", "position": 29_999}


@pytest.mark.parametrize("transport", ["tcp", "wss"])
def test_a_client_that_does_not_read_is_cut_off_and_forgotten(transport: str) -> None:
    options = EmulatorOptions(https_port=None, tcp_queue_messages=1_000, wss_queue_bytes=1024 * 1024)
    with Emulator(options) as emulator:
        stalled: WireClient
        if transport == "tcp":
            stalled = TcpClient(emulator.tcp_address, emulator.ca_file)
        else:
            stalled = WssClient(emulator.wss_address, emulator.ca_file)
        with stalled:
            stalled.login()
            stalled.subscribe()
            data: dict[str, Any] = {"finished": False, "output": "x" * 10_000, "position": 0}
            emulator.emit_many(("load", "STDOUT", data) for _ in range(3_000))
            assert emulator.emit("load", "STDOUT", data) == 0  # no subscriber is left
            read = 0
            with pytest.raises(Closed):
                while True:
                    stalled.receive(time.monotonic() + 20)
                    read += 1
            assert 0 < read < 3_000
            if isinstance(stalled, WssClient):
                assert stalled.close_code == 1013


def test_dropped_connections_are_reset_and_the_daemon_goes_on(emulator: Emulator, client: TcpClient) -> None:
    with WssClient(emulator.wss_address, emulator.ca_file) as web:
        web.login()
        emulator.drop_connections()
        for dropped in (client, web):
            with pytest.raises(Closed):
                dropped.receive()
    with TcpClient(emulator.tcp_address, emulator.ca_file) as again:
        again.login()
        assert again.json("GET", "/appmesh/applications") == []


def test_events_outlive_the_token(client: TcpClient) -> None:
    with_token = client.token
    client.request("POST", "/appmesh/self/logoff")
    client.login()
    assert client.token != with_token
    client.add_app("web", "true")
    assert client.wait_type("web", "EXIT")["data"]["exit_code"] == 0
