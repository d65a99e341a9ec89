"""The application's side of tasks."""

import logging

import pytest

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshError, AppMeshRequestError
from meshbridge.appmesh.server_http import AppMeshServer
from meshbridge.appmesh.server_tcp import AppMeshServerTCP
from meshbridge.appmesh.server_wss import AppMeshServerWSS
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
