"""Events over TCP and WSS, files over all three, and many threads on one client."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from meshbridge.appmesh import App, AppMeshClient, AppMeshClientTCP, AppMeshClientWSS, AppMeshRequestError
from meshbridge.emulator import Emulator, EmulatorOptions
from tests.contract.sdk.conftest import Daemon, Sdk
from tests.support import wait_for

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def types(events: list[Any]) -> list[str]:
    return [event.event_type for event in events]


def add(sdk: Sdk, client: Any, name: str, command: str, *arguments: Any) -> Any:
    return client.add_app(sdk.package.App({"name": name, "command": command, "shell": True}), *arguments)


@pytest.mark.events
def test_a_registration_with_a_subscription_loses_no_event(sdk: Sdk, client: Any, name: str) -> None:
    if not sdk.is_ours:
        # Without a callback from before, it takes the first event for its answer, and loses it.
        client.subscribe("*", ["REMOVED"], lambda _event: None)
    events: list[Any] = []
    app = add(sdk, client, name, "echo quick", ["START", "EXIT", "STDOUT"], events.append)
    assert app.subscription_id
    wait_for(lambda: "EXIT" in types(events))
    assert types(events) == ["START", "STDOUT", "EXIT"]
    assert [event.subscription_id for event in events] == [app.subscription_id] * 3
    assert events[1].data["output"] == "quick\n"
    assert events[2].data["exit_code"] == 0
    assert [event.sequence for event in events] == sorted(event.sequence for event in events)


@pytest.mark.events
def test_all_events_of_all_applications(client: Any, janitor: AppMeshClient, name: str) -> None:
    events: list[Any] = []
    result = client.subscribe("*", None, events.append)
    assert result.app_name == "*"
    assert len(result.events) == 6
    janitor.add_app(App({"name": name, "command": "exit 3", "shell": True}))

    def mine() -> list[Any]:
        """Others run there, too."""
        return [event for event in list(events) if event.app_name == name]

    wait_for(lambda: "EXIT" in types(mine()))
    janitor.delete_app(name)
    wait_for(lambda: "REMOVED" in types(mine()))
    client.unsubscribe(result.subscription_id)


@pytest.mark.events
def test_only_the_events_asked_for_come(sdk: Sdk, client: Any, janitor: AppMeshClient, name: str) -> None:
    add(sdk, client, name, "exit 0")
    events: list[Any] = []
    result = client.subscribe(name, ["START"], events.append)
    assert (result.app_name, result.events) == (name, ["START"])
    janitor.disable_app(name)
    janitor.enable_app(name)
    wait_for(lambda: events)
    client.unsubscribe(result.subscription_id)
    assert set(types(events)) == {"START"}


@pytest.mark.events
def test_subscriptions_that_are_refused(sdk: Sdk, client: Any, name: str) -> None:
    with sdk.refused(400, "No valid event types"):
        client.subscribe("*", ["NOPE"])
    with sdk.refused(404, "No such application"):
        client.subscribe(name, ["START"])
    with sdk.refused(404, "Subscription not found"):
        client.unsubscribe("nope")


@pytest.mark.events
@pytest.mark.ours
def test_a_subscription_survives_a_file(sdk: Sdk, client: Any, name: str, host_directory: Path) -> None:
    """The official client loses the connection here: files and events share its stream."""
    events: list[Any] = []
    client.subscribe("*", ["START", "EXIT"], events.append)
    local = host_directory / "local"
    local.write_bytes(os.urandom(500_000))
    client.upload_file(str(local), str(host_directory / "remote"))
    client.download_file(str(host_directory / "remote"), str(host_directory / "back"))
    assert (host_directory / "back").read_bytes() == local.read_bytes()
    add(sdk, client, name, "exit 0")
    wait_for(lambda: "EXIT" in types(events))
    assert "__disconnected__" not in types(events)


@pytest.mark.events
def test_the_end_of_the_connection_is_told(sdk: Sdk, transport: str, daemon: Daemon, client: Any) -> None:
    if daemon.emulator is None:
        pytest.skip("a real daemon's connections are not cut")
    events: list[Any] = []
    client.subscribe("*", None, events.append)
    daemon.emulator.drop_connections()
    wait_for(lambda: "__disconnected__" in types(events))
    assert types(events).count("__disconnected__") == 1
    wait_for(lambda: _answers(client), "the client reconnects")


def _answers(client: Any) -> bool:
    try:
        client.list_labels()
    except Exception:  # noqa: BLE001 until it does
        return False
    return True


@pytest.mark.events
@pytest.mark.ours
def test_a_flood_reaches_a_callback_whole_and_in_order(sdk: Sdk, daemon: Daemon, client: Any) -> None:
    if daemon.emulator is None:
        pytest.skip("only the emulator makes events at will")
    count = 20_000
    sequences: list[int] = []
    client.subscribe("*", None, lambda event: sequences.append(event.sequence) if event.app_name == "flood" else None)
    daemon.emulator.emit_many(("flood", "STATUS", {"status": "enabled"}) for _ in range(count))
    wait_for(lambda: len(sequences) == count)
    assert sequences == list(range(sequences[0], sequences[0] + count))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_file_goes_there_and_back_with_its_mode(  # noqa: PLR0917 fixtures
    sdk: Sdk, transport: str, daemon: Daemon, client: Any, host_directory: Path, size: int
) -> None:
    """Over WSS the daemon ignores the mode of an upload, and has no answer for an empty file."""
    two_steps = daemon.loses_attributes(transport)
    if two_steps and not sdk.is_ours and (transport == "https" or not size):
        pytest.skip("the official client does not do it there")
    local, remote, back = (host_directory / name for name in ("local", "remote", "back"))
    local.write_bytes(os.urandom(size))
    local.chmod(0o640)
    client.upload_file(str(local), str(remote))
    mode = 0o644 if two_steps else 0o640
    wait_for(lambda: remote.exists() and remote.stat().st_size == size and remote.stat().st_mode & 0o777 == mode)
    assert remote.read_bytes() == local.read_bytes()
    remote.chmod(0o604)
    client.download_file(str(remote), str(back))
    assert back.read_bytes() == local.read_bytes()
    if sdk.is_ours or not two_steps:  # the official client looks for it in the second answer
        assert back.stat().st_mode & 0o777 == 0o604


def test_files_that_are_refused(sdk: Sdk, client: Any, host_directory: Path) -> None:
    local, remote = host_directory / "local", host_directory / "remote"
    local.write_bytes(b"new")
    remote.write_bytes(b"old")
    with sdk.refused(403, "file already exist"):
        client.upload_file(str(local), str(remote))
    assert remote.read_bytes() == b"old"
    with sdk.refused(406, "file not found"):
        client.download_file(str(host_directory / "none"), str(host_directory / "back"))
    assert not (host_directory / "back").exists()


TRANSFER = """
import resource, sys
from meshbridge.appmesh import AppMeshClient, AppMeshClientTCP, AppMeshClientWSS
transport, host, port, ca, user, password, local, remote, back = sys.argv[1:]
address = (host, int(port))
client = {
    "https": lambda: AppMeshClient(f"https://{host}:{port}", ca),
    "tcp": lambda: AppMeshClientTCP(address, ca),
    "wss": lambda: AppMeshClientWSS(address, ca),
}[transport]()
client.login(user, password)
client.upload_file(sys.executable, remote + ".small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
client.upload_file(local, remote)
client.download_file(remote, back)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
client.close()
"""


@pytest.mark.ours
@pytest.mark.slow
def test_a_large_file_takes_no_more_memory_than_a_small_one(
    transport: str, daemon: Daemon, client: Any, host_directory: Path
) -> None:
    size = 128 * 1024 * 1024
    local, remote, back = (host_directory / name for name in ("local", "remote", "back"))
    with local.open("wb") as file:
        file.truncate(size)
    arguments = [transport, *map(str, daemon.addresses[transport]), daemon.ca_file, daemon.user, daemon.password]
    result = subprocess.run(
        [sys.executable, "-c", TRANSFER, *arguments, local, remote, back],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert back.stat().st_size == size
    assert int(result.stdout) < 8 * 1024, "KiB, of a file of 128 MiB"
    for path in (local, remote, back):
        path.unlink()


# --- many threads -----------------------------------------------------------------------------------------------------


@pytest.mark.ours
def test_one_client_is_used_from_many_threads(sdk: Sdk, client: Any, name: str) -> None:
    names = [f"{name}-{number}" for number in range(8)]
    wrong: list[str] = []

    def work(mine: str) -> None:
        try:
            add(sdk, client, mine, "sleep 100")
            wrong.extend(mine for _ in range(20) if client.get_app(mine).name != mine)
            client.renew_token()
        finally:
            client.delete_app(mine)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert not set(names) & {app.name for app in client.list_apps()}


@pytest.mark.ours
def test_close_leaves_no_thread(sdk: Sdk, transport: str, daemon: Daemon, client: Any) -> None:
    before = set(threading.enumerate())
    other = sdk.connect(daemon, transport)
    other.login(daemon.user, daemon.password)
    other.start_token_refresh()
    if transport != "https":
        other.subscribe("*", None, lambda _event: None)
    other.close()
    wait_for(lambda: set(threading.enumerate()) <= before)


# --- two nodes --------------------------------------------------------------------------------------------------------


def test_a_forwarded_request_is_carried_out_by_the_other_node(tmp_path: Path) -> None:
    with (
        Emulator(EmulatorOptions(node_name="node-a")) as one,
        Emulator(EmulatorOptions(node_name="node-b")) as two,
    ):
        one.join(two)
        assert one.tcp_address
        assert two.https_address
        with AppMeshClientTCP(one.tcp_address, str(one.ca_file)) as client:
            client.login("admin", "admin123")
            assert client.list_labels()["HOST_NAME"] == "node-a"
            client.forward_to = "{}:{}".format(*two.https_address)
            assert client.list_labels()["HOST_NAME"] == "node-b"
            run = client.run_app_async("echo there; exit 3")
            client.forward_to = ""
            pieces: list[str] = []
            assert run.wait(lambda text, _position: pieces.append(text), timeout=20) == 3
            assert pieces == ["there\n"]
        assert one.wss_address
        with AppMeshClientWSS(one.wss_address, str(one.ca_file)) as client:
            client.login("admin", "admin123")
            client.forward_to = "{}:{}".format(*two.https_address)
            with pytest.raises(AppMeshRequestError, match="does not forward files"):
                client.upload_stream(io.BytesIO(b"123"), str(tmp_path / "file"), size=3)
        assert one.https_address
        with AppMeshClient("https://{}:{}".format(*one.https_address), str(one.ca_file)) as client:
            client.login("admin", "admin123")
            client.forward_to = "{}:{}".format(*two.https_address)
            with pytest.raises(AppMeshRequestError, match="the emulator does not forward files"):
                client.upload_stream(io.BytesIO(b"123"), str(tmp_path / "file"), size=3)
        assert not list(tmp_path.iterdir()), "it landed on the node that is connected"
