"""Responses 102 and 103 before the answer (RFC 9110, 15.2), met by every HTTP client beside the sinks' own."""

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.oidc import find_token_url
from meshbridge.service.healthcheck import ask
from tests.contract.sinks.http_server import Exchange, HttpServer

INTERIM = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
SECONDS = 5.0


@contextlib.contextmanager
def answering(body: bytes, context: ssl.SSLContext | None = None) -> Iterator[HttpServer]:
    def answer(exchange: Exchange) -> None:
        exchange.send(INTERIM)
        exchange.answer(200, {"Content-Type": "application/json"}, body)

    with HttpServer(answer, context) as server:
        yield server


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return context, str(file)


def test_the_sdk_takes_the_answer_behind_them(certificates: tuple[ssl.SSLContext, str]) -> None:
    context, ca_file = certificates
    with answering(b'[{"name": "web"}]', context) as server:
        client = AppMeshClient(f"https://127.0.0.1:{server.port}", ssl_verify=ca_file)
        try:
            assert [app.name for app in client.list_apps()] == ["web"]
            assert [app.name for app in client.list_apps()] == ["web"]
        finally:
            client.close()
        assert len({request.connection for request in server.requests}) == 1


def test_an_issuer_is_understood(certificates: tuple[ssl.SSLContext, str]) -> None:
    context, ca_file = certificates
    with answering(b"", context) as server:
        issuer = f"https://127.0.0.1:{server.port}"

        def answer(exchange: Exchange) -> None:
            exchange.send(INTERIM)
            exchange.answer(200, body=f'{{"issuer": "{issuer}", "token_endpoint": "{issuer}/token"}}'.encode())

        server.answer = answer
        assert find_token_url(issuer, ssl_verify=ca_file, timeout_seconds=SECONDS) == f"{issuer}/token"


def test_the_health_check_takes_the_answer_behind_them() -> None:
    with answering(b"ok") as server:
        assert ask(f"http://127.0.0.1:{server.port}", ready=True, timeout_seconds=SECONDS) == (True, "ok")
