"""The official client (``appmesh`` on PyPI) against the emulator: a second opinion on what it answers."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from appmesh.app import App
from appmesh.client_http import AppMeshClient
from appmesh.client_tcp import AppMeshClientTCP
from appmesh.client_wss import AppMeshClientWSS

from meshbridge.emulator import Emulator, EmulatorOptions

TASK_SERVER = """
import sys
from appmesh.server_tcp import AppMeshServerTCP

server = AppMeshServerTCP(tcp_address=(sys.argv[1], int(sys.argv[2])), ssl_verify=sys.argv[3])
while True:
    server.task_return(b"got:" + bytes(server.task_fetch()))
"""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as emulator:
        yield emulator


@pytest.fixture(params=["tcp", "wss", "https", "https on the wss port"])
def client(emulator: Emulator, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)  # they would win over the CA given below
    client = make_client(emulator, request.param)
    client.login("admin", "admin123")
    yield client
    emulator.drop_connections()  # else its reader, which does not see its own close, holds it up for 5 s
    client.close()


def make_client(emulator: Emulator, transport: str) -> Any:
    ca = str(emulator.ca_file)
    if transport == "tcp":
        return AppMeshClientTCP(tcp_address=emulator.tcp_address, ssl_verify=ca)
    if transport == "wss":
        return AppMeshClientWSS(wss_address=emulator.wss_address, ssl_verify=ca)
    address = emulator.https_address if transport == "https" else emulator.wss_address
    assert address is not None
    return AppMeshClient(base_url=f"https://{address[0]}:{address[1]}", ssl_verify=ca)


def test_it_works_with_apps_runs_and_output(client: Any) -> None:
    added = client.add_app(App({"name": "official", "command": "echo hi; exit 3", "shell": True}))
    assert (added.name, added.status, added.owner) == ("official", 1, "admin")
    assert "official" in [app.name for app in client.list_apps()]
    assert client.run_app_sync(App({"command": "echo hello; exit 4", "shell": True})) == (4, "hello\n")
    run = client.run_app_async(App({"command": "echo one; exit 5", "shell": True}))
    assert run.wait(timeout=20) == 5
    output = client.get_app_output("official")
    assert (output.output, output.exit_code) == ("hi\n", 3)
    assert client.disable_app("official") is not False
    assert client.enable_app("official") is not False
    client.delete_app("official")


def test_it_works_with_the_rest_of_the_operations(client: Any) -> None:
    client.renew_token()
    assert client.authenticate(client._get_access_token(), permission="app-view")[0]
    client.add_label("official", "1")
    assert client.list_labels()["official"] == "1"
    client.delete_label("official")
    assert client.set_log_level("DEBUG") == "DEBUG"
    assert client.get_config()["REST"]["WebSocketPort"]
    assert client.get_host_resources()["appmesh_start_time_unix_seconds"]
    assert "appmesh_build_info" in client.get_metrics()
    client.add_user("official", {"key": "Secret!1", "roles": ["view"], "group": "user", "email": "", "locked": False})
    client.lock_user("official")
    client.unlock_user("official")
    assert "official" in client.list_users()
    client.delete_user("official")
    client.update_role("official", ["app-view"])
    assert client.list_roles()["official"] == ["app-view"]
    client.delete_role("official")
    assert client.get_current_user()["name"] == "admin"
    assert set(client.get_user_permissions()) == set(client.list_permissions())
    client.logout()


# Not by plain HTTPS to the WSS port: what is sent there is thrown away (measured).
@pytest.mark.parametrize("client", ["tcp", "wss", "https"], indirect=True)
def test_it_carries_files_up_and_down(client: Any, tmp_path: Path) -> None:
    local, remote, back = tmp_path / "local", tmp_path / "remote", tmp_path / "back"
    local.write_bytes(os.urandom(300_000))
    local.chmod(0o600)
    client.upload_file(str(local), str(remote))
    client.download_file(str(remote), str(back))
    assert back.read_bytes() == local.read_bytes()
    if type(client).__name__ != "AppMeshClientWSS":  # over WSS the daemon ignores the mode
        assert (remote.stat().st_mode & 0o777, back.stat().st_mode & 0o777) == (0o600, 0o600)


@pytest.mark.parametrize("client", ["tcp", "wss"], indirect=True)
def test_it_subscribes_and_gets_events(client: Any) -> None:
    events: list[str] = []
    ended = threading.Event()

    def take(event: Any) -> None:
        if event.app_name == "subscribed":
            events.append(event.event_type)
        if event.event_type == "EXIT":
            ended.set()

    subscription = client.subscribe("*", callback=take)
    client.add_app(App({"name": "subscribed", "command": "echo hi; exit 2", "shell": True}))
    assert ended.wait(20)
    assert events == ["HEALTH", "HEALTH", "START", "STDOUT", "HEALTH", "EXIT"]
    client.unsubscribe(getattr(subscription, "subscription_id", subscription))
    client.delete_app("subscribed")


@pytest.mark.parametrize("client", ["tcp"], indirect=True)
def test_its_task_server_serves_its_tasks(emulator: Emulator, client: Any, tmp_path: Path) -> None:
    server = tmp_path / "server.py"
    server.write_text(TASK_SERVER, encoding="utf-8")
    host, port = emulator.tcp_address or ("", 0)
    client.add_app(App({"name": "tasks", "command": f"{sys.executable} {server} {host} {port} {emulator.ca_file}"}))
    assert client.run_task("tasks", "payload", timeout=20) in ("got:payload", b"got:payload")
    assert client.cancel_task("tasks") is False
    client.delete_app("tasks")
