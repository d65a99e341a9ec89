"""The time by which things grow old."""

import time

__all__ = ["steady_now"]

_STARTED_AT = time.time()
_STARTED = time.monotonic()


def steady_now() -> float:
    """Unix seconds that a step of the wall clock, forward or back, never puts ahead of what has really passed.

    For ages alone: a host that starts in 1970 and is set right later must not find all its events too old.
    """
    return min(time.time(), _STARTED_AT + time.monotonic() - _STARTED)
