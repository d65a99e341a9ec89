"""The application's side of tasks."""

import logging
import threading

import pytest

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshAppRemovedError,
    AppMeshConnectionError,
    AppMeshError,
    AppMeshProcessSupersededError,
    AppMeshRequestError,
    AppMeshWorkerRejectedError,
)
from meshbridge.appmesh.server_http import AppMeshServer
from meshbridge.appmesh.server_tcp import AppMeshServerTCP
from meshbridge.appmesh.server_wss import AppMeshServerWSS
from meshbridge.appmesh.tcp_messages import ResponseMessage
from meshbridge.appmesh.worker_http import AppMeshWorker
from meshbridge.appmesh.worker_tcp import AppMeshWorkerTCP
from meshbridge.appmesh.worker_wss import AppMeshWorkerWSS
from tests.unit.appmesh.fakes import Answer, FakeExchange, answer, refusal


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_MESH_PROCESS_KEY", "key")
    monkeypatch.setenv("APP_MESH_APPLICATION_NAME", "name")


def server_over(*answers: Answer) -> tuple[AppMeshServer, FakeExchange]:
    exchange = FakeExchange(*answers)
    return AppMeshServer(client=AppMeshClient(exchange=exchange)), exchange


def test_a_task_is_fetched_and_its_result_returned() -> None:
    server, exchange = server_over(answer(b"pay\xff"), answer())
    assert server.task_fetch() == b"pay\xff"
    server.task_return("é")
    server.task_return(b"\xff")
    sent = [(one.http_method, one.request_uri, one.query, one.body) for one in exchange.requests]
    assert sent == [
        ("GET", "/appmesh/app/name/task", {"process_key": "key"}, b""),
        ("PUT", "/appmesh/app/name/task", {"process_key": "key"}, b"\xc3\xa9"),
        ("PUT", "/appmesh/app/name/task", {"process_key": "key"}, b"\xff"),
    ]


def test_fetching_outlasts_errors() -> None:
    server, exchange = server_over(AppMeshConnectionError("down"), answer(b"", 500), refusal(404), answer(b"x"))
    assert server.task_fetch() == b"x"
    assert len(exchange.requests) == 4


def test_a_process_that_was_replaced_ends(caplog: pytest.LogCaptureFixture) -> None:
    server, _ = server_over(answer(b"", 412))
    with pytest.raises(SystemExit) as caught:
        server.task_fetch()
    assert caught.value.code == 1
    assert "newer process" in caplog.text


def test_a_result_of_a_process_that_was_replaced_is_refused() -> None:
    server, _ = server_over(refusal(412))
    with pytest.raises(AppMeshRequestError) as caught:
        server.task_return("x")
    assert caught.value.status == 412


@pytest.mark.parametrize("variable", ["APP_MESH_PROCESS_KEY", "APP_MESH_APPLICATION_NAME"])
def test_outside_of_a_managed_process_there_is_nothing_to_fetch(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable)
    server, _ = server_over()
    with pytest.raises(AppMeshError, match=variable):
        server.task_fetch()


def test_closing_ends_a_fetch_that_tries_again() -> None:
    server, exchange = server_over()

    def closed_meanwhile(_message: object) -> None:
        server.close()
        raise AppMeshConnectionError("closed")

    exchange.answers = [closed_meanwhile]  # type: ignore[list-item]
    with server, pytest.raises(AppMeshError):
        server.task_fetch()
    assert exchange.closed


def test_a_logger_of_ones_own_is_used(caplog: pytest.LogCaptureFixture) -> None:
    exchange = FakeExchange(AppMeshConnectionError("down"), answer(b"x"))
    server = AppMeshServer(client=AppMeshClient(exchange=exchange), logger_=logging.getLogger("of.my.own"))
    server.task_fetch()
    assert [record.name for record in caplog.records] == ["of.my.own"]


def test_the_other_transports_wait_for_ever() -> None:
    servers: list[tuple[AppMeshServer, bool]] = [
        (AppMeshServerTCP(), True),
        (AppMeshServerWSS(), True),
        (AppMeshServer(), False),
    ]
    for server, for_ever in servers:
        assert (server._client._FETCH_SECONDS > 1e9) == for_ever
        server.close()


# --- the names of 3.x ------------------------------------------------------------------------------------------------


def worker_over(*answers: Answer) -> tuple[AppMeshWorker, FakeExchange]:
    exchange = FakeExchange(*answers)
    return AppMeshWorker(client=AppMeshClient(exchange=exchange)), exchange


def test_a_worker_gives_its_key_as_the_daemon_wants_it() -> None:
    rejected = refusal(400, "process_key must not be in the query")
    worker, exchange = worker_over(rejected, answer({"issuer": "i"}), answer(b"pay"), answer())
    assert worker.fetch_task() == b"pay"
    worker.send_task_result("done")
    sent = [(one.request_uri, one.query, one.headers.get("X-AppMesh-Process-Key")) for one in exchange.requests]
    task = "/appmesh/app/name/task"
    assert sent == [
        (task, {"process_key": "key"}, None),
        ("/appmesh/auth/config", {}, None),
        (task, {}, "key"),
        (task, {}, "key"),
    ]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (refusal(412), AppMeshProcessSupersededError),
        (refusal(404, "No such application"), AppMeshAppRemovedError),
    ],
)
def test_a_worker_is_told_why_it_is_to_end(given: ResponseMessage, kind: type[AppMeshError]) -> None:
    worker, exchange = worker_over(given, given)
    with pytest.raises(kind):
        worker.fetch_task()
    with pytest.raises(kind):
        worker.send_task_result("x")
    assert len(exchange.requests) == 2


@pytest.mark.parametrize("status", [400, 403])
def test_a_worker_that_is_rejected_does_not_try_again(status: int) -> None:
    older = refusal(404, "Path not found GET:/appmesh/auth/config")
    worker, exchange = worker_over(refusal(status, "no"), older)
    with pytest.raises(AppMeshWorkerRejectedError) as caught:
        worker.fetch_task()
    assert caught.value.status_code == status
    assert len(exchange.requests) == 2


def test_a_worker_tries_only_as_often_as_it_may() -> None:
    worker, exchange = worker_over(*[answer(b"", 503)] * 9)
    with pytest.raises(AppMeshError):
        worker.fetch_task(max_retries=2)
    assert len(exchange.requests) == 3
    stop = threading.Event()
    stop.set()
    with pytest.raises(AppMeshError, match="stopped"):
        worker.fetch_task(stop_event=stop)


def test_the_other_transports_have_workers() -> None:
    for worker in (AppMeshWorkerTCP(), AppMeshWorkerWSS()):
        assert worker._client._FETCH_SECONDS > 1e9
        worker.close()
