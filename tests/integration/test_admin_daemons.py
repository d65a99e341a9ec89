"""Each operation of the SDK over HTTP, at an emulated daemon, compared with what the SDK itself says."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from fastapi import FastAPI

from meshbridge.admin.application import new_application
from meshbridge.admin.interface import Bridge
from meshbridge.appmesh import App, AppMeshClient, AppMeshClientTCP
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import Link
from meshbridge.model.app_state import described
from meshbridge.model.status import LinkStatus
from tests.integration.admin_api import Api, application_for, gate, options_for, serving
from tests.support import wait_for
from tests.unit.appmesh.fakes import answer, refusal

NODE = "/api/v1/daemons/node-a"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """One for all: nothing stays at it of what a test has done."""
    Api.called.clear()
    with Emulator(EmulatorOptions()) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    opened = Journal(JournalOptions(path=tmp_path_factory.mktemp("journal")))
    opened.open()
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=["tcp", "wss", "https"])
def link(request: pytest.FixtureRequest, emulator: Emulator, journal: Journal) -> Iterator[Link]:
    """To the daemon by each way that there is."""
    made = Link("node-a", options_for(emulator, request.param), journal)
    yield made
    assert made.stop(10)


@pytest.fixture(scope="module")
def application(link: Link, journal: Journal) -> FastAPI:
    return application_for([link], journal)


@pytest.fixture(scope="module")
def api(application: FastAPI) -> Iterator[Api]:
    with serving(application) as served:
        yield served


@pytest.fixture(scope="module")
def sdk(emulator: Emulator) -> Iterator[AppMeshClient]:
    assert emulator.tcp_address is not None
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file)) as client:
        client.login("admin", "admin123")
        yield client


def test_daemons_and_how_their_links_are(api: Api, link: Link) -> None:
    (shown,) = api.json("GET", "/api/v1/daemons")
    assert (shown["name"], shown["up"], shown["state"]) == ("node-a", False, link.status().state)
    assert api.json("GET", NODE).keys() == shown.keys()
    assert api.json("GET", "/api/v1/daemons/other", 404)["allowed"] == ["node-a"]


def test_apps_are_registered_seen_and_removed_as_by_the_sdk(api: Api, sdk: AppMeshClient) -> None:
    settings = {"command": "sleep 600", "env": {"PORT": "x1"}, "sec_env": {"KEY": "hunter2"}, "description": "d"}
    added = api.json("PUT", f"{NODE}/apps/web", json=settings)
    assert added["name"] == "web"
    assert "hunter2" not in str(added)
    wait_for(lambda: sdk.get_app("web").pid, "its process")
    (listed,) = api.json("GET", f"{NODE}/apps")
    one, same = api.json("GET", f"{NODE}/apps/web"), described(sdk.get_app("web").to_dict())
    changing = {"cpu", "memory", "pstree", "fd", "sec_env"}
    assert {key: one[key] for key in one.keys() - changing} == {key: same[key] for key in same.keys() - changing}
    assert listed["pid"] == one["pid"]
    assert api.json("GET", f"{NODE}/apps/web/health") == {"app": "web", "healthy": sdk.check_app_health("web")}
    assert api.json("POST", f"{NODE}/apps/web/disable") == {"app": "web", "enabled": False, "deleted": None}
    assert sdk.get_app("web").status == 0
    refused = api.json("POST", f"{NODE}/apps/web/restart", 422)
    assert "web is disabled: enable it instead" in refused["detail"]
    api.json("POST", f"{NODE}/apps/web/enable")
    assert sdk.get_app("web").status == 1
    wait_for(lambda: sdk.get_app("web").pid, "its process")
    before = sdk.get_app("web").pid
    assert api.json("POST", f"{NODE}/apps/web/restart") == {"app": "web", "enabled": True, "deleted": None}
    wait_for(lambda: sdk.get_app("web").pid not in {None, before}, "another process")
    assert api.json("DELETE", f"{NODE}/apps/web")["deleted"] is True
    assert api.json("DELETE", f"{NODE}/apps/web", 404)["detail"] == "node-a has no app 'web'"


def test_what_was_read_may_be_sent_back_but_a_mask_may_not(api: Api, sdk: AppMeshClient) -> None:
    api.json("PUT", f"{NODE}/apps/copy", json={"command": "sleep 600", "env": {"MY_TOKEN": "hunter2"}})
    wait_for(lambda: sdk.get_app("copy").pid, "its process")
    read = api.json("GET", f"{NODE}/apps/copy")
    assert read["env"] == {"MY_TOKEN": "********"}
    refused = api.json("PUT", f"{NODE}/apps/copy", 422, json=read)
    assert refused["detail"] == "env.MY_TOKEN is masked: give its value, or leave it out"
    read["env"] = {"MY_TOKEN": "hunter3"}
    api.json("PUT", f"{NODE}/apps/copy", json=read)
    again = sdk.get_app("copy")
    assert (again.env, again.owner) == ({"MY_TOKEN": "hunter3"}, "admin")
    wrong = api.json("PUT", f"{NODE}/apps/copy", 422, json={"comand": "sleep"})
    assert wrong["errors"][0]["where"] == "body.comand"
    sdk.delete_app("copy")


def test_output_is_read_by_position_process_and_index(api: Api, sdk: AppMeshClient) -> None:
    sdk.add_app(App({"name": "talker", "command": "printf 'one two'", "shell": True}))
    url = f"{NODE}/apps/talker/output"
    wait_for(lambda: api.json("GET", url)["finished"], "its end")
    assert api.json("GET", url, params={"position": 4}) == {
        "output": "two",
        "position": 7,
        "exit_code": 0,
        "finished": True,
    }
    assert sdk.get_app_output("talker", 4).output == "two"
    past = api.json("GET", url, 404, params={"position": 1000})
    assert (past["kind"], past["daemon"]) == ("not-kept", "node-a")
    assert "does not keep that output" in past["detail"]
    assert api.json("GET", url, 404, params={"index": 9})["kind"] == "not-kept"
    assert api.json("GET", url, 404, params={"process_uuid": "nope"})["kind"] == "not-kept"
    assert api.json("GET", f"{NODE}/apps/ghost/output", 404)["detail"] == "node-a has no app 'ghost'"
    waited = api.json("GET", url, params={"wait": 5})
    assert waited["finished"]
    sdk.delete_app("talker")


# --- runs and tasks ---------------------------------------------------------------------------------------------------


def test_a_command_is_run_and_waited_for(api: Api, sdk: AppMeshClient) -> None:
    asked = {"command": "printf hello; exit 3", "max_time": 20}
    assert api.json("POST", f"{NODE}/runs", params={"wait": "true"}, json=asked) == {"exit_code": 3, "output": "hello"}
    assert sdk.run_app_sync("printf hello; exit 3", 20) == (3, "hello")
    cut = api.json("POST", f"{NODE}/runs", params={"wait": "true"}, json={"command": "sleep 60", "max_time": "1s"})
    assert cut["exit_code"] == 9
    refused = api.json("POST", f"{NODE}/runs", 422, params={"wait": "true"}, json={"command": "x", "max_time": "2h"})
    assert refused["where"] == "body.max_time"


def lines(response: requests.Response) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in response.iter_lines(chunk_size=65_536))


def test_a_run_is_followed_while_it_writes_and_removed(api: Api, sdk: AppMeshClient, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = f"printf 'é1'; while [ ! -e {go} ]; do sleep 0.05; done; printf '2\\377'; exit 4"
    started = api.json("POST", f"{NODE}/runs", 202, json={"command": command})
    url = f"{NODE}/runs/{started['name']}/output"
    with api.ask("GET", url, params={"process_uuid": started["process_uuid"]}, stream=True) as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        following = lines(response)
        assert next(following) == {"position": 0, "output": "é1"}  # it writes no more before it may
        go.touch()
        rest = list(following)
    assert rest == [{"position": 3, "output": "2\ufffd"}, {"exit_code": 4, "finished": True}]
    with api.ask("GET", url, params={"position": 3}, stream=True) as response:
        assert list(lines(response)) == rest
    assert sdk.get_app(started["name"]).status == 2, "to follow a run leaves it where it is"
    assert api.json("DELETE", f"{NODE}/runs/{started['name']}", scope="operate")["deleted"] is True
    assert api.json("GET", url, 404)["kind"] == "daemon-refused"


def test_output_of_many_megabytes_is_followed_in_pieces(api: Api) -> None:
    count = 5_000_000
    started = api.json("POST", f"{NODE}/runs", 202, json={"command": f"head -c {count} /dev/zero | tr '\\0' x"})
    with api.ask("GET", f"{NODE}/runs/{started['name']}/output", stream=True) as response:
        pieces = list(lines(response))
    assert pieces[-1] == {"exit_code": 0, "finished": True}
    position = 0
    for piece in pieces[:-1]:
        assert piece["position"] == position
        assert len(piece["output"]) <= 1024 * 1024
        position += len(piece["output"])
    assert position == count
    api.json("DELETE", f"{NODE}/runs/{started['name']}")


def test_a_run_that_is_removed_while_it_is_followed_ends_the_stream_with_a_problem(
    api: Api, sdk: AppMeshClient
) -> None:
    started = api.json("POST", f"{NODE}/runs", 202, json={"command": "printf x; sleep 600"})
    with api.ask("GET", f"{NODE}/runs/{started['name']}/output", stream=True) as response:
        following = lines(response)
        assert next(following)["output"] == "x"
        sdk.delete_app(started["name"])
        (last,) = (line for line in following if line.get("output") is None)
    assert last["error"]["status"] == 404


def test_only_runs_are_removed_as_runs(api: Api, sdk: AppMeshClient) -> None:
    sdk.add_app(App({"name": "stays", "command": "sleep 600"}))
    assert api.json("DELETE", f"{NODE}/runs/stays", 404)["detail"] == "node-a has no run 'stays'"
    assert api.json("DELETE", f"{NODE}/runs/ghost", 404)["kind"] == "daemon-refused"
    assert sdk.get_app("stays").status == 1
    sdk.delete_app("stays")


def test_an_app_is_run_once_more(api: Api, sdk: AppMeshClient) -> None:
    sdk.add_app(App({"name": "job", "command": "printf done", "shell": True}))
    url = f"{NODE}/apps/job/runs"
    found = api.json("POST", url, scope="operate", params={"wait": "true"}, json={"max_time": "20s"})
    assert found == {"exit_code": 0, "output": "done"}
    started = api.json("POST", url, 202, scope="operate", json={})
    assert started["name"].startswith("job_")
    api.json("DELETE", f"{NODE}/runs/{started['name']}")
    assert api.json("POST", f"{NODE}/apps/ghost/runs", 400, json={})["daemon_status"] == 400
    sdk.delete_app("job")


TASK_SERVER = """
from meshbridge.appmesh import AppMeshServerTCP
server = AppMeshServerTCP({ca!r}, tcp_address={address!r})
while True:
    payload = server.task_fetch()
    server.task_return(b"got:" + payload)
"""


def test_tasks(api: Api, sdk: AppMeshClient, emulator: Emulator, tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(TASK_SERVER.format(ca=str(emulator.ca_file), address=emulator.tcp_address))
    root = Path(__file__).parents[2]
    command = f"{sys.executable} {script}"
    sdk.add_app(App({"name": "worker", "command": command, "env": {"PYTHONPATH": str(root)}}))
    url = f"{NODE}/apps/worker/task"
    assert api.json("POST", url, params={"wait": 30}, json={"data": "é"}) == {"result": "got:é"}
    assert api.json("POST", url, params={"wait": 30}, json={"data": {"a": 1}}) == {"result": 'got:{"a":1}'}
    assert sdk.run_task("worker", "é", 30) == "got:é"
    assert api.json("DELETE", url) == {"cancelled": sdk.cancel_task("worker")} == {"cancelled": False}
    sdk.delete_app("worker")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_what_the_sdk_has_put_there_and_gets(api: Api, sdk: AppMeshClient, tmp_path: Path) -> None:
    here, there, back = tmp_path / "here", tmp_path / "there", tmp_path / "back"
    here.write_bytes(b"\x00\xff\r\n")
    here.chmod(0o640)
    sdk.upload_file(str(here), str(there))
    response = api.ask("GET", f"{NODE}/files", params={"path": str(there)})
    assert (response.content, response.headers["X-File-Mode"]) == (here.read_bytes(), "0640")
    there.unlink()
    api.json("PUT", f"{NODE}/files", 201, params={"path": str(there), "mode": "0604"}, data=response.content)
    there.chmod(0o604)  # over WSS a daemon of 2.x ignores the mode of an upload
    sdk.download_file(str(there), str(back))
    assert back.read_bytes() == here.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o604


# --- the daemon and its host ------------------------------------------------------------------------------------------


def test_labels(api: Api, sdk: AppMeshClient) -> None:
    assert api.json("PUT", f"{NODE}/labels/zone", json={"value": "a b/c"}) == {"zone": "a b/c"}
    assert api.json("GET", f"{NODE}/labels") == sdk.list_labels()
    assert sdk.list_labels()["zone"] == "a b/c"
    api.json("DELETE", f"{NODE}/labels/zone")
    assert "zone" not in sdk.list_labels()


def test_the_configuration_is_shown_without_its_salt_and_changed(api: Api, sdk: AppMeshClient) -> None:
    shown, own = api.json("GET", f"{NODE}/config"), sdk.get_config()
    assert own["REST"]["JWT"].pop("JWTSalt") not in json.dumps(shown)
    assert shown["REST"]["JWT"].pop("JWTSalt") == "********"
    assert shown == own
    changed = api.json("PATCH", f"{NODE}/config", json={"BaseConfig": {"Description": "rack 4"}})
    assert changed["BaseConfig"]["Description"] == sdk.get_config()["BaseConfig"]["Description"] == "rack 4"
    assert changed["REST"]["JWT"]["JWTSalt"] == "********"
    refused = api.json("PATCH", f"{NODE}/config", 422, json={"REST": {"JWT": {"JWTSalt": "********"}}})
    assert refused["where"] == "REST.JWT.JWTSalt"
    assert api.json("PATCH", f"{NODE}/config", 502, json={"REST": {"RestListenPort": "x"}})["daemon_status"] == 500
    assert api.json("PUT", f"{NODE}/log-level", json={"level": "WARN"}) == {"level": "WARN"}
    assert sdk.get_config()["BaseConfig"]["LogLevel"] == "WARN"


def test_resources_and_metrics(api: Api, sdk: AppMeshClient) -> None:
    shown, own = api.json("GET", f"{NODE}/resources"), sdk.get_host_resources()
    assert shown.keys() == own.keys()
    assert shown["appmesh_start_time_unix_seconds"] == own["appmesh_start_time_unix_seconds"]
    response = api.ask("GET", f"{NODE}/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {line.split()[2] for line in sdk.get_metrics().splitlines() if line.startswith("# TYPE")}
    assert {line.split()[2] for line in response.text.splitlines() if line.startswith("# TYPE")} == families


# --- users ------------------------------------------------------------------------------------------------------------


def test_users_roles_groups_and_permissions(api: Api, sdk: AppMeshClient) -> None:
    assert api.json("GET", f"{NODE}/users") == sdk.list_users()
    own = sdk.get_current_user()
    assert api.json("GET", f"{NODE}/users/self") == own
    assert api.json("GET", f"{NODE}/users/self/permissions") == sdk.get_user_permissions()
    for area, same in (
        ("groups", sdk.list_groups),
        ("permissions", sdk.list_permissions),
        ("roles", sdk.list_roles),
    ):
        assert api.json("GET", f"{NODE}/{area}") == same()
    fields = {"key": "Abcd1234!", "email": "a@b", "group": "user", "roles": ["view"], "exec_user": "", "locked": False}
    added = api.ask("PUT", f"{NODE}/users/anna", json=fields)
    assert added.status_code == 200
    assert "Abcd1234!" not in added.text
    assert sdk.list_users()["anna"]["roles"] == ["view"]
    api.json("POST", f"{NODE}/users/anna/lock")
    assert sdk.list_users()["anna"]["locked"] is True
    api.json("POST", f"{NODE}/users/anna/unlock")
    assert sdk.list_users()["anna"]["locked"] is False
    api.json("PUT", f"{NODE}/users/anna/password", json={"old_password": "Abcd1234!", "new_password": "Efgh5678!"})
    api.json("PUT", f"{NODE}/roles/watch", json={"permissions": ["app-view"]})
    assert sdk.list_roles()["watch"] == ["app-view"]
    api.json("DELETE", f"{NODE}/roles/watch")
    api.json("DELETE", f"{NODE}/roles/watch")  # a daemon answers so for a missing role, too
    api.json("DELETE", f"{NODE}/users/anna")
    assert "anna" not in sdk.list_users()
    assert api.json("DELETE", f"{NODE}/users/anna", 404)["detail"] == "user not found"


def test_a_refused_password_is_named_nowhere(api: Api) -> None:
    wrong = {"old_password": "swordfish", "new_password": "Efgh5678!"}
    response = api.ask("PUT", f"{NODE}/users/self/password", json=wrong)
    assert response.status_code == 400
    assert "old password for user <admin> is incorrect" in response.text
    malformed = api.ask("PUT", f"{NODE}/users/self/password", json={"new_password": ["swordfish"]})
    assert malformed.status_code == 422
    assert "swordfish" not in response.text + malformed.text


def test_what_would_lock_the_bridge_out_is_refused(api: Api, sdk: AppMeshClient) -> None:
    own = sdk.get_current_user()["name"]
    for method, path in (
        ("POST", f"/users/{own}/lock"),
        ("POST", "/users/self/lock"),
        ("DELETE", f"/users/{own}"),
        ("DELETE", "/users/self"),
    ):
        assert "lock the bridge out" in api.json(method, f"{NODE}{path}", 422)["detail"]
    refused = api.json("POST", f"{NODE}/totp", 422, json={"code": "123456"})
    assert "lock the bridge out" in refused["detail"]
    assert sdk.get_current_user()["mfa_enabled"] is False
    assert api.json("POST", f"{NODE}/totp/secret")["secret"]
    api.json("DELETE", f"{NODE}/users/self/totp")


@pytest.mark.parametrize(
    ("request_line", "body", "told"),
    [
        ("PUT /apps/web", {"command": "sleep 1", "env": {"PORT": "8080"}}, ("body.env.PORT", "sec_env")),
        ("PUT /apps/web", {"command": "true"}, ("body.command", "/usr/bin/true")),
        ("PUT /apps/123", {"command": "sleep 1"}, ("body.name", "a letter")),
        ("PUT /apps/web", {"command": "sleep 1", "health_check_cmd": "false"}, ("body.health_check_cmd", "its path")),
        ("PUT /apps/web", {"command": "sleep 1", "description": "-1.5"}, ("body.description", "a text")),
        ("PUT /labels/zone", {"value": "1"}, ("body.value", "v1")),
        ("PUT /users/anna", {"key": "Abcd1234!", "email": "5"}, ("body.email", "a text")),
        ("PUT /users/anna", {"key": "Abcd1234!", "group": "null"}, ("body.group", "a text")),
        ("PATCH /config", {"BaseConfig": {"Description": "5"}}, ("body.BaseConfig.Description", "a text")),
        ("PATCH /config", {"Labels": {"zone": "true"}}, ("body.Labels.zone", "a text")),
        ("PUT /log-level", {"level": "1"}, ("body.level", "a text")),
    ],
)
def test_what_would_harm_a_daemon_is_refused_with_the_way_out(
    api: Api, sdk: AppMeshClient, request_line: str, body: dict[str, Any], told: tuple[str, str]
) -> None:
    before = sdk.get_config()
    method, path = request_line.split()
    refused = api.json(method, f"{NODE}{path}", 422, json=body)
    assert refused["where"] == told[0]
    assert told[1] in refused["detail"]
    assert sdk.get_config() == before
    assert "anna" not in sdk.list_users()


@pytest.mark.parametrize("value", ["0x10", "1e3", "1_000", "2026-01-01", "~", "yes", "", " 8080", "a: b"])
def test_a_text_that_a_daemon_keeps_is_taken(api: Api, sdk: AppMeshClient, value: str) -> None:
    api.json("PUT", f"{NODE}/apps/kept", json={"command": "sleep 60", "env": {"A": value}, "sec_env": {"PORT": "8080"}})
    assert sdk.get_app("kept").env == {"A": value}
    sdk.delete_app("kept")


def test_a_running_shell_app_is_not_registered_again(api: Api, sdk: AppMeshClient) -> None:
    body = {"command": "sleep 60", "shell": True}
    api.json("PUT", f"{NODE}/apps/shell", json=body)
    refused = api.json("PUT", f"{NODE}/apps/shell", 422, json=body)
    assert "Disable shell (or delete it), wait for its EXIT" in refused["detail"]
    sdk.disable_app("shell")
    wait_for(lambda: not sdk.get_app("shell").pid)
    api.json("PUT", f"{NODE}/apps/shell", json=body)
    sdk.delete_app("shell")


def test_times_reach_the_daemon_as_whole_seconds(api: Api) -> None:
    body = {
        "command": "sleep 60",
        "start_time": "2026-12-01T09:00:00+08:00",
        "end_time": 4_000_000_000,
        "daily_limitation": {"daily_start": "09:00:00+08:00", "daily_end": 7200},
    }
    shown = api.json("PUT", f"{NODE}/apps/timed", json=body)
    assert (shown["start_time"], shown["end_time"]) == (1_796_086_800, 4_000_000_000)
    assert (shown["daily_limitation"]["daily_start"], shown["daily_limitation"]["daily_end"]) == (3600, 7200)
    api.json("DELETE", f"{NODE}/apps/timed")
    for wrong in ({"start_time": "soon"}, {"daily_limitation": {"daily_start": "25:00"}}):
        assert "use " in api.json("PUT", f"{NODE}/apps/timed", 422, json={"command": "sleep 1", **wrong})["detail"]


def sdk_roles(sdk: AppMeshClient) -> list[str]:
    return sorted(sdk.list_roles())


def test_what_only_the_other_generation_offers_is_said_so(api: Api) -> None:
    for method, path in (
        ("GET", "auth-config"),
        ("GET", "principals"),
        ("GET", "principals/self"),
        ("GET", "principals/self/permissions"),
        ("DELETE", "principals/x"),
    ):
        refused = api.json(method, f"{NODE}/{path}", 501)
        assert refused["kind"] == "not-offered"
        assert "2.x" in refused["detail"]
    assert api.json("PUT", f"{NODE}/principals/x", 501, json={"roles": []})["kind"] == "not-offered"


PRINCIPAL = {"id": "x", "roles": ["view"], "client_secret": "hunter2"}
NEWER = {
    "GET /appmesh/auth/config": {"issuer": "https://issuer.example", "audience": "appmesh", "scopes": ["openid"]},
    "GET /appmesh/principals": [PRINCIPAL],
    "GET /appmesh/principal/self": PRINCIPAL,
    "GET /appmesh/principal/self/permissions": ["app-view"],
    "POST /appmesh/principal/x": {},
    "DELETE /appmesh/principal/x": {},
}


class NewerDaemon:
    """What a daemon of 3.x answers of its own, and 404 to what it has no more."""

    def __init__(self) -> None:
        self.asked: list[RequestMessage] = []

    def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
        self.asked.append(message)
        body = NEWER.get(f"{message.http_method} {message.request_uri}")
        return refusal(404, "not found") if body is None else answer(body)

    def close(self) -> None:
        pass


def test_what_only_the_newer_generation_offers(journal: Journal) -> None:
    daemon = NewerDaemon()
    sdk = AppMeshClient(exchange=daemon, jwt_token="a.b.c")
    bridge = Bridge(
        sinks=list,
        links=lambda: [LinkStatus("node-a")],
        journal=journal,
        explain=lambda _asked: [],
        reload=dict,
        client=lambda _daemon, **_how: contextlib.nullcontext(sdk),
    )
    with serving(new_application(bridge, gate)) as api:
        assert api.json("GET", f"{NODE}/auth-config") == sdk.get_auth_config()
        (one,), (same,) = api.json("GET", f"{NODE}/principals"), sdk.list_principals()
        assert one == same | {"client_secret": "********"}
        assert api.json("GET", f"{NODE}/principals/self") == sdk.get_current_principal() | {"client_secret": "********"}
        assert api.json("GET", f"{NODE}/principals/self/permissions") == sdk.get_principal_permissions()
        api.json("PUT", f"{NODE}/principals/x", json={"roles": ["view"]})
        assert orjson.loads(daemon.asked[-1].body) == {"roles": ["view"]}
        api.json("DELETE", f"{NODE}/principals/x")
        assert daemon.asked[-1].http_method == "DELETE"
        refused = api.json("GET", f"{NODE}/users", 501)
        assert (refused["kind"], "3.x" in refused["detail"]) == ("not-offered", True)
        assert api.json("PUT", f"{NODE}/principals/x", 422, json=one)["kind"] == "masked"


@pytest.fixture(scope="module", autouse=True)
def every_operation_was_called_with_success(request: pytest.FixtureRequest, journal: Journal) -> Iterator[None]:
    """By the tests of this module together, whatever their order.

    A second factor for the bridge's own user is always refused.
    """
    yield
    ran = {item.function for item in request.session.items if isinstance(item, pytest.Function)}
    if not {value for name, value in globals().items() if name.startswith("test_")} <= ran:
        return
    paths = application_for([], journal).openapi()["paths"]
    missing = [
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        if path.startswith("/api/v1/daemons")
        for method in methods
        if not any(_is(called, method.upper(), path) for called in Api.called)
    ]
    assert missing == ["POST /api/v1/daemons/{daemon}/totp"]


def _is(called: tuple[str, str, int], method: str, path: str) -> bool:
    pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
    return called[0] == method and called[2] < HTTPStatus.BAD_REQUEST and re.fullmatch(pattern, called[1]) is not None
