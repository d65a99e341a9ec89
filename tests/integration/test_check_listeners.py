"""What ``meshbridge check`` says of where this bridge listens, and of certificates in files."""

import datetime as dt
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from meshbridge.checks.certificates import check_client_certificate, check_expiry, expires_at
from meshbridge.checks.host import RunningBridge
from meshbridge.checks.listeners import check_listeners
from meshbridge.config.load import Settings
from meshbridge.fields import Tls
from meshbridge.model.status import Grade, Verdict
from tests.integration.test_check_host import settings_of
from tests.support import Process, free_port, wait_for

TOKENS = [
    {"name": "ops", "sha256": "a" * 64, "scopes": ["admin"]},
    {"name": "ci", "sha256": "b" * 64, "scopes": ["read"]},
]


def exporter(settings: Settings, running: RunningBridge | None = None) -> list[Verdict]:
    return [verdict for verdict in check_listeners(settings, running) if verdict.subject == "exporter"]


def admin(tmp_path: Path, **options: Any) -> dict[str, Verdict]:
    options = {"listen": f"127.0.0.1:{free_port()}", "tokens": TOKENS, **options}
    settings, _ = settings_of(tmp_path, admin=options)
    return {one.aspect: one for one in check_listeners(settings, None) if one.subject == "admin"}


def server(tmp_path: Path, not_after: dt.datetime | None = None) -> Path:
    """A file with a certificate and its key."""
    file = tmp_path / "server.pem"
    issued = trustme.CA().issue_cert("localhost", not_after=not_after)
    issued.private_key_and_cert_chain_pem.write_to_path(str(file))
    return file


# --- the exporter's ------------------------------------------------------------------------------------------------


def test_a_port_that_is_free(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    settings, _ = settings_of(tmp_path, exporter={"listen": listen})
    assert exporter(settings) == [Verdict("exporter", "port", Grade.OK, f"{listen} is free")]


def test_a_port_that_somebody_else_holds(tmp_path: Path) -> None:
    script = (
        "import signal, socket; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); signal.pause()"
    )
    with Process([sys.executable, "-c", script], tmp_path / "log") as other:
        port = int(wait_for(lambda: (tmp_path / "log").read_text().strip(), "its port"))
        settings, _ = settings_of(tmp_path, exporter={"listen": f"127.0.0.1:{port}"})
        (found,) = exporter(settings)
        assert found.grade is Grade.FAILED
        assert f"127.0.0.1:{port} is held by process {other.popen.pid} (python" in found.text
        assert found.remedy == "stop that one, or set exporter.listen to another port"
        (running,) = exporter(settings, RunningBridge(other.popen.pid, {}))
        assert running == Verdict("exporter", "port", Grade.OK, f"127.0.0.1:{port} is held by the running bridge")
        (elsewhere,) = exporter(settings, RunningBridge(os.getpid(), {}))
        assert elsewhere.grade is Grade.FAILED


def test_an_address_that_is_not_this_hosts(tmp_path: Path) -> None:
    settings, _ = settings_of(tmp_path, exporter={"listen": "192.0.2.1:9665"})
    (found,) = exporter(settings)
    assert found.grade is Grade.FAILED
    assert found.text.startswith("cannot listen on 192.0.2.1:9665: ")
    assert "an address of this host" in (found.remedy or "")


def test_a_running_bridge_that_listens_elsewhere(tmp_path: Path) -> None:
    settings, _ = settings_of(tmp_path, exporter={"listen": f"127.0.0.1:{free_port()}"})
    (found,) = exporter(settings, RunningBridge(os.getpid(), {}))
    assert found.grade is Grade.WARNING


@pytest.mark.parametrize(
    ("content", "grade", "text"),
    [
        ("tls_server_config: {cert_file: server.pem, key_file: server.pem}\n", Grade.OK, "TLS, 0 users"),
        ("tls_server_config: {cert_file: none.pem, key_file: none.pem}\n", Grade.FAILED, "No such file or directory"),
        ("basic_auth_users: {me: plain}\n", Grade.FAILED, "no bcrypt hash"),
        (f"basic_auth_users: {{me: $2b$10${'a' * 53}}}\n", Grade.WARNING, "no TLS, 1 user"),
        (None, Grade.FAILED, "No such file or directory"),
    ],
)
def test_a_web_config(tmp_path: Path, content: str | None, grade: Grade, text: str) -> None:
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    path = tmp_path / "web.yaml"
    if content is not None:
        path.write_text(content)
    listen = {"listen": f"127.0.0.1:{free_port()}", "web_config": str(path)}
    settings, _ = settings_of(tmp_path, exporter=listen)
    _, found, *more = exporter(settings)
    assert found.grade is grade
    assert text in found.text
    assert (found.remedy is None) == (grade is Grade.OK)
    assert [one.text.partition(" until ")[0] for one in more] == ["certificate good"] * (text == "TLS, 0 users")


# --- the admin API's -----------------------------------------------------------------------------------------------


def test_without_tokens_there_is_the_control_socket(tmp_path: Path) -> None:
    settings, _ = settings_of(tmp_path)
    (found,) = (one for one in check_listeners(settings, None) if one.subject == "admin")
    assert found.grade is Grade.OK
    assert found.text.startswith("no tokens, so the API is on the control socket alone")


def test_who_may_come_in_and_where(tmp_path: Path) -> None:
    found = admin(tmp_path)
    assert {one.grade for one in found.values()} == {Grade.OK}
    assert found["tokens"].text == "2 tokens: ops (admin), ci (read)"
    assert found["port"].text.endswith(" is free")
    assert "certificate" not in found  # no other host can listen in


def test_the_admin_apis_certificate(tmp_path: Path) -> None:
    file = server(tmp_path)
    tls = {"cert_file": str(file), "key_file": str(file)}
    assert admin(tmp_path, tls=tls)["certificate"].grade is Grade.OK
    other = trustme.CA().issue_cert("localhost").private_key_pem
    other.write_to_path(str(tmp_path / "other.pem"))
    for key_file, text in (("other.pem", "key values mismatch"), ("none.pem", "No such file")):
        found = admin(tmp_path, tls=tls | {"key_file": str(tmp_path / key_file)})["certificate"]
        assert found.grade is Grade.FAILED
        assert text in found.text
        assert "PEM files that belong together" in (found.remedy or "")


def test_tokens_in_clear_are_a_warning(tmp_path: Path) -> None:
    found = admin(tmp_path, listen="0.0.0.0:0", insecure=True)["certificate"]
    assert (found.grade, found.remedy) == (Grade.WARNING, "set tls, and drop insecure: true")


def test_the_admin_apis_socket(tmp_path: Path) -> None:
    assert admin(tmp_path, listen=f"unix:{tmp_path}/admin.sock")["socket"].grade is Grade.OK
    assert list(tmp_path.glob("*.sock")) == []
    found = admin(tmp_path, listen=f"unix:{tmp_path}/none/admin.sock")["socket"]
    assert (found.grade, found.text) == (Grade.FAILED, f"no socket can be made in {tmp_path}/none")
    (tmp_path / "file.sock").touch()
    found = admin(tmp_path, listen=f"unix:{tmp_path}/file.sock")["socket"]
    assert (found.grade, found.text) == (Grade.FAILED, f"{tmp_path}/file.sock is there, and no socket")


def test_the_audit_file(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    assert admin(tmp_path, audit_file=str(file))["audit"].text == f"calls will be written to {file}"
    assert not file.exists()
    file.touch()
    assert admin(tmp_path, audit_file=str(file))["audit"].text == f"calls are written to {file}"
    for wrong in (tmp_path, tmp_path / "none" / "audit.jsonl"):
        found = admin(tmp_path, audit_file=str(wrong))["audit"]
        assert (found.grade, found.text) == (Grade.FAILED, f"{wrong} can't be written")


# --- certificates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [2027, 2049, 2050, 2070])  # two digits of the year up to 2049, four from then on
def test_when_a_certificate_expires(tmp_path: Path, year: int) -> None:
    moment = dt.datetime(year, 3, 4, 5, 6, 7, tzinfo=dt.UTC)
    assert expires_at(server(tmp_path, moment)) == moment.timestamp()


def test_the_first_of_a_chain_to_expire_counts(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    parts = [server(tmp_path, now + dt.timedelta(days=days)).read_text() for days in (300, 200, 400)]
    (tmp_path / "chain.pem").write_text("".join(parts))
    assert expires_at(tmp_path / "chain.pem") == (now + dt.timedelta(days=200)).timestamp()


@pytest.mark.parametrize(
    ("days", "grade", "text"),
    [
        (400, Grade.OK, "certificate good until "),
        (20.5, Grade.WARNING, "(20 days)"),
        (1.5, Grade.WARNING, "(1 day)"),
        (-1, Grade.FAILED, "certificate expired on "),
    ],
)
def test_an_expiry_that_comes_near(tmp_path: Path, days: float, grade: Grade, text: str) -> None:
    file = server(tmp_path, dt.datetime.now(dt.UTC) + dt.timedelta(days=days))
    found = check_expiry("admin", file)
    assert found.grade is grade
    assert text in found.text
    assert (found.remedy is None) == (grade is Grade.OK)


def test_a_file_that_holds_no_certificate(tmp_path: Path) -> None:
    file = tmp_path / "file.pem"
    contents = {
        None: "No such file",
        "nothing": "no certificate in it",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n": "a certificate in it is damaged",
    }
    for content, said in contents.items():
        if content is not None:
            file.write_text(content)
        found = check_expiry("admin", file)
        assert found.grade is Grade.FAILED
        assert said in found.text


def test_a_client_certificate(tmp_path: Path) -> None:
    assert list(check_client_certificate("sink hook", Tls())) == []
    assert list(check_client_certificate("sink log", None)) == []
    (found,) = check_client_certificate("sink hook", Tls(client_cert=server(tmp_path)))
    assert (found.subject, found.aspect, found.grade) == ("sink hook", "client certificate", Grade.OK)
