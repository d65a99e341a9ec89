"""Login and tokens: what is sent, what is kept, and when it is renewed."""

import http.cookiejar
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshRequestError,
    AppMeshTimeoutError,
)
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.tokens import CookieFile, TokenRefresher, expiry, refresh_delay
from tests.unit.appmesh.fakes import Answer, FakeExchange, answer, eventually, jwt, no_thread_left, refusal

OLD, NEW = jwt(4_000_000_000, n=1), jwt(4_000_000_000, n=2)


def client_over(*answers: Answer, token: str | None = OLD, **options: Any) -> tuple[AppMeshClient, FakeExchange]:
    exchange = FakeExchange(*answers)
    return AppMeshClient(exchange=exchange, jwt_token=token, **options), exchange


def granted(token: str = NEW) -> ResponseMessage:
    return answer({"access_token": token, "expires_in": 604800})


def kept(client: AppMeshClient) -> str:
    return client._tokens.get()


# --- login ----------------------------------------------------------------------------------------------------------


def test_login_sends_the_credentials_and_keeps_the_token() -> None:
    client, exchange = client_over(granted())
    assert client.login("a", "b", token_expire=60, audience="aud") is None
    assert kept(client) == NEW
    assert exchange.requests[0].headers == {
        "User-Agent": "appmesh/python",
        "Authorization": "Basic YTpi",
        "X-Set-Cookie": "true",
        "X-Expire-Seconds": "60",
        "X-Audience": "aud",
    }


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (refusal(401), AppMeshAuthError),
        (refusal(404, "user not found"), AppMeshDeniedError),
        (refusal(500), AppMeshRequestError),
    ],
)
def test_a_refused_login_ends_the_session_before(given: ResponseMessage, kind: type[AppMeshError]) -> None:
    client, _ = client_over(given, refusal(404))
    with pytest.raises(kind):
        client.login("a", "b")
    assert kept(client) == ""


def test_a_login_that_the_daemon_never_saw_leaves_the_session_as_it_was() -> None:
    client, _ = client_over(AppMeshConnectionError("refused"))
    with pytest.raises(AppMeshConnectionError):
        client.login("a", "b")
    assert kept(client) == OLD


def test_the_challenge_of_a_second_factor_is_given_to_the_caller() -> None:
    client, exchange = client_over(answer({"totp_challenge": "ch"}, 428), granted())
    assert client.login("a", "b") == "ch"
    assert kept(client) == ""
    client.validate_totp("a", "ch", "123456", 60)
    assert kept(client) == NEW
    sent = exchange.requests[1]
    assert sent.request_uri == "/appmesh/totp/validate"
    assert sent.headers["X-Set-Cookie"] == "true"
    assert "Authorization" not in sent.headers
    assert sent.body == b'{"user_name":"a","totp_code":"123456","totp_challenge":"ch","expire_seconds":60}'


def test_a_challenge_is_answered_at_once_where_the_code_is_known() -> None:
    client, exchange = client_over(answer({"totp_challenge": "ch"}, 428), granted())
    assert client.login("a", "b", "123456") is None
    assert kept(client) == NEW
    assert exchange.requests[0].headers["X-Totp-Code"] == "123456"


def test_a_second_factor_without_a_challenge_is_an_error() -> None:
    client, _ = client_over(answer({}, 428))
    with pytest.raises(AppMeshAuthError):
        client.login("a", "b")


def test_enabling_the_second_factor_gives_a_new_token() -> None:
    client, exchange = client_over(granted())
    client.enable_totp("123456")
    assert kept(client) == NEW
    assert exchange.requests[0].headers["X-Totp-Code"] == "123456"


@pytest.mark.parametrize("body", [{}, {"mfa_uri": "eHh4"}, {"mfa_uri": "%"}, {"mfa_uri": 5}])
def test_an_answer_without_a_secret_is_an_error(body: dict[str, Any]) -> None:
    client, _ = client_over(answer(body))
    with pytest.raises(AppMeshRequestError, match="no secret"):
        client.get_totp_secret()


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_a_good_token_becomes_the_clients_own_where_asked_for() -> None:
    client, exchange = client_over(granted(), answer({"access_token": OLD}))
    assert client.authenticate(NEW, "app-view", "aud") == (True, granted().body.decode())
    assert kept(client) == NEW
    assert exchange.requests[0].headers["Authorization"] == f"Bearer {NEW}"
    assert exchange.requests[0].headers["X-Permission"] == "app-view"
    assert exchange.requests[0].headers["X-Audience"] == "aud"
    client.authenticate(OLD, update_session=False)
    assert kept(client) == NEW
    assert "X-Set-Cookie" not in exchange.requests[1].headers


@pytest.mark.parametrize("given", [refusal(401, "bad"), refusal(500, "bad"), refusal(400, "bad")])
def test_a_bad_token_is_an_answer_and_leaves_the_clients_own(given: ResponseMessage) -> None:
    client, _ = client_over(given)
    assert client.authenticate("a.b.c") == (False, "bad")
    assert kept(client) == OLD


def test_whether_a_token_is_good_is_unknown_without_an_answer() -> None:
    client, _ = client_over(AppMeshConnectionError("lost"))
    with pytest.raises(AppMeshConnectionError):
        client.authenticate("a.b.c")


def test_renewal_replaces_the_token() -> None:
    client, exchange = client_over(granted())
    client.renew_token(60)
    assert kept(client) == NEW
    assert exchange.requests[0].headers["X-Expire-Seconds"] == "60"
    assert exchange.requests[0].headers["Authorization"] == f"Bearer {OLD}"


def test_a_renewal_that_brings_no_token_is_an_error_and_no_success_to_be_repeated_at_once() -> None:
    client, _ = client_over(answer({}))
    with pytest.raises(AppMeshRequestError, match="no new token"):
        client.renew_token(60)
    assert kept(client) == OLD


def test_there_is_nothing_to_renew_without_a_token() -> None:
    client, exchange = client_over(token=None)
    with pytest.raises(AppMeshAuthError, match="No token to renew"):
        client.renew_token()
    assert exchange.requests == []


def test_logout_forgets_the_token() -> None:
    client, _ = client_over()
    assert client.logout() is True
    assert kept(client) == ""
    assert client.logout() is False


@pytest.mark.parametrize("given", [refusal(401), AppMeshConnectionError("lost")])
def test_a_logout_that_fails_is_told(given: Answer) -> None:
    client, _ = client_over(given)
    assert client.logout() is False


def test_a_request_refused_for_a_token_that_was_renewed_meanwhile_is_sent_again() -> None:
    client, exchange = client_over()

    def renewed_meanwhile(_message: RequestMessage) -> ResponseMessage:
        client.set_token(NEW)
        return refusal(401, "Token has been revoked")

    exchange.answers = [renewed_meanwhile, answer({"l": "v"})]
    assert client.list_labels() == {"l": "v"}
    assert [sent.headers["Authorization"] for sent in exchange.requests] == [f"Bearer {OLD}", f"Bearer {NEW}"]


def test_a_refused_token_that_is_still_the_clients_own_is_an_error() -> None:
    client, exchange = client_over(refusal(401))
    with pytest.raises(AppMeshAuthError):
        client.list_labels()
    assert len(exchange.requests) == 1


def test_two_threads_that_renew_at_once_renew_once() -> None:
    started, go = threading.Event(), threading.Event()
    client, exchange = client_over()

    def slowly(_message: RequestMessage) -> ResponseMessage:
        started.set()
        assert go.wait(10)
        return granted()

    exchange.answers = [slowly]
    first = threading.Thread(target=client.renew_token)
    first.start()
    assert started.wait(10)
    second = threading.Thread(target=client.renew_token)
    second.start()
    go.set()
    first.join(10)
    second.join(10)
    assert len(exchange.requests) == 1
    assert kept(client) == NEW


class Provider:
    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.refused: list[str] = []

    def token(self) -> str:
        return self.tokens[0]

    def rejected(self, token: str) -> bool:
        self.refused.append(token)
        self.tokens.pop(0)
        return bool(self.tokens)


def test_a_provider_gives_the_token_and_another_one_after_a_401() -> None:
    provider = Provider("one", "two")
    exchange = FakeExchange(refusal(401), answer({"l": "v"}))
    client = AppMeshClient(exchange=exchange, token_provider=provider)
    assert client.list_labels() == {"l": "v"}
    assert [sent.headers["Authorization"] for sent in exchange.requests] == ["Bearer one", "Bearer two"]
    assert provider.refused == ["one"]


def test_a_provider_without_another_token_leaves_the_error() -> None:
    exchange = FakeExchange(refusal(401))
    client = AppMeshClient(exchange=exchange, token_provider=Provider("one"))
    with pytest.raises(AppMeshAuthError):
        client.list_labels()


def test_a_500_is_taken_for_a_refused_token_where_the_daemon_says_so_when_asked_again() -> None:
    provider = Provider("garbage", "two")
    exchange = FakeExchange(refusal(500), refusal(500), answer({"l": "v"}))
    client = AppMeshClient(exchange=exchange, token_provider=provider)
    assert client.list_labels() == {"l": "v"}
    assert [sent.request_uri for sent in exchange.requests] == ["/appmesh/labels", "/appmesh/auth", "/appmesh/labels"]
    assert [sent.headers["Authorization"] for sent in exchange.requests] == ["Bearer garbage"] * 2 + ["Bearer two"]
    assert provider.refused == ["garbage"]


def test_a_500_with_a_good_token_is_an_error_of_the_daemon_itself() -> None:
    provider = Provider("good", "two")
    client = AppMeshClient(exchange=FakeExchange(refusal(500), answer({})), token_provider=provider)
    with pytest.raises(AppMeshRequestError) as caught:
        client.set_config({"REST": {"RestListenPort": "x"}})
    assert caught.value.status == 500
    assert provider.refused == []


# --- the cookie file --------------------------------------------------------------------------------------------------


def test_the_cookie_file_keeps_the_token_for_the_next_client(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "cookies"
    with AppMeshClient("https://127.0.0.1:1", cookie_file=str(path)) as client:
        client.set_token(NEW)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["cookies"]
    with AppMeshClient("https://127.0.0.1:1", cookie_file=str(path)) as client:
        assert kept(client) == NEW
        client.set_token("")
    with AppMeshClient("https://127.0.0.1:1", cookie_file=str(path)) as client:
        assert kept(client) == ""


def test_the_cookie_file_is_one_that_others_read_too(tmp_path: Path) -> None:
    path = tmp_path / "cookies"
    CookieFile(path, "https://localhost:6060").set(NEW)
    jar = http.cookiejar.MozillaCookieJar(str(path))
    jar.load(ignore_discard=True)
    (cookie,) = jar
    assert (cookie.name, cookie.value, cookie.domain, cookie.path) == (
        "appmesh_auth_token",
        NEW,
        "localhost.local",
        "/",
    )
    assert cookie.secure
    assert cookie.expires == 4_000_000_000


@pytest.mark.parametrize("content", [b"", b"no cookies", b"\xff\xfe\x00"])
def test_a_cookie_file_that_cannot_be_read_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cookies"
    path.write_bytes(content)
    assert CookieFile(path, "https://h").get() == ""


def test_an_expired_token_in_the_cookie_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "cookies"
    CookieFile(path, "https://h").set(jwt(time.time() - 5))
    assert CookieFile(path, "https://h").get() == ""


def test_a_readable_cookie_file_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "cookies"
    CookieFile(path, "https://h").set(NEW)
    path.chmod(0o644)
    CookieFile(path, "https://h")
    assert path.stat().st_mode & 0o777 == 0o600


# --- refresh ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a..c", jwt(None), "a.e30.c", "a.W10.c", "a.eyJleHAiOiJ4In0.c"])
def test_a_token_that_does_not_say_when_it_expires(token: str) -> None:
    assert expiry(token) is None
    assert refresh_delay(token, 0) == 300


@pytest.mark.parametrize(("left", "delay"), [(604800, 604770), (100, 70), (60, 30), (50, 25), (2, 1), (0, 0), (-5, 0)])
def test_a_token_is_renewed_before_it_expires(left: float, delay: float) -> None:
    assert refresh_delay(jwt(1_000_000 + left), 1_000_000) == delay


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Renewals:
    """What is renewed: a token that is due, and errors on the way."""

    def __init__(self, *outcomes: AppMeshError | None, token: str) -> None:
        self.token = token
        self.outcomes = list(outcomes)
        self.count = 0
        self.on_renew: Callable[[], None] = lambda: None

    def get(self) -> str:
        return self.token

    def renew(self) -> None:
        self.count += 1
        self.on_renew()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome
        self.token = jwt(4_000_000_000, n=self.count)


def refresher(renewals: Renewals, clock: Callable[[], float]) -> TokenRefresher:
    return TokenRefresher(renewals.get, renewals.renew, clock=clock, backoff_seconds=(0.001, 0.002))


def test_refresh_outlasts_network_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    errors = [AppMeshConnectionError("down"), AppMeshTimeoutError("slow"), AppMeshRequestError("ill", status=500)]
    renewals = Renewals(*errors * 20, token=jwt(1000))
    with no_thread_left():
        refreshing = refresher(renewals, Clock(1000))
        refreshing.start()
        eventually(lambda: renewals.count == 61)
        refreshing.stop()
    assert refreshing.given_up is None
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, "a fault is told when it starts"
    assert "the token is renewed again" in caplog.text


def test_refresh_gives_up_when_the_token_can_no_longer_be_renewed_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(1000)
    renewals = Renewals(*[AppMeshConnectionError("down")] * 1000, token=jwt(1000))

    def later() -> None:
        clock.now += 10

    renewals.on_renew = later
    refreshing = refresher(renewals, clock)
    refreshing.start()
    eventually(lambda: refreshing.given_up is not None)
    assert renewals.count == 6, "until 60 s after it has expired"
    assert "log in again" in caplog.text
    renewals.token, renewals.outcomes = jwt(clock.now), []
    refreshing.token_changed()
    eventually(lambda: renewals.count == 7)
    eventually(lambda: refreshing.given_up is None)
    refreshing.stop()


def test_refresh_gives_up_at_once_on_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    renewals = Renewals(AppMeshAuthError("Token has been revoked"), token=jwt(1000))
    refreshing = refresher(renewals, Clock(1000))
    refreshing.start()
    eventually(lambda: refreshing.given_up is not None)
    assert "Token has been revoked" in caplog.text
    refreshing.stop()
    assert renewals.count == 1


def test_a_refusal_of_a_token_that_was_replaced_meanwhile_is_none() -> None:
    renewals = Renewals(AppMeshAuthError("revoked"), token=jwt(1000))

    def replaced() -> None:
        renewals.token = jwt(4_000_000_000)

    renewals.on_renew = replaced
    refreshing = refresher(renewals, Clock(1000))
    refreshing.start()
    eventually(lambda: renewals.count == 1)
    refreshing.stop()
    assert refreshing.given_up is None


def test_a_login_starts_the_refresh_where_wanted_and_close_ends_it() -> None:
    with no_thread_left():
        due = jwt(time.time() + 1)
        client, exchange = client_over(granted(due), granted(NEW), token=None, auto_refresh_token=True)
        client.login("a", "b")
        eventually(lambda: kept(client) == NEW)
        assert exchange.requests[1].request_uri == "/appmesh/token/renew"
        client.close()


def test_no_refresh_unless_wanted() -> None:
    with no_thread_left():
        client, _ = client_over(granted(jwt(time.time() - 1)), token=None)
        client.login("a", "b")
        assert client._refresher._thread is None


def test_refresh_can_be_started_and_stopped_by_hand() -> None:
    with no_thread_left():
        client, exchange = client_over(granted(), token=jwt(time.time()))
        client.start_token_refresh()
        client.start_token_refresh()
        eventually(lambda: kept(client) == NEW)
        client.stop_token_refresh()
        client.stop_token_refresh()
        assert len(exchange.requests) == 1
        client.close()


def test_logout_ends_the_refresh() -> None:
    with no_thread_left():
        client, _ = client_over(auto_refresh_token=True)
        eventually(lambda: client._refresher._thread is not None)
        client.logout()


def test_close_does_not_wait_for_a_renewal_that_gets_no_answer() -> None:
    asked, closed = threading.Event(), threading.Event()

    class Silent(FakeExchange):
        def request(self, message: RequestMessage, timeout_seconds: float) -> ResponseMessage:
            asked.set()
            assert closed.wait(10)
            raise AppMeshConnectionError("the connection was closed")

        def close(self) -> None:
            closed.set()

    with no_thread_left():
        client = AppMeshClient(exchange=Silent(), jwt_token=jwt(time.time()), auto_refresh_token=True)
        assert asked.wait(10)
        client.close()
