"""The admin API over HTTP for tests: on a free port, with an authentication that accepts any caller."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Any, ClassVar

import requests
import uvicorn
from fastapi import FastAPI, Request
from pydantic import SecretStr

from meshbridge.admin.application import new_application
from meshbridge.admin.auth import Scope
from meshbridge.admin.interface import Bridge
from meshbridge.admin.problems import Problem, ProblemKind
from meshbridge.appmesh import AppMeshClient
from meshbridge.emulator import Emulator
from meshbridge.fields import Tls
from meshbridge.journal import Journal
from meshbridge.link import DaemonOptions, Link
from tests.support import wait_for

ORDER = list(Scope)


def gate(request: Request, scope: Scope) -> None:
    """The header ``X-Scope`` says what the caller may; without it, all."""
    given = request.headers.get("X-Scope", Scope.ADMIN)
    if ORDER.index(Scope(given)) < ORDER.index(scope):
        raise Problem(HTTPStatus.FORBIDDEN, f"this token lacks the scope {scope}", kind=ProblemKind.SCOPE)


def bridge_for(links: Sequence[Link], journal: Journal) -> Bridge:
    by_name = {link.name: link for link in links}

    def client(daemon: str, *, alone: bool = False) -> AbstractContextManager[AppMeshClient]:
        found = by_name[daemon].client
        return found.alone() if alone else found.use()

    return Bridge(
        sinks=list,
        links=lambda: [link.status() for link in links],
        journal=journal,
        explain=lambda _asked: [],
        reload=dict,
        client=client,
    )


def application_for(links: Sequence[Link], journal: Journal) -> FastAPI:
    return new_application(bridge_for(links, journal), gate)


def options_for(emulator: Emulator, scheme: str, **extra: object) -> DaemonOptions:
    addresses = {"tcp": emulator.tcp_address, "wss": emulator.wss_address, "https": emulator.https_address}
    address = addresses[scheme]
    assert address is not None
    settings = {
        "url": f"{scheme}://{address[0]}:{address[1]}",
        "username": "admin",
        "password": SecretStr("admin123"),
        "tls": Tls(ca_file=emulator.ca_file),
    }
    return DaemonOptions.model_validate(settings | extra)


class Api:
    """Asks it."""

    called: ClassVar[set[tuple[str, str, int]]] = set()
    """Method, path and status of all answers."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.session = requests.Session()

    @contextlib.contextmanager
    def another(self) -> Iterator["Api"]:
        """As this, for another thread."""
        other = Api(self.port)
        try:
            yield other
        finally:
            other.session.close()

    def ask(self, method: str, path: str, *, scope: str = "admin", **arguments: Any) -> requests.Response:
        arguments.setdefault("timeout", 60)
        headers = {"X-Scope": scope, **arguments.pop("headers", {})}
        response = self.session.request(method, f"{self.root}{path}", headers=headers, **arguments)
        self.called.add((method, path, response.status_code))
        return response

    def json(self, method: str, path: str, status: int = 200, **arguments: Any) -> Any:
        response = self.ask(method, path, **arguments)
        assert response.status_code == status, response.text
        return response.json()


@contextlib.contextmanager
def serving(application: FastAPI) -> Iterator[Api]:
    server = uvicorn.Server(
        uvicorn.Config(
            application, host="127.0.0.1", port=0, http="h11", lifespan="off", log_config=None, access_log=False
        )
    )
    thread = threading.Thread(target=server.run, name="api", daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the API")
    api = Api(server.servers[0].sockets[0].getsockname()[1])
    try:
        yield api
    finally:
        api.session.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
