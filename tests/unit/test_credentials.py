"""When a token is got, renewed and asked for again; the daemon is a script, and the clock is the test's."""

import base64
import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import orjson
import pyotp
import pytest
from pydantic import ValidationError

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshConnectionError,
    AppMeshError,
    AppMeshLoginError,
    AppMeshNotOfferedError,
)
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.token_keeper import BusyError
from meshbridge.link import DaemonOptions, explain
from meshbridge.link.credentials import Credentials
from meshbridge.link.slow_consumer import Pace
from tests.support import thread

KEY = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
SHORT_KEY = "GEZDGNBVGY3TQOJQ"
START = 1_795_515_820.0


@dataclass
class Clock:
    """Monotonic and wall time of the credentials, which only the test moves."""

    now: float = 1000.0
    wall: float = START

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


@dataclass
class Daemon:
    """Answers as a daemon of 2.x does. An ``Exchange``."""

    password: str = "right"
    totp_key: str | None = None
    takes_code_at_login: bool = True
    gives_refresh: bool = False
    renewal: int = 200
    gone: bool = False
    requests: list[RequestMessage] = field(default_factory=list)
    tokens: int = 0

    def request(self, message: RequestMessage, _timeout_seconds: float) -> ResponseMessage:
        if self.gone:
            raise AppMeshConnectionError("no answer")
        self.requests.append(message)
        status, body = self._answer(message)
        return ResponseMessage(http_status=status, request_uri=message.request_uri, body=orjson.dumps(body))

    def _answer(self, message: RequestMessage) -> tuple[int, Any]:
        match message.request_uri:
            case "/appmesh/login":
                return self._login(message)
            case "/appmesh/totp/validate":
                assert self.totp_key is not None
                fields = orjson.loads(message.body)
                good = fields["totp_code"] == pyotp.TOTP(self.totp_key).now() and fields["totp_challenge"] == "H1"
                return self._token() if good else (401, {"message": "Invalid TOTP token"})
            case "/appmesh/token/renew" if self.renewal != 200:
                denied = "Permission denied: user 'u' lacks required permission 'user-token-renew'"
                return self.renewal, {"message": denied if self.renewal == 400 else "Token has been revoked"}
            case "/appmesh/token/renew":
                return self._token()
            case "/appmesh/self/logoff":
                return 200, {}
            case _:
                return 404, {"message": "Path not found"}

    def _login(self, message: RequestMessage) -> tuple[int, Any]:
        if message.headers["Authorization"] != _basic("admin", self.password):
            return 401, {"message": "Authentication failed"}
        if self.totp_key is not None:
            code = message.headers.get("X-Totp-Code")
            if code is None or not self.takes_code_at_login:
                return 428, {"totp_challenge": "H1", "expires": 0}
            if code != pyotp.TOTP(self.totp_key).now():
                return 401, {"message": "Invalid TOTP token"}
        return self._token()

    def _token(self) -> tuple[int, Any]:
        self.tokens += 1
        fields: dict[str, Any] = {"access_token": f"t{self.tokens}", "expire_time": START + 1000, "expires_in": 1000}
        if self.gives_refresh:
            fields["refresh_token"] = f"r{self.tokens}"
        return 200, fields

    def close(self) -> None: ...

    def count(self, uri: str) -> int:
        return sum(request.request_uri == uri for request in self.requests)

    @property
    def logins(self) -> int:
        return self.count("/appmesh/login")


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("appmesh.token_keeper", "appmesh.grant", "link.credentials"):
        monkeypatch.setattr(f"meshbridge.{module}.time", SimpleNamespace(monotonic=clock.monotonic, time=clock.time))
    return clock


def options(**settings: Any) -> DaemonOptions:
    return DaemonOptions.model_validate({"url": "tcp://h", **settings})


def user(**settings: Any) -> DaemonOptions:
    return options(**({"username": "admin", "password": "right"} | settings))


def keeper(settings: DaemonOptions, chance: Callable[[], float] = lambda: 0.5) -> Credentials:
    return Credentials("node-a", settings, chance=chance)


def write(path: Path, text: str) -> Path:
    """As an agent or Kubernetes replaces a secret: another file in the same place."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
    return path


# --- a user ----------------------------------------------------------------------------------------------------------


def test_one_login_serves_all_until_sixty_percent_of_the_lifetime(clock: Clock) -> None:
    daemon, credentials = Daemon(), keeper(user())
    assert [credentials.token(daemon) for _ in range(3)] == ["t1"] * 3
    assert credentials.expires_at == START + 1000
    assert credentials.due_at == clock.now + 600
    clock.advance(599)
    credentials.attend(daemon)
    assert daemon.tokens == 1
    clock.advance(1)
    credentials.attend(daemon)
    assert credentials.token(daemon) == "t2"
    assert (daemon.logins, daemon.count("/appmesh/token/renew")) == (1, 1)


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 540.0), (0.999999, 660.0)])
def test_bridges_that_were_started_together_do_not_renew_together(clock: Clock, chance: float, seconds: float) -> None:
    credentials = keeper(user(), lambda: chance)
    credentials.token(Daemon())
    assert credentials.due_at - clock.now == pytest.approx(seconds, abs=0.01)


def test_a_refresh_token_renews_where_the_daemon_gives_one(clock: Clock) -> None:
    daemon, credentials = Daemon(gives_refresh=True), keeper(user())
    credentials.token(daemon)
    assert daemon.requests[0].headers["X-Refresh-Token-Request"] == "true"
    for number in (1, 2):
        clock.advance(601)
        credentials.attend(daemon)
        assert daemon.requests[-1].headers["X-Refresh-Token"] == f"r{number}"
    assert daemon.logins == 1


@pytest.mark.parametrize("refusal", [400, 401])
def test_a_renewal_that_is_refused_becomes_a_login(clock: Clock, refusal: int) -> None:
    daemon, credentials = Daemon(renewal=refusal), keeper(user())
    credentials.token(daemon)
    clock.advance(601)
    credentials.attend(daemon)
    assert (credentials.token(daemon), daemon.logins) == ("t2", 2)
    assert credentials.failure is None


def test_no_answer_to_a_renewal_keeps_the_token(clock: Clock) -> None:
    daemon, credentials = Daemon(), keeper(user())
    credentials.token(daemon)
    clock.advance(601)
    daemon.gone = True
    with pytest.raises(AppMeshConnectionError):
        credentials.attend(daemon)
    assert credentials.token(daemon) == "t1"


def test_a_refused_token_is_replaced_by_one_login_for_all_who_find_out(clock: Clock) -> None:
    daemon, credentials = Daemon(), keeper(user())
    old = credentials.token(daemon)
    clock.advance(100)
    assert [credentials.token(daemon, refused=old) for _ in range(5)] == ["t2"] * 5
    assert daemon.logins == 2


def test_a_refusal_is_retried_with_longer_and_longer_pauses_however_often_one_asks(clock: Clock) -> None:
    daemon, credentials = Daemon(), keeper(user(password="wrong"), lambda: 0.999)
    asked = []
    for _ in range(4000):  # once a second
        before = daemon.logins
        with pytest.raises(AppMeshLoginError, match="login as 'admin' refused: wrong password"):
            credentials.token(daemon)
        if daemon.logins > before:
            asked.append(clock.now)
        clock.advance(1)
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses == [5, 10, 20, 40, 80, 160, *[300] * (len(pauses) - 6)]
    assert len(asked) < 20


def test_a_changed_password_file_ends_the_pause(clock: Clock, tmp_path: Path) -> None:
    path = write(tmp_path / "password", "wrong\n")
    daemon, credentials = Daemon(), keeper(user(password=None, password_file=path))
    with pytest.raises(AppMeshLoginError):
        credentials.token(daemon)
    assert credentials.retry_seconds > 3
    assert credentials.due_at <= clock.now + 2, "the file is looked at every few seconds"
    write(path, "right\n")
    assert credentials.secrets_changed()
    assert credentials.token(daemon) == "t1"
    assert daemon.logins == 2
    assert credentials.retry_seconds == 0


def test_the_old_token_serves_while_a_new_one_is_refused(clock: Clock) -> None:
    daemon, credentials = Daemon(renewal=401), keeper(user())
    credentials.token(daemon)
    clock.advance(601)
    daemon.password = "another"
    with pytest.raises(AppMeshLoginError):
        credentials.attend(daemon)
    assert credentials.token(daemon) == "t1"
    daemon.password = "right"
    clock.advance(6)
    credentials.attend(daemon)
    assert credentials.token(daemon) == "t2"


def test_tokens_that_are_refused_as_soon_as_they_are_given_are_no_hot_loop(clock: Clock) -> None:
    daemon, credentials = Daemon(), keeper(user())
    token = credentials.token(daemon)
    for _ in range(600):
        with contextlib.suppress(AppMeshLoginError):
            token = credentials.token(daemon, refused=token)
        clock.advance(1)
    assert daemon.logins < 12
    assert "refuses the token that was got just now" in str(credentials.failure)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AppMeshLoginError, match=r"cannot read password_file .*/none: No such file or directory"):
        keeper(user(password=None, password_file=tmp_path / "none")).token(Daemon())
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(AppMeshLoginError, match=r"cannot read password_file .*/binary: it is not UTF-8 text"):
        keeper(user(password=None, password_file=path)).token(Daemon())


# --- two-factor login ------------------------------------------------------------------------------------------------


def test_the_code_of_the_second_factor_goes_with_the_login() -> None:
    daemon = Daemon(totp_key=KEY)
    assert keeper(user(totp_secret=KEY)).token(daemon) == "t1"
    assert [request.request_uri for request in daemon.requests] == ["/appmesh/login"]


def test_a_challenge_is_answered(tmp_path: Path) -> None:
    daemon = Daemon(totp_key=KEY, takes_code_at_login=False)
    path = write(tmp_path / "totp", f"{KEY[:8].lower()} {KEY[8:]}\n")
    assert keeper(user(totp_secret_file=path)).token(daemon) == "t1"
    assert [request.request_uri for request in daemon.requests] == ["/appmesh/login", "/appmesh/totp/validate"]


@pytest.mark.parametrize(
    ("secret", "said", "hint"),
    [
        (None, "the user has two-factor login", "set totp_secret_file"),
        (SHORT_KEY, "wrong two-factor code", "clocks of both hosts"),
        ("not base32!", "totp_secret is no base32 text", "totp_secret_file"),
    ],
)
def test_what_is_wrong_with_the_second_factor_is_said(secret: str | None, said: str, hint: str) -> None:
    with pytest.raises(AppMeshLoginError, match=said) as refused:
        keeper(user(totp_secret=secret)).token(Daemon(totp_key=KEY))
    reason, told = explain(refused.value)
    assert reason == "login"
    assert told is not None
    assert hint in told
    assert secret is None or secret not in str(refused.value)


# --- a token that was given ------------------------------------------------------------------------------------------


def given(seconds: float, name: str = "u") -> str:
    """A token as somebody else may have got it."""
    return jwt.encode({"sub": name, "exp": int(START + seconds)}, "k" * 32, "HS256")


def test_a_given_token_is_used_and_never_renewed_but_its_end_is_told_in_time(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr("meshbridge.telemetry.token_expires_soon", lambda _daemon, at: told.append(at))
    path = write(tmp_path / "token", given(10 * 86400) + "\n")
    daemon, credentials = Daemon(), keeper(options(token_file=path))
    assert credentials.token(daemon) == given(10 * 86400)
    assert credentials.expires_at == START + 10 * 86400
    for _ in range(9):
        credentials.attend(daemon)
        assert not told
        clock.advance(86400)
    for _ in range(3):
        credentials.attend(daemon)
        clock.advance(3)
    assert told == [START + 10 * 86400]
    assert daemon.requests == []


def test_a_new_token_in_the_file_is_used_within_seconds(clock: Clock, tmp_path: Path) -> None:
    path = write(tmp_path / "token", given(1000, "first"))
    daemon, credentials = Daemon(), keeper(options(token_file=path))
    credentials.token(daemon)
    write(path, given(5000, "second"))
    clock.advance(2.5)
    assert credentials.due_at <= clock.now
    assert credentials.token(daemon) == given(5000, "second")
    write(path, given(6000, "third"))
    clock.advance(2.5)
    credentials.attend(daemon)
    assert credentials.present == given(6000, "third")


def test_a_refused_token_is_not_tried_again_until_there_is_another(clock: Clock, tmp_path: Path) -> None:
    path = write(tmp_path / "token", given(1000))
    daemon, credentials = Daemon(), keeper(options(token_file=path))
    token = credentials.token(daemon)
    clock.advance(100)
    with pytest.raises(
        AppMeshLoginError, match=r"the daemon refuses the token of token_file .*: it has expired or was"
    ):
        credentials.token(daemon, refused=token)
    clock.advance(400)
    with pytest.raises(AppMeshLoginError):
        credentials.token(daemon)
    write(path, given(9000))
    assert credentials.token(daemon) == given(9000)


def test_a_given_token_is_renewed_where_that_is_asked_for(clock: Clock) -> None:
    daemon, credentials = Daemon(), keeper(options(token=given(1000), renew_token=True))
    credentials.token(daemon)
    clock.advance(601)
    credentials.attend(daemon)
    assert credentials.token(daemon) == "t1"
    assert daemon.requests[0].headers["Authorization"] == f"Bearer {given(1000)}"


def test_a_token_that_tells_no_end_is_used_as_it_is(tmp_path: Path) -> None:
    credentials = keeper(options(token="opaque"))
    assert credentials.token(Daemon()) == "opaque"
    assert credentials.expires_at is None
    assert credentials.due_at == float("inf")
    with pytest.raises(AppMeshLoginError, match=r"cannot read token_file .*/token: it is empty"):
        keeper(options(token_file=write(tmp_path / "token", "\n"))).token(Daemon())


def test_a_given_token_is_left_to_its_owner_and_ones_own_is_ended() -> None:
    daemon = Daemon(gives_refresh=True)
    for settings in (options(token="opaque"), user()):
        credentials = keeper(settings)
        credentials.token(daemon)
        credentials.end(daemon)
    assert daemon.count("/appmesh/self/logoff") == 1
    assert daemon.requests[-1].headers["X-Refresh-Token"] == "r1"


# --- another generation, and what is said ----------------------------------------------------------------------------


class OtherGeneration(Daemon):
    def _login(self, message: RequestMessage) -> tuple[int, Any]:
        return 404, {"message": "Path not found"}


def test_a_daemon_without_logins_is_no_unknown_user() -> None:
    with pytest.raises(AppMeshLoginError, match=r"no logins of its own \(App Mesh 3\.x\)") as refused:
        keeper(user()).token(OtherGeneration())
    assert "oidc" in str(explain(refused.value)[1])
    with pytest.raises(AppMeshNotOfferedError, match="GET /appmesh/resources is not offered by this daemon"):
        AppMeshClient(exchange=Daemon()).get_start_time()
    assert AppMeshClient(exchange=Daemon()).list_own_permissions() is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "username is missing: set username and password_file, or token_file, or oidc"),
        ({"password": "p"}, "username is missing for the password"),
        ({"username": "u"}, "password or password_file is missing"),
        ({"username": "u", "password": "p", "token": "t"}, "username and token are different ways to log in"),
        (
            {"token": "t", "oidc": {"username": "u", "password": "p", "issuer": "https://i"}},
            "token and oidc are different ways",
        ),
        ({"token": "t", "token_file": "f"}, "token and token_file are both set"),
        ({"username": "u", "password": "p", "renew_token": True}, "renew_token goes with token or token_file"),
        ({"token": "t", "totp_secret": KEY}, "totp_secret goes with username"),
        ({"oidc": {}}, "set username and password_file .* or client_id and client_secret_file"),
        ({"oidc": {"username": "u"}}, "password or password_file is missing for username"),
        ({"oidc": {"password": "p"}}, "username is missing for the password"),
        ({"oidc": {"client_secret": "s"}}, "client_id is missing for the client_secret"),
        ({"oidc": {"username": "u", "password": "p", "token_url": "http://idp/token"}}, "use https://host/path"),
        ({"oidc": {"username": "u", "password": "p"}}, "issuer or token_url is missing"),
        ({"oidc": {"client_id": "c", "client_secret": "s"}}, "issuer or token_url is missing"),
        ({"oidc": {"username": "u", "password": "p", "issuer": "http://idp"}}, "use https://host/path"),
        ({"oidc": {"username": "u", "password": "p", "issuer": "https://idp?x=1"}}, "without a query"),
        ({"oidc": {"username": "u", "password": "p", "token_url": "https://a:b@idp/t"}}, "the url holds no secrets"),
        ({"token": "t", "forward_to": "http://x"}, "not a node"),
    ],
)
def test_a_way_to_log_in_that_cannot_be_is_explained(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        options(**settings)


def test_a_token_never_shows() -> None:
    assert "hush" not in repr(Grant("hush", 1.0, refresh_token="hush"))


def test_each_file_of_secrets_may_be_replaced_through_a_link(clock: Clock, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "password").write_text("wrong" if name == "one" else "right")
        os.utime(tmp_path / name / "password", (START, START))
    link = tmp_path / "data"
    link.symlink_to("one")
    daemon, credentials = Daemon(), keeper(user(password=None, password_file=link / "password"))
    with pytest.raises(AppMeshError):
        credentials.token(daemon)
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(link)
    assert credentials.token(daemon) == "t1"


# --- being cut off ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "end", "behind"),
    [
        ([], 100.0, False),
        ([(1.0, 1.01, 500), (1.1, 1.11, 500)], 1.2, False),  # a busy daemon that restarts
        ([(1.0, 9.0, 500)], 20.0, True),  # handing them on took long
        ([(1.0, 9.0, 500), (10.0, 10.1, 5)], 80.0, False),  # but that is long ago
        ([(30.0, 30.1, 500)], 30.2, True),  # a pause, then what the socket held
        ([(30.0, 30.1, 5)], 30.2, False),  # a quiet daemon's last words
        ([(30.0, 30.1, 500), (31.0, 31.1, 5)], 50.0, False),  # it has been read well since
    ],
)
def test_a_connection_that_was_read_late_is_told_from_one_that_was_lost(
    reads: list[tuple[float, float, int]], end: float, behind: bool
) -> None:
    pace = Pace(0.0)
    for begun, ended, events in reads:
        pace.read(begun, ended, events)
    assert pace.was_behind(end) is behind


def test_nobody_waits_for_long_behind_a_login_that_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshbridge.appmesh.token_keeper._TURN_SECONDS", 0.05)
    monkeypatch.setattr("meshbridge.appmesh.token_keeper._ATTEND_SECONDS", 0.05)
    asked, answered = threading.Event(), threading.Event()

    class Silent(Daemon):
        def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
            asked.set()
            answered.wait()
            return super().request(message, timeout_seconds)

    credentials = keeper(user())

    def log_in() -> None:
        credentials.token(Silent())

    with thread(log_in, "logs in"):
        assert asked.wait(10)
        other = Daemon()
        for wait in (credentials.token, credentials.attend):
            with pytest.raises(BusyError):
                wait(other)
        assert other.requests == []
        answered.set()
    assert credentials.token(Daemon()) == "t1"
    assert credentials.failure is None
