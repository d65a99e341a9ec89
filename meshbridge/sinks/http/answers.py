"""What the answer of an HTTP server means to a sink."""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from meshbridge.sinks.base import Gone, Refused, Retry, SinkError

__all__ = ["Answer", "failure", "words_of"]

_LONGEST_WISH_SECONDS = 86_400.0  # a Retry-After beyond a day is a mistake, and too long for a wait of the platform's
_WORDS_CHARACTERS = 200
_REPEATED_CHARACTERS = 32  # of what was sent; ids and types are shorter, and help
_SECRET_PIECE = re.compile(r"[\w.~+=-]{6,}")  # shorter ones are as likely a word of the server's own


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. ``words``: the beginning of the body, see :func:`words_of`."""

    status: int
    retry_after: str | None
    words: str = ""


def words_of(body: bytes, secrets: Iterable[str], sent: bytes) -> str:
    """The beginning of a body as one printable line, for a log.

    Nothing, where the body repeats one of ``secrets``, or a piece of one, or the beginning a stretch of what was sent:
    the output of apps is nobody's to log.
    """
    text = " ".join("".join(one if one.isprintable() else " " for one in body.decode(errors="replace")).split())
    lower = text.lower()
    for secret in secrets:
        if any(piece.lower() in lower for piece in [secret, *_SECRET_PIECE.findall(secret)]):
            return ""
    words = text if len(text) <= _WORDS_CHARACTERS else text[: _WORDS_CHARACTERS - 1] + "…"
    last = len(words) - _REPEATED_CHARACTERS
    repeated = any(words[at : at + _REPEATED_CHARACTERS].encode() in sent for at in range(last + 1))
    return "" if repeated else words


_SLOW_DOWN = frozenset({429, 502, 503, 504})
_TRY_AGAIN = frozenset({408, 425})  # 4xx by number, yet their meaning is "send it again" (RFC 9110, RFC 8470)


def failure(answer: Answer, place: str) -> SinkError | None:
    """What a status means (Standard Webhooks, 'Responding to a webhook'); None: taken."""
    status = answer.status
    if 200 <= status < 300:  # noqa: PLR2004 the classes of RFC 9110
        return None
    text = f"{place} answers {status}"
    if status == 410:  # noqa: PLR2004
        return Gone(f"{text} (Gone): it wants no more events")
    if status in _SLOW_DOWN:
        return Retry(text, after_seconds=_wish(answer.retry_after), reason=f"http_{status}")
    if 300 <= status < 400:  # noqa: PLR2004
        return Retry(f"{text}: redirects are not followed; set url to where it is now", reason="redirect")
    if 400 <= status < 500 and status not in _TRY_AGAIN:  # noqa: PLR2004
        return Refused(f"{text}: {answer.words}" if answer.words else text, reason=f"http_{status}")
    return Retry(text, reason=f"http_{status}")


def _wish(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After: a number, or a date (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isdecimal():
        return min(float(text[:9]), _LONGEST_WISH_SECONDS)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        date = parsedate_to_datetime(text)
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)
        return min(max(0.0, seconds.total_seconds()), _LONGEST_WISH_SECONDS)
    return None
