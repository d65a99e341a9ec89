"""Durations as the daemon reads them: seconds, or ISO 8601."""

import re

from meshbridge.appmesh.durations import seconds_of
from meshbridge.emulator.errors import RequestRefused

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def duration(value: object) -> int:
    """Whole seconds; negative ones mean a default, whatever it is.

    Raises:
        RequestRefused: 400, neither a number nor ISO 8601.

    """
    text = str(value)
    if _NUMBER.fullmatch(text):
        return int(float(text))
    try:
        return seconds_of(text)
    except ValueError:
        raise RequestRefused(400, "invalid ISO8601 duration format") from None


def duration_or(text: str, default: int) -> int:
    """``default`` where nothing is given, or something negative. Raises as :func:`duration`."""
    seconds = duration(text) if text else -1
    return default if seconds < 0 else seconds
