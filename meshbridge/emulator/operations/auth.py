"""Login, tokens and second factors (docs/protocol.md, 'Authentication')."""

import base64
import contextlib
from typing import TYPE_CHECKING, Any

from meshbridge.emulator.accounts import User
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.messages import Call, EmulatedAnswer, json_answer, message_answer
from meshbridge.emulator.routes import ANYONE, ApiRoute
from meshbridge.emulator.tokens import (
    AUDIENCES,
    NOT_ASKED_FOR,
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
LONGEST_SECONDS = 30 * 86_400


async def login(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    name, password = _credentials(call)
    user = daemon.accounts.users.get(name)
    if user is None:
        raise RequestRefused(404, "user not found")
    if user.locked or not user.has_password(password):
        raise RequestRefused(401, "Authentication failed")
    audience = call.header("X-Audience")
    if audience in NOT_ASKED_FOR:
        raise RequestRefused(400, "illegal audience")
    if audience and audience not in AUDIENCES:
        raise RequestRefused(400, f"Audience <{audience}> verification failed")
    expire_seconds = _expire_seconds(call)
    if user.mfa_enabled:
        code = call.header("X-Totp-Code")
        if not code:
            return _challenge(daemon, user, audience)
        if code not in totp_codes_now(user.mfa_key):
            raise RequestRefused(401, "Invalid TOTP token")
    issued = daemon.tokens.issue(user, expire_seconds, audience)
    wants_refresh = call.header("X-Refresh-Token-Request") == "true"
    return _token_answer(user, issued, refresh=daemon.tokens.issue_refresh(user) if wants_refresh else None)


async def authenticate(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """Says whether a token is good, and good for ``X-Permission``; gives it back as it was."""
    audience = call.header("X-Audience")
    user, _ = daemon.logins.named_by(call)
    claims = daemon.tokens.check(call.token, (audience,) if audience else (SERVICE,))
    daemon.require(user, call.header("X-Permission"))
    return _token_answer(user, Issued(call.token, claims), group="")


async def renew(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """A new token for the old one, which is revoked; or for a refresh token, which is spent."""
    refresh = call.header("X-Refresh-Token")
    if refresh:
        user, _ = daemon.logins.named_in(refresh)
        expire_seconds = _expire_seconds(call)
        daemon.tokens.spend_refresh(refresh)
        if user.locked:
            raise RequestRefused(401, "Authentication failed")
        daemon.require(user, "user-token-renew")
        _revoke_quietly(daemon, call)
        issued = daemon.tokens.issue(user, expire_seconds)
        return _token_answer(user, issued, refresh=daemon.tokens.issue_refresh(user))
    user, claims = daemon.logins.authenticate(call)
    daemon.require(user, "user-token-renew")
    issued = daemon.tokens.issue(user, _expire_seconds(call), claims["aud"][0])
    daemon.tokens.revoke(claims)
    return _token_answer(user, issued)


async def logoff(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    ended = _revoke_quietly(daemon, call)
    with contextlib.suppress(RequestRefused):
        daemon.tokens.spend_refresh(call.header("X-Refresh-Token"))
        ended = True
    if not ended:
        raise RequestRefused(401, "Logoff requires a valid access token or refresh token")
    return EmulatedAnswer()


async def totp_secret(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """A new key, not in force before :func:`totp_setup` has seen a code of it."""
    user = _caller(call)
    user.mfa_key, user.mfa_enabled = new_totp_key(), False
    daemon.save_accounts()
    return json_answer({"mfa_uri": base64.b64encode(totp_uri(user.name, user.mfa_key).encode()).decode()})


async def totp_setup(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    user = _caller(call)
    if not user.mfa_key:
        raise RequestRefused(400, "please generate TOTP secret first")
    if call.header("X-Totp-Code") not in totp_codes_now(user.mfa_key):
        raise RequestRefused(401, "Invalid TOTP token")
    user.mfa_enabled = True
    daemon.save_accounts()
    return _token_answer(user, daemon.tokens.issue(user, _expire_seconds(call)))


async def totp_validate(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    body = call.json()
    name, code, challenge = (body.get(key, "") for key in ("user_name", "totp_code", "totp_challenge"))
    if not all(isinstance(text, str) for text in (name, code, challenge)):
        raise TypeError("texts")
    user = daemon.accounts.users.get(name)
    if user is None:
        raise RequestRefused(404, "user not found")
    if not user.mfa_enabled:
        raise RequestRefused(400, "TOTP authentication not enabled for current user")
    audience = daemon.tokens.answer_challenge(challenge, user.name)
    if audience is None or code not in totp_codes_now(user.mfa_key):
        raise RequestRefused(401, "Invalid TOTP token")
    return _token_answer(user, daemon.tokens.issue(user, int(body.get("expire_seconds") or WEEK_SECONDS), audience))


async def totp_disable(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """One's own only as ``self``, one's own name counts as another's; of others only the administrator's (measured)."""
    caller = _caller(call)
    user = caller
    if call.name != "self":
        if call.name != "admin":
            raise RequestRefused(400, "Only administrator have permission to deactive MFA for others")
        daemon.require(caller, "user-totp-disable")
        user = daemon.accounts.users[call.name]
    user.mfa_key, user.mfa_enabled = "", False
    daemon.save_accounts()
    return message_answer(200, "2FA deactive success")


def _challenge(daemon: "Daemon", user: User, audience: str) -> EmulatedAnswer:
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


def _token_answer(
    user: User, issued: Issued, *, refresh: str | None = None, group: str | None = None
) -> EmulatedAnswer:
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
        claims = daemon.tokens.check(bearer(call), AUDIENCES)
    except RequestRefused:
        return False
    daemon.tokens.revoke(claims)
    return True


def bearer(call: Call) -> str:
    return call.header("Authorization").removeprefix("Bearer ").strip()


def _credentials(call: Call) -> tuple[str, str]:
    """Raises ValueError: it is no base64, or no text."""
    scheme, _, encoded = call.header("Authorization").partition(" ")
    if scheme != "Basic" or not encoded:
        raise RequestRefused(400, "unrecognized authorization type")
    name, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    return (name, password) if colon else ("", "")


def _expire_seconds(call: Call) -> int:
    """Raises RequestRefused: 400, not digits only; blanks before them are skipped."""
    given = call.header("X-Expire-Seconds").lstrip()
    if not given:
        return WEEK_SECONDS
    if not (given.isascii() and given.isdigit()) or int(given) >= 2**64:
        raise RequestRefused(400, "Invalid token expire seconds")
    return min(int(given), LONGEST_SECONDS) or WEEK_SECONDS


def _caller(call: Call) -> User:
    assert isinstance(call.caller, User)
    return call.caller


ROUTES = (
    ApiRoute("POST", "/appmesh/login", login),
    ApiRoute("POST", "/appmesh/auth", authenticate),
    ApiRoute("POST", "/appmesh/token/renew", renew),
    ApiRoute("POST", "/appmesh/self/logoff", logoff),
    ApiRoute("POST", "/appmesh/totp/secret", totp_secret, "user-totp-active"),
    ApiRoute("POST", "/appmesh/totp/setup", totp_setup, "user-totp-active"),
    ApiRoute("POST", "/appmesh/totp/validate", totp_validate),
    ApiRoute("POST", "/appmesh/totp/{}/disable", totp_disable, ANYONE),
)
