"""The admin listener: who may come in, and who may not, over TCP, TLS and a unix socket."""

import asyncio
import http.client
import json
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from meshbridge import telemetry
from meshbridge.admin.api import Api
from meshbridge.admin.client import Client, RefusedError
from meshbridge.admin.control import ControlSocket
from meshbridge.admin.options import Scope
from meshbridge.admin.tokens import new_token
from meshbridge.journal import Journal, JournalOptions
from tests.integration.admin_access import SECRETS, TOKENS, Door, doors, issue, trusting
from tests.integration.admin_api import application_for
from tests.support import DEADLINE_SECONDS, thread

SHOW, VERIFY = ("GET", "/api/v1/bridge"), ("POST", "/api/v1/bridge/journal/verify")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    with doors(tmp_path) as open_door:
        yield open_door


@pytest.fixture(params=["tcp", "tcp6", "unix", "tls"])
def door_and_tls(
    request: pytest.FixtureRequest, opened: Callable[..., Door], tmp_path: Path
) -> tuple[Door, ssl.SSLContext | None]:
    if request.param == "unix":
        return opened(listen=f"unix:{tmp_path}/admin.sock"), None
    if request.param == "tcp6":
        return opened(listen="[::1]:0"), None
    if request.param == "tcp":
        return opened(), None
    authority, files = issue(tmp_path)
    return opened(listen="0.0.0.0:0", tls=files), trusting(authority)


# Who may do what: a token of the row on an operation that needs the scope of the column.
TABLE = {
    None: (401, 401),
    "wrong": (401, 401),
    Scope.READ: (200, 403),
    Scope.OPERATE: (200, 200),
    Scope.ADMIN: (200, 200),
}


def test_who_may_come_in(door_and_tls: tuple[Door, ssl.SSLContext | None]) -> None:
    door, tls = door_and_tls
    for who, expected in TABLE.items():
        token = new_token() if who == "wrong" else None if who is None else SECRETS[Scope(who)]
        for (method, path), status in zip((SHOW, VERIFY), expected, strict=True):
            response, body = door.ask(method, path, token, tls=tls)
            assert response.status == status, (who, method, path, body)
            if status != 200:
                assert response.headers["content-type"] == "application/problem+json"
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert token is None or token not in json.dumps(body)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Basic b3BzOm9wcw==", "bearer\tx", f"Token {SECRETS[Scope.ADMIN]}", SECRETS[Scope.ADMIN]],
    ids=[
        "empty",
        "no token",
        "blank token",
        "another scheme",
        "tab",
        "unknown scheme",
        "no scheme",
    ],  # tokens are random
)
def test_what_shows_no_token_is_told_how_to(opened: Callable[..., Door], authorization: str) -> None:
    response, body = opened().ask(*SHOW, headers={"Authorization": authorization})
    assert (response.status, body["type"]) == (401, "/problems/token")
    assert response.headers["www-authenticate"] == 'Bearer realm="meshbridge"'
    assert "meshbridge token new" in body["detail"]


def test_a_refusal_says_which_scope_is_missing(opened: Callable[..., Door]) -> None:
    response, body = opened().ask(*VERIFY, SECRETS[Scope.READ])
    assert (response.status, body["type"]) == (403, "/problems/scope")
    assert 'error="insufficient_scope", scope="operate"' in response.headers["www-authenticate"]
    assert (body["found"], body["allowed"]) == ("read", ["operate", "admin"])


def test_a_reload_changes_who_may_come_in(opened: Callable[..., Door]) -> None:
    door = opened()
    door.tokens = TOKENS[:1]
    assert door.ask(*SHOW, SECRETS[Scope.ADMIN])[0].status == 401
    assert door.ask(*SHOW, SECRETS[Scope.READ])[0].status == 200
    door.tokens = TOKENS[1:]
    assert door.ask(*SHOW, SECRETS[Scope.ADMIN])[0].status == 200
    assert door.ask(*SHOW, SECRETS[Scope.READ])[0].status == 401


def test_too_many_wrong_tokens_are_slowed_down_and_right_ones_are_not(opened: Callable[..., Door]) -> None:
    door = opened()
    answers = [door.ask(*SHOW, new_token())[0] for _ in range(12)]
    assert [answer.status for answer in answers[:10]] == [401] * 10
    assert answers[-1].status == 429
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert door.ask(*SHOW, SECRETS[Scope.READ])[0].status == 200


def test_refusals_are_counted_by_their_reason(opened: Callable[..., Door]) -> None:
    def counted() -> dict[str, float]:
        name = "meshbridge_admin_refused_total"
        reasons = ("no_token", "wrong_token", "rate_limit", "scope")
        return {reason: telemetry.REGISTRY.get_sample_value(name, {"reason": reason}) or 0 for reason in reasons}

    door, before = opened(), counted()
    door.ask(*SHOW)
    for _ in range(12):
        door.ask(*SHOW, new_token())
    door.ask(*VERIFY, SECRETS[Scope.READ])
    after = counted()
    grown = {reason: after[reason] - before[reason] for reason in after}
    assert (grown["no_token"], grown["scope"]) == (1, 1)
    assert grown["wrong_token"] >= 10
    assert grown["wrong_token"] + grown["rate_limit"] == 12


def test_a_listener_without_tls_for_others_is_warned_of(opened: Callable[..., Door]) -> None:
    with capture_logs() as logs:
        opened(listen="0.0.0.0:0", insecure=True)
        opened()
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["admin API without TLS"]


def test_the_unix_socket_is_for_its_owner_and_group(opened: Callable[..., Door], tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    door = opened(listen=f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert [child.name for child in tmp_path.iterdir() if child.name.startswith(".")] == []
    with pytest.raises(OSError, match="in use by another process"):
        opened(listen=f"unix:{path}")
    assert door.ask(*SHOW, SECRETS[Scope.READ])[0].status == 200
    door.listener.stop(10)
    assert not path.exists()


def test_a_socket_left_behind_is_replaced_and_a_file_is_not(opened: Callable[..., Door], tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    assert opened(listen=f"unix:{path}").ask(*SHOW, SECRETS[Scope.READ])[0].status == 200
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="in the way"):
        opened(listen=f"unix:{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "precious"


def test_callers_without_a_certificate_are_refused_where_one_is_asked_for(
    opened: Callable[..., Door], tmp_path: Path
) -> None:
    (authority, files), clients = issue(tmp_path), trustme.CA()
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    door = opened(tls={**files, "client_ca_file": tmp_path / "clients.pem"})
    assert door.ask(*SHOW, SECRETS[Scope.READ], tls=trusting(authority, clients))[0].status == 200
    assert door.ask(*SHOW, tls=trusting(authority, clients))[0].status == 401
    for stranger in (trusting(authority), trusting(authority, trustme.CA())):
        with pytest.raises((OSError, http.client.HTTPException)):
            door.ask(*SHOW, SECRETS[Scope.READ], tls=stranger)


def test_an_address_that_is_taken_and_files_that_are_none_are_said(opened: Callable[..., Door], tmp_path: Path) -> None:
    taken = opened().listener.address
    with pytest.raises(OSError, match=r"the admin API can't listen on 127\.0\.0\.1 port"):
        opened(listen=taken)
    with pytest.raises(OSError, match=r"admin\.tls: a certificate or key is not usable"):
        opened(tls={"cert_file": tmp_path / "none.pem", "key_file": tmp_path / "none.pem"})


def test_whoever_waits_for_an_answer_when_the_socket_is_closed_is_told_so(tmp_path: Path) -> None:
    called = threading.Event()
    journal = Journal(JournalOptions(path=tmp_path))
    application = application_for([], journal)

    @application.get("/api/v1/silent")
    async def silent() -> None:
        called.set()
        await asyncio.Event().wait()

    def ask() -> None:
        with pytest.raises(RefusedError, match="the bridge is stopping"):
            Client(tmp_path).get("/api/v1/silent")
        told.set()

    told = threading.Event()
    control = ControlSocket(tmp_path, Api(lambda: application))
    control.start()
    with thread(ask, "caller"):
        assert called.wait(DEADLINE_SECONDS)
        control.stop(5)
    assert told.is_set()
