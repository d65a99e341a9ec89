"""The emulator as a daemon of 3.x: its issuer, and the principals that are there instead of users."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from meshbridge.appmesh import AppMeshClient, AppMeshClientTCP, AppMeshClientWSS
from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshNotOfferedError
from meshbridge.appmesh.oidc import OidcTokens, TokenEndpoint
from meshbridge.emulator import Emulator, EmulatorOptions


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(generation=3)) as daemon:
        yield daemon


def token_url(emulator: Emulator) -> str:
    """As a client finds it: the daemon names the issuer, the issuer its token endpoint."""
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file)) as client:  # type: ignore[arg-type]
        issuer = client.get_auth_config()["issuer"]
    answer = requests.get(f"{issuer}/.well-known/openid-configuration", verify=str(emulator.ca_file), timeout=10)
    return str(answer.json()["token_endpoint"])


@pytest.fixture
def tokens(emulator: Emulator) -> Iterator[OidcTokens]:
    """The administrator's, by the password grant."""
    endpoint = TokenEndpoint(token_url(emulator), "appmesh-cli", ssl_verify=str(emulator.ca_file))
    fields = {"grant_type": "password", "username": "admin", "password": "admin123"}
    yield OidcTokens(endpoint, lambda: fields)
    endpoint.close()


@pytest.fixture
def client(emulator: Emulator, tokens: OidcTokens) -> Iterator[AppMeshClientTCP]:
    assert emulator.tcp_address is not None
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file), token_provider=tokens) as client:
        yield client


def test_principals_have_roles_and_no_passwords(client: AppMeshClientTCP) -> None:
    assert client.get_current_principal()["name"] == "admin"
    assert "app-subscribe" in client.get_principal_permissions()
    client.update_principal("somebody", {"roles": ["view"]})
    assert client.list_principals()["somebody"]["roles"] == ["view"]
    assert not {"key", "locked"} & set(client.list_principals()["admin"])
    client.delete_principal("somebody")
    assert "somebody" not in client.list_principals()


def test_there_are_no_logins_and_users(client: AppMeshClientTCP) -> None:
    with pytest.raises(AppMeshNotOfferedError):
        client.list_users()
    with pytest.raises(AppMeshNotOfferedError):
        client.login("admin", "admin123")


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"grant_type": "password", "username": "admin", "password": "wrong"}, 401, "invalid_grant"),
        ({"grant_type": "password", "username": "ghost", "password": "x"}, 401, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "spent"}, 400, "invalid_grant"),
        ({"grant_type": "client_credentials"}, 401, "unauthorized_client"),
        ({"grant_type": "client_credentials", "client_id": "bridge", "client_secret": "x"}, 401, "unauthorized_client"),
        ({"grant_type": "password", "client_id": "stranger"}, 401, "invalid_client"),
        ({"grant_type": "magic"}, 400, "unsupported_grant_type"),
        ({}, 400, "unsupported_grant_type"),
    ],
)
def test_the_issuer_refuses_as_keycloak_does(emulator: Emulator, form: dict[str, str], status: int, error: str) -> None:
    answer = requests.post(
        token_url(emulator), data={"client_id": "appmesh-cli"} | form, verify=str(emulator.ca_file), timeout=10
    )
    assert (answer.status_code, answer.json()["error"]) == (status, error)


def test_a_refresh_token_is_good_once(emulator: Emulator) -> None:
    endpoint = TokenEndpoint(token_url(emulator), "appmesh-cli", ssl_verify=str(emulator.ca_file))
    first = endpoint.grant("password", username="mesh", password="mesh123")
    second = endpoint.grant("refresh_token", refresh_token=first.refresh_token)
    assert second.access_token != first.access_token
    with pytest.raises(AppMeshAuthError, match="not active"):
        endpoint.grant("refresh_token", refresh_token=first.refresh_token)
    endpoint.close()


@pytest.mark.parametrize("transport", ["https", "tcp", "wss"])
def test_files_keep_their_names_and_need_no_other_token(
    emulator: Emulator, tokens: OidcTokens, tmp_path: Path, transport: str
) -> None:
    addresses = {"https": emulator.https_address, "tcp": emulator.tcp_address, "wss": emulator.wss_address}
    address = addresses[transport] or pytest.fail("the emulator does not listen")
    trusted = str(emulator.ca_file)
    client: AppMeshClient
    if transport == "https":
        client = AppMeshClient("https://{}:{}".format(*address), trusted, token_provider=tokens)
    else:
        kind = AppMeshClientTCP if transport == "tcp" else AppMeshClientWSS
        client = kind(address, trusted, token_provider=tokens)
    names = {"a b", "a%20b", "100 %", "1+1=2", "ü€𝄞"}
    with client:
        for name in names:
            client.upload_stream(io.BytesIO(b"123"), str(tmp_path / name), size=3)
            with client.open_download(str(tmp_path / name)) as file:
                assert b"".join(file.chunks) == b"123"
    assert {path.name for path in tmp_path.iterdir()} == names
