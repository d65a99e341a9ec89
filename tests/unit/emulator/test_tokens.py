import base64
from typing import Any

import jwt
import pytest

from meshbridge.emulator import tokens as module
from meshbridge.emulator.accounts import PERMISSIONS, Accounts, User
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.tokens import Tokens, totp_code, totp_codes_now, totp_uri
from tests.unit.emulator.golden import records


class Clock:
    """Stands in for the module's clock."""

    def __init__(self) -> None:
        self.now = 1795515820.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time as issuing and revoking see it; checking ``exp`` is PyJWT's, by the real clock."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def accounts() -> Accounts:
    return Accounts.default()


@pytest.fixture
def tokens() -> Tokens:
    return Tokens("node-a", "k" * 32, leeway_seconds=60)


def refusal(error: pytest.ExceptionInfo[RequestRefused]) -> tuple[int, str]:
    return error.value.answer.status, str(error.value)


def test_a_token_has_the_claims_that_clients_read(tokens: Tokens, accounts: Accounts) -> None:
    issued = tokens.issue(accounts.users["mesh"], 60)
    claims = jwt.decode(issued.token, options={"verify_signature": False})
    assert sorted(claims) == ["aud", "exp", "iat", "iss", "jti", "resource_access", "sub"]
    assert (claims["sub"], claims["iss"], claims["exp"] - claims["iat"]) == ("mesh", "node-a", 60)
    assert claims["resource_access"] == {"appmesh-service": {"roles": ["view"]}}
    assert tokens.check(issued.token) == claims


def test_an_unknown_audience_is_refused_and_another_one_is_not_for_the_service(
    tokens: Tokens, accounts: Accounts
) -> None:
    with pytest.raises(RequestRefused) as unknown:
        tokens.issue(accounts.users["mesh"], 60, "nope")
    assert refusal(unknown) == (400, "Audience <nope> verification failed")
    other = tokens.issue(accounts.users["mesh"], 60, "your-service-api")
    with pytest.raises(RequestRefused) as wrong:
        tokens.check(other.token)
    assert refusal(wrong) == (401, "Authentication failed: token doesn't contain the required audience")
    tokens.check(other.token, ["your-service-api"])


def test_a_revoked_token_and_all_of_a_user_are_refused(tokens: Tokens, accounts: Accounts) -> None:
    first, second = (tokens.issue(accounts.users["mesh"], 60) for _ in range(2))
    refresh = tokens.issue_refresh(accounts.users["mesh"])
    tokens.revoke(first.claims)
    with pytest.raises(RequestRefused, match="Token has been revoked"):
        tokens.check(first.token)
    tokens.check(second.token)
    tokens.revoke_user("mesh")
    with pytest.raises(RequestRefused, match="Token has been revoked"):
        tokens.check(second.token)
    with pytest.raises(RequestRefused, match="Refresh token has been revoked"):
        tokens.spend_refresh(refresh)


def test_an_expired_token_is_taken_for_the_leeway_only(tokens: Tokens, accounts: Accounts) -> None:
    tokens.check(tokens.issue(accounts.users["mesh"], -55).token)
    with pytest.raises(RequestRefused) as expired:
        tokens.check(tokens.issue(accounts.users["mesh"], -65).token)
    assert refusal(expired) == (401, "Authentication failed: token expired")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", (400, "invalid token supplied")),
        ("garbage", (400, "invalid token supplied")),
        ("a.b", (400, "invalid token supplied")),
        ("x.y.z", (412, "Invalid input: too much fill")),
        ("a.b.c.d", (412, "Invalid input: too much fill")),
        ("bearer abc.def.ghi", (412, "Invalid input: not within alphabet")),
        ("abc.def.ghi", (500, "Internal server error")),
        ("W10.W10.W10", (500, "Internal server error")),
        ("e30.e30.e30", (401, "Authentication failed: wrong algorithm")),
    ],
)
def test_each_text_that_is_no_token_has_its_answer(tokens: Tokens, text: str, answer: tuple[int, str]) -> None:
    with pytest.raises(RequestRefused) as refused:
        tokens.check(text)
    assert refusal(refused) == answer


def test_a_foreign_signature_is_refused(tokens: Tokens, accounts: Accounts) -> None:
    foreign = Tokens("node-b", "f" * 32, 60).issue(accounts.users["mesh"], 60).token
    with pytest.raises(RequestRefused, match="invalid signature"):
        tokens.check(foreign)
    tokens.keys.append("f" * 32)
    assert tokens.check(foreign)["iss"] == "node-b"
    unclaimed = jwt.encode({"exp": 4e9}, "k" * 32)
    with pytest.raises(RequestRefused, match="Authentication failed"):
        tokens.check(unclaimed)


def test_what_was_revoked_is_forgotten_once_it_has_expired_anyway(
    tokens: Tokens, accounts: Accounts, clock: Clock
) -> None:
    for _ in range(3):
        tokens.revoke(tokens.issue(accounts.users["mesh"], 10).claims)
    clock.now += 100
    tokens.revoke(tokens.issue(accounts.users["mesh"], 10).claims)
    assert (len(tokens._revoked), len(tokens._of_user["mesh"])) == (1, 1)


def test_a_refresh_token_is_good_once(tokens: Tokens, accounts: Accounts) -> None:
    refresh = tokens.issue_refresh(accounts.users["mesh"])
    with pytest.raises(RequestRefused, match="required audience"):
        tokens.check(refresh)
    assert tokens.spend_refresh(refresh) == "mesh"
    with pytest.raises(RequestRefused, match="Refresh token has been revoked"):
        tokens.spend_refresh(refresh)


def test_a_challenge_is_good_for_one_try_of_its_user_in_time(tokens: Tokens, clock: Clock) -> None:
    name, expires = tokens.challenge("mesh", "")
    assert expires == clock.now + 180
    assert (tokens.answer_challenge(name, "mesh"), tokens.answer_challenge(name, "mesh")) == ("", None)
    of_another, _ = tokens.challenge("mesh", "")
    assert tokens.answer_challenge(of_another, "admin") is None
    late, _ = tokens.challenge("mesh", "")
    clock.now += 181
    assert tokens.answer_challenge(late, "mesh") is None


def test_codes_are_those_of_rfc_6238() -> None:
    key = base64.b32encode(b"12345678901234567890").decode()
    assert [totp_code(key, at) for at in (59, 1111111109, 1234567890)] == ["287082", "081804", "005924"]
    assert len(list(totp_codes_now(key))) == 3
    assert totp_uri("rec3", "KEY") == "otpauth://totp/rec3?secret=KEY&issuer=AppMesh"


# --- accounts --------------------------------------------------------------------------------------------------------


def test_the_default_users_and_roles_are_the_recorded_ones(accounts: Accounts) -> None:
    import json

    recorded: dict[str, Any] = {}
    for record in records("exchanges.jsonl")[:30]:
        if record["operation"] in {"list_users", "list_roles", "list_permissions", "list_groups"}:
            recorded[record["operation"]] = json.loads(record["response"]["body"])
    assert {name: user.public() for name, user in accounts.users.items()} == recorded["list_users"]
    assert {name: sorted(permissions) for name, permissions in accounts.roles.items()} == recorded["list_roles"]
    assert list(PERMISSIONS) == recorded["list_permissions"]
    assert accounts.groups() == recorded["list_groups"]
    assert accounts.permissions(accounts.users["admin"]) == set(PERMISSIONS)


def test_passwords_are_kept_as_salted_hashes(accounts: Accounts) -> None:
    admin = accounts.users["admin"]
    assert (admin.has_password("admin123"), admin.has_password("admin124")) == (True, False)
    assert "admin123" not in str(accounts.dump())
    assert Accounts.load(accounts.dump()).users["admin"].has_password("admin123")


def test_adding_a_user_again_replaces_all_but_the_second_factor(accounts: Accounts) -> None:
    accounts.add("op", {"key": "one", "roles": ["view"], "group": "ops", "email": "o@x"})
    accounts.users["op"].mfa_key, accounts.users["op"].mfa_enabled = "KEY", True
    accounts.add("op", {"key": "two", "roles": ["manage"], "locked": True})
    user = accounts.users["op"]
    assert (user.roles, user.locked, user.mfa_enabled, user.has_password("two")) == (["manage"], True, True, True)


@pytest.mark.parametrize(
    ("permission", "group_reads", "group_writes", "others_read", "others_write"),
    [
        (0, True, True, True, True),
        (11, False, False, False, False),
        (12, False, False, True, False),
        (21, True, False, False, False),
        (32, True, True, True, False),
        (33, True, True, True, True),
    ],
)
def test_an_apps_permission_speaks_of_the_owners_group_then_of_others(
    permission: int, group_reads: bool, group_writes: bool, others_read: bool, others_write: bool
) -> None:
    accounts = Accounts()
    accounts.users = {name: User(name, "", group=group) for name, group in (("o", "a"), ("g", "a"), ("x", "b"))}
    users = accounts.users

    def may(name: str, *, write: bool) -> bool:
        return accounts.may_access(users[name], "o", permission, write=write)

    assert may("o", write=True)
    assert (may("g", write=False), may("g", write=True)) == (group_reads, group_writes)
    assert (may("x", write=False), may("x", write=True)) == (others_read, others_write)
