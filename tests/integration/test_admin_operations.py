"""The table of the daemons' operations: each method of the SDK is one of them, and who may do what."""

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from meshbridge.admin import daemons
from meshbridge.admin.application import new_application
from meshbridge.admin.auth import Scope
from meshbridge.admin.interface import Bridge
from meshbridge.appmesh import AppMeshConnectionError, AppRun
from meshbridge.appmesh.transport_mixin import TransportClientMixin
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.status import LinkStatus
from tests.integration.admin_api import ORDER, Api, gate, serving
from tests.unit.appmesh.test_reference import ENTRIES

ROOT = "/api/v1/daemons"

# What needs at least this scope.
SCOPES = {
    "read": """
        GET
        GET /{daemon}
        GET /{daemon}/apps
        GET /{daemon}/apps/{app}
        GET /{daemon}/apps/{app}/health
        GET /{daemon}/apps/{app}/output
        GET /{daemon}/auth-config
        GET /{daemon}/groups
        GET /{daemon}/labels
        GET /{daemon}/metrics
        GET /{daemon}/permissions
        GET /{daemon}/principals/self
        GET /{daemon}/principals/self/permissions
        GET /{daemon}/resources
        GET /{daemon}/roles
        GET /{daemon}/runs/{run}/output
        GET /{daemon}/users/self
        GET /{daemon}/users/self/permissions
    """,
    "operate": """
        DELETE /{daemon}/apps/{app}/task
        DELETE /{daemon}/runs/{run}
        POST /{daemon}/apps/{app}/disable
        POST /{daemon}/apps/{app}/enable
        POST /{daemon}/apps/{app}/restart
        POST /{daemon}/apps/{app}/runs
        POST /{daemon}/apps/{app}/task
    """,
    "admin": """
        DELETE /{daemon}/apps/{app}
        DELETE /{daemon}/labels/{label}
        DELETE /{daemon}/principals/{principal}
        DELETE /{daemon}/roles/{role}
        DELETE /{daemon}/users/{user}
        DELETE /{daemon}/users/{user}/totp
        GET /{daemon}/config
        GET /{daemon}/files
        GET /{daemon}/principals
        GET /{daemon}/users
        PATCH /{daemon}/config
        POST /{daemon}/runs
        POST /{daemon}/totp
        POST /{daemon}/totp/secret
        POST /{daemon}/users/{user}/lock
        POST /{daemon}/users/{user}/unlock
        PUT /{daemon}/apps/{app}
        PUT /{daemon}/files
        PUT /{daemon}/labels/{label}
        PUT /{daemon}/log-level
        PUT /{daemon}/principals/{principal}
        PUT /{daemon}/roles/{role}
        PUT /{daemon}/users/{user}
        PUT /{daemon}/users/{user}/password
    """,
}
NEEDED = {line.strip(): scope for scope, lines in SCOPES.items() for line in lines.splitlines() if line.strip()}


PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def elsewhere() -> set[str]:
    """Methods that docs/api.md gives a reason for not being operations."""
    rest = PAGE.read_text(encoding="utf-8").partition("### What is not here")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+` ?)+) \| (.+) \|$", rest, re.MULTILINE)
    return {name for names, _reason in rows for name in re.findall(r"\w+", names)}


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    def unreachable(_daemon: str, *, alone: bool = False) -> Any:
        raise AppMeshConnectionError("not there")

    bridge = Bridge(
        sinks=list,
        links=lambda: [LinkStatus("node-a")],
        journal=Journal(JournalOptions(path=tmp_path_factory.mktemp("journal"))),
        explain=lambda _asked: [],
        reload=dict,
        client=unreachable,
    )
    return new_application(bridge, gate)


@pytest.fixture(scope="module")
def api(application: FastAPI) -> Iterator[Api]:
    with serving(application) as served:
        yield served


def operations(application: FastAPI) -> dict[str, dict[str, Any]]:
    """``GET /{daemon}/apps`` and so on: what the API's description says of it."""
    paths = application.openapi()["paths"]
    return {
        f"{method.upper()} {path.removeprefix(ROOT)}".strip(): operation
        for path, methods in paths.items()
        if path.startswith(ROOT)
        for method, operation in methods.items()
    }


def test_every_method_of_the_reference_is_an_operation_or_has_its_reason(application: FastAPI) -> None:
    offered = {method for operation in operations(application).values() for method in operation.get("x-sdk", ())}
    clients = {"AppMeshClient", "AppMeshClientTCP", "AppMeshClientWSS", "TransportClientMixin", "AppRun"}
    reference = {
        entry.name
        for entry in ENTRIES
        if entry.kind in {"method", "attribute"}
        and set(entry.owners) & clients
        and entry.module in {"client_http", "client_tcp", "client_wss", "transport_mixin", "app_run"}
    }
    assert {"list_apps", "download_file", "subscribe", "forward_to"} <= reference, "the reference was not understood"
    own = {name for kind in (TransportClientMixin, AppRun) for name in dir(kind) if name[0] != "_"}
    assert offered <= own
    assert not offered & elsewhere()
    assert (reference | own) - offered == elsewhere()


def test_the_table_has_every_operation(application: FastAPI) -> None:
    modules = [import_module(found.name) for found in pkgutil.iter_modules(daemons.__path__, f"{daemons.__name__}.")]
    routes = [route for module in modules if hasattr(module, "router") for route in module.router.routes]
    served = {
        f"{method} {route.path.removeprefix(ROOT)}".strip()
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert len(routes) == len(served), "an unknown route"
    assert served == operations(application).keys() == NEEDED.keys()


@pytest.mark.parametrize("operation", NEEDED)
def test_who_may_do_what(api: Api, operation: str) -> None:
    """A missing scope is refused before anything else is looked at; with it, the daemon or the body is."""
    method, _, path = operation.partition(" ")
    path = ROOT + re.sub(r"\{(\w+)\}", lambda found: "node-a" if found[1] == "daemon" else "self", path)
    needed = ORDER.index(Scope(NEEDED[operation]))
    for number, scope in enumerate(ORDER):
        response = api.ask(method, path, scope=scope)
        if number < needed:
            assert (response.status_code, response.json()["kind"]) == (403, "scope")
        elif path.count("/") <= 4:
            assert response.status_code == 200
        else:
            assert response.status_code in {502, 422}, response.text
            assert response.headers["Content-Type"] == "application/problem+json"


def test_every_operation_is_described(application: FastAPI) -> None:
    for name, operation in operations(application).items():
        assert operation["summary"], name
        assert operation["description"], name
        answers = set(operation["responses"])
        for status in (status for status in answers if status < "400"):
            described = operation["responses"][status]
            assert described["description"] != "Successful Response", name
            for kind, content in described["content"].items():
                assert kind == "application/octet-stream" or "example" in content, name
        if "{daemon}/" in name:
            assert {"401", "403", "404", "422", "502", "503", "504"} <= answers, name
            for status in answers:
                if status >= "400":
                    assert list(operation["responses"][status]["content"]) == ["application/problem+json"], (
                        name,
                        status,
                    )
