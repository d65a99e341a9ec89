"""Callers of the API that go in the middle of something, or neither take nor send: nothing of them stays."""

import contextlib
import gc
import itertools
import json
import select
import socket
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import pytest
from fastapi import FastAPI

from meshbridge.admin import streams
from meshbridge.admin.daemons import calls, files, runs
from meshbridge.appmesh import App, AppMeshClient, AppMeshClientTCP
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import Link
from tests.integration.admin_api import Api, application_for, options_for, serving
from tests.support import wait_for

SCHEMES = ("tcp", "wss", "https")
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def application(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    journal = Journal(JournalOptions(path=tmp_path_factory.mktemp("journal")))
    journal.open()
    links = [Link(scheme, options_for(emulator, scheme), journal) for scheme in SCHEMES]
    yield application_for(links, journal)
    for link in links:
        assert link.stop(10)
    journal.close()


@pytest.fixture(scope="module")
def api(application: FastAPI) -> Iterator[Api]:
    with serving(application) as served:
        for scheme in SCHEMES:
            served.json("GET", f"{root(scheme)}/labels")  # each has its token and its connection now
        yield served


@pytest.fixture(scope="module")
def sdk(emulator: Emulator) -> Iterator[AppMeshClient]:
    assert emulator.tcp_address is not None
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file)) as client:
        client.login("admin", "admin123")
        yield client


@pytest.fixture(scope="module", autouse=True)
def silent_app(sdk: AppMeshClient) -> None:
    """``silent`` runs for ever, writes nothing, and never takes a task."""
    sdk.add_app(App({"name": "silent", "command": "sleep 600"}))


@pytest.fixture(scope="module")
def silent_run(sdk: AppMeshClient) -> str:
    return sdk.run_app_async("sleep 600").app_name


def root(scheme: str) -> str:
    return f"/api/v1/daemons/{scheme}"


class Left:
    """What this process holds: threads, open files and sockets, and places among the requests to a daemon."""

    def __init__(self, application: FastAPI) -> None:
        names = [thread.name for thread in threading.enumerate()]
        self.threads = Counter(name for name in names if not name.startswith("AnyIO"))
        self.files = len(list(Path("/proc/self/fd").iterdir()))
        shares: calls.Shares = application.state.shares
        self.taken = {key: key[1].value - share.value for key, share in shares._semaphores.items()}


@pytest.fixture
def nothing_stays(api: Api, application: FastAPI) -> Iterator[None]:
    api.session.close()
    before = Left(application)
    yield

    def back() -> bool:
        now = Left(application)
        return now.threads <= before.threads and now.files <= before.files and not any(now.taken.values())

    wait_for(back, "all of it to go")


def taken(application: FastAPI, scheme: str, kind: calls.Kind) -> bool:
    shares: calls.Shares = application.state.shares
    return shares.of(scheme, kind).value == kind.value - 1


@contextlib.contextmanager
def connection(api: Api) -> Iterator[HTTPConnection]:
    with contextlib.closing(HTTPConnection("127.0.0.1", api.port, timeout=60)) as made:
        yield made


def go(gone: HTTPConnection) -> None:
    """The caller's process ends: nothing more is sent or taken."""
    assert gone.sock is not None
    gone.sock.shutdown(socket.SHUT_RDWR)


WAITING = {
    "output": ("GET", "apps/silent/output?wait=300", ""),
    "task": ("POST", "apps/silent/task?wait=3600", '{"data": "x"}'),
    "run": ("POST", "runs?wait=true", '{"command": "sleep 1000", "max_time": "1h"}'),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("operation", WAITING)
@pytest.mark.usefixtures("nothing_stays")
def test_a_caller_that_waits_no_more(api: Api, application: FastAPI, scheme: str, operation: str) -> None:
    method, path, body = WAITING[operation]
    with connection(api) as caller:
        caller.request(method, f"{root(scheme)}/{path}", body=body, headers={"Content-Type": "application/json"})
        wait_for(lambda: taken(application, scheme, calls.Kind.WAITING), "the request to be under way")
        go(caller)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_link_that_stops_lets_go_of_those_who_wait(emulator: Emulator, scheme: str, tmp_path: Path) -> None:
    """The connection of its own that each waits on is the link's as well."""
    journal = Journal(JournalOptions(path=tmp_path))
    journal.open()
    link = Link("stopping", options_for(emulator, scheme), journal)
    application = application_for([link], journal)
    with serving(application) as api, contextlib.ExitStack() as callers:
        api.json("GET", f"{root('stopping')}/labels")
        waiting = [callers.enter_context(connection(api)) for _ in WAITING]
        for caller, (method, path, body) in zip(waiting, WAITING.values(), strict=True):
            caller.request(method, f"{root('stopping')}/{path}", body, {"Content-Type": "application/json"})
        share = application.state.shares.of("stopping", calls.Kind.WAITING)
        wait_for(lambda: share.value == calls.Kind.WAITING.value - len(waiting), "all to wait")
        assert link.stop(10)
        for caller in waiting:
            with caller.getresponse() as response:
                assert (response.status, json.load(response)["kind"]) == (502, "daemon-unreachable")
    journal.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("silent_run", "nothing_stays")
def test_a_caller_that_follows_a_silent_run_no_more(api: Api, scheme: str, silent_run: str) -> None:
    with connection(api) as caller:
        caller.request("GET", f"{root(scheme)}/runs/{silent_run}/output")
        with caller.getresponse() as following:
            assert following.status == 200
            go(caller)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("nothing_stays")
def test_a_stream_that_is_held_for_hours_takes_no_more_than_one_of_a_minute(
    api: Api, application: FastAPI, scheme: str, silent_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks and heartbeats as of an hour, without the time between them."""
    monkeypatch.setattr(runs, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(runs, "_HEARTBEAT_SECONDS", 0.0)
    with connection(api) as caller:
        caller.request("GET", f"{root(scheme)}/runs/{silent_run}/output")
        with caller.getresponse() as following:
            for _ in range(20):
                assert json.loads(following.readline())["output"] == ""
            before = Left(application)
            tracemalloc.start()
            held = []
            for _ in range(6):
                for _ in range(50):
                    following.readline()
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()
            now = Left(application)
            # Buffers come and go; what a look left behind would be there after each fifty: 50 KB, were it 1 KB.
            assert min(later - earlier for earlier, later in itertools.pairwise(held)) < 25_000
            assert now.threads <= before.threads
            assert now.files <= before.files
            go(caller)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("nothing_stays")
def test_a_caller_that_goes_in_the_middle_of_a_download(api: Api, scheme: str, large: Path) -> None:
    with connection(api) as caller:
        caller.request("GET", f"{root(scheme)}/files?path={large}")
        with caller.getresponse() as response:
            assert len(response.read(1000)) == 1000
            go(caller)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("nothing_stays")
def test_a_caller_that_goes_in_the_middle_of_an_upload(api: Api, scheme: str, tmp_path: Path) -> None:
    with connection(api) as caller:
        begin_upload(caller, scheme, tmp_path / "half")
        go(caller)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_daemon_that_goes_in_the_middle_of_an_upload(
    api: Api, application: FastAPI, emulator: Emulator, scheme: str, tmp_path: Path
) -> None:
    with connection(api) as caller:
        begin_upload(caller, scheme, tmp_path / "half")
        wait_for(lambda: taken(application, scheme, calls.Kind.STREAM), "the upload to begin")

        def refused() -> bool:
            emulator.drop_connections()  # whichever the bridge has made by now
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                caller.send(b"\x00" * 65_536)
            return bool(select.select([caller.sock], [], [], 0)[0])

        wait_for(refused, "the end of it")
        with caller.getresponse() as response:
            assert (response.status, json.load(response)["kind"]) == (502, "daemon-unreachable")
    wait_for(lambda: not taken(application, scheme, calls.Kind.STREAM), "its place")
    wait_for(lambda: {ask(api, "GET", f"{root(each)}/labels") for each in SCHEMES} == {200}, "connections again")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("nothing_stays")
def test_a_caller_that_stops_in_the_middle_of_an_upload(
    api: Api, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "STALLED_SECONDS", 0.3)
    with connection(api) as caller:
        begin_upload(caller, scheme, tmp_path / "half")
        with caller.getresponse() as response:
            assert response.status == 408
            assert "nothing came for" in json.load(response)["detail"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("nothing_stays")
def test_a_caller_that_takes_nothing_of_a_download(
    api: Api, application: FastAPI, scheme: str, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STALLED_SECONDS", 0.3)
    with connection(api) as caller:
        caller.request("GET", f"{root(scheme)}/files?path={large}")
        wait_for(lambda: taken(application, scheme, calls.Kind.STREAM), "the download to begin")
        wait_for(lambda: not taken(application, scheme, calls.Kind.STREAM), "it to be given up")
        with caller.getresponse() as response, pytest.raises((IncompleteRead, ConnectionResetError)):
            response.read()


@pytest.mark.usefixtures("silent_run", "nothing_stays")
def test_more_streams_than_there_is_room_for_are_told_so_and_each_that_ends_makes_room(
    api: Api, application: FastAPI, silent_run: str
) -> None:
    path, most = f"{root('tcp')}/runs/{silent_run}/output", calls.Kind.STREAM.value
    share = application.state.shares.of("tcp", calls.Kind.STREAM)
    with contextlib.ExitStack() as callers:
        followers = [callers.enter_context(connection(api)) for _ in range(most)]
        for follower in followers:
            follower.request("GET", path)
        answers = [callers.enter_context(follower.getresponse()) for follower in followers]
        assert {answer.status for answer in answers} == {200}
        assert ask(api, "GET", path) == 503
        assert ask(api, "GET", f"{root('tcp')}/files?path=/etc/hostname") == 503
        assert ask(api, "GET", f"{root('tcp')}/labels") == 200
        go(followers[0])
        wait_for(lambda: share.value == 1, "the place of one that has gone")
        assert ask(api, "GET", f"{root('tcp')}/files?path=/etc/hostname") == 200


@pytest.mark.usefixtures("nothing_stays")
def test_a_body_that_drips_keeps_nobody_else_waiting(api: Api) -> None:
    with connection(api) as caller:
        caller.putrequest("PUT", f"{root('tcp')}/apps/dripping")
        caller.putheader("Content-Length", "1000")
        caller.putheader("Content-Type", "application/json")
        caller.endheaders()
        for _ in range(10):
            caller.send(b" ")
            assert ask(api, "GET", f"{root('tcp')}/apps/silent") == 200
        go(caller)


def ask(api: Api, method: str, path: str) -> int:
    with api.another() as another:
        return another.ask(method, path).status_code


def begin_upload(caller: HTTPConnection, scheme: str, path: Path) -> None:
    caller.putrequest("PUT", f"{root(scheme)}/files?path={path}")
    caller.putheader("Content-Length", str(30 * MIB))
    caller.endheaders()
    caller.send(b"\x00" * MIB)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(60 * MIB)
    return path
