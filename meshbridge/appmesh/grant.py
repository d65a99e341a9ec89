"""What was granted by the issuer of a token: a 2.x daemon, an OpenID Connect issuer, or the owner of a token."""

import time
from dataclasses import dataclass, field
from typing import Any, Self

from meshbridge.appmesh.exceptions import AppMeshRequestError
from meshbridge.appmesh.tokens import expiry

__all__ = ["Grant"]

_DEFAULT_LIFE_SECONDS = 60.0  # where nothing says how long a token lives


@dataclass(frozen=True, slots=True)
class Grant:
    """A token, how long it is good for, and what renews it. Its text shows no secret."""

    access_token: str = field(repr=False)
    lifetime_seconds: float
    """From when it was granted; for deadlines. Infinite where the token does not say."""
    expires_at: float | None = None
    """Unix seconds, by the clock of who granted it, for people and metrics; None: not known."""
    refresh_token: str = field(default="", repr=False)
    """Gives the next one, once; ``""`` where there is none."""
    granted_at: float = 0.0
    """Unix seconds, by this host's clock."""
    refresh_expires_at: float | None = None

    @classmethod
    def from_answer(cls, fields: dict[str, Any], *, now: float | None = None) -> Self:
        """Of the JSON with which a daemon or an issuer answers (RFC 6749, 5.1).

        Raises:
            AppMeshRequestError: it holds no token. The text holds no part of the answer.

        """
        now = time.time() if now is None else now
        token, refresh = fields.get("access_token"), fields.get("refresh_token")
        if not isinstance(token, str) or not token or not token.isascii():
            raise AppMeshRequestError("the answer holds no token", status=200)
        lifetime = _number(fields.get("expires_in"), _DEFAULT_LIFE_SECONDS)
        refresh_seconds = fields.get("refresh_expires_in")
        return cls(
            token,
            lifetime,
            # Daemons say when, too; by whose clock does not matter to people, so where one does not, ours will do.
            _number(fields.get("expire_time"), now + lifetime),
            refresh if isinstance(refresh, str) else "",
            now,
            now + _number(refresh_seconds, 0) if refresh_seconds else None,
        )

    @classmethod
    def from_token(cls, token: str, *, now: float | None = None) -> Self:
        """Of a token that somebody else got: its own ``exp`` says how long it is good for."""
        now = time.time() if now is None else now
        expires_at = expiry(token)
        lifetime = float("inf") if expires_at is None else max(0.0, expires_at - now)
        return cls(token, lifetime, expires_at, granted_at=now)


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else otherwise
