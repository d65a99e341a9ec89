"""Tasks with real worker processes, users and permissions, and nodes that forward to each other."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshbridge.emulator import Emulator, EmulatorOptions
from tests.support import wait_for
from tests.unit.emulator.golden import DIRECTORY, records
from tests.unit.emulator.wire_client import Closed, TcpClient

# A managed process with this project's own messages: it answers what it was asked, and obeys 'hang' and 'die'.
WORKER = """
import os, sys
from pathlib import Path
from tests.unit.emulator.golden import DIRECTORY, records
from tests.unit.emulator.wire_client import TcpClient

app, key = os.environ["APP_MESH_APPLICATION_NAME"], os.environ["APP_MESH_PROCESS_KEY"]
client = TcpClient((sys.argv[1], int(sys.argv[2])), Path(sys.argv[3]))
while True:
    task = client.request("GET", f"/appmesh/app/{app}/task", query={"process_key": key})
    print(task.http_status, task.body.decode(), flush=True)
    if task.http_status != 200 or task.body == b"die":
        sys.exit(3)
    if task.body != b"hang":
        client.request("PUT", f"/appmesh/app/{app}/task", b"got:" + task.body, query={"process_key": key})
"""


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(wss_port=None, https_port=None, restart_seconds=0.05)) as emulator:
        yield emulator


@pytest.fixture
def client(emulator: Emulator) -> Iterator[TcpClient]:
    with TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        client.login()
        client.subscribe()
        yield client


@pytest.fixture
def worker(emulator: Emulator, client: TcpClient, tmp_path: Path) -> str:
    """The name of an app whose process takes tasks."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    host, port = emulator.tcp_address or ("", 0)
    command = f"{sys.executable} {script} {host} {port} {emulator.ca_file}"
    client.add_app("worker", command, behavior={"exit": "restart"})
    wait_for(lambda: client.json("GET", "/appmesh/app/worker").get("task_status") == "idle", "the worker asks for work")
    return "worker"


def run(client: TcpClient, body: bytes, timeout: str = "20") -> tuple[int, bytes]:
    answer = client.request("POST", "/appmesh/app/worker/task", body, query={"timeout": timeout})
    return answer.http_status, answer.body


def test_a_task_goes_to_the_process_and_its_result_comes_back(client: TcpClient, worker: str) -> None:
    assert run(client, b"one") == (200, b"got:one")
    assert run(client, b"two") == (200, b"got:two")
    shown = wait_for(lambda: client.json("GET", f"/appmesh/app/{worker}"))
    assert (shown["task_id"], shown["task_status"]) == (2, "idle")


def test_a_task_that_takes_too_long_is_given_up(client: TcpClient, worker: str) -> None:
    assert run(client, b"hang", timeout="1") == (408, b"")


def test_a_cancelled_task_ends_at_its_caller(emulator: Emulator, client: TcpClient, worker: str) -> None:
    with TcpClient(emulator.tcp_address, emulator.ca_file) as other:
        other.login()
        assert other.request("DELETE", f"/appmesh/app/{worker}/task").http_status == 208
        client.ask("POST", f"/appmesh/app/{worker}/task", b"hang")
        wait_for(lambda: other.json("GET", f"/appmesh/app/{worker}")["task_status"] == "busy", "the worker has it")
        assert other.request("DELETE", f"/appmesh/app/{worker}/task").http_status == 200
        while (answer := client.receive()).request_uri == "/appmesh/event":
            continue
        assert answer.http_status == 417


def test_tasks_wait_for_one_another(emulator: Emulator, client: TcpClient, worker: str) -> None:
    clients = [TcpClient(emulator.tcp_address, emulator.ca_file) for _ in range(3)]
    for number, caller in enumerate(clients):
        caller.login()
        caller.ask("POST", f"/appmesh/app/{worker}/task", str(number).encode())
    assert [caller.receive().body for caller in clients] == [b"got:0", b"got:1", b"got:2"]
    for caller in clients:
        caller.close()


def test_a_process_that_was_replaced_is_told_to_stop(client: TcpClient, worker: str) -> None:
    """By the second of two answers."""
    for method in ("GET", "PUT"):
        answer = client.request(method, f"/appmesh/app/{worker}/task", query={"process_key": "old"})
        second = client.receive()
        assert (answer.http_status, second.http_status) == (503, 412)
        assert second.uuid == answer.uuid


def test_a_task_outlives_the_process_that_died_over_it(client: TcpClient, worker: str) -> None:
    client.ask("POST", f"/appmesh/app/{worker}/task", b"die")
    client.wait_type(worker, "START", 3)  # the second process got it, too
    client.json("DELETE", f"/appmesh/app/{worker}")


# --- users and permissions -------------------------------------------------------------------------------------------


def test_a_bridge_needs_no_more_than_the_least_role(emulator: Emulator, client: TcpClient) -> None:
    permissions = [
        "app-subscribe",
        "app-view",
        "app-view-all",
        "app-output-view",
        "host-resource-view",
        "user-token-renew",
    ]
    client.json("POST", "/appmesh/role/bridge", permissions)
    client.json("PUT", "/appmesh/user/bridge", {"key": "pw", "roles": ["bridge"], "group": "user"})
    client.add_app("web", "echo hi")
    with TcpClient(emulator.tcp_address, emulator.ca_file) as bridge:
        bridge.login("bridge", "pw")
        bridge.subscribe()
        for path in ("applications", "app/web", "app/web/output", "resources"):
            assert bridge.request("GET", f"/appmesh/{path}").http_status == 200
        assert bridge.request("POST", "/appmesh/token/renew").http_status == 200
        refused = bridge.request("GET", "/appmesh/config")
    assert refused.http_status == 401  # the renewal revoked the token that the client still has


def test_subscribing_to_all_needs_to_see_all(emulator: Emulator, client: TcpClient) -> None:
    client.json("POST", "/appmesh/role/one", ["app-subscribe"])
    client.json("PUT", "/appmesh/user/one", {"key": "pw", "roles": ["one"], "group": "user"})
    client.add_app("web", "sleep 300")
    with TcpClient(emulator.tcp_address, emulator.ca_file) as one:
        one.login("one", "pw")
        refused = one.request("POST", "/appmesh/subscribe")
        assert (refused.http_status, "'app-view-all'" in refused.body.decode()) == (400, True)
        assert one.request("POST", "/appmesh/app/web/subscribe").http_status == 200


def test_an_apps_own_permission_keeps_others_out(emulator: Emulator, client: TcpClient) -> None:
    client.add_app("closed", "sleep 300", permission=11)
    client.add_app("readable", "sleep 300", permission=12)
    with TcpClient(emulator.tcp_address, emulator.ca_file) as mesh:
        mesh.login("mesh", "mesh123")
        assert [app["name"] for app in mesh.json("GET", "/appmesh/applications")] == ["readable"]
        assert mesh.request("GET", "/appmesh/app/closed").http_status == 400


def test_a_refresh_token_outlives_an_access_token_and_is_spent_by_use(client: TcpClient) -> None:
    answer = client.login("mesh", "mesh123", **{"X-Refresh-Token-Request": "true"})
    refresh = json.loads(answer.body)["refresh_token"]
    client.token = ""
    renewed = client.request("POST", "/appmesh/token/renew", headers={"X-Refresh-Token": refresh})
    body = json.loads(renewed.body)
    assert (renewed.http_status, body["refresh_token"] != refresh) == (200, True)
    spent = client.request("POST", "/appmesh/token/renew", headers={"X-Refresh-Token": refresh})
    assert spent.http_status == 401
    ended = client.request("POST", "/appmesh/self/logoff", headers={"X-Refresh-Token": body["refresh_token"]})
    assert ended.http_status == 200


def test_an_expired_token_is_refused_after_the_leeway() -> None:
    options = EmulatorOptions(wss_port=None, https_port=None, token_leeway_seconds=0)
    with Emulator(options) as emulator, TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        client.login(**{"X-Expire-Seconds": "1"})
        refused: Any = wait_for(lambda: _refused(client), "the token expires")
        assert refused.http_status == 401
        renewal = client.request("POST", "/appmesh/token/renew")
        assert renewal.http_status == 401


def _refused(client: TcpClient) -> Any:
    answer = client.request("GET", "/appmesh/labels")
    return None if answer.http_status == 200 else answer


# --- the wire and other nodes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x07\xc7\x07\xf8\xff\xff\xff\xff", b"\x07\xc7\x07\xf8\0\0\0\1\x01"]
)
def test_bytes_that_are_no_frame_end_the_connection_without_an_answer(emulator: Emulator, noise: bytes) -> None:
    with TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        client.socket.sendall(noise)
        with pytest.raises(Closed):
            client.receive()


def test_a_request_is_forwarded_to_another_node_and_events_stay_where_they_are(
    client: TcpClient, emulator: Emulator
) -> None:
    with Emulator(EmulatorOptions(node_name="node-b", wss_port=None, https_port=None)) as other:
        emulator.join(other)
        host, port = other.tcp_address or ("", 0)
        for target in ("node-b", f"{host}:{port}"):
            answer = client.request("GET", "/appmesh/labels", headers={"X-Target-Host": target})
            assert json.loads(answer.body)["HOST_NAME"] == "node-b"
        there = {"X-Target-Host": "node-b"}
        body = {"name": "far", "command": "true"}
        assert client.request("PUT", "/appmesh/app/far", body, headers=there).http_status == 200
        assert client.request("GET", "/appmesh/app/far").http_status == 404
        assert client.request("POST", "/appmesh/subscribe", headers=there).http_status == 405
        assert client.request("GET", "/appmesh/labels", headers={"X-Target-Host": "node-c"}).http_status == 502


def test_forwarding_to_the_node_itself_never_answers(client: TcpClient) -> None:
    silent = client.ask("GET", "/appmesh/labels", headers={"X-Target-Host": "node-a"})
    for _ in range(3):
        assert client.request("GET", "/appmesh/labels").uuid != silent


def test_a_client_certificate_is_asked_for_where_wanted() -> None:
    with Emulator(EmulatorOptions(wss_port=None, https_port=None, verify_client=True)) as emulator:
        with pytest.raises(Closed), TcpClient(emulator.tcp_address, emulator.ca_file) as stranger:
            stranger.login()
        directory = emulator.ca_file.parent
        certificate = directory / "client.pem", directory / "client-key.pem"
        with TcpClient(emulator.tcp_address, emulator.ca_file, certificate) as client:
            assert client.login().http_status == 200


def test_metrics_have_a_family_for_each_app_where_a_port_is_set() -> None:
    options = EmulatorOptions(wss_port=None, https_port=None, prometheus_port=9100)
    with Emulator(options) as emulator, TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        client.login()
        client.add_app("web", "sleep 300")
        client.json("POST", "/appmesh/app/run", {"command": "sleep 300"})
        first = client.request("GET", "/appmesh/metrics", headers={"Authorization": ""})
        second = client.request("GET", "/appmesh/metrics").body.decode()
        pid = client.json("GET", "/appmesh/app/web")["pid"]
    assert (
        'appmesh_application_process_resident_memory_bytes{application="web",host="node-a"} 0\n' in first.body.decode()
    )
    assert 'appmesh_application_process_resident_memory_bytes{application="web",host="node-a"} 0\n' not in second
    assert f'appmesh_application_process_id{{application="web",host="node-a"}} {pid}\n' in second
    assert second.count("appmesh_application_running{") == 1  # none for the one-off run
    assert "/appmesh/metrics" not in second
    recorded = (DIRECTORY / "metrics.txt").read_text(encoding="utf-8")
    assert _families(second) == _families(recorded)


def test_metrics_have_the_daemons_own_families_by_default(client: TcpClient) -> None:
    client.add_app("web", "true")
    recorded = next(record for record in records("exchanges.jsonl") if record["operation"] == "get_metrics with app")
    own = client.request("GET", "/appmesh/metrics")
    assert _families(own.body.decode()) == _families(recorded["response"]["body"])
    assert own.body_msg_type == recorded["response"]["body_msg_type"]


def _families(exposition: str) -> list[str]:
    """What is said of the families, in order."""
    return [line for line in exposition.splitlines() if line.startswith("#")]
