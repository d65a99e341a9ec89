"""Tokens: 256 random bits each, of which only the SHA-256 is kept."""

import hashlib
import hmac
import math
import secrets
from collections import OrderedDict
from collections.abc import Sequence

from meshbridge.admin.options import Token

__all__ = ["FailureLimit", "digest", "new_token", "owner_of"]

_PREFIX = "mbt_"  # so that scanners for leaked secrets can find one, and people tell what it is
_BYTES = 32


def new_token() -> str:
    """To be shown once."""
    return _PREFIX + secrets.token_urlsafe(_BYTES)


def digest(token: str) -> str:
    """What is kept of it: SHA-256 in hex. A slow hash is for passwords; 256 random bits cannot be guessed."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def owner_of(presented: str, tokens: Sequence[Token]) -> Token | None:
    """Whose token it is. Takes as long whether one is right or none, and whichever is."""
    found, hashed = None, digest(presented)
    for token in tokens:
        if hmac.compare_digest(hashed, token.sha256):
            found = token
    return found


class FailureLimit:
    """How many wrong tokens each peer may show: a few at once, then one in a while.

    A right token is never turned away: behind one address there may be many, and one of them with an old token must
    not shut the others out. Memory is bounded; who failed longest ago is forgotten first. For one thread.
    """

    _PEERS = 4096

    def __init__(self, burst: int = 10, seconds_each: float = 6.0) -> None:
        self._burst = burst
        self._seconds_each = seconds_each
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when all of a peer's failures are forgiven

    def failed(self, peer: str, now: float) -> int:
        """Counts a failure; whole seconds to wait where it was one too many, else 0."""
        forgiven = max(self._full_at.pop(peer, now), now)
        wait = forgiven - now - (self._burst - 1) * self._seconds_each
        if wait <= 0:
            forgiven += self._seconds_each
        self._full_at[peer] = forgiven
        if len(self._full_at) > self._PEERS:
            self._full_at.popitem(last=False)
        return max(0, math.ceil(wait))
