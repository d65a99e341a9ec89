"""How a link gets tokens of an issuer: where it asks, for which scopes, and what it makes of the answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from meshbridge.appmesh.exceptions import AppMeshIssuerError, AppMeshLoginError
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.link import DaemonOptions, explain
from meshbridge.link.credentials import Credentials
from tests.unit.appmesh.https_server import HttpsServer
from tests.unit.appmesh.issuer import ISSUER, SCOPES, Dex

TOLD = {"issuer": ISSUER, "audience": "appmesh-api", "public_client_id": "appmesh-cli", "scopes": SCOPES}


class Daemon:
    """Names its issuer, as daemons of 3.x do. An ``Exchange``."""

    def __init__(self, told: dict[str, Any] | None = None) -> None:
        self.told = TOLD if told is None else told
        self.asked: list[str] = []

    def request(self, message: RequestMessage, _timeout_seconds: float) -> ResponseMessage:
        self.asked.append(message.request_uri)
        return ResponseMessage(http_status=200, body=orjson.dumps(self.told))

    def close(self) -> None: ...


@pytest.fixture
def dex() -> Dex:
    return Dex()


@pytest.fixture
def server(tmp_path: Path, dex: Dex) -> Iterator[HttpsServer]:
    with HttpsServer(tmp_path, dex) as running:
        yield running


def keeper(server: HttpsServer, url: str = "tcp://node-a", **oidc: Any) -> Credentials:
    settings = {"username": "admin@appmesh.local", "password": "right", "access_url": f"{server.url}/auth"} | oidc
    settings = {name: value for name, value in settings.items() if value is not None}
    settings["tls"] = {"ca_file": str(server.ca_file)}
    return Credentials("node-a", DaemonOptions.model_validate({"url": url, "oidc": settings}))


def test_the_name_and_the_address_of_an_issuer_are_two_things(server: HttpsServer, dex: Dex) -> None:
    credentials = keeper(server, issuer=ISSUER)
    assert credentials.token(Daemon())
    (form,) = dex.forms
    assert (form["basic"], form["scope"]) == ("appmesh-cli:", " ".join(SCOPES))
    grant = credentials.grant
    assert grant is not None
    assert grant.refresh_token == "r1"


@pytest.mark.parametrize(
    ("url", "issuer", "access_url"),
    [
        ("tcp://node-a.example:6059", ISSUER, "https://node-a.example:6060/auth"),
        ("wss://[2001:db8::1]:6058", ISSUER, "https://[2001:db8::1]:6060/auth"),
        ("tcp://127.0.0.1:6059", ISSUER, None),
        ("tcp://localhost", ISSUER, None),
        ("tcp://node-a.example", "https://issuer.example/realm", None),
    ],
)
def test_an_issuer_at_a_loopback_address_is_reached_through_the_daemons_host(
    url: str, issuer: str, access_url: str | None
) -> None:
    options = DaemonOptions.model_validate({"url": url, "oidc": {"issuer": issuer, "username": "u", "password": "p"}})
    assert Credentials("node-a", options).source._access_url() == access_url  # type: ignore[attr-defined]


def test_the_credentials_of_a_client_ask_for_its_audience_alone(server: HttpsServer, dex: Dex) -> None:
    client: dict[str, Any] = {
        "client_id": "appmesh-automation",
        "client_secret": "hush",
        "username": None,
        "password": None,
    }
    assert keeper(server, **client).token(Daemon())
    assert dex.forms[0] == {
        "path": "/auth/token",
        "client_id": "appmesh-automation",
        "client_secret": "hush",
        "grant_type": "client_credentials",
        "scope": "audience:server:client_id:appmesh-api",
    }


def test_no_refresh_token_is_asked_for_where_the_daemon_has_none(server: HttpsServer, dex: Dex) -> None:
    credentials = keeper(server)
    credentials.token(Daemon(TOLD | {"refresh_token": False}))
    assert "offline_access" not in dex.forms[0]["scope"]
    assert credentials.grant is not None
    assert credentials.grant.refresh_token == ""


def test_the_settings_win_over_what_the_daemon_names(server: HttpsServer, dex: Dex) -> None:
    keeper(server, scope="openid audience:server:client_id:appmesh-api").token(Daemon())
    assert dex.forms[0]["scope"] == "openid audience:server:client_id:appmesh-api"


def test_a_token_of_another_issuer_is_refused_here_with_both_names(server: HttpsServer, dex: Dex) -> None:
    dex.token_issuer = "https://other.example"
    with pytest.raises(
        AppMeshLoginError, match=r"of the issuer 'https://other\.example', but .*127\.0\.0\.1:6062"
    ) as caught:
        keeper(server).token(Daemon())
    reason, hint = explain(caught.value)
    assert reason == "login"
    assert "oidc.access_url" in str(hint)


def test_a_bad_password_is_a_refusal_and_a_silent_issuer_is_not(server: HttpsServer, dex: Dex) -> None:
    with pytest.raises(AppMeshLoginError, match="Invalid username or password") as caught:
        keeper(server, password="mistaken-7").token(Daemon())
    assert explain(caught.value) == (
        "login",
        "set username, password_file and client_id of oidc to what the issuer knows",
    )
    with pytest.raises(AppMeshIssuerError) as silent:
        keeper(server, access_url="https://127.0.0.1:1/auth").token(Daemon())
    assert explain(silent.value)[0] == "issuer"


def test_a_renewal_rotates_the_refresh_token_and_names_the_client_in_the_form(server: HttpsServer, dex: Dex) -> None:
    credentials = keeper(server)
    daemon = Daemon()
    credentials.token(daemon)
    grant = credentials.grant
    assert grant is not None
    credentials.renew(grant.access_token, lambda old: credentials.source.renew(daemon, old))
    assert dex.forms[1] == {
        "path": "/auth/token",
        "client_id": "appmesh-cli",
        "grant_type": "refresh_token",
        "refresh_token": "r1",
    }
    assert credentials.grant is not None
    assert credentials.grant.refresh_token == dex.refresh
    assert daemon.asked == ["/appmesh/auth/config"], "once"


def test_what_a_daemon_names_is_never_an_address(server: HttpsServer, dex: Dex) -> None:
    with pytest.raises(AppMeshLoginError, match=r"names another issuer|of the issuer"):
        keeper(server, issuer="https://mine.example/auth").token(Daemon(TOLD | {"issuer": "https://evil.example"}))
    assert all("password" not in form for form in dex.forms)
