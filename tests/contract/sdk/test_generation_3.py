"""What a daemon of 3.x does for its clients: by the public names of the official client 3.0.14, which both have."""

import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import requests

import meshbridge.appmesh
from meshbridge.appmesh import AppMeshClientTCP, PasswordGrantProvider
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.emulator.issuer import ISSUER
from tests.contract.sdk import official_3
from tests.support import wait_for

ADMIN, PASSWORD = "admin@appmesh.local", "admin123"
VIEWER, VIEWER_PASSWORD = "mesh@appmesh.local", "mesh123"
LIFETIME_SECONDS = 60

# The official client leaves sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass(frozen=True)
class Sdk:
    """A client library, and the interpreter that has it."""

    package: Any
    python: Path
    import_name: str

    @property
    def is_ours(self) -> bool:
        return self.import_name.startswith("meshbridge")


@pytest.fixture(scope="module", params=["meshbridge", pytest.param("official", marks=pytest.mark.slow)])
def sdk(request: pytest.FixtureRequest) -> Sdk:
    if request.param == "meshbridge":
        return Sdk(meshbridge.appmesh, Path(sys.executable), "meshbridge.appmesh")
    python = official_3.python_of(request.config.cache)
    return Sdk(official_3.load(python), python, "appmesh")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(generation="3", issuer_token_seconds=LIFETIME_SECONDS)) as daemon:
        yield daemon


@pytest.fixture(params=["https", "tcp", "wss"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def provider(sdk: Sdk, emulator: Emulator, user: str = ADMIN, password: str = PASSWORD) -> Any:
    return sdk.package.PasswordGrantProvider(f"{emulator.issuer_url}/token", user, password)


def connect(sdk: Sdk, emulator: Emulator, transport: str, **how: Any) -> Any:
    trusted = str(emulator.ca_file)
    if transport == "https":
        assert emulator.https_address
        return sdk.package.AppMeshClient("https://{}:{}".format(*emulator.https_address), trusted, **how)
    address = emulator.tcp_address if transport == "tcp" else emulator.wss_address
    return getattr(sdk.package, f"AppMeshClient{transport.upper()}")(address, trusted, **how)


@pytest.fixture
def client(sdk: Sdk, emulator: Emulator, transport: str) -> Iterator[Any]:
    made = connect(sdk, emulator, transport, token_provider=provider(sdk, emulator))
    yield made
    made.close()


@pytest.fixture
def janitor(emulator: Emulator) -> Iterator[AppMeshClientTCP]:
    """Another client: it does what is to cause events."""
    assert emulator.tcp_address
    tokens = PasswordGrantProvider(f"{emulator.issuer_url}/token", ADMIN, PASSWORD)
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file), token_provider=tokens) as made:
        yield made


@pytest.fixture
def name(janitor: AppMeshClientTCP) -> Iterator[str]:
    chosen = f"contract-{secrets.token_hex(4)}"
    yield chosen
    janitor.delete_app(chosen)


def add(sdk: Sdk, client: Any, name: str, command: str, **fields: Any) -> Any:
    return client.add_app(sdk.package.App({"name": name, "command": command, "shell": True, **fields}))


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_password_is_exchanged_for_tokens_as_long_as_it_is_right(
    sdk: Sdk, emulator: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    path = str(tmp_path / "password")
    tokens = sdk.package.PasswordGrantProvider(f"{emulator.issuer_url}/token", ADMIN, password_file=path)
    first = tokens.get_access_token()
    assert tokens.get_access_token() == first
    assert tokens.refresh_access_token("another") == first
    assert tokens.refresh_access_token(first) != first
    with pytest.raises(sdk.package.AppMeshAuthError, match="Invalid username or password"):
        provider(sdk, emulator, password="wrong").get_access_token()


def test_a_token_that_is_refused_is_replaced_on_the_way(sdk: Sdk, emulator: Emulator, transport: str) -> None:
    """The issuer has another signing key: the daemon's 401 costs one more request, and the caller sees none of it."""
    issuer, bearers = emulator._running().issuer, emulator._running().bearers
    assert issuer is not None
    assert bearers is not None
    tokens = provider(sdk, emulator)
    client = connect(sdk, emulator, transport, token_provider=tokens)
    assert client.get_current_principal()["email"] == ADMIN
    before = tokens.get_access_token()

    def rotate() -> None:
        issuer.kid = secrets.token_hex(8)
        bearers.keys = dict(issuer.public_keys)

    emulator._call(rotate)
    assert isinstance(client.list_apps(), list)
    if sdk.is_ours or transport != "wss":  # the official client leaves the connection to the upgrade's token
        assert tokens.get_access_token() != before
    client.close()


def test_a_given_token_and_none(sdk: Sdk, emulator: Emulator, transport: str) -> None:
    with connect(sdk, emulator, transport) as client, pytest.raises(sdk.package.AppMeshAuthError):
        client.list_apps()
    with connect(sdk, emulator, transport, bearer_token=provider(sdk, emulator).get_access_token()) as client:
        assert isinstance(client.list_apps(), list)


def test_a_missing_permission_is_told_and_the_token_kept(sdk: Sdk, emulator: Emulator, transport: str) -> None:
    tokens = provider(sdk, emulator, VIEWER, VIEWER_PASSWORD)
    with connect(sdk, emulator, transport, token_provider=tokens) as client:
        before = tokens.get_access_token()
        with pytest.raises(sdk.package.AppMeshAuthError) as refused:
            client.add_label("x", "y")
        assert refused.value.status_code == HTTPStatus.FORBIDDEN
        assert tokens.get_access_token() == before


def test_the_issuer_is_found_by_the_daemon_and_reached_elsewhere(sdk: Sdk, emulator: Emulator) -> None:
    with connect(sdk, emulator, "https") as client:
        person = sdk.package.OAuthClient.from_appmesh(client, access_url=emulator.issuer_url)
        device = person.device_authorization()
        form = {"user_code": device["user_code"], "username": ADMIN, "password": PASSWORD}
        requests.post(f"{emulator.issuer_url}/device", form, timeout=10).raise_for_status()
        person.wait_for_device_authorization(device)
        client.set_token_provider(person)
        assert client.get_current_principal()["issuer"] == ISSUER
        first = person.tokens
        person.refresh()
        assert person.tokens["access_token"] != first["access_token"]
        assert person.tokens["refresh_token"] != first["refresh_token"]
        renewing = sdk.package.OAuthClient.from_token_set(
            f"{emulator.issuer_url}/token",
            access_token=first["access_token"],
            refresh_token=person.tokens["refresh_token"],
        )
        client.set_token_provider(renewing)
        assert renewing.refresh_access_token(first["access_token"]) != first["access_token"]
        assert isinstance(client.list_apps(), list)


# --- the daemon ------------------------------------------------------------------------------------------------------


def test_principals_and_roles(client: Any, name: str) -> None:
    me = client.get_current_principal()
    assert (me["email"], me["roles"]) == (ADMIN, ["appmesh-admin"])
    assert sorted(client.get_principal_permissions()) == sorted(me["permissions"])
    client.update_role(name, ["app-view"])
    assert client.list_roles()[name] == ["app-view"]
    client.update_principal("oidc:contract", {"roles": [name]})
    assert client.list_principals()["oidc:contract"]["roles"] == [name]
    client.delete_principal("oidc:contract")
    assert "oidc:contract" not in client.list_principals()
    client.delete_role(name)
    assert name not in client.list_roles()
    assert "principal-view" in client.list_permissions()


def test_labels_configuration_resources_and_metrics(client: Any, name: str) -> None:
    client.add_label(name, "value")
    assert client.list_labels()[name] == "value"
    client.delete_label(name)
    assert name not in client.list_labels()
    assert client.set_log_level("DEBUG") == "DEBUG"
    assert client.get_config()["BaseConfig"]["LogLevel"] == "DEBUG"
    assert client.get_host_resources()["fd_daemon"] > 0
    assert "# TYPE appmesh_" in client.get_metrics()
    assert client.get_auth_config()["issuer"] == ISSUER


# --- apps and runs ---------------------------------------------------------------------------------------------------


def test_the_life_of_an_application(sdk: Sdk, client: Any, name: str) -> None:
    app = add(sdk, client, name, "sleep 100", description="contract")
    assert (app.name, app.command, app.is_enabled) == (name, "sleep 100", True)
    assert app.owner_display_name == "admin"
    assert app.owner_principal_id.startswith("oidc:")
    assert wait_for(lambda: client.get_app(name).pid)
    assert name in [one.name for one in client.list_apps()]
    assert wait_for(lambda: client.check_app_health(name))
    client.disable_app(name)
    assert wait_for(lambda: client.get_app(name).enabled is False)
    client.enable_app(name)
    assert wait_for(lambda: client.get_app(name).pid)
    assert client.delete_app(name) is True
    assert client.delete_app(name) is False


def test_every_field_that_a_client_sets_comes_back(sdk: Sdk, client: Any, name: str) -> None:
    fields = {
        "description": "all of it",
        "working_dir": "/tmp",
        "stop_grace_period": "PT5S",
        "stdout_backup_count": 3,
        "cron_schedule": "0 0 3 * * *",
        "depends_on": ["other"],
        "env": {"A": "b"},
        "enabled": False,
    }
    app = sdk.package.App({"name": name, "command": "sleep 100", **fields})
    app.set_env("PIN", "1234", secure=True)
    app.set_permission(sdk.package.App.Permission.READ)
    app.behavior.set_exit_behavior(app.behavior.Action.RESTART)
    app.behavior.set_exit_code_action(3, app.behavior.Action.REMOVE)
    client.add_app(app)
    found = client.get_app(name)
    shown = found.to_dict()
    assert {key: shown.get(key) for key in fields} == fields
    assert found.others_permission is sdk.package.App.Permission.READ
    assert shown["behavior"]["exit_code_actions"] == {"3": "remove"}
    assert "1234" not in str(shown)


def test_output_by_position(sdk: Sdk, client: Any, name: str) -> None:
    add(sdk, client, name, "echo hello; echo err >&2; exit 3")
    wait_for(lambda: client.get_app(name).return_code == 3)
    output = client.get_app_output(name, stdout_position=6)
    assert (output.status_code, output.output, output.output_position, output.exit_code) == (200, "err\n", 10, 3)
    assert client.get_app_output(name, process_uuid="other").status_code == HTTPStatus.EXPECTATION_FAILED


def test_runs(sdk: Sdk, client: Any) -> None:
    assert client.run_app_sync("echo sync; exit 4") == (4, "sync\n")
    run = client.run_app_async(sdk.package.App({"command": "echo one; sleep 0.4; echo two; exit 7", "shell": True}))
    assert run.process_uuid
    pieces: list[str] = []
    assert run.wait(lambda text, _position: pieces.append(text), timeout=20) == 7
    assert "".join(pieces) == "one\ntwo\n"


# --- workers ---------------------------------------------------------------------------------------------------------

WORKER = """
from {package} import AppMeshWorker{suffix}
worker = AppMeshWorker{suffix}({arguments})
while True:
    worker.send_task_result(b'got:' + worker.fetch_task())
"""


def worker_arguments(emulator: Emulator, transport: str) -> str:
    trusted = str(emulator.ca_file)
    if transport == "https":
        assert emulator.https_address
        return "{!r}, {!r}".format("https://{}:{}".format(*emulator.https_address), trusted)
    if transport == "tcp":
        return f"{trusted!r}, tcp_address={emulator.tcp_address!r}"
    return f"{emulator.wss_address!r}, {trusted!r}"


def test_tasks_go_to_the_process_and_back(  # noqa: PLR0917 fixtures
    sdk: Sdk, emulator: Emulator, transport: str, client: Any, name: str, tmp_path: Path
) -> None:
    suffix = "" if transport == "https" else transport.upper()
    script = tmp_path / "worker.py"
    arguments = worker_arguments(emulator, transport)
    script.write_text(WORKER.format(package=sdk.import_name, suffix=suffix, arguments=arguments))
    environment = {"PYTHONPATH": str(Path(__file__).parents[3])} if sdk.is_ours else {}
    add(sdk, client, name, f"{sdk.python} {script}", shell=False, env=environment)
    assert client.run_task(name, "payload", timeout=30) == "got:payload"
    assert client.cancel_task(name) is False


def test_a_worker_that_was_replaced_ends(
    sdk: Sdk, emulator: Emulator, client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(sdk, client, name, "sleep 100", shell=False)
    monkeypatch.setenv("APP_MESH_PROCESS_KEY", "of a process before")
    monkeypatch.setenv("APP_MESH_APPLICATION_NAME", name)
    worker = sdk.package.AppMeshWorkerTCP(str(emulator.ca_file), tcp_address=emulator.tcp_address)
    with pytest.raises(sdk.package.AppMeshProcessSupersededError):
        worker.fetch_task()
    worker._client.close()


# --- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "wss"])
def test_events_of_all_and_of_one(sdk: Sdk, client: Any, janitor: AppMeshClientTCP, name: str) -> None:
    events: list[Any] = []
    everything = client.subscribe("*", None, events.append)
    assert (everything.app_name, len(everything.events)) == ("*", 6)
    janitor.add_app(meshbridge.appmesh.App({"name": name, "command": "echo quick; exit 3", "shell": True}))
    wait_for(lambda: any(event.event_type == "EXIT" for event in list(events)))
    janitor.disable_app(name)
    wait_for(lambda: any(event.event_type == "STATUS" for event in list(events)))
    client.unsubscribe(everything.subscription_id)
    mine = [event for event in events if event.app_name == name]
    assert [event.event_type for event in mine] == ["HEALTH", "HEALTH", "START", "STDOUT", "HEALTH", "EXIT", "STATUS"]
    assert mine[-1].data == {"enabled": False, "previous_enabled": True}
    assert [event.sequence for event in events] == sorted(event.sequence for event in events)


@pytest.mark.parametrize("transport", ["tcp", "wss"])
def test_a_subscription_that_is_refused(sdk: Sdk, client: Any, name: str) -> None:
    with pytest.raises(sdk.package.AppMeshRequestError):
        client.subscribe(name, ["START"])


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_file_goes_there_and_back(client: Any, tmp_path: Path, size: int) -> None:
    local, remote, back = (tmp_path / name for name in ("local", "a remote ü", "back"))
    local.write_bytes(os.urandom(size))
    client.upload_file(str(local), str(remote))
    wait_for(lambda: remote.exists() and remote.stat().st_size == size)
    client.download_file(str(remote), str(back))
    assert back.read_bytes() == remote.read_bytes() == local.read_bytes()


def test_files_that_are_refused(sdk: Sdk, client: Any, tmp_path: Path) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    local.write_bytes(b"new")
    remote.write_bytes(b"old")
    errors = (sdk.package.AppMeshError, requests.RequestException)
    with pytest.raises(errors):
        client.upload_file(str(local), str(remote))
    assert remote.read_bytes() == b"old"
    with pytest.raises(errors):
        client.download_file(str(tmp_path / "none"), str(tmp_path / "back"))
