"""Login and tokens: what is sent, what is kept, and when it is renewed."""

import http.cookiejar
import math
import threading
import time
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
    AppMeshTokenError,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.token_keeper import Backoff, Renewals, RenewalThread, TokenKeeper
from meshbridge.appmesh.token_provider import StaticAccessTokenProvider, TokenProvider
from meshbridge.appmesh.tokens import CookieFile, expiry
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


class Provider(TokenProvider):
    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.refused: list[str | None] = []

    def get_access_token(self) -> str | None:
        return self.tokens[0]

    def refresh_access_token(self, rejected_token: str | None = None) -> str | None:
        self.refused.append(rejected_token)
        self.tokens.pop(0)
        return self.tokens[0] if self.tokens else None

    @property
    def can_refresh(self) -> bool:
        return True


def test_a_provider_gives_the_token_and_another_one_after_a_401() -> None:
    provider = Provider("one", "two")
    exchange = FakeExchange(refusal(401), refusal(401), answer({"l": "v"}))
    client = AppMeshClient(exchange=exchange, token_provider=provider)
    assert client.list_labels() == {"l": "v"}
    assert [sent.headers["Authorization"] for sent in exchange.requests] == ["Bearer one", "Bearer one", "Bearer two"]
    assert provider.refused == ["one"]


def test_a_provider_without_another_token_leaves_the_error() -> None:
    exchange = FakeExchange(refusal(401), refusal(401))
    client = AppMeshClient(exchange=exchange, token_provider=Provider("one"))
    with pytest.raises(AppMeshTokenError):
        client.list_labels()


def test_a_token_that_cannot_be_replaced_is_not_asked_about() -> None:
    exchange = FakeExchange(refusal(401, "revoked"))
    client = AppMeshClient(exchange=exchange, token_provider=StaticAccessTokenProvider("one"))
    with pytest.raises(AppMeshAuthError, match="revoked"):
        client.list_labels()
    assert len(exchange.requests) == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "Token has been revoked"),
        (400, "invalid token supplied"),
        (400, "unrecognized authorization type"),
        (412, "Invalid input: too much fill"),
        (404, "user not found"),
        (500, "Internal server error"),
    ],
)
def test_each_answer_of_a_daemon_to_a_bad_token_leads_to_another_one(status: int, reason: str) -> None:
    provider = Provider("garbage", "two")
    exchange = FakeExchange(refusal(status, reason), refusal(status, reason), answer({"l": "v"}))
    client = AppMeshClient(exchange=exchange, token_provider=provider)
    assert client.list_labels() == {"l": "v"}
    assert [sent.request_uri for sent in exchange.requests] == ["/appmesh/labels", "/appmesh/auth", "/appmesh/labels"]
    assert [sent.headers["Authorization"] for sent in exchange.requests] == ["Bearer garbage"] * 2 + ["Bearer two"]
    assert provider.refused == ["garbage"]


@pytest.mark.parametrize(
    ("status", "reason"), [(400, "Empty json input"), (404, "No such application"), (403, "inactive"), (503, "no keys")]
)
def test_another_error_says_nothing_of_the_token(status: int, reason: str) -> None:
    provider = Provider("good", "two")
    exchange = FakeExchange(refusal(status, reason))
    with pytest.raises(AppMeshError, match=reason):
        AppMeshClient(exchange=exchange, token_provider=provider).get_app("a")
    assert len(exchange.requests) == 1


def test_the_mistake_of_a_caller_costs_no_token() -> None:
    """A wrong code of a second factor is a 401 too, but the daemon takes the token."""
    provider = Provider("good", "two")
    client = AppMeshClient(exchange=FakeExchange(refusal(401, "wrong code"), answer({})), token_provider=provider)
    with pytest.raises(AppMeshAuthError, match="wrong code"):
        client.enable_totp("000000")
    assert provider.refused == []


@pytest.mark.parametrize(
    ("given", "good"),
    [
        (answer({}), True),
        (refusal(401), False),
        (refusal(500), False),
        (refusal(412), False),
        (refusal(503, "signing keys not available"), True),
    ],
)
def test_a_token_is_checked_at_a_daemon_of_2_x(given: ResponseMessage, good: bool) -> None:
    exchange = FakeExchange(given)
    assert AppMeshClient(exchange=exchange).check_token("t") is good
    assert [sent.request_uri for sent in exchange.requests] == ["/appmesh/auth"]


@pytest.mark.parametrize(
    ("given", "good"), [(answer({}), True), (refusal(401), False), (refusal(403, "inactive"), True)]
)
def test_a_token_is_checked_at_a_daemon_of_3_x(given: ResponseMessage, good: bool) -> None:
    gone = refusal(404, "Path not found POST:/appmesh/auth")
    exchange = FakeExchange(gone, given, given)
    client = AppMeshClient(exchange=exchange)
    assert (client.check_token("t"), client.check_token("t")) == (good, good)
    principal = "/appmesh/principal/self"
    assert [sent.request_uri for sent in exchange.requests] == ["/appmesh/auth", principal, principal]


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
    assert AHEAD.after(Grant.from_token(token, now=0).lifetime_seconds, 0.5) == 300


@pytest.mark.parametrize(("left", "delay"), [(604800, 604770), (100, 70), (60, 30), (50, 25), (2, 1), (0, 0), (-5, 0)])
def test_a_token_is_renewed_before_it_expires(left: float, delay: float) -> None:
    grant = Grant.from_token(jwt(1_000_000 + left), now=1_000_000)
    assert AHEAD.after(grant.lifetime_seconds, 0.5) == delay


AHEAD = Renewals(ahead_seconds=30, least_seconds=0, unknown_seconds=300)
AT_ONCE = Backoff(0.001, 0.002)


class Renewed:
    """A source that renews: a token that is due, and errors on the way."""

    renews, obtains, early, watches, follows = True, False, False, False, False

    def __init__(self, *outcomes: AppMeshError) -> None:
        self.outcomes = list(outcomes)
        self.count = 0

    def obtain(self, exchange: Exchange | None, refused: str | None) -> Grant:
        raise AssertionError

    def renew(self, exchange: Exchange | None, grant: Grant) -> Grant:
        self.count += 1
        if self.outcomes:
            raise self.outcomes.pop(0)
        return Grant.from_token(jwt(4_000_000_000, n=self.count))

    def end(self, exchange: Exchange | None, grant: Grant) -> None: ...

    def changed(self) -> bool:
        return False


def due(source: Renewed) -> TokenKeeper:
    keeper = TokenKeeper(source, renewals=AHEAD, refused=AT_ONCE, silent=AT_ONCE)
    keeper.take(Grant.from_token(jwt(time.time())))
    return keeper


def test_renewal_outlasts_network_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    errors = [AppMeshConnectionError("down"), AppMeshTimeoutError("slow"), AppMeshRequestError("ill", status=500)]
    source = Renewed(*errors * 4)
    keeper = due(source)
    with no_thread_left():
        renewing = RenewalThread(keeper)
        renewing.start()
        eventually(lambda: source.count == 13)
        eventually(lambda: "the token is renewed again" in caplog.text)
        renewing.stop()
    assert keeper.failure is None
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, "a fault is logged when it starts"


def test_a_refusal_ends_the_renewal_until_there_is_another_token(caplog: pytest.LogCaptureFixture) -> None:
    source = Renewed(AppMeshAuthError("Token has been revoked"))
    keeper = due(source)
    with no_thread_left():
        renewing = RenewalThread(keeper)
        renewing.start()
        eventually(lambda: "log in again: Token has been revoked" in caplog.text)
        assert (source.count, keeper.due_at) == (1, math.inf)
        keeper.take(Grant.from_token(jwt(time.time(), n=2)))
        renewing.token_changed()
        eventually(lambda: source.count == 2)
        eventually(lambda: keeper.failure is None)
        renewing.stop()


def test_a_login_starts_the_refresh_where_wanted_and_close_ends_it() -> None:
    with no_thread_left():
        ending = jwt(time.time() + 1)
        client, exchange = client_over(granted(ending), granted(NEW), token=None, auto_refresh_token=True)
        client.login("a", "b")
        eventually(lambda: kept(client) == NEW)
        assert exchange.requests[1].request_uri == "/appmesh/token/renew"
        client.close()


def test_no_refresh_unless_wanted() -> None:
    with no_thread_left():
        client, _ = client_over(granted(jwt(time.time() - 1)), token=None)
        client.login("a", "b")
        assert not client._refresher.is_running


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
        eventually(lambda: client._refresher.is_running)
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
