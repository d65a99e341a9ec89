"""``meshbridge login``: a person at the issuer of a daemon of 3.x."""

import stat
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from meshbridge.cli import app
from tests.unit.appmesh.https_server import HttpsServer, reply
from tests.unit.appmesh.issuer import ISSUER, SCOPES, Dex


@pytest.fixture
def dex() -> Dex:
    return Dex()


@pytest.fixture
def node(tmp_path: Path, dex: Dex) -> Iterator[HttpsServer]:
    """A daemon and its issuer at one address."""
    told = {"issuer": ISSUER, "public_client_id": "appmesh-cli", "scopes": SCOPES}
    with HttpsServer(tmp_path) as server:
        server.handle = lambda handler, body: (
            reply(handler, orjson.dumps(told)) if handler.path == "/appmesh/auth/config" else dex(handler, body)
        )
        yield server


def configuration(directory: Path, node: HttpsServer) -> Path:
    path = directory / "meshbridge.yaml"
    path.write_text(
        f"""
daemons:
  node-a:
    url: {node.url}
    token_file: {directory / "token"}
    tls: {{ca_file: {node.ca_file}}}
journal: {{path: {directory / "journal"}}}
"""
    )
    return path


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["login", *words])
    return result.exit_code, result.stdout, result.stderr


def test_a_person_logs_in_and_gets_the_token(tmp_path: Path, node: HttpsServer, dex: Dex) -> None:
    config = str(configuration(tmp_path, node))
    code, out, err = run("node-a", "--access-url", f"{node.url}/auth", "-c", config)
    assert (code, out.count(".")) == (0, 2)
    assert "confirm the code ABCD" in err
    assert "offline_access" not in dex.forms[0]["scope"], "a token for minutes"
    code, out, _ = run("node-a", "--access-url", f"{node.url}/auth", "-c", config, "--save")
    assert (code, out) == (0, "")
    assert (tmp_path / "token").read_text().count(".") == 2
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_a_refused_login_says_so(tmp_path: Path, node: HttpsServer, dex: Dex) -> None:
    dex.device_ends = "access_denied"
    config = str(configuration(tmp_path, node))
    code, out, err = run("node-a", "--access-url", f"{node.url}/auth", "-c", config)
    assert (code, out) == (1, "")
    assert "access_denied" in err


def test_a_daemon_without_an_issuer_says_so(tmp_path: Path, node: HttpsServer) -> None:
    node.handle = lambda handler, _body: reply(handler, b'{"message": "Path not found GET:/x"}', 404)
    code, _, err = run("node-a", "-c", str(configuration(tmp_path, node)))
    assert code == 1
    assert "App Mesh 2.x" in err
    code, _, err = run("ghost", "-c", str(configuration(tmp_path, node)))
    assert (code, "no daemon 'ghost'" in err) == (2, True)
