"""Login, tokens and second factors (PROTOCOL.md, 'Authentication')."""

import base64
import binascii
from typing import TYPE_CHECKING, Any

import jwt

from meshbridge.emulator.accounts import User
from meshbridge.emulator.errors import Refused
from meshbridge.emulator.messages import Answer, Call, json_answer, message_answer
from meshbridge.emulator.routes import ANYONE, Route
from meshbridge.emulator.tokens import (
    AUDIENCES,
    SERVICE,
    TOTP_DIGITS,
    TOTP_PERIOD_SECONDS,
    Issued,
    new_totp_key,
    totp_codes_now,
    totp_uri,
)

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon

WEEK_SECONDS = 7 * 86_400


async def login(daemon: "Daemon", call: Call) -> Answer:
    name, password = _credentials(call)
    user = daemon.accounts.users.get(name)
    if user is None:
        raise Refused(404, "user not found")
    if user.locked or not user.has_password(password):
        raise Refused(401, "Authentication failed")
    audience = call.header("X-Audience")
    if audience and audience not in AUDIENCES:
        raise Refused(400, f"Audience <{audience}> verification failed")
    if user.mfa_enabled:
        code = call.header("X-Totp-Code")
        if not code:
            return _challenge(daemon, user, audience)
        if code not in totp_codes_now(user.mfa_key):
            raise Refused(401, "Invalid TOTP token")
    issued = daemon.tokens.issue(user, _expire_seconds(call), audience)
    wants_refresh = call.header("X-Refresh-Token-Request") == "true"
    return _token_answer(user, issued, refresh=daemon.tokens.issue_refresh(user.name) if wants_refresh else None)


async def authenticate(daemon: "Daemon", call: Call) -> Answer:
    """Says whether a token is good, and good for ``X-Permission``; gives it back as it was."""
    audience = call.header("X-Audience")
    call.token = _required_token(call)
    claims = daemon.tokens.check(call.token, (audience,) if audience else (SERVICE,))
    user = daemon.accounts.users.get(claims["sub"])
    if user is None:
        raise Refused(404, "user not found")
    daemon.require(user, call.header("X-Permission"))
    return _token_answer(user, Issued(call.token, claims), group="")


async def renew(daemon: "Daemon", call: Call) -> Answer:
    """A new token for the old one, which is revoked; or for a refresh token, which is spent."""
    refresh = call.header("X-Refresh-Token")
    if refresh:
        name = daemon.tokens.spend_refresh(refresh)
        user = daemon.accounts.users.get(name or "")
        if user is None or user.locked:
            raise Refused(401, "Invalid or expired refresh token")
        daemon.require(user, "user-token-renew")
        _revoke_quietly(daemon, call)
        issued = daemon.tokens.issue(user, _expire_seconds(call))
        return _token_answer(user, issued, refresh=daemon.tokens.issue_refresh(user.name))
    user, claims = daemon.authenticate(call)
    daemon.require(user, "user-token-renew")
    issued = daemon.tokens.issue(user, _expire_seconds(call), claims["aud"][0])
    daemon.tokens.revoke(claims)
    return _token_answer(user, issued)


async def logoff(daemon: "Daemon", call: Call) -> Answer:
    ended = daemon.tokens.spend_refresh(call.header("X-Refresh-Token")) is not None
    ended = _revoke_quietly(daemon, call) or ended
    if not ended:
        raise Refused(401, "Logoff requires a valid access token or refresh token")
    return Answer()


async def totp_secret(daemon: "Daemon", call: Call) -> Answer:
    """A new key, not in force before :func:`totp_setup` has seen a code of it."""
    user = _caller(call)
    user.mfa_key, user.mfa_enabled = new_totp_key(), False
    daemon.save_accounts()
    return json_answer({"mfa_uri": base64.b64encode(totp_uri(user.name, user.mfa_key).encode()).decode()})


async def totp_setup(daemon: "Daemon", call: Call) -> Answer:
    user = _caller(call)
    if not user.mfa_key or call.header("X-Totp-Code") not in totp_codes_now(user.mfa_key):
        raise Refused(401, "Invalid TOTP token")
    user.mfa_enabled = True
    daemon.save_accounts()
    return _token_answer(user, daemon.tokens.issue(user, _expire_seconds(call)))


async def totp_validate(daemon: "Daemon", call: Call) -> Answer:
    body = call.json()
    user = daemon.accounts.users.get(body["user_name"])
    if user is None:
        raise Refused(404, "user not found")
    audience = daemon.tokens.answer_challenge(body["totp_challenge"], user.name)
    if audience is None or body["totp_code"] not in totp_codes_now(user.mfa_key):
        raise Refused(401, "Invalid TOTP token")
    return _token_answer(user, daemon.tokens.issue(user, int(body.get("expire_seconds") or WEEK_SECONDS), audience))


async def totp_disable(daemon: "Daemon", call: Call) -> Answer:
    """One's own only as ``self``: one's own name counts as another's (measured)."""
    caller = _caller(call)
    user = caller
    if call.name != "self":
        if caller.name != "admin":
            raise Refused(400, "Only administrator have permission to deactive MFA for others")
        daemon.require(caller, "user-totp-disable")
        found = daemon.accounts.users.get(call.name)
        if found is None:
            raise Refused(404, "user not found")
        user = found
    user.mfa_key, user.mfa_enabled = "", False
    daemon.save_accounts()
    return message_answer(200, "2FA deactive success")


def _challenge(daemon: "Daemon", user: User, audience: str) -> Answer:
    name, expires = daemon.tokens.challenge(user.name, audience)
    body = {
        "algorithm": "SHA1",
        "digits": TOTP_DIGITS,
        "expires": expires,
        "period": TOTP_PERIOD_SECONDS,
        "status": "TOTP_CHALLENGE_REQUIRED",
        "totp_challenge": name,
    }
    return json_answer(body, 428, {"WWW-Authenticate": 'TOTP realm="TOTP Authentication", qop="auth"'})


def _token_answer(user: User, issued: Issued, *, refresh: str | None = None, group: str | None = None) -> Answer:
    claims = issued.claims
    body: dict[str, Any] = {
        "access_token": issued.token,
        "expire_time": claims["exp"],
        "expires_in": claims["exp"] - claims["iat"],
        "issued_at": claims["iat"],
        "profile": {
            "auth_time": claims["iat"],
            "group": user.group if group is None else group,
            "name": user.name,
        },
        "token_type": "Bearer",
    }
    if refresh is not None:
        body["refresh_token"] = refresh
    return json_answer(body)


def _revoke_quietly(daemon: "Daemon", call: Call) -> bool:
    """Revokes the access token that came along, if it is good."""
    try:
        claims = daemon.tokens.check(_required_token(call), AUDIENCES)
    except (Refused, jwt.DecodeError):
        return False
    daemon.tokens.revoke(claims)
    return True


def _required_token(call: Call) -> str:
    given = call.header("Authorization").strip()
    token = given[7:].strip() if given[:7].lower() == "bearer " else given
    if not token:
        raise Refused(401, "No authentication token provided")
    return token


def _credentials(call: Call) -> tuple[str, str]:
    scheme, _, encoded = call.header("Authorization").partition(" ")
    if scheme.lower() != "basic":
        raise Refused(401, "Authentication failed")
    try:
        name, _, password = base64.b64decode(encoded).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise Refused(401, "Authentication failed") from None
    return name, password


def _expire_seconds(call: Call) -> int:
    given = call.header("X-Expire-Seconds")
    return int(given) if given.isdigit() and int(given) > 0 else WEEK_SECONDS


def _caller(call: Call) -> User:
    assert call.caller is not None
    return call.caller


ROUTES = (
    Route("POST", "/appmesh/login", login),
    Route("POST", "/appmesh/auth", authenticate),
    Route("POST", "/appmesh/token/renew", renew),
    Route("POST", "/appmesh/self/logoff", logoff),
    Route("POST", "/appmesh/totp/secret", totp_secret, "user-totp-active"),
    Route("POST", "/appmesh/totp/setup", totp_setup, "user-totp-active"),
    Route("POST", "/appmesh/totp/validate", totp_validate),
    Route("POST", "/appmesh/totp/{}/disable", totp_disable, ANYONE),
)
