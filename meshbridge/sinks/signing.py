"""Standard Webhooks signatures: symmetric (``v1``), with several secrets at once while one is rotated.

The header names, what is signed, and the form of a secret are those of the Standard Webhooks specification.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

__all__ = ["signature_headers", "signing_key"]

_PREFIX = "whsec_"
# The specification wants 24 to 64 random bytes; a shorter one can be guessed, and a longer one is no use to SHA-256.
_FEWEST_BYTES = 24
_MOST_BYTES = 64


def signing_key(secret: str) -> bytes:
    """The key in a secret as receivers keep it: ``whsec_`` and base64, the prefix being optional.

    Raises:
        ValueError: it is none; the text does not show it.

    """
    try:
        key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"not a signing secret: use {_PREFIX} followed by base64") from None
    if not _FEWEST_BYTES <= len(key) <= _MOST_BYTES:
        raise ValueError(f"a signing secret holds {_FEWEST_BYTES} to {_MOST_BYTES} bytes, this one {len(key)}")
    return key


def signature_headers(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt; the signature has one part for each key, in their order."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if signatures:
        headers["webhook-signature"] = " ".join(f"v1,{signature}" for signature in signatures)
    return headers
