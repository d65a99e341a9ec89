"""Tokens and second factors (docs/protocol.md, 'Authentication')."""

import base64
import hashlib
import hmac
import secrets
import struct
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meshbridge.emulator import jwt_reading
from meshbridge.emulator.accounts import User
from meshbridge.emulator.errors import RequestRefused

SERVICE = "appmesh-service"
FILE_SERVICE = "appmesh-file-service"
REFRESH = "appmesh-refresh"
NOT_ASKED_FOR = frozenset({FILE_SERVICE, REFRESH})
"""Audiences that a login may not name."""
AUDIENCES = (FILE_SERVICE, SERVICE, "your-service-api")
ALGORITHM = "HS256"
DAY_SECONDS = 86_400
REFRESH_SECONDS = 30 * DAY_SECONDS
CHALLENGE_SECONDS = 180
TOTP_PERIOD_SECONDS = 30
TOTP_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Issued:
    """A token with what the answer says of it."""

    token: str
    claims: dict[str, Any]


@dataclass(slots=True)
class _Challenge:
    user: str
    expires: int
    audience: str


class Tokens:
    """Issues, checks and revokes. ``keys``: the daemon's own first, then those of the nodes that forward to it."""

    def __init__(self, issuer: str, key: str, leeway_seconds: int) -> None:
        self.keys = [key]
        self.issuer = issuer  # what the tokens name
        self._leeway_seconds = leeway_seconds
        self._of_user: dict[str, dict[str, int]] = {}
        self._revoked: dict[str, int] = {}
        self._challenges: dict[str, _Challenge] = {}

    def issue(self, user: User, expire_seconds: int, audience: str = "") -> Issued:
        """A token for ``audience`` (the service's own by default).

        Raises:
            RequestRefused: 400, an audience that the daemon does not know.

        """
        audience = audience or SERVICE
        if audience not in (*AUDIENCES, REFRESH):
            raise RequestRefused(400, f"Audience <{audience}> verification failed")
        now = int(time.time())
        claims: dict[str, Any] = {
            "aud": [audience],
            "exp": now + expire_seconds,
            "iat": now,
            "iss": self.issuer,
            "jti": uuid.uuid4().hex,
            "resource_access": {SERVICE: {"roles": user.roles}},
            "sub": user.name,
        }
        known = self._of_user.setdefault(user.name, {})
        for jti in [jti for jti, expires in known.items() if self._over(expires, now)]:
            del known[jti]
        known[claims["jti"]] = claims["exp"]
        return Issued(self._signed(claims), claims)

    def check(self, token: str, audiences: Sequence[str] = (SERVICE,)) -> dict[str, Any]:
        """The claims of a token that is good.

        Raises:
            RequestRefused: 401: revoked, expired more than the leeway ago, of another audience or daemon; 400, 412
                or 500: it is no token at all.

        """
        claims = self._decode(token)
        if claims.get("jti") in self._revoked:
            raise RequestRefused(
                401, "Refresh token has been revoked" if REFRESH in claims["aud"] else "Token has been revoked"
            )
        if not set(audiences) & set(claims.get("aud", ())):
            raise RequestRefused(401, "Authentication failed: token doesn't contain the required audience")
        return claims

    def revoke(self, claims: dict[str, Any]) -> None:
        now = int(time.time())
        for jti in [jti for jti, expires in self._revoked.items() if self._over(expires, now)]:
            del self._revoked[jti]
        self._revoked[claims["jti"]] = claims["exp"]

    def revoke_user(self, name: str) -> None:
        """Ends every token and refresh token of a user."""
        self._revoked.update(self._of_user.pop(name, {}))

    def issue_refresh(self, user: User) -> str:
        return self.issue(user, REFRESH_SECONDS, REFRESH).token

    def spend_refresh(self, token: str) -> str:
        """The user of a refresh token, which is then no longer good; raises as :meth:`check`."""
        claims = self.check(token, (REFRESH,))
        self.revoke(claims)
        return str(claims["sub"])

    def challenge(self, user: str, audience: str) -> tuple[str, int]:
        """A name for one try to give the second factor, and when it expires."""
        name = f"H{secrets.randbelow(10**19):019d}"
        expires = int(time.time()) + CHALLENGE_SECONDS
        self._challenges[name] = _Challenge(user, expires, audience)
        return name, expires

    def answer_challenge(self, name: str, user: str) -> str | None:
        """The audience asked for at login, if that challenge was this user's; spends it whatever comes of it."""
        challenge = self._challenges.pop(name, None)
        if challenge is None or challenge.user != user or challenge.expires < time.time():
            return None
        return challenge.audience

    def _decode(self, token: str) -> dict[str, Any]:
        import jwt  # noqa: PLC0415 only the extra `demo` has it

        options: Any = {"verify_aud": False, "verify_iat": False}
        if jwt_reading.read(token)[0].get("alg") != ALGORITHM:
            raise RequestRefused(401, "Authentication failed: wrong algorithm")
        for key in self.keys:
            try:
                return jwt.decode(token, key, [ALGORITHM], options=options, leeway=self._leeway_seconds)
            except jwt.DecodeError:
                continue
            except jwt.ExpiredSignatureError:
                raise RequestRefused(401, "Authentication failed: token expired") from None
            except jwt.InvalidTokenError as error:
                raise RequestRefused(401, f"Authentication failed: {error}") from None
        raise RequestRefused(401, "Authentication failed: invalid signature")

    def _signed(self, claims: dict[str, Any]) -> str:
        import jwt  # noqa: PLC0415 only the extra `demo` has it

        return jwt.encode(claims, self.keys[0], ALGORITHM)

    def _over(self, expires: int, now: int) -> bool:
        return expires + self._leeway_seconds < now


def new_totp_key() -> str:
    return base64.b32encode(secrets.token_bytes(20)).decode()


def totp_uri(user: str, key: str) -> str:
    return f"otpauth://totp/{user}?secret={key}&issuer=AppMesh"


def totp_code(key: str, at: float) -> str:
    """RFC 6238 with SHA-1, six digits, 30 seconds."""
    digest = hmac.digest(base64.b32decode(key), struct.pack(">Q", int(at) // TOTP_PERIOD_SECONDS), hashlib.sha1)
    offset = digest[-1] & 0x0F
    number = struct.unpack(">I", digest[offset : offset + 4])[0] & 0x7FFFFFFF
    return str(number % 10**TOTP_DIGITS).zfill(TOTP_DIGITS)


def totp_codes_now(key: str) -> Iterable[str]:
    """The codes that are taken: the present one and its neighbours, for clocks that differ."""
    now = time.time()
    return [totp_code(key, now + step * TOTP_PERIOD_SECONDS) for step in (-1, 0, 1)]
