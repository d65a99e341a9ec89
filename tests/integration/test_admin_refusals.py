"""What a daemon's refusals and silence are to a caller of the API, and what the bridge mends by itself."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest
from pydantic import SecretStr

from meshbridge.appmesh import App, AppMeshClient, AppMeshClientTCP
from meshbridge.appmesh.exchange import Exchange
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from meshbridge.link.connections import new_login_exchange
from tests.integration.admin_api import Api, application_for, options_for, serving
from tests.support import free_port, wait_for


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def silent() -> Iterator[tuple[str, int]]:
    """A host that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[:2]


@pytest.fixture(scope="module")
def links(
    emulator: Emulator, silent: tuple[str, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Link]]:
    journal = Journal(JournalOptions(path=tmp_path_factory.mktemp("journal")))
    journal.open()
    user = {"username": "admin", "password": SecretStr("admin123")}
    made = {
        "node-a": Link("node-a", options_for(emulator, "tcp"), journal),
        "node-w": Link("node-w", options_for(emulator, "wss"), journal),
        "node-h": Link("node-h", options_for(emulator, "https"), journal),
        "viewer": Link("viewer", options_for(emulator, "tcp", username="mesh", password=SecretStr("mesh123")), journal),
        "stranger": Link("stranger", options_for(emulator, "wss", password=SecretStr("wrong")), journal),
        "silent": Link(
            "silent", DaemonOptions.model_validate({"url": f"tcp://127.0.0.1:{silent[1]}", **user}), journal
        ),
        "away": Link("away", DaemonOptions.model_validate({"url": f"tcp://127.0.0.1:{free_port()}", **user}), journal),
    }
    yield made
    for link in made.values():
        assert link.stop(10)
    journal.close()


@pytest.fixture(scope="module")
def api(links: dict[str, Link]) -> Iterator[Api]:
    with serving(application_for(list(links.values()), next(iter(links.values()))._journal)) as served:
        yield served


@pytest.fixture(scope="module")
def sdk(emulator: Emulator) -> Iterator[AppMeshClient]:
    assert emulator.tcp_address is not None
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file)) as client:
        client.login("admin", "admin123")
        yield client


def path(daemon: str, rest: str = "labels") -> str:
    return f"/api/v1/daemons/{daemon}/{rest}"


def test_a_daemon_that_is_not_configured_is_named_with_those_that_are(api: Api, links: dict[str, Link]) -> None:
    refused = api.json("GET", path("nope"), 404)
    assert refused["kind"] == "unknown-daemon"
    assert refused["allowed"] == sorted(links)


def test_a_missing_permission_is_a_403_that_names_it(api: Api) -> None:
    refused = api.json("PUT", path("viewer", "apps/x"), 403, json={"command": "sleep 1"})
    assert (refused["kind"], refused["permission"]) == ("daemon-denied", "app-reg")


def test_a_bridge_that_may_not_log_in_is_a_502_and_never_asks_in_a_loop(api: Api) -> None:
    for _ in range(3):
        refused = api.json("GET", path("stranger"), 502)
        assert refused["kind"] == "daemon-login"
        assert "login as 'admin' refused" in refused["detail"]


def test_a_daemon_that_is_away_is_a_502(api: Api) -> None:
    assert api.json("GET", path("away"), 502)["kind"] == "daemon-unreachable"


def test_a_silent_daemon_is_a_502_and_takes_no_others_time(
    api: Api, links: dict[str, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More ask it at once than there are places for; one attempt to connect answers all who wait for it."""
    attempts: list[float] = []

    def connect(seconds: float) -> Exchange:
        attempts.append(seconds)
        return new_login_exchange(links["silent"]._options, 1.0)

    monkeypatch.setattr(links["silent"].client._tokens, "_open_exchange", connect)
    said: list[int] = []

    def ask() -> None:
        with api.another() as another:
            said.append(another.ask("GET", path("silent"), params={"timeout": 10}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    wait_for(lambda: attempts, "the first attempt")
    assert api.ask("GET", path("node-a")).status_code == 200
    for thread in threads:
        thread.join(30)
    assert said == [502] * 24
    assert len(attempts) < 24


def test_no_answer_in_time_is_a_504(api: Api, sdk: AppMeshClient) -> None:
    """To forward to itself is what a daemon never answers (docs/protocol.md, 'Surprises')."""
    host, port = sdk._address  # type: ignore[attr-defined]  # of the TCP client
    refused = api.json("GET", path("node-a"), 504, params={"forward_to": f"{host}:{port}", "timeout": 0.3})
    assert refused["kind"] == "daemon-timeout"
    assert f"forwarded to {host}:{port}" in refused["detail"]


def test_another_node_may_carry_it_out_for_an_administrator(emulator: Emulator, api: Api, sdk: AppMeshClient) -> None:
    """The daemon sends its token there."""
    with Emulator(EmulatorOptions(node_name="node-b")) as other:
        emulator.join(other)
        assert other.tcp_address is not None
        node = "{}:{}".format(*other.tcp_address)
        assert api.json("GET", path("node-a"), params={"forward_to": node})["HOST_NAME"] == "node-b"
        assert api.json("GET", path("node-a"))["HOST_NAME"] == "node-a"
        run = api.json("POST", path("node-a", "runs"), 202, params={"forward_to": node}, json={"command": "printf x"})
        output = path("node-a", f"runs/{run['name']}/output")
        followed = api.ask("GET", output, params={"forward_to": node}).text.splitlines()
        assert followed == ['{"position":0,"output":"x"}', '{"exit_code":0,"finished":true}']
        assert api.json("GET", output, 404)["kind"] == "daemon-refused", "it is at the other node"
        waited = api.json(
            "POST", path("node-a", "runs"), params={"forward_to": node, "wait": 1}, json={"command": "id"}
        )
        assert waited["exit_code"] == 0
        refused = api.json("GET", path("node-a"), 403, params={"forward_to": node}, scope="operate")
        assert refused["kind"] == "scope"


@pytest.mark.parametrize(
    "node", ["a\r\nX-Evil: 1", "", "a b", "3]J:", "[1:2]", "[::1", "a:99999", "a:b", "::1", "http://a"]
)
@pytest.mark.parametrize("daemon", ["node-a", "node-h"])
def test_what_is_no_node_is_refused(api: Api, daemon: str, node: str) -> None:
    refused = api.json("GET", path(daemon), 422, params={"forward_to": node})
    assert refused["errors"][0]["where"] == "query.forward_to"


@pytest.fixture
def spoil(emulator: Emulator, links: dict[str, Link]) -> Callable[[str, bool], None]:
    """Makes a link's token one that the daemon does not take (any more): garbage, or revoked."""

    def spoil(daemon: str, garbage: bool) -> None:
        credentials = links[daemon]._credentials
        credentials._young_refusals = 0  # of the other cases, moments ago
        if garbage:
            assert credentials.grant is not None
            object.__setattr__(credentials.grant, "access_token", "garbage")
        else:
            daemon_tokens = emulator._running().tokens
            claims = jwt.decode(credentials.present or "", options={"verify_signature": False})
            emulator._call(lambda: daemon_tokens.revoke(claims))

    return spoil


@pytest.mark.parametrize("daemon", ["node-a", "node-w", "node-h"])
@pytest.mark.parametrize("garbage", [True, False])
def test_a_token_that_is_garbage_or_was_revoked_is_seen_by_nobody(
    api: Api, spoil: Callable[[str, bool], None], daemon: str, garbage: bool, tmp_path: Path
) -> None:
    """A body that is streamed cannot be sent twice: it is not touched before the daemon has taken the token."""
    content, file = b"x" * 300_000, tmp_path / "file"
    api.json("GET", path(daemon))
    spoil(daemon, garbage)
    assert api.json("GET", path(daemon))["HOST_NAME"] == "node-a"
    spoil(daemon, garbage)
    assert api.json("PUT", path(daemon, "files"), 201, params={"path": str(file)}, data=content)["bytes"] == 300_000
    assert file.read_bytes() == content
    spoil(daemon, garbage)
    assert api.ask("GET", path(daemon, "files"), params={"path": str(file)}).content == content
    spoil(daemon, garbage)
    waited = api.json("POST", path(daemon, "runs"), params={"wait": "true"}, json={"command": "exit 3"})
    assert waited["exit_code"] == 3


def test_the_connection_is_closed_when_nobody_needed_it_and_made_again(api: Api, links: dict[str, Link]) -> None:
    api.json("GET", path("viewer"))
    client = links["viewer"].client
    assert client.close_idle(0.0)
    assert not client.close_idle(0.0)
    api.json("GET", path("viewer"))
    with client.use():
        assert not client.close_idle(0.0), "not while it is used"


def test_a_lost_connection_is_made_again(emulator: Emulator, api: Api) -> None:
    api.json("GET", path("node-a"))
    emulator.drop_connections()
    wait_for(lambda: api.ask("GET", path("node-a")).status_code == 200, "an answer again")


def test_names_that_are_none_are_refused_before_anybody_is_asked(api: Api) -> None:
    assert api.json("GET", path("away", f"apps/{'x' * 1025}"), 422)["errors"]
    assert api.json("DELETE", path("away", "labels/%2e%2e"), 422)["detail"] == "'..' is no name"


def test_more_waiting_calls_than_there_is_room_for_are_told_so(api: Api, sdk: AppMeshClient) -> None:
    sdk.add_app(App({"name": "long", "command": "sleep 600"}))
    url = path("viewer", "apps/long/output")
    ended: list[int] = []

    def wait() -> None:
        with api.another() as session:
            ended.append(session.ask("GET", url, params={"wait": 300}).status_code)

    threads = [threading.Thread(target=wait) for _ in range(17)]
    for thread in threads:
        thread.start()
    wait_for(lambda: ended == [503], "the one too many")
    assert api.ask("GET", path("viewer", "apps/long")).status_code == 200, "short ones have places of their own"
    sdk.delete_app("long")  # which ends what they wait for
    for thread in threads:
        thread.join(30)
    assert len(ended) == 17


ODD = {
    "half a character": '"\\ud800"',
    "half a character in a name": '{"\\ud800": 1}',
    "more than 64 bits": "123456789012345678901234567890",
    "no number": "NaN",
    "too large a number": "1e999",
    "too deep": "[" * 500 + "]" * 500,
    "far too deep": "[" * 100_000,
    "not JSON": "{",
}
TAKEN = {
    "PATCH config": '{"Labels": %s}',
    "PUT apps/odd": '{"command": "true", "metadata": %s}',
    "POST apps/odd/task": '{"data": {"a": %s}}',
    "PUT principals/odd": '{"roles": %s}',
    "PUT users/odd": '{"key": "x", "roles": [%s]}',
    "PUT users/mesh/password": '{"new_password": %s}',
    "PUT labels/odd": '{"value": %s}',
    "PUT roles/odd": '{"permissions": [%s]}',
    "POST runs": '{"command": "true", "env": {"A": %s}}',
}


@pytest.mark.parametrize("daemon", ["node-a", "node-h"])
@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_what_cannot_be_sent_on_is_refused_here(api: Api, daemon: str, body: str) -> None:
    for operation, form in TAKEN.items():
        method, _, rest = operation.partition(" ")
        response = api.ask(method, path(daemon, rest), data=form % body, headers={"Content-Type": "application/json"})
        assert response.status_code in {400, 422}, f"{operation}: {response.status_code} {response.text[:200]}"
        assert response.json()["kind"] in {"invalid", "bad-request"}, operation
    for name in ("/a\nb", "/a\r\nX-File-Mode: 511", "/a\0b", ""):
        for method in ("GET", "PUT"):
            refused = api.json(method, path(daemon, "files"), 422, params={"path": name}, data=b"x")
            assert refused["errors"][0]["where"] == "query.path"
