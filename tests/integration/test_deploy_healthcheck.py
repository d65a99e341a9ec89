"""``meshbridge healthcheck`` against a real exporter."""

import http.client
import os
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import bcrypt
import pytest
import trustme
import yaml

from meshbridge.admin.api import Api
from meshbridge.admin.control import ControlSocket
from meshbridge.exporter import Exporter, ExporterOptions, Sources
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.status import JournalStatus
from meshbridge.service.healthcheck import CannotAskError, CredentialsNeededError, ask
from tests.command_line import run_command
from tests.integration.admin_api import application_for
from tests.support import free_port, meshbridge_command

Start = Callable[..., str]


@pytest.fixture
def reasons() -> list[str]:
    """Why the bridge is not ready."""
    return []


@pytest.fixture
def start(reasons: list[str], tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as running:

        def run(**web_config: object) -> str:
            file = tmp_path / "web.yaml"
            file.write_text(yaml.safe_dump(web_config), encoding="utf-8")
            exporter = Exporter(
                ExporterOptions(listen="127.0.0.1:0", web_config=file if web_config else None),
                Sources(list, list, list, lambda: JournalStatus(str(tmp_path)), lambda: reasons),
            )
            exporter.start()
            running.callback(exporter.stop)
            host, port = exporter.address
            return f"{'https' if 'tls_server_config' in web_config else 'http'}://{host}:{port}"

        yield run


def issue(directory: Path, authority: trustme.CA) -> dict[str, str]:
    certificate = authority.issue_cert("bridge.example")
    certificate.private_key_pem.write_to_path(str(directory / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    return {"cert_file": "cert.pem", "key_file": "key.pem"}


def test_healthy_is_told_from_ready(start: Start, reasons: list[str]) -> None:
    url = start()
    assert ask(url, ready=True, timeout_seconds=5)[0]
    reasons.append("the journal is not open")
    assert ask(url, ready=False, timeout_seconds=5) == (True, "meshbridge is healthy.")
    fine, answer = ask(url, ready=True, timeout_seconds=5)
    assert not fine
    assert "the journal is not open" in answer


def test_one_that_wants_a_user_says_so(start: Start) -> None:
    url = start(basic_auth_users={"prometheus": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()})
    for ready in (False, True):
        with pytest.raises(CredentialsNeededError, match="the exporter asks for a user"):
            ask(url, ready=ready, timeout_seconds=5)


def test_tls_is_spoken_whatever_name_the_certificate_has(start: Start, tmp_path: Path) -> None:
    url = start(tls_server_config=issue(tmp_path, trustme.CA()))
    assert ask(url, ready=True, timeout_seconds=5)[0]


def test_one_that_wants_a_client_certificate_says_so(start: Start, tmp_path: Path) -> None:
    tls = issue(tmp_path, trustme.CA())
    client = {"client_ca_file": "ca.pem", "client_auth_type": "RequireAndVerifyClientCert"}
    url = start(tls_server_config={**tls, **client})
    for ready in (False, True):
        with pytest.raises(CredentialsNeededError, match="the exporter asks for a client certificate"):
            ask(url, ready=ready, timeout_seconds=5)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        BrokenPipeError(),
        http.client.RemoteDisconnected("Remote end closed connection without response"),
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_closed_for_want_of_a_certificate_is_known_by_any_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Which one comes depends on what the client is doing when the server closes."""

    def request(*_: object) -> None:
        raise error

    monkeypatch.setattr(http.client.HTTPSConnection, "request", request)
    with pytest.raises(CredentialsNeededError, match="the exporter asks for a client certificate"):
        ask("https://127.0.0.1:1", ready=False, timeout_seconds=5)


def test_a_bridge_whose_exporter_asks_for_a_user_is_asked_over_its_control_socket(start: Start, tmp_path: Path) -> None:
    url = start(basic_auth_users={"prometheus": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()})
    directory = tmp_path / "journal"
    journal = Journal(JournalOptions(path=directory))
    journal.open()
    control = ControlSocket(directory, Api(lambda: application_for([], journal)))
    control.start()
    environ = {
        **os.environ,
        "MESHBRIDGE_EXPORTER__LISTEN": url.removeprefix("http://"),
        "MESHBRIDGE_JOURNAL__PATH": str(directory),
    }
    assert run_command("healthcheck", env=environ).stdout == "meshbridge is healthy.\n"
    done = run_command("healthcheck", "--ready", env=environ)
    assert (done.returncode, done.stdout) == (0, "ready\n")
    journal.close()
    done = run_command("healthcheck", "--ready", env=environ)
    assert (done.returncode, done.stdout) == (1, "not ready: the journal is not open\n")
    control.stop(5)
    done = run_command("healthcheck", env=environ)
    assert done.returncode == 1
    assert "no answer over the control socket" in done.stderr


def test_nobody_there_is_told() -> None:
    with pytest.raises(CannotAskError, match="no answer from"):
        ask(f"http://127.0.0.1:{free_port()}", ready=False, timeout_seconds=5)


def test_an_address_without_http_is_refused() -> None:
    with pytest.raises(CannotAskError, match="not an address"):
        ask("localhost:9665", ready=False, timeout_seconds=5)


def test_the_command_exits_with_the_verdict(start: Start, reasons: list[str]) -> None:
    url = start()

    def command(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            meshbridge_command("healthcheck", "--url", url, *arguments),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout

    assert command() == (0, "meshbridge is healthy.\n")
    assert command("--ready")[0] == 0
    reasons.append("starting or stopping")
    assert command("--ready")[0] == 1
