"""The whole API against calls generated from its own description: no 5xx, and no answer that is not written down."""

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from hypothesis import HealthCheck, Phase, given, settings

from meshbridge.admin import events as events_area
from meshbridge.admin.application import new_application
from meshbridge.admin.auth import Authenticate, Scope, token_auth
from meshbridge.admin.interface import Asked, Bridge, ReloadRefusedError
from meshbridge.admin.options import AdminOptions
from meshbridge.admin.problems import Problem
from meshbridge.appmesh import AppMeshClient
from meshbridge.fields import When
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.status import LinkState, LinkStatus, ReplayStatus, SinkState, SinkStatus
from tests.integration.admin_access import SECRETS, TOKENS
from tests.integration.invented_daemon import MadeUpDaemon
from tests.support import envelopes, make_event

ADMIN = {"Authorization": f"Bearer {SECRETS[Scope.ADMIN]}"}
pytestmark = pytest.mark.slow

_PAGE = Path(__file__).parents[2] / "docs" / "api.md"
_OPERATIONS = re.findall(r"^\| `([A-Z]+ \S+)` \|", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
_EXAMPLES = 15  # calls generated for each operation


@dataclass
class MadeUpSink:
    """A sink of which everything can be asked (:class:`meshbridge.admin.bridge.SinkControl`)."""

    name: str

    def status(self) -> SinkStatus:
        return SinkStatus(self.name, SinkState.UP, delivered=3)

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def retry_letters(self) -> None: ...

    def replay(self, *, since: float | None, until: float | None, when: When | None) -> ReplayStatus:
        return ReplayStatus("7c1f", self.name)

    def replays(self) -> list[ReplayStatus]:
        return [ReplayStatus("7c1f", self.name)]

    def cancel_replay(self, replay: str) -> bool:
        return replay == "7c1f"


def ending(gate: Authenticate) -> Authenticate:
    """Ends each event stream at its first heartbeat, as if its token had been taken away."""

    def asked(request: Request, scope: Scope) -> None:
        gate(request, scope)
        request.state.asked = getattr(request.state, "asked", 0) + 1
        if request.state.asked > 2 and request.url.path == "/api/v1/events":
            raise Problem(HTTPStatus.UNAUTHORIZED, "gone")

    return asked


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    directory: Path = tmp_path_factory.mktemp("fuzz")
    journal = Journal(JournalOptions(path=directory / "journal"))
    journal.open()
    journal.append([make_event(number) for number in range(1, 20)])
    journal.add_dead_letter("broker", envelopes([make_event(3)])[0], "refused", "no")
    daemon = MadeUpDaemon()
    reloads = itertools.count()

    def client(_daemon: str, /, *, alone: bool = False) -> contextlib.AbstractContextManager[AppMeshClient]:
        return contextlib.closing(AppMeshClient(exchange=daemon, jwt_token="a.b.c"))

    def explain(asked: Asked) -> list[dict[str, Any]]:
        if asked.id is not None:
            raise LookupError("there is no such event")
        return []

    def reload() -> dict[str, Any]:
        if next(reloads) % 2:
            raise ReloadRefusedError(["sinks.x: unknown"])
        return {}

    bridge = Bridge(
        sinks=lambda: [MadeUpSink("broker")],
        links=lambda: [LinkStatus("node-a", LinkState.UP)],
        journal=journal,
        explain=explain,
        reload=reload,
        client=client,
    )
    options = AdminOptions(audit_file=directory / "audit.jsonl", max_request_bytes=64 * 1024)
    application = new_application(
        bridge, ending(token_auth(lambda: TOKENS, clock=itertools.count(step=3600).__next__)), options
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_area, "HEARTBEAT_SECONDS", 0.0)
        import schemathesis  # a second of CPU time, which `make test` saves

        yield schemathesis.openapi.from_asgi("/openapi.json", application)
    journal.close()
    assert "hunter2" not in (directory / "audit.jsonl").read_text()


def test_every_operation_is_called(api: Any) -> None:
    described = {f"{method.upper()} {path}" for path, methods in api.raw_schema["paths"].items() for method in methods}
    assert described == set(_OPERATIONS)


@pytest.mark.parametrize("called", _OPERATIONS)
def test_no_call_ends_in_what_is_not_written_down(api: Any, called: str) -> None:
    from schemathesis import GenerationMode
    from schemathesis.checks import negative_data_rejection, positive_data_acceptance

    method, path = called.split(" ")
    operation = api[path][method]
    # A daemon may refuse valid input by its state, and it ignores unknown parameters.
    not_checked = [positive_data_acceptance, negative_data_rejection]

    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        response = case.call(headers=ADMIN)
        if response.status_code == 501:  # an operation of the other generation of daemon
            assert response.json()["kind"] == "not-offered"
        else:
            case.validate_response(response, excluded_checks=not_checked)

    check()
