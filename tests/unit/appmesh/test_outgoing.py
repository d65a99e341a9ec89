"""HTTP to the outside: what the environment says has no effect, the settings alone decide."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.oidc import TokenEndpoint, find_token_url
from meshbridge.appmesh.outgoing import new_session
from tests.support import free_port
from tests.unit.appmesh.https_server import HttpsServer, reply


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HttpsServer]:
    with HttpsServer(tmp_path) as running:
        yield running


@pytest.fixture
def misled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that leads every connection astray: proxies, another authority, a netrc."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, nowhere)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(other))
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))


@pytest.mark.usefixtures("misled")
def test_a_daemon_over_https_is_asked_as_the_settings_say(server: HttpsServer) -> None:
    server.handle = lambda handler, _body: reply(handler, b"[]")
    with AppMeshClient(server.url, str(server.ca_file)) as client:
        client.list_apps()
    assert "Authorization" not in server.requests[0][2]


@pytest.mark.usefixtures("misled")
def test_an_issuer_is_asked_as_the_settings_say(server: HttpsServer) -> None:
    server.handle = lambda handler, _body: reply(
        handler, f'{{"issuer": "{server.url}", "token_endpoint": "{server.url}/token", "access_token": "t"}}'.encode()
    )
    url = find_token_url(server.url, ssl_verify=str(server.ca_file), timeout_seconds=5)
    endpoint = TokenEndpoint(url, "client", ssl_verify=str(server.ca_file), timeout_seconds=5)
    endpoint.grant("client_credentials")
    endpoint.close()
    assert all("Authorization" not in headers for _, _, headers, _ in server.requests)


@pytest.mark.usefixtures("misled")
def test_true_asks_for_the_systems_authorities_whatever_the_environment_names(
    server: HttpsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
    with new_session(ssl_verify=True) as session, pytest.raises(requests.exceptions.SSLError):
        session.get(server.url, timeout=5)


def test_the_authorities_are_read_again_at_each_new_connection(server: HttpsServer, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    trustme.CA().cert_pem.write_to_path(str(trusted))
    with new_session(str(trusted)) as session:
        with pytest.raises(requests.exceptions.SSLError):
            session.get(server.url, timeout=5)
        trusted.write_bytes(server.ca_file.read_bytes())
        assert session.get(server.url, timeout=5).status_code == 200


def test_tls_files_that_are_missing_are_named(tmp_path: Path) -> None:
    with new_session(str(tmp_path / "none.pem")) as session, pytest.raises(OSError, match=r"none\.pem"):
        session.get(f"https://127.0.0.1:{free_port()}", timeout=5)


def test_a_session_verifies_names_as_the_context_does(tmp_path: Path) -> None:
    with (
        HttpsServer(tmp_path) as server,
        new_session(str(server.ca_file)) as session,
        pytest.raises(requests.exceptions.SSLError, match="ostname mismatch"),
    ):
        session.get(server.url.replace("127.0.0.1", "localhost"), timeout=5)
