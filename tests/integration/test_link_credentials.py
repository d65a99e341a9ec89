"""Every way to a token, against daemons of both generations; a refusal ends when the secret on disk is mended.

Pauses after a refusal are set so long that nothing but the changed file can have ended one.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyotp
import pytest

from meshbridge import telemetry
from meshbridge.appmesh import AppMeshClientTCP
from meshbridge.appmesh.exceptions import AppMeshAuthError
from meshbridge.appmesh.token_keeper import Backoff, Renewals
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.emulator.issuer import AUTOMATION_CLIENT, AUTOMATION_SECRET, ISSUER, subject_of
from meshbridge.emulator.principals import principal_id
from meshbridge.fields import RetryWaits
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from meshbridge.model.status import LinkState
from tests.support import wait_for

FOR_EVER = RetryWaits(initial=3600, max=3600)
ISSUER_TOKEN_SECONDS = 2
ADMIN = "admin@appmesh.local"


@pytest.fixture(scope="module")
def older() -> Iterator[Emulator]:
    """A daemon of 2.x."""
    with Emulator(EmulatorOptions(https_port=None)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def newer() -> Iterator[Emulator]:
    """A daemon of 3.x, whose issuer's tokens are short-lived, to the second."""
    options = EmulatorOptions(
        https_port=None, generation="3", issuer_token_seconds=ISSUER_TOKEN_SECONDS, token_leeway_seconds=0
    )
    with Emulator(options) as daemon:
        permissions = ["app-subscribe", "app-view", "app-view-all", "app-output-view", "host-resource-view"]
        service = principal_id(ISSUER, subject_of(AUTOMATION_CLIENT))
        principals = daemon._running().principals
        daemon._call(lambda: principals.roles.update({"bridge": permissions}))
        daemon._call(lambda: principals.change(service, {"roles": ["bridge"]}))
        yield daemon


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshbridge.link.runner._REFUSED", FOR_EVER)
    monkeypatch.setattr("meshbridge.appmesh.token_keeper.REFUSED", Backoff(3600, 3600))
    for module in ("appmesh.token_keeper", "link.runner"):
        monkeypatch.setattr(f"meshbridge.{module}.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("meshbridge.link.runner._PROBE_AFTER_SECONDS", 0.3)


class Bridge:
    """A link with the journal that it writes."""

    def __init__(self, emulator: Emulator, directory: Path, scheme: str, settings: dict[str, Any]) -> None:
        address = emulator.tcp_address if scheme == "tcp" else emulator.wss_address
        assert address is not None
        self.journal = Journal(JournalOptions(path=directory / "journal"))
        self.journal.open()
        tls = {"ca_file": str(emulator.ca_file)}
        options = {"url": f"{scheme}://{address[0]}:{address[1]}", "tls": tls} | settings
        if "oidc" in options:
            place = {"access_url": emulator.issuer_url} if emulator.issuer_address else {}
            options["oidc"] = {"issuer": ISSUER} | place | options["oidc"]
        self.link = Link("node-a", DaemonOptions.model_validate(options), self.journal)
        self._emulator = emulator
        self.failures_before = _failures()
        self.link.start()

    @property
    def failures(self) -> int:
        """Attempts to get a token that were in vain."""
        return int(_failures() - self.failures_before)

    def wait_up(self) -> None:
        wait_for(lambda: self.link.status().up, f"the link; now {self.link.status()}")

    def wait_refused(self, text: str) -> None:
        wait_for(lambda: self.link.status().state is LinkState.WAITING, "a refusal")
        assert text in (self.link.status().last_error or "")
        assert self.failures == 1, "the issuer is not asked again and again"

    def wait_for_event(self) -> None:
        """Events flow."""
        before = self.journal.status().events
        self._emulator.emit("web", "STATUS", self._emulator.options.dialect.status_data(enabled=False))
        wait_for(lambda: self.journal.status().events > before, "an event")

    def close(self) -> None:
        assert self.link.stop(10)
        self.journal.close()


def _failures() -> float:
    labels = {"daemon": "node-a", "result": "failure"}
    return telemetry.REGISTRY.get_sample_value("meshbridge_token_refreshes_total", labels) or 0.0


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Any]:
    made: list[Bridge] = []

    def make(emulator: Emulator, scheme: str = "tcp", **settings: Any) -> Bridge:
        made.append(Bridge(emulator, tmp_path, scheme, settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def client(older: Emulator) -> Iterator[AppMeshClientTCP]:
    assert older.tcp_address is not None
    client = AppMeshClientTCP(older.tcp_address, str(older.ca_file))
    client.login("admin", "admin123")
    yield client
    client.close()


@pytest.fixture
def user(client: AppMeshClientTCP) -> Iterator[str]:
    """Of a daemon of 2.x, with the password ``first``."""
    client.add_user("bridge", {"name": "bridge", "key": "first", "roles": ["view", "manage"]})
    yield "bridge"
    client.delete_user("bridge")


def write(path: Path, text: str) -> Path:
    """As an agent or Kubernetes replaces a secret: another file in the same place."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
    return path


def issue(emulator: Emulator, name: str, audience: str = "") -> str:
    """A token of the daemon, or of its issuer, for somebody else to hand on."""
    daemon = emulator._running()
    if daemon.issuer is None:
        return emulator._call(lambda: daemon.tokens.issue(daemon.accounts.users[name], 600, audience).token)
    scopes = [f"audience:server:client_id:{audience}"] if audience else []
    return daemon.issuer.access_token({"sub": subject_of(name)}, "appmesh-cli", scopes, 600)


# --- 3.x -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["tcp", "wss"])
@pytest.mark.parametrize("grant", ["password", "client credentials"])
def test_events_flow_on_while_the_tokens_of_an_issuer_come_and_go(
    newer: Emulator, bridge: Any, tmp_path: Path, scheme: str, grant: str
) -> None:
    """The issuer is configured; the daemon names the public client and the scopes."""
    oidc: dict[str, Any] = {"username": ADMIN, "password_file": write(tmp_path / "secret", "admin123\n")}
    if grant == "client credentials":
        oidc = {"client_id": AUTOMATION_CLIENT, "client_secret_file": write(tmp_path / "secret", AUTOMATION_SECRET)}
    made = bridge(newer, scheme, oidc=oidc)
    made.wait_up()
    first = made.link.status().token_expires_at
    assert first is not None
    wait_for(lambda: (made.link.status().token_expires_at or 0) > first + ISSUER_TOKEN_SECONDS, "later tokens")
    made.wait_for_event()
    assert made.link.requests.list_apps(10) is not None
    assert (made.link.status().connects, made.failures) == (1, 0)
    assert made.link.status().missing_permissions == (), "its permissions are known"


def test_an_issuer_that_refuses_is_asked_again_when_the_secret_on_disk_changes(
    newer: Emulator, bridge: Any, tmp_path: Path
) -> None:
    path = write(tmp_path / "password", "mistaken-7\n")
    made = bridge(newer, oidc={"username": ADMIN, "password_file": path})
    made.wait_refused("Invalid username or password")
    write(path, "admin123\n")
    made.wait_up()
    made.wait_for_event()
    assert made.link.status().last_error is None


def test_a_token_that_somebody_else_got_of_the_issuer_is_taken_from_its_file(
    newer: Emulator, bridge: Any, tmp_path: Path
) -> None:
    path = write(tmp_path / "token", issue(newer, ADMIN, "somebody-else"))
    made = bridge(newer, token_file=path)
    made.wait_refused("the daemon refuses the token of token_file")
    write(path, issue(newer, ADMIN, "appmesh-api"))
    made.wait_up()
    made.wait_for_event()


def test_a_websocket_is_kept_open_while_events_never_pause(bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon of 3.x closes one on which nothing comes in: events that go out do not count."""
    monkeypatch.setattr("meshbridge.link.runner._SEND_AFTER_SECONDS", 0.2)
    idle_seconds = 1.0
    with Emulator(EmulatorOptions(https_port=None, generation="3", wss_idle_seconds=idle_seconds)) as daemon:
        made = bridge(daemon, "wss", oidc={"username": ADMIN, "password": "admin123"})
        made.wait_up()
        up_until = time.monotonic() + 3 * idle_seconds

        def emit() -> bool:
            daemon.emit("web", "STATUS", daemon.options.dialect.status_data(enabled=False))
            return time.monotonic() > up_until

        wait_for(emit, "three times the limit")
        assert (made.link.status().connects, made.link.status().up) == (1, True)


# --- the other generation's way --------------------------------------------------------------------------------------


def test_a_password_of_2_x_is_no_way_to_3_x(newer: Emulator, bridge: Any) -> None:
    bridge(newer, username="admin", password="admin123").wait_refused("this daemon has no logins of its own")


def test_an_issuer_is_no_way_to_2_x(older: Emulator, bridge: Any) -> None:
    bridge(older, oidc={"username": "admin", "password": "admin123"}).wait_refused("this daemon names no issuer")


# --- 2.x -------------------------------------------------------------------------------------------------------------


def test_a_second_factor_is_computed_from_its_key_on_disk(
    older: Emulator, bridge: Any, client: AppMeshClientTCP, user: str, tmp_path: Path
) -> None:
    assert older.tcp_address is not None
    own = AppMeshClientTCP(older.tcp_address, str(older.ca_file))
    own.login(user, "first")
    key = own.get_totp_secret()
    own.enable_totp(pyotp.TOTP(key).now())
    own.close()
    path = write(tmp_path / "totp", pyotp.random_base32())
    made = bridge(older, username=user, password="first", totp_secret_file=path)
    made.wait_refused("wrong two-factor code")
    write(path, f"{key}\n")
    made.wait_up()
    made.wait_for_event()


def test_a_second_factor_that_is_not_configured_is_told(
    older: Emulator, bridge: Any, client: AppMeshClientTCP, user: str
) -> None:
    assert older.tcp_address is not None
    own = AppMeshClientTCP(older.tcp_address, str(older.ca_file))
    own.login(user, "first")
    own.enable_totp(pyotp.TOTP(own.get_totp_secret()).now())
    own.close()
    bridge(older, username=user, password="first").wait_refused("the user has two-factor login")


def test_a_token_file_is_followed_and_its_token_is_not_renewed(
    older: Emulator, bridge: Any, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshbridge.link.credentials.RENEWALS", Renewals(at=1e-6, least_seconds=0.0))
    monkeypatch.setattr("meshbridge.appmesh.token_keeper._WARN_SECONDS", 1e9)
    first, second = issue(older, user), issue(older, user)
    path = write(tmp_path / "token", first)
    made = bridge(older, token_file=path)
    made.wait_up()
    tokens = older._running().tokens
    assert tokens.check(first)["sub"] == user, "its owner still holds it"
    write(path, second)
    wait_for(lambda: made.link._credentials.present == second, "the other token")
    older._call(lambda: tokens.revoke(tokens.check(first)))
    made.wait_for_event()
    assert made.link.requests.list_apps(10) is not None
    assert (made.link.status().connects, made.failures) == (1, 0)


def test_a_changed_password_costs_no_event_and_is_told_until_it_is_mended(
    older: Emulator, bridge: Any, client: AppMeshClientTCP, user: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "password", "first\n")
    made = bridge(older, username=user, password_file=path)
    made.wait_up()
    client.delete_user(user)
    client.add_user(user, {"name": user, "key": "second", "roles": ["view", "manage"]})
    with pytest.raises(AppMeshAuthError, match="wrong password"):
        made.link.requests.list_apps(10)
    status = made.link.status()
    assert status.up, "the subscription outlives the token"
    assert "wrong password" in (status.last_error or "")
    assert status.last_error_at is not None
    made.wait_for_event()
    write(path, "second\n")
    wait_for(lambda: made.link.status().last_error is None, "recovery")
    assert made.link.requests.list_apps(10) is not None
    assert (made.link.status().connects, made.failures) == (1, 1)
