"""What a bridge may have to do at a daemon, and what its user is not allowed."""

__all__ = ["LEAST_ROLE", "lacking"]

LEAST_ROLE = (
    "app-subscribe",
    "app-view",
    "app-view-all",
    "app-output-view",
    "host-resource-view",
    "user-token-renew",
)
"""The permissions of the least role that a bridge needs (docs/protocol.md, 'Events')."""
_RENEWAL = "user-token-renew"


def lacking(granted: frozenset[str] | None, *, renews: bool) -> tuple[str, ...]:
    """What of the least role is not granted; nothing where that is not known. ``renews``: tokens are renewed."""
    if granted is None:
        return ()
    needed = LEAST_ROLE if renews else [name for name in LEAST_ROLE if name != _RENEWAL]
    return tuple(name for name in needed if name not in granted)
