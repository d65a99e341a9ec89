"""The small parts: routes, configuration, store, certificates, what an app shows, what /proc says."""

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshbridge.emulator import procfs, reaper
from meshbridge.emulator.certificates import certificates, server_context
from meshbridge.emulator.configuration import Configuration
from meshbridge.emulator.dialects import DIALECTS
from meshbridge.emulator.errors import NotInstalled
from meshbridge.emulator.http_metrics import HttpMetrics
from meshbridge.emulator.messages import Call, EmulatedAnswer
from meshbridge.emulator.operations import routes as routes_of
from meshbridge.emulator.processes import command_line
from meshbridge.emulator.routes import ApiRoute, Routes
from meshbridge.emulator.settings import EmulatorOptions
from meshbridge.emulator.store import AppStore
from meshbridge.emulator.tcp import TcpProtocol
from tests.support import wait_for
from tests.unit.emulator.golden import records


async def operation(_daemon: Any, _call: Call) -> EmulatedAnswer:
    return EmulatedAnswer()


# --- routes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "label", "name"),
    [
        ("/appmesh/app/web", "/appmesh/app/:param", "web"),
        ("/appmesh/app/run", "/appmesh/app/run", ""),
        ("/appmesh/app/web/output", "/appmesh/app/:param/output", "web"),
        ("/appmesh/app/a name!?", "/appmesh/app/:param", "a name!?"),
    ],
)
def test_a_fixed_path_wins_over_one_with_a_name(path: str, label: str, name: str) -> None:
    routes = Routes(
        [
            ApiRoute("POST", path, operation)
            for path in ("/appmesh/app/{}", "/appmesh/app/run", "/appmesh/app/{}/output")
        ]
    )
    found = routes.find("POST", path)
    assert found is not None
    assert (found.route.label, found.name, found.ambiguous) == (label, name, False)


@pytest.mark.parametrize(
    ("path", "name", "ambiguous"),
    [
        ("/appmesh/app/ web ", "web", False),
        ("/appmesh/app/a%20b", "a b", False),
        ("/appmesh/app/a%2Fb", "a", False),
        ("/appmesh/app/a%2Fb/output", "a", True),
        ("/appmesh//app/web", "web", True),
    ],
)
def test_a_name_is_trimmed_and_ends_at_an_escaped_slash(path: str, name: str, ambiguous: bool) -> None:
    routes = Routes([ApiRoute("GET", path, operation) for path in ("/appmesh/app/{}", "/appmesh/app/{}/output")])
    found = routes.find("GET", path)
    assert found is not None
    assert (found.name, found.ambiguous) == (name, ambiguous)


@pytest.mark.parametrize(
    "path",
    ["/", "", "/appmesh/app/*", "/appmesh", "/appmesh/app/", "/appmesh/app/web/nope", "/appmesh/app/web/output/x"],
)
def test_what_is_no_path_is_not_found(path: str) -> None:
    assert Routes([ApiRoute("GET", "/appmesh/app/{}", operation)]).find("GET", path) is None


def test_every_recorded_request_has_a_route() -> None:
    routes = Routes(routes_of(DIALECTS["2"]))
    for record in records("exchanges.jsonl"):
        if "request" in record:
            request = record["request"]
            assert routes.find(request["http_method"], request["request_uri"]), request


# --- configuration and store -----------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> AppStore:
    store = AppStore(tmp_path / "daemon")
    store.open()
    return store


def test_changes_of_known_keys_are_kept_and_others_ignored(store: AppStore) -> None:
    configuration = Configuration.load(store, EmulatorOptions(), "v")
    configuration.update({"BaseConfig": {"Description": "REAL", "Nope": 1}, "Other": {}})
    configuration.labels["zone"] = "a"
    configuration.save()
    again = Configuration.load(store, EmulatorOptions(prometheus_port=1), "v")
    assert (again.description, again.labels["zone"], again.metrics_have_apps) == ("REAL", "a", True)


@pytest.mark.parametrize("changes", [{"REST": {"RestListenPort": "x"}}, {"BaseConfig": {"LogLevel": 1}}])
def test_a_value_of_another_type_changes_nothing(store: AppStore, changes: dict[str, Any]) -> None:
    configuration = Configuration.load(store, EmulatorOptions(), "v")
    before = str(configuration.shown())
    with pytest.raises(TypeError):
        configuration.update({"BaseConfig": {"Description": "half"}, **changes})
    assert str(configuration.shown()) == before


def test_the_store_brings_apps_back_in_order_and_starts_at_ever_new_times(store: AppStore) -> None:
    for number, name in enumerate(("b", "a")):
        store.write_app(name, {"registered": number, "name": name})
    store.remove_app("none")
    assert [app["name"] for app in store.apps()] == ["b", "a"]
    times = [store.new_start_time() for _ in range(3)]
    assert times == list(range(times[0], times[0] + 3))
    assert store.read("nothing.json") is None
    assert (store.root / "run.json").stat().st_mode & 0o077 == 0


# --- certificates ----------------------------------------------------------------------------------------------------


def test_the_authority_stays_and_the_certificate_follows_the_host(tmp_path: Path) -> None:
    ca_file = certificates(tmp_path, "127.0.0.1")
    ca, server = ca_file.read_bytes(), (tmp_path / "server.pem").read_bytes()
    certificates(tmp_path, "0.0.0.0")
    assert (ca_file.read_bytes(), (tmp_path / "server.pem").read_bytes()) == (ca, server)
    certificates(tmp_path, "emulator.example")
    assert ca_file.read_bytes() == ca
    assert (tmp_path / "server.pem").read_bytes() != server
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o077 == 0
    context = server_context(tmp_path, verify_client=True)
    assert (context.verify_mode, context.minimum_version) == (ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_2)


def test_without_trustme_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(NotInstalled, match=r"needs trustme: install it with pip install 'meshbridge\[demo\]'"):
        certificates(tmp_path, "127.0.0.1")


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "arguments"), [("sh -c 'a b'", ["sh", "-c", "a b"]), ("it's", ["it's"]), ("", [""])]
)
def test_a_command_is_split_as_a_shell_would_where_it_can_be(command: str, arguments: list[str]) -> None:
    assert command_line(command) == arguments


def test_a_process_tree_is_drawn_and_added_up() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 300 & sleep 301; true"], start_new_session=True) as family:
        try:
            wait_for(lambda: procfs.Snapshot().tree_text(family.pid, arguments=True).count("sleep 30") == 4)
            snapshot = procfs.Snapshot()
            lines = snapshot.tree_text(family.pid, arguments=False).splitlines()
            assert lines[0] == f"-+- {family.pid} sh"
            assert all(line.startswith(" \\--- ") and line.endswith(" sleep") for line in lines[1:])
            usage = snapshot.usage(family.pid)
            assert usage.memory_bytes > 0
            assert usage.open_fds >= 9
        finally:
            os.killpg(family.pid, 9)
    assert procfs.Snapshot().usage(family.pid).memory_bytes == 0


def test_the_reaper_finds_what_carries_the_mark_and_nothing_else() -> None:
    mark = "unit-test-mark"
    with subprocess.Popen(["sleep", "300"], env={reaper.MARK: mark, "PATH": os.environ["PATH"]}) as marked:
        wait_for(lambda: reaper.marked_processes(mark) == [marked.pid], "the mark shows once it has started")
        reaper.kill_marked(mark)
        assert marked.wait(10) == -9
    assert reaper.marked_processes(mark) == []


def test_requests_are_counted_by_route_and_duration() -> None:
    metrics = HttpMetrics()
    metrics.ended("GET", "/a", 404, metrics.started("GET", "/a"))
    metrics.ended("GET", "/a", None, metrics.started("GET", "/a") - 60)
    assert dict(metrics.in_flight) == {("GET", "/a"): 0}
    assert sorted(metrics.finished) == [("GET", "/a", "4xx", "404"), ("GET", "/a", "unreplied", "unreplied")]
    duration = metrics.durations["GET", "/a"]
    assert (duration.count, duration.buckets[0], duration.buckets[-1]) == (2, 1, 1)


# --- a stop ----------------------------------------------------------------------------------------------------------


def test_a_client_whose_handshake_ends_while_the_daemon_stops_is_dropped() -> None:
    """Nothing would close it: the loop that ends the connections has looked before."""

    class Transport(asyncio.Transport):
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    async def connect() -> tuple[bool, int]:
        transport, connections = Transport(), set[TcpProtocol]()
        daemon: Any = SimpleNamespace(stopping=True)
        TcpProtocol(daemon, EmulatorOptions(), connections).connection_made(transport)
        return transport.aborted, len(connections)

    assert asyncio.run(connect()) == (True, 0)
