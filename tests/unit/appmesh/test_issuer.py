"""Tokens of the issuer that comes with App Mesh 3.x: by its own rules, at its reachable address."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from meshbridge.appmesh import (
    AppMeshAuthError,
    AppMeshClient,
    AppMeshLoginError,
    OAuthClient,
    OAuthError,
    PasswordGrantProvider,
)
from meshbridge.appmesh.oidc import TokenEndpoint, discover
from tests.unit.appmesh.fakes import FakeExchange, answer, refusal
from tests.unit.appmesh.https_server import HttpsServer, reply
from tests.unit.appmesh.issuer import ISSUER, SCOPES, Dex


@pytest.fixture
def dex() -> Dex:
    return Dex()


@pytest.fixture
def server(tmp_path: Path, dex: Dex) -> Iterator[HttpsServer]:
    with HttpsServer(tmp_path, dex) as running:
        yield running


@pytest.fixture
def access_url(server: HttpsServer) -> str:
    return f"{server.url}/auth"


@pytest.fixture
def ca(server: HttpsServer) -> str:
    return str(server.ca_file)


# --- discovery -------------------------------------------------------------------------------------------------------


def test_endpoints_are_given_at_the_reachable_address(access_url: str, ca: str) -> None:
    found = discover(ISSUER, access_url=access_url, ssl_verify=ca, timeout_seconds=10)
    assert found["issuer"] == ISSUER
    assert found["token_endpoint"] == f"{access_url}/token"
    assert found["device_authorization_endpoint"] == f"{access_url}/device_authorization"


def test_an_issuer_of_another_name_is_refused(access_url: str, ca: str, dex: Dex) -> None:
    dex.issuer = "https://evil.example/auth"
    with pytest.raises(AppMeshAuthError, match="names another issuer"):
        discover(ISSUER, access_url=access_url, ssl_verify=ca, timeout_seconds=10)


def test_an_endpoint_elsewhere_is_never_used(access_url: str, ca: str, dex: Dex) -> None:
    dex.issuer = "https://evil.example/auth"
    with pytest.raises(AppMeshAuthError, match="another issuer"):
        discover(f"{access_url}x", access_url=access_url, ssl_verify=ca, timeout_seconds=10)


# --- the password grant ----------------------------------------------------------------------------------------------


def provider(access_url: str, ca: str, **options: Any) -> PasswordGrantProvider:
    options = {"username": "admin@appmesh.local", "password": "right"} | options
    return PasswordGrantProvider(f"{access_url}/token", ssl_verify=ca, **options)


def test_the_password_grant_names_the_client_by_basic_with_an_empty_secret(access_url: str, ca: str, dex: Dex) -> None:
    with provider(access_url, ca) as tokens:
        exchange = FakeExchange()
        client = AppMeshClient(exchange=exchange, token_provider=tokens)
        client.list_labels()
        client.list_labels()
    assert exchange.requests[0].headers["Authorization"] == f"Bearer {tokens.present}"
    (form,) = dex.forms
    assert form == {
        "path": "/auth/token",
        "basic": "appmesh-cli:",
        "grant_type": "password",
        "username": "admin@appmesh.local",
        "password": "right",
        "scope": "openid audience:server:client_id:appmesh-api",
    }


def test_an_issuer_that_refuses_an_empty_secret_gets_the_client_in_the_form(server: HttpsServer, dex: Dex) -> None:
    def keycloak(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        basic = "Authorization" in handler.headers
        dex.forms.append({"basic": "refused"} if basic else dict(parse_qsl(body.decode())))
        if basic:
            reply(handler, b'{"error": "invalid_client"}', 401)
        else:
            reply(handler, b'{"access_token": "t", "expires_in": 60}')

    server.handle = keycloak
    endpoint = TokenEndpoint(f"{server.url}/token", "mesh", ssl_verify=str(server.ca_file))
    for _ in range(2):
        assert endpoint.grant("password", username="u", password="p").access_token == "t"
    endpoint.close()
    assert [form.get("client_id", "basic") for form in dex.forms] == ["basic", "mesh", "mesh"]


def test_a_bad_password_is_dead_credentials(access_url: str, ca: str, tmp_path: Path, dex: Dex) -> None:
    file = tmp_path / "password"
    file.write_text("wrong\n")
    with provider(access_url, ca, password=None, password_file=str(file)) as tokens:
        with pytest.raises(AppMeshLoginError, match="Invalid username or password"):
            tokens.get_access_token()
        with pytest.raises(AppMeshLoginError):
            tokens.get_access_token()
    assert len(dex.forms) == 1, "no hot loop"


def test_a_refused_token_is_replaced_but_not_for_a_missing_permission(access_url: str, ca: str, dex: Dex) -> None:
    denied = refusal(403, "Permission denied: principal 'x' lacks required permission 'app-view'")
    unready = refusal(503, "signing keys not available")
    gone = refusal(404, "Path not found POST:/appmesh/auth")
    with provider(access_url, ca) as tokens:
        exchange = FakeExchange(denied, unready, refusal(401), gone, refusal(401), answer({"l": "v"}))
        client = AppMeshClient(exchange=exchange, token_provider=tokens)
        with pytest.raises(AppMeshAuthError, match="lacks required permission"):
            client.list_labels()
        with pytest.raises(Exception, match="signing keys"):
            client.list_labels()
        assert len(dex.forms) == 1, "403 and 503 say nothing against the token"
        assert client.list_labels() == {"l": "v"}
    assert len(dex.forms) == 2


# --- flows for people ------------------------------------------------------------------------------------------------


def person(access_url: str, ca: str, **options: Any) -> OAuthClient:
    return OAuthClient(None, ISSUER, access_url, scopes=SCOPES, ssl_verify=ca, **options)


def test_a_device_flow_waits_for_the_person(access_url: str, ca: str, dex: Dex) -> None:
    shown: list[dict[str, Any]] = []
    with person(access_url, ca) as issuer:
        assert issuer.get_access_token() is None
        tokens = issuer.wait_for_device_authorization(issuer.device_authorization(), shown.append)
        assert issuer.get_access_token() == tokens["access_token"]
        assert not issuer.can_refresh
    assert shown[0]["user_code"] == "ABCD"
    assert dex.forms[0]["scope"] == " ".join(SCOPES)
    assert [form.get("device_code") for form in dex.forms] == [None, "d1", "d1"]


@pytest.mark.parametrize("code", ["access_denied", "expired_token"])
def test_a_device_flow_that_is_refused_is_an_error(access_url: str, ca: str, dex: Dex, code: str) -> None:
    dex.device_ends = code
    with person(access_url, ca) as issuer, pytest.raises(OAuthError) as caught:
        issuer.wait_for_device_authorization(issuer.device_authorization())
    assert caught.value.error == code


def test_a_browser_comes_back_with_a_code_once(access_url: str, ca: str) -> None:
    seen: list[tuple[str, str]] = []
    with person(access_url, ca) as issuer:
        request = issuer.authorization_request("http://127.0.0.1/back")
        query = {name: values[0] for name, values in parse_qs(urlsplit(request["authorization_url"]).query).items()}
        assert query["code_challenge_method"] == "S256"
        assert request["authorization_url"].startswith(f"{access_url}/authorization?")
        back = f"http://127.0.0.1/back?code=c&state={request['state']}"
        tokens = issuer.complete_authorization_callback(back, lambda token, nonce, _all: seen.append((token, nonce)))
        assert issuer.tokens == tokens
        assert seen == [("id", request["nonce"])]
        with pytest.raises(OAuthError, match="no request"):
            issuer.complete_authorization_callback(back)


def test_tokens_are_renewed_by_rotation_and_forgotten(access_url: str, ca: str, dex: Dex) -> None:
    with person(access_url, ca) as issuer:
        issuer.exchange_authorization_code("c", "http://127.0.0.1/back", "v")
        first = issuer.get_access_token()
        assert issuer.refresh_access_token(first) != first
        assert dex.forms[-1] == {
            "path": "/auth/token",
            "client_id": "appmesh-cli",
            "grant_type": "refresh_token",
            "refresh_token": "r1",
        }
        assert issuer.refresh()["refresh_token"] == dex.refresh
        assert issuer.revoke()
        assert (issuer.get_access_token(), issuer.tokens, issuer.can_refresh) == (None, {}, False)
        with pytest.raises(OAuthError, match="no refresh token"):
            issuer.refresh()


def test_a_token_set_goes_on_where_it_was(access_url: str, ca: str, dex: Dex) -> None:
    dex.refresh = "kept"
    with OAuthClient.from_token_set(f"{access_url}/token", refresh_token="kept", ssl_verify=ca) as issuer:
        assert issuer.can_refresh
        assert issuer.get_access_token()
    assert [form["refresh_token"] for form in dex.forms] == ["kept"]


def test_the_daemon_names_its_issuer(access_url: str, ca: str) -> None:
    told = {"issuer": ISSUER, "public_client_id": "appmesh-cli", "scopes": SCOPES, "refresh_token": False}
    client = AppMeshClient(exchange=FakeExchange(answer(told)))
    with OAuthClient.from_appmesh(client, access_url, ssl_verify=ca) as issuer:
        assert client.token_provider is issuer
        assert "offline_access" not in issuer._scope(None)


def test_secrets_do_not_go_in_the_clear_to_another_host() -> None:
    with pytest.raises(ValueError, match="https://"):
        OAuthClient(None, "http://issuer.example/auth")
    assert OAuthClient(None, "http://issuer.example/auth", allow_plain_http=True).issuer == "http://issuer.example/auth"
    with pytest.raises(ValueError, match="password or password_file"):
        PasswordGrantProvider("https://h/token", "u")
