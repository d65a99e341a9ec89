"""What a daemon does for its clients: applications, runs, tasks, configuration, users."""

import base64
import hashlib
import hmac
import io
import struct
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from meshbridge.appmesh.token_provider import TokenProvider
from tests.contract.sdk.conftest import Daemon, Sdk
from tests.support import wait_for

PASSWORD = "Abcd1234!"

# The official client leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def add(sdk: Sdk, client: Any, name: str, command: str, **fields: Any) -> Any:
    return client.add_app(sdk.package.App({"name": name, "command": command, "shell": True, **fields}))


def ended(client: Any, name: str) -> Any:
    """The application, once its process has ended."""
    return wait_for(lambda: (app := client.get_app(name)).return_code is not None and app.pid is None and app)


def totp_code(secret: str) -> str:
    """RFC 6238 with the usual six digits and 30 s."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.new(key, struct.pack(">Q", int(time.time()) // 30), hashlib.sha1).digest()
    offset = digest[-1] & 0xF
    (number,) = struct.unpack_from(">I", digest, offset)
    return f"{(number & 0x7FFFFFFF) % 1_000_000:06}"


# --- login and tokens -------------------------------------------------------------------------------------------------


def test_a_wrong_password_and_an_unknown_user(sdk: Sdk, transport: str, daemon: Daemon, client: Any) -> None:
    other = sdk.connect(daemon, transport)
    with sdk.refused(401, "Authentication failed"):
        other.login(daemon.user, "not the password")
    with sdk.refused(404, "user not found"):
        other.login("no-such-user-here", "x")
    with sdk.refused(401, "No authentication token provided"):
        other.list_apps()
    other.close()


def test_a_token_is_checked_renewed_and_ended(sdk: Sdk, transport: str, daemon: Daemon, client: Any) -> None:
    other = sdk.connect(daemon, transport)
    assert other.login(daemon.user, daemon.password, token_expire="PT5M") is None
    old = other._get_access_token()
    assert client.authenticate(old, update_session=False)[0]
    assert client.authenticate(old, "app-view", update_session=False)[0]
    assert not client.authenticate(old, "no-such-permission", update_session=False)[0]
    for garbage in ("abc.def.ghi", "x.y.z", "garbage"):
        assert not client.authenticate(garbage, update_session=False)[0]
    other.renew_token("PT10M")
    assert not client.authenticate(old, update_session=False)[0], "renewal revokes the old one"
    assert isinstance(other.list_apps(), list)
    assert other.logout() is True
    other.close()


def test_a_token_given_to_a_client_is_used(sdk: Sdk, transport: str, daemon: Daemon, client: Any) -> None:
    other = sdk.connect(daemon, transport)
    other.set_token(client._get_access_token())
    assert isinstance(other.list_apps(), list)
    other.close()


# --- applications -----------------------------------------------------------------------------------------------------


def test_the_life_of_an_application(sdk: Sdk, client: Any, name: str) -> None:
    app = add(sdk, client, name, "sleep 100", description="contract", env={"A": "b"})
    assert (app.name, app.command, app.status) == (name, "sleep 100", 1)
    assert wait_for(lambda: client.get_app(name).pid)
    assert name in [one.name for one in client.list_apps()]
    assert wait_for(lambda: client.check_app_health(name))
    client.disable_app(name)
    assert wait_for(lambda: client.get_app(name).status == 0)
    client.enable_app(name)
    assert wait_for(lambda: client.get_app(name).pid)
    assert client.delete_app(name) is True
    assert client.delete_app(name) is False
    assert name not in [one.name for one in client.list_apps()]


def test_what_is_not_there(sdk: Sdk, client: Any, name: str) -> None:
    for operation in ("get_app", "enable_app", "disable_app", "check_app_health"):
        with sdk.refused(404, "No such application"):
            getattr(client, operation)(name)
    assert client.get_app_output(name).status_code == HTTPStatus.NOT_FOUND
    with sdk.refused(404, "No such application"):
        client.run_task(name, "x", timeout=1)


def test_a_bad_name_is_refused(sdk: Sdk, client: Any) -> None:
    with sdk.refused(400, "application name"):
        add(sdk, client, "bad name!?", "true")


def test_every_field_that_a_client_sets_comes_back(sdk: Sdk, client: Any, name: str) -> None:
    fields = {
        "description": "all of it",
        "metadata": '{"k": 1}',
        "working_dir": "/tmp",
        "retention": "PT5S",
        "permission": 21,
        "stdout_cache_num": 3,
        "env": {"A": "b"},
        "behavior": {"exit": "standby", "control": {"0": "restart", "1": "remove"}},
        "resource_limit": {"cpu_shares": 100, "memory_mb": 200, "memory_virt_mb": 300},
    }
    add(sdk, client, name, "sleep 100", **fields)
    app = client.get_app(name).to_dict()
    assert {key: app.get(key) for key in fields if key != "metadata"} == {
        key: value for key, value in fields.items() if key != "metadata"
    }


def test_output_by_position(sdk: Sdk, client: Any, name: str) -> None:
    add(sdk, client, name, "echo hello; echo err >&2; exit 3")
    assert ended(client, name).return_code == 3
    output = client.get_app_output(name)
    assert (output.status_code, output.output, output.out_position, output.exit_code) == (200, "hello\nerr\n", 10, 3)
    output = client.get_app_output(name, stdout_position=6)
    assert (output.output, output.out_position) == ("err\n", 10)
    assert client.get_app_output(name, stdout_index=9).status_code == HTTPStatus.EXPECTATION_FAILED
    assert client.get_app_output(name, process_uuid="another").status_code == HTTPStatus.EXPECTATION_FAILED


def test_output_that_is_no_utf_8_never_raises(sdk: Sdk, client: Any, name: str) -> None:
    add(sdk, client, name, r"printf 'a\377\303'")
    ended(client, name)
    output = client.get_app_output(name)
    assert output.out_position == 3
    if sdk.is_ours:
        assert output.output == "a\ufffd\ufffd"


# --- runs and tasks ---------------------------------------------------------------------------------------------------


def test_a_run_waited_for_by_the_daemon(sdk: Sdk, client: Any) -> None:
    assert client.run_app_sync("echo sync; exit 4") == (4, "sync\n")
    app = sdk.package.App({"command": "echo $A", "shell": True, "env": {"A": "b"}})
    assert client.run_app_sync(app, max_time=10, lifecycle="PT1M") == (0, "b\n")


def test_a_run_that_takes_too_long_is_ended(sdk: Sdk, client: Any) -> None:
    assert client.run_app_sync("sleep 20", max_time=1, lifecycle=5)[0] == 9


def test_a_run_waited_for_by_the_client(sdk: Sdk, transport: str, client: Any) -> None:
    run = client.run_app_async("echo one; sleep 0.4; echo two; exit 7")
    assert run.app_name
    assert run.proc_uid
    pieces: list[tuple[str, int]] = []
    assert run.wait(lambda text, position: pieces.append((text, position)), timeout=20) == 7
    if sdk.is_ours or transport != "https":  # the official HTTPS client does not call it
        assert "".join(text for text, _ in pieces) == "one\ntwo\n"
        assert pieces[0][1] == 0
    assert run.app_name not in [app.name for app in client.list_apps()]


def test_a_run_that_has_ended_before_it_is_waited_for(sdk: Sdk, client: Any) -> None:
    run = client.run_app_async("echo done; exit 5")
    wait_for(lambda: client.get_app_output(run.app_name, process_uuid=run.proc_uid).exit_code is not None)
    pieces: list[str] = []
    assert run.wait(lambda text, _position: pieces.append(text), timeout=20) == 5
    if sdk.is_ours:
        assert "".join(pieces) == "done\n"


def test_a_run_that_goes_on_after_the_wait(sdk: Sdk, client: Any) -> None:
    run = client.run_app_async("sleep 60", lifecycle="PT2M")
    assert run.wait(timeout=1) is None
    assert client.delete_app(run.app_name)


@pytest.mark.ours
def test_all_of_a_runs_output_arrives_once_whatever_its_bytes(sdk: Sdk, client: Any) -> None:
    program = "import sys; [sys.stdout.buffer.write(b'%06d \\xc3\\xa9\\xff\\n' % n) for n in range(40000)]"
    run = client.run_app_async(f'{sys.executable} -c "{program}"')
    pieces: list[tuple[str, int]] = []
    assert run.wait(lambda text, position: pieces.append((text, position)), timeout=60) == 0
    assert "".join(text for text, _ in pieces) == "".join(f"{n:06} é\ufffd\n" for n in range(40000))
    assert [position for _, position in pieces] == sorted({position for _, position in pieces})


@pytest.mark.events
def test_a_run_that_is_removed_while_waited_for(sdk: Sdk, client: Any) -> None:
    run = client.run_app_async("echo there; sleep 60", lifecycle="PT2M")
    removed = threading.Event()

    def handler(_text: str, _position: int) -> None:
        if not removed.is_set():
            removed.set()
            threading.Thread(target=client.delete_app, args=(run.app_name,)).start()

    if sdk.is_ours:
        assert run.wait(handler, timeout=20) in {-1, 9}
    else:
        assert client.delete_app(run.app_name)  # one thread at a time may use it


TASK_SERVER = """
import sys
from meshbridge.appmesh import AppMeshServer{suffix}
server = AppMeshServer{suffix}({arguments})
while True:
    payload = server.task_fetch()
    server.task_return(b'got:' + payload)
"""


def test_tasks(  # noqa: PLR0917 fixtures
    sdk: Sdk, transport: str, daemon: Daemon, client: Any, name: str, host_directory: Path
) -> None:
    address = daemon.addresses[transport]
    arguments = {
        "https": f"'https://{address[0]}:{address[1]}', {daemon.ca_file!r}",
        "tcp": f"{daemon.ca_file!r}, tcp_address={address!r}",
        "wss": f"{address!r}, {daemon.ca_file!r}",
    }[transport]
    suffix = "" if transport == "https" else transport.upper()
    script = host_directory / "server.py"
    script.write_text(TASK_SERVER.format(suffix=suffix, arguments=arguments))
    root = Path(__file__).parents[3]
    add(sdk, client, name, f"{sys.executable} {script}", shell=False, env={"PYTHONPATH": str(root)})
    assert client.run_task(name, "payload", timeout=30) == "got:payload"
    assert client.run_task(name, "é", timeout=30)[:4] == "got:"
    assert client.cancel_task(name) is False


@pytest.mark.ours
@pytest.mark.events
def test_a_worker_that_was_replaced_ends(  # noqa: PLR0917 fixtures
    sdk: Sdk, transport: str, daemon: Daemon, client: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon answers twice; only the second answer has the error."""
    add(sdk, client, name, "sleep 100", shell=False)
    monkeypatch.setenv("APP_MESH_PROCESS_KEY", "of a process before")
    monkeypatch.setenv("APP_MESH_APPLICATION_NAME", name)
    address = daemon.addresses[transport]
    server = (
        sdk.package.AppMeshServerTCP(daemon.ca_file, tcp_address=address)
        if transport == "tcp"
        else sdk.package.AppMeshServerWSS(address, daemon.ca_file)
    )
    with server:
        with pytest.raises(SystemExit):
            server.task_fetch()
        with pytest.raises(sdk.package.AppMeshRequestError, match="Process key mismatch"):
            server.task_return(b"late")


# --- the daemon -------------------------------------------------------------------------------------------------------


def test_labels(sdk: Sdk, transport: str, client: Any, name: str) -> None:
    client.add_label(name, "a b/c")
    # The official client writes a blank as +, which the daemon leaves as it is over HTTPS.
    plus = (sdk.name, transport) == ("official", "https")
    assert client.list_labels()[name] == ("a+b/c" if plus else "a b/c")
    client.delete_label(name)
    assert name not in client.list_labels()
    client.delete_label(name)


def test_configuration(sdk: Sdk, client: Any) -> None:
    before = client.get_config()["BaseConfig"]
    try:
        assert client.set_config({"BaseConfig": {"Description": "contract"}})["BaseConfig"]["Description"] == "contract"
        assert client.set_log_level("WARN") == "WARN"
        assert client.get_config()["BaseConfig"]["LogLevel"] == "WARN"
        with sdk.refused(500, "Internal server error"):
            client.set_config({"REST": {"RestListenPort": "x"}})
    finally:
        client.set_config({"BaseConfig": {key: before[key] for key in ("Description", "LogLevel")}})


def test_resources_and_metrics(sdk: Sdk, transport: str, daemon: Daemon, client: Any) -> None:
    assert client.get_host_resources()["appmesh_start_time_unix_seconds"] > 0
    other = sdk.connect(daemon, transport)
    assert "# TYPE appmesh_" in other.get_metrics(), "needs no login"
    other.close()


# --- users ------------------------------------------------------------------------------------------------------------


def user(**fields: Any) -> dict[str, Any]:
    return {
        "email": "contract@example.com",
        "exec_user": "",
        "group": "user",
        "key": PASSWORD,
        "locked": False,
        "roles": ["view"],
        **fields,
    }


def test_users_roles_and_permissions(sdk: Sdk, transport: str, daemon: Daemon, client: Any, name: str) -> None:
    client.add_user(name, user())
    assert client.list_users()[name]["group"] == "user"
    assert "user" in client.list_groups()
    assert "app-view" in client.list_permissions()
    assert "view" in client.list_roles()
    assert client.get_current_user()["name"] == daemon.user
    assert "app-view" in client.get_user_permissions()

    other = sdk.connect(daemon, transport)
    client.lock_user(name)
    with sdk.refused(401, "Authentication failed"):
        other.login(name, PASSWORD)
    client.unlock_user(name)
    other.login(name, PASSWORD)
    with sdk.refused(400, "Permission denied"):
        other.delete_label("x")
    other.update_password(PASSWORD, "Efgh5678!")
    with sdk.refused(401, "Token has been revoked"):
        other.list_apps()
    with sdk.refused(401, "Authentication failed"):
        other.login(name, PASSWORD)
    other.login(name, "Efgh5678!")
    other.close()
    client.delete_user(name)
    with sdk.refused(404, "user not found"):
        client.delete_user(name)


def test_roles(sdk: Sdk, client: Any, name: str) -> None:
    client.update_role(name, ["app-view"])
    assert client.list_roles()[name] == ["app-view"]
    client.delete_role(name)
    assert name not in client.list_roles()


def test_two_factor_login(sdk: Sdk, transport: str, daemon: Daemon, client: Any, name: str) -> None:
    client.add_user(name, user(roles=["view", "manage", "shell"]))
    other = sdk.connect(daemon, transport)
    other.login(name, PASSWORD)
    secret = other.get_totp_secret()
    with sdk.refused(401, "Invalid TOTP token"):
        other.enable_totp("000000" if totp_code(secret) != "000000" else "111111")
    other.enable_totp(totp_code(secret))
    assert isinstance(other.list_apps(), list), "with the new token"

    challenge = other.login(name, PASSWORD)
    assert challenge
    with sdk.refused(401, "Invalid TOTP token"):
        other.validate_totp(name, challenge, "000000" if totp_code(secret) != "000000" else "111111")
    challenge = other.login(name, PASSWORD)
    other.validate_totp(name, challenge, totp_code(secret))
    assert isinstance(other.list_apps(), list)
    assert other.login(name, PASSWORD, totp_code(secret)) is None
    with sdk.refused(400, "Only administrator"):  # for any caller (measured)
        client.disable_totp(name)
    other.disable_totp()
    assert other.login(name, PASSWORD) is None
    other.close()


@pytest.mark.ours
def test_what_a_daemon_of_2x_does_not_offer_is_said_so(sdk: Sdk, client: Any) -> None:
    with pytest.raises(sdk.package.AppMeshNotOfferedError):
        client.get_auth_config()
    with pytest.raises(sdk.package.AppMeshNotOfferedError):
        client.get_current_principal()


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.ours
def test_files_go_as_streams_both_ways(
    sdk: Sdk, transport: str, daemon: Daemon, client: Any, host_directory: Path
) -> None:
    content = bytes(range(256)) * 1000
    remote = host_directory / "remote"
    two_steps = daemon.loses_attributes(transport)
    attributes = {"X-File-Mode": str(0o640)}
    kept = client.upload_stream(io.BytesIO(content), str(remote), size=len(content), attributes=attributes)
    assert kept is not two_steps
    assert remote.read_bytes() == content
    assert remote.stat().st_mode & 0o777 == (0o644 if two_steps else 0o640)
    remote.chmod(0o640)
    with client.open_download(str(remote)) as file:
        assert file.size in {None, len(content)}
        assert file.attributes["X-File-Mode"] == str(0o640)
        assert b"".join(file.chunks) == content
    with sdk.refused(403, "file already exist"):
        client.upload_stream(io.BytesIO(content), str(remote), size=len(content))
    with sdk.refused(406, "file not found"), client.open_download(str(host_directory / "none")):
        pass
    if transport == "tcp":
        client.upload_stream(io.BytesIO(content), str(host_directory / "unsized"))
        assert (host_directory / "unsized").read_bytes() == content
    else:
        with pytest.raises(ValueError, match="size"):
            client.upload_stream(io.BytesIO(content), str(host_directory / "unsized"))
    with pytest.raises(OSError, match="shorter"):
        client.upload_stream(io.BytesIO(b"12"), str(host_directory / "short"), size=3)


@pytest.mark.ours
@pytest.mark.parametrize("name", ["a b", "a%20b", "100 %", "1+1=2", "ü€𝄞"])
def test_a_file_keeps_its_name_or_is_refused(  # noqa: PLR0917 fixtures
    sdk: Sdk, transport: str, daemon: Daemon, client: Any, host_directory: Path, name: str
) -> None:
    if daemon.loses_attributes(transport) and not name[-1].isascii():
        remote = str(host_directory / name)
        with pytest.raises(sdk.package.AppMeshRequestError, match="Use tcp://"):
            client.upload_file(__file__, remote)
        with pytest.raises(sdk.package.AppMeshRequestError, match="Use tcp://"):
            client.download_file(remote, str(host_directory / "back"))
        assert not list(host_directory.iterdir())
        return
    client.upload_stream(io.BytesIO(b"123"), str(host_directory / name), size=3)
    assert [path.name for path in host_directory.iterdir()] == [name]
    with client.open_download(str(host_directory / name)) as file:
        assert b"".join(file.chunks) == b"123"


@pytest.mark.ours
def test_a_file_goes_with_the_next_token_where_the_first_was_refused(
    sdk: Sdk, transport: str, daemon: Daemon, client: Any, host_directory: Path
) -> None:
    good = client._tokens.get()

    class Tokens(TokenProvider):
        can_refresh = True

        def __init__(self) -> None:
            self.given = "garbage"

        def get_access_token(self) -> str:
            return self.given

        def refresh_access_token(self, rejected_token: str | None = None) -> str:
            assert rejected_token == "garbage"
            self.given = good
            return self.given

    client._provider = Tokens()
    remote = str(host_directory / "file")
    client.upload_stream(io.BytesIO(b"123"), remote, size=3)
    client._provider = Tokens()
    with client.open_download(remote) as file:
        assert b"".join(file.chunks) == b"123"
