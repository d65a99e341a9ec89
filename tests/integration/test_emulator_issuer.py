"""The emulator as a daemon of 3.x: its issuer, and the principals that are there instead of users."""

from collections.abc import Iterator

import pytest
import requests

from meshbridge.appmesh import AppMeshClientTCP
from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshNotOfferedError
from meshbridge.appmesh.oidc import OidcTokens, TokenEndpoint
from meshbridge.emulator import Emulator, EmulatorOptions


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(https_port=None, wss_port=None, generation=3)) as daemon:
        yield daemon


def token_url(emulator: Emulator) -> str:
    """As a client finds it: the daemon names the issuer, the issuer its token endpoint."""
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file)) as client:  # type: ignore[arg-type]
        issuer = client.get_auth_config()["issuer"]
    answer = requests.get(f"{issuer}/.well-known/openid-configuration", verify=str(emulator.ca_file), timeout=10)
    return str(answer.json()["token_endpoint"])


@pytest.fixture
def client(emulator: Emulator) -> Iterator[AppMeshClientTCP]:
    """The administrator's, by the password grant."""
    endpoint = TokenEndpoint(token_url(emulator), "appmesh-cli", ssl_verify=str(emulator.ca_file))
    fields = {"grant_type": "password", "username": "admin", "password": "admin123"}
    tokens = OidcTokens(endpoint, lambda: fields)
    assert emulator.tcp_address is not None
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file), token_provider=tokens) as client:
        yield client
    endpoint.close()


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
        ({"grant_type": "password", "username": "nobody", "password": "x"}, 401, "invalid_grant"),
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
