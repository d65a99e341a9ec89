"""Tokens of an OpenID Connect issuer: Keycloak's paths, grants, and what their errors mean."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.client_http_oauth import AppMeshClientOAuth
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshIssuerError,
    AppMeshRequestError,
    OAuthError,
)
from meshbridge.appmesh.oidc import OidcTokens, TokenEndpoint
from tests.unit.appmesh.fakes import FakeExchange, answer, eventually, jwt, no_thread_left, refusal
from tests.unit.appmesh.https_server import HttpsServer, reply

PATH = "/realms/main/protocol/openid-connect"


class Issuer:
    """Answers at the token endpoint; ``outcomes`` first, then a fresh token each time."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[int, Any]] = []
        self.forms: list[dict[str, str]] = []
        self.life = 300.0
        self.refresh_tokens = True

    def __call__(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if handler.path == f"{PATH}/userinfo":
            reply(handler, orjson.dumps({"bearer": handler.headers["Authorization"]}))
            return
        self.forms.append(
            {name: values[0] for name, values in parse_qs(body.decode()).items()} | {"path": handler.path}
        )
        status, fields = self.outcomes.pop(0) if self.outcomes else (200, None)
        if fields is None:
            count = len(self.forms)
            fields = {"access_token": jwt(time.time() + self.life, n=count), "expires_in": self.life}
            if self.refresh_tokens:
                fields |= {"refresh_token": f"refresh-{count}", "refresh_expires_in": 1800}
        reply(handler, fields if isinstance(fields, bytes) else orjson.dumps(fields), status)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def server(tmp_path: Path, issuer: Issuer) -> Iterator[HttpsServer]:
    with HttpsServer(tmp_path, issuer) as running:
        yield running


def oauth_client(server: HttpsServer, **options: Any) -> AppMeshClientOAuth:
    settings = {"auth_server_url": f"{server.url}/", "realm": "main", "client_id": "mesh", "client_secret": "s3cret"}
    return AppMeshClientOAuth(settings, server.url, str(server.ca_file), **options)


def test_a_login_is_a_password_grant(server: HttpsServer, issuer: Issuer) -> None:
    with oauth_client(server, auto_refresh_token=False) as client:
        assert client.login("u", "p", "123456") is None
        assert issuer.forms[0] == {
            "path": f"{PATH}/token",
            "client_id": "mesh",
            "client_secret": "s3cret",
            "grant_type": "password",
            "username": "u",
            "password": "p",
            "totp": "123456",
            "scope": "openid",
        }
        token = client._tokens.get()
        assert client.get_current_user() == {"bearer": f"Bearer {token}"}
        client.renew_token()
        assert issuer.forms[1]["grant_type"] == "refresh_token"
        assert issuer.forms[1]["refresh_token"] == "refresh-1"
        assert client._tokens.get() != token
        assert client.logout()
        assert issuer.forms[2] == {
            "path": f"{PATH}/logout",
            "client_id": "mesh",
            "client_secret": "s3cret",
            "refresh_token": "refresh-2",
        }
        assert not client.logout()
        with pytest.raises(AppMeshAuthError):
            client.renew_token()


def test_its_token_is_renewed_in_time(server: HttpsServer, issuer: Issuer) -> None:
    issuer.life = 0.1
    with no_thread_left():
        client = oauth_client(server)
        client.login("u", "p")
        eventually(lambda: len(issuer.forms) >= 3)
        client.close()
    assert {form["grant_type"] for form in issuer.forms if "grant_type" in form} == {"password", "refresh_token"}


@pytest.mark.parametrize(
    ("status", "fields", "kind"),
    [
        (401, {"error": "invalid_grant", "error_description": "Invalid user credentials"}, OAuthError),
        (400, {"error": "invalid_grant"}, OAuthError),
        (400, {"error": "access_denied"}, OAuthError),
        (401, {"error": "unauthorized_client"}, OAuthError),
        (403, b"no", OAuthError),
        (400, {"error": "invalid_request"}, AppMeshRequestError),
        (503, b"<html>", AppMeshRequestError),
        (200, {}, AppMeshRequestError),
        (200, b"[]", AppMeshRequestError),
        (200, b"\xff", AppMeshRequestError),
    ],
)
def test_what_an_issuers_error_means(
    server: HttpsServer, issuer: Issuer, status: int, fields: Any, kind: type[Exception]
) -> None:
    issuer.outcomes = [(status, fields)]
    with oauth_client(server) as client:
        with pytest.raises(kind) as caught:
            client.login("u", "p")
        assert type(caught.value) is kind


def test_an_issuer_that_is_away_is_a_connection_error() -> None:
    endpoint = TokenEndpoint("https://127.0.0.1:1/token", "id", ssl_verify=False)
    with pytest.raises(AppMeshConnectionError):
        endpoint.grant("client_credentials")
    endpoint.close()


# --- the provider -----------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def endpoint(server: HttpsServer, clock: Clock) -> Iterator[TokenEndpoint]:
    made = TokenEndpoint(f"{server.url}{PATH}/token", "mesh", ssl_verify=str(server.ca_file), clock=clock)
    yield made
    made.close()


def password_grant() -> dict[str, str]:
    return {"grant_type": "password", "username": "u", "password": "p"}


def test_a_token_is_fetched_once_and_renewed_before_it_expires(
    issuer: Issuer, endpoint: TokenEndpoint, clock: Clock
) -> None:
    tokens = OidcTokens(endpoint, password_grant, clock=clock)
    first = tokens.token()
    assert tokens.token() == first
    clock.now += 269
    assert tokens.token() == first
    clock.now += 1
    assert tokens.token() != first
    assert [form["grant_type"] for form in issuer.forms] == ["password", "refresh_token"]


def test_the_credentials_are_asked_for_again_at_each_grant(
    issuer: Issuer, endpoint: TokenEndpoint, clock: Clock, tmp_path: Path
) -> None:
    issuer.refresh_tokens = False
    file = tmp_path / "password"
    file.write_text("old")
    tokens = OidcTokens(endpoint, lambda: {**password_grant(), "password": file.read_text()}, clock=clock)
    tokens.token()
    file.write_text("new")
    clock.now += 300
    tokens.token()
    assert [form["password"] for form in issuer.forms] == ["old", "new"]


def test_a_spent_refresh_token_leads_back_to_the_credentials(
    issuer: Issuer, endpoint: TokenEndpoint, clock: Clock
) -> None:
    tokens = OidcTokens(endpoint, lambda: {"grant_type": "client_credentials"}, clock=clock)
    tokens.token()
    clock.now += 300
    issuer.outcomes = [(400, {"error": "invalid_grant"})]
    tokens.token()
    assert [form["grant_type"] for form in issuer.forms] == [
        "client_credentials",
        "refresh_token",
        "client_credentials",
    ]


def test_an_issuer_that_is_ill_costs_nothing_while_the_token_is_good(
    issuer: Issuer, endpoint: TokenEndpoint, clock: Clock
) -> None:
    tokens = OidcTokens(endpoint, password_grant, clock=clock)
    first = tokens.token()
    issuer.outcomes = [(503, b"")] * 2
    clock.now += 280
    assert tokens.token() == first
    clock.now += 20
    with pytest.raises(AppMeshIssuerError):
        tokens.token()


def test_dead_credentials_are_told(issuer: Issuer, endpoint: TokenEndpoint) -> None:
    issuer.outcomes = [(401, {"error": "invalid_grant"})]
    with pytest.raises(AppMeshAuthError):
        OidcTokens(endpoint, password_grant).token()


def test_a_refused_token_is_replaced_and_never_in_a_loop(issuer: Issuer, endpoint: TokenEndpoint, clock: Clock) -> None:
    tokens = OidcTokens(endpoint, password_grant, clock=clock)
    refused = [refusal(401), refusal(401)]
    exchange = FakeExchange(answer(), *refused, answer(), *refused * 12)
    client = AppMeshClient(exchange=exchange, token_provider=tokens)
    client.list_labels()
    clock.now += 100
    client.list_labels()
    assert [form["grant_type"] for form in issuer.forms] == ["password", "password"]
    for _ in range(5):
        with pytest.raises(AppMeshAuthError):
            client.list_labels()
    assert len(issuer.forms) <= 4, "tokens of moments ago are not replaced for ever: the daemon does not want this user"
