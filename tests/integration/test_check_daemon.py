"""What ``meshbridge check`` says of a daemon: the mistakes of a first hour, each with its line and what to do."""

import datetime as dt
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from meshbridge.appmesh import AppMeshClientTCP
from meshbridge.checks.daemon import try_daemon
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.fields import Tls
from meshbridge.link import DaemonOptions
from meshbridge.link.credentials import Credentials
from meshbridge.model.status import Grade, Verdict
from tests.contract.sinks.socket_server import SocketServer
from tests.support import free_port

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as daemon:
        yield daemon


def options_for(emulator: Emulator, scheme: str = "tcp", **extra: Any) -> DaemonOptions:
    addresses = {"tcp": emulator.tcp_address, "wss": emulator.wss_address, "https": emulator.https_address}
    address = addresses[scheme]
    assert address is not None
    settings = {
        "url": f"{scheme}://{address[0]}:{address[1]}",
        "username": "admin",
        "password": SecretStr("admin123"),
        "tls": Tls(ca_file=emulator.ca_file),
    }
    return DaemonOptions.model_validate({key: value for key, value in (settings | extra).items() if value is not None})


def verdicts(options: DaemonOptions) -> dict[str, Verdict]:
    """By aspect, in the order in which they were given."""
    found = list(try_daemon("node-a", options))
    assert {verdict.subject for verdict in found} == {"daemon node-a"}
    assert len({verdict.aspect for verdict in found}) == len(found)
    assert all((verdict.remedy is None) == (verdict.grade is Grade.OK) for verdict in found), found
    return {verdict.aspect: verdict for verdict in found}


def failure(options: DaemonOptions) -> Verdict:
    """The last verdict, which is the only failed one."""
    *before, last = verdicts(options).values()
    assert all(verdict.fine for verdict in before)
    assert last.grade is Grade.FAILED
    return last


@pytest.mark.parametrize("scheme", ["tcp", "wss", "https"])
def test_all_is_well(emulator: Emulator, scheme: str) -> None:
    found = verdicts(options_for(emulator, scheme))
    expected = ["connection", "certificate", "login", "permissions", "daemon", "events", "clock"]
    assert list(found) == [aspect for aspect in expected if aspect != "events" or scheme == "https"]
    assert {verdict.grade for verdict in found.values()} == {Grade.OK}
    assert found["connection"].text.startswith("reachable at 127.0.0.1:")
    assert found["login"].text == "logged in as 'admin'"
    assert found["daemon"].text.startswith("App Mesh 2.2.1, running since ")


def test_nothing_is_left_on_the_daemon(emulator: Emulator) -> None:
    """The token of a trial is given back: it is good for nothing afterwards."""
    given: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        original = Credentials.token

        def token(*arguments: Any, **named: Any) -> str:
            given.append(original(*arguments, **named))
            return given[-1]

        patch.setattr(Credentials, "token", token)
        verdicts(options_for(emulator))
    refused = failure(options_for(emulator, username=None, password=None, token=SecretStr(given[0])))
    assert "revoked" in refused.text or "refuses" in refused.text


@pytest.mark.parametrize(
    ("extra", "aspect", "text", "remedy"),
    [
        (
            {"password": SecretStr("nope")},
            "login",
            "wrong password, or the user is locked",
            "set username and password",
        ),
        ({"username": "ghost"}, "login", "login as 'ghost' refused: no such user", "set username and password"),
        ({"tls": Tls()}, "certificate", "not trusted", "set tls.ca_file of the daemon to its ca.pem"),
        ({"tls": Tls(ca_file=Path("/no/ca.pem"))}, "connection", "cannot load TLS files", "that this user may read"),
        (
            {"password": None, "password_file": Path("/no/password")},
            "login",
            "cannot read password_file /no/password: No such file",
            "make password_file a text file",
        ),
        (
            {
                "username": None,
                "password": None,
                "oidc": {"client_id": "c", "client_secret": "s", "issuer": "https://127.0.0.1:1"},
            },
            "login",
            "names no issuer of tokens (App Mesh 2.x)",
            "set username and password_file of the daemon instead of oidc",
        ),
    ],
)
def test_a_wrong_setting_is_explained(
    emulator: Emulator, extra: dict[str, Any], aspect: str, text: str, remedy: str
) -> None:
    last = failure(options_for(emulator, **extra))
    assert last.aspect == aspect
    assert text in last.text
    assert remedy in (last.remedy or "")


def test_a_user_without_permissions_is_told_the_role_that_would_do(emulator: Emulator) -> None:
    viewer: dict[str, Any] = {"username": "mesh", "password": SecretStr("mesh123")}
    found = verdicts(options_for(emulator, "wss", **viewer))
    assert found["permissions"].text == "the user may not app-subscribe"
    assert found["permissions"].remedy == (
        "give the user a role with app-subscribe, app-view, app-view-all, app-output-view, host-resource-view, "
        "user-token-renew (a new one, say meshbridge; manage would do as well, but permits more)"
    )
    assert found["daemon"].grade is Grade.OK  # what the user may see is looked at all the same
    address = emulator.tcp_address
    assert address is not None
    with AppMeshClientTCP(address, str(emulator.ca_file)) as client:
        client.login("admin", "admin123")
        client.update_role("watcher", ["app-subscribe", "app-view"])
        try:
            assert verdicts(options_for(emulator, **viewer))["permissions"].remedy == "give the user the role watcher"
        finally:
            client.delete_role("watcher")


def test_a_user_without_any_role_is_told_so(emulator: Emulator) -> None:
    address = emulator.tcp_address
    assert address is not None
    with AppMeshClientTCP(address, str(emulator.ca_file)) as client:
        client.login("admin", "admin123")
        client.add_user("guest", {"key": "guest123", "roles": [], "email": "", "exec_user": "", "group": "user"})
    last = failure(options_for(emulator, username="guest", password=SecretStr("guest123")))
    assert last.aspect == "permissions"
    assert "app-view-all" in last.text
    assert (last.remedy or "").startswith("give the user a role with app-subscribe, ")


def test_a_certificate_that_is_not_verified_is_a_warning(emulator: Emulator) -> None:
    found = verdicts(options_for(emulator, tls=Tls(verify=False)))
    assert found["certificate"].grade is Grade.WARNING
    assert "not verified" in found["certificate"].text
    assert found["login"].grade is Grade.OK


def secured(directory: Path, *names: str, **times: Any) -> EmulatorOptions:
    """An emulator with a certificate of its own."""
    ssl = directory / "ssl"
    ssl.mkdir(parents=True)
    authority = trustme.CA()
    leaf = authority.issue_cert(*(names or ("127.0.0.1",)), **times)
    authority.cert_pem.write_to_path(str(ssl / "ca.pem"))
    authority.private_key_pem.write_to_path(str(ssl / "ca-key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(ssl / "server.pem"))
    leaf.private_key_pem.write_to_path(str(ssl / "server-key.pem"))
    (ssl / "server.names").write_text("\n".join(sorted(("localhost", "127.0.0.1", "::1"))))
    return EmulatorOptions(data_dir=directory, wss_port=None, https_port=None)


@pytest.mark.parametrize(
    ("times", "grade", "text"),
    [
        ({"not_after": NOW + dt.timedelta(days=100, hours=1)}, Grade.OK, "(100 days)"),
        ({"not_after": NOW + dt.timedelta(days=29, hours=1)}, Grade.WARNING, "(29 days)"),
        ({"not_after": NOW + dt.timedelta(days=1, hours=1)}, Grade.WARNING, "(1 day)"),
    ],
)
def test_a_certificate_near_its_end_is_a_warning(
    tmp_path: Path, times: dict[str, Any], grade: Grade, text: str
) -> None:
    with Emulator(secured(tmp_path / "daemon", **times)) as daemon:
        certificate = verdicts(options_for(daemon))["certificate"]
    assert certificate.grade is grade
    assert f"{times['not_after']:%Y-%m-%d} {text}" in certificate.text
    assert grade is Grade.OK or "renew it" in (certificate.remedy or "")


@pytest.mark.parametrize(
    ("names", "times", "text", "remedy"),
    [
        (("127.0.0.1",), {"not_after": NOW - dt.timedelta(days=1)}, "certificate has expired", "renew the daemon's"),
        (
            ("127.0.0.1",),
            {"not_before": NOW + dt.timedelta(days=1), "not_after": NOW + dt.timedelta(days=9)},
            "not yet valid",
            "compare the clocks",
        ),
        (("node-a.example",), {}, "IP address mismatch", "made for this address"),
    ],
)
def test_a_certificate_that_is_refused_says_what_to_do(
    tmp_path: Path, names: tuple[str, ...], times: dict[str, Any], text: str, remedy: str
) -> None:
    with Emulator(secured(tmp_path / "daemon", *names, **times)) as daemon:
        last = failure(options_for(daemon))
    assert last.aspect == "certificate"
    assert text in last.text
    assert remedy in (last.remedy or "")


def test_a_daemon_that_asks_for_a_certificate(tmp_path: Path) -> None:
    options = EmulatorOptions(data_dir=tmp_path, verify_client=True, https_port=None)
    with Emulator(options) as daemon:
        last = failure(options_for(daemon))
        assert "tls.client_cert" in (last.remedy or "")
        folder = daemon.ca_file.parent
        tls = Tls(ca_file=daemon.ca_file, client_cert=folder / "client.pem", client_key=folder / "client-key.pem")
        assert verdicts(options_for(daemon, tls=tls))["login"].grade is Grade.OK


def test_an_address_without_a_daemon() -> None:
    login = {"username": "admin", "password": "admin123"}
    refused = failure(DaemonOptions.model_validate({"url": f"tcp://127.0.0.1:{free_port()}"} | login))
    assert "Connection refused" in refused.text
    assert "start App Mesh there" in (refused.remedy or "")
    unknown = failure(DaemonOptions.model_validate({"url": "tcp://no-such-host.invalid"} | login))
    assert "host name 'no-such-host.invalid' not found" in unknown.text
    assert "see whether the name in url is right" in (unknown.remedy or "")


def test_a_port_that_is_not_app_meshs(emulator: Emulator) -> None:
    def speak(sock: socket.socket) -> None:
        sock.recv(10)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        sock.recv(10)

    server = SocketServer(speak)
    server.start()
    try:
        login = {"username": "admin", "password": "admin123"}
        last = failure(DaemonOptions.model_validate({"url": f"tcp://127.0.0.1:{server.port}"} | login))
    finally:
        server.stop()
    assert "speaks no TLS" in (last.remedy or "")
    assert emulator.wss_address is not None
    host, port = emulator.wss_address
    other = failure(options_for(emulator, url=f"tcp://{host}:{port}"))
    assert "port in url" in (other.remedy or "")


@pytest.mark.parametrize(("seconds", "said"), [(90, "90 s ahead of"), (-90, "89 s behind"), (0, "agrees")])
def test_clocks_that_differ(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, seconds: int, said: str) -> None:
    shifted = SimpleNamespace(time=lambda: time.time() + seconds)
    monkeypatch.setattr("meshbridge.emulator.resources.time", shifted)
    clock = verdicts(options_for(emulator))["clock"]
    assert clock.grade is (Grade.WARNING if seconds else Grade.OK)
    number = [int(word) for word in clock.text.split() if word.isdecimal()]
    assert (abs(number[0] - abs(seconds)) <= 2) if seconds else not number
    assert said.rsplit(" s ", maxsplit=1)[-1] in clock.text


def test_a_token_that_nobody_renews(emulator: Emulator, tmp_path: Path) -> None:
    address = emulator.tcp_address
    assert address is not None
    file = tmp_path / "token"
    with AppMeshClientTCP(address, str(emulator.ca_file)) as client:
        client.login("admin", "admin123", token_expire=3600)
        file.write_text(client._tokens.get())
        given = options_for(emulator, username=None, password=None, token_file=file)
        login = verdicts(given)["login"]
        assert login.grade is Grade.WARNING
        assert "and it is not renewed" in login.text
        assert verdicts(given)["login"] == login  # it was not ended: it is somebody else's
        assert client.get_current_user()["name"] == "admin"
