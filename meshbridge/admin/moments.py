"""Times as a request gives them."""

import time
from typing import Annotated

from pydantic import AfterValidator, Field

from meshbridge.fields import parse_duration

__all__ = ["MomentText", "moment"]


def moment(text: str, now: float | None = None) -> float:
    """Unix seconds of a text with unix seconds, or with a duration before ``now``.

    Raises:
        ValueError: it is neither.

    """
    try:
        found = float(text)
    except ValueError:
        return (time.time() if now is None else now) - parse_duration(text)
    if not 0 <= found < 2**53:
        raise ValueError(f"not a time: {text!r} (use unix seconds, or a duration such as 2h)")
    return found


def _checked(text: str) -> str:
    moment(text)
    return text


MomentText = Annotated[str, Field(max_length=64), AfterValidator(_checked)]
"""What :func:`moment` reads, as a caller gives it."""
