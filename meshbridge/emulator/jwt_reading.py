"""How the daemon reads a text as a token: each text that is none has an answer of its own (measured on 2.2.1)."""

import base64
import string
from typing import Any

import orjson

from meshbridge.emulator.errors import RequestRefused

_ALPHABET = frozenset(string.ascii_letters + string.digits + "-_")
_DOTS = 2


def read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload of a token; its signature is not checked.

    Raises:
        RequestRefused: 400, 412 or 500: it is none.

    """
    if token.count(".") < _DOTS:
        raise RequestRefused(400, "invalid token supplied")
    parts = [_decoded(part) for part in token.split(".", _DOTS)]
    try:
        header, payload = (orjson.loads(part) for part in parts[:_DOTS])
    except orjson.JSONDecodeError:
        raise RequestRefused(500, "Internal server error") from None
    if not isinstance(header, dict) or not isinstance(payload, dict):
        raise RequestRefused(500, "Internal server error")
    return header, payload


def _decoded(part: str) -> bytes:
    if len(part) % 4 == 1:
        raise RequestRefused(412, "Invalid input: too much fill")
    if not _ALPHABET.issuperset(part):
        raise RequestRefused(412, "Invalid input: not within alphabet")
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
