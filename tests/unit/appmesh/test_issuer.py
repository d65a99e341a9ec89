"""Where secrets may go: an issuer's discovery document is believed only about that issuer, and only over TLS."""

import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import orjson
import pytest

from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshConnectionError
from meshbridge.appmesh.oidc import TokenEndpoint, find_token_url, is_private
from tests.unit.appmesh.https_server import HttpsServer, reply


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HttpsServer]:
    with HttpsServer(tmp_path) as running:
        yield running


def discover(server: HttpsServer, **document: Any) -> str:
    fields = {"issuer": f"{server.url}/realms/main", "token_endpoint": f"{server.url}/token"} | document
    server.handle = lambda handler, _body: reply(handler, orjson.dumps(fields))
    return find_token_url(f"{server.url}/realms/main", ssl_verify=str(server.ca_file), timeout_seconds=5)


def test_the_document_of_the_configured_issuer_names_the_endpoint(server: HttpsServer) -> None:
    assert discover(server) == f"{server.url}/token"
    assert server.requests[0][:2] == ("GET", "/realms/main/.well-known/openid-configuration")


@pytest.mark.parametrize("named", ["https://other.example", "", None, 7, ["x"]])
def test_the_document_of_another_issuer_is_refused(server: HttpsServer, named: Any) -> None:
    with pytest.raises(AppMeshAuthError, match="names another issuer"):
        discover(server, issuer=named)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://elsewhere.example/token",
        "http://127.0.0.1:1/token",
        "https://a:b@127.0.0.1/t",
        "https://[",
        "",
        None,
        {},
    ],
)
def test_an_endpoint_elsewhere_gets_no_secrets(server: HttpsServer, endpoint: Any) -> None:
    with pytest.raises(AppMeshAuthError, match="not at the issuer's https:// address"):
        discover(server, token_endpoint=endpoint)


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://idp.example/token", True),
        ("http://127.0.0.1:8080/token", True),
        ("http://[::1]/token", True),
        ("http://localhost/token", True),
        ("http://localhost.example/token", False),
        ("http://idp.example", False),
        ("https://user@idp.example", False),
        ("https:///token", False),
        ("https://idp.example:port", False),
        ("ftp://127.0.0.1", False),
    ],
)
def test_secrets_go_over_tls_or_stay_on_this_host(url: str, private: bool) -> None:
    assert is_private(url) is private


def large(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
    reply(handler, b'{"access_token": "' + b"x" * 2_000_000 + b'"}')


def compressed(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
    reply(handler, zlib.compress(b"x" * 2_000_000), Content_Encoding="deflate")


def endless(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"[" * 1_500_000)
    handler.close_connection = True


@pytest.mark.parametrize("answer", [large, compressed, endless])
def test_an_answer_without_bound_is_refused(server: HttpsServer, answer: Any) -> None:
    server.handle = answer
    endpoint = TokenEndpoint(f"{server.url}/token", "c", ssl_verify=str(server.ca_file), timeout_seconds=5)
    with pytest.raises(AppMeshConnectionError, match=r"larger than 1048576 bytes|compressed"):
        endpoint.grant("client_credentials")
    endpoint.close()
