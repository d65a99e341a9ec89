"""What the answer of an HTTP server means to a sink (docs/design.md, 'How an answer is taken').

An answer speaks of the message, or of the place. A message that is refused is never taken: a batch is halved, a single
event becomes a dead letter. A place that refuses (a wrong password, a path that is gone, a proxy that is down) would
refuse every other message as well: all of them wait until it is repaired.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from meshbridge.sinks.base import Gone, Refused, Retry, SinkError

__all__ = ["OF_THE_MESSAGE", "REMEDIES", "Answer", "failure", "readable", "words_of"]

_LONGEST_WISH_SECONDS = 86_400.0  # a Retry-After beyond a day is a mistake, and too long for a wait of the platform's
_WORDS_CHARACTERS = 200
_LOOKED_AT_CHARACTERS = 4096  # of a text of which the beginning is shown: each costs time
_REPEATED_CHARACTERS = 32  # of what was sent; ids and types are shorter, and help
_SECRET_PIECE = re.compile(r"[\w.~+=-]{6,}")  # shorter ones are as likely a word of the server's own
_TEXT_TYPES = re.compile(r"text/|application/(?:[\w.+-]+\+)?(?:json|xml|yaml|problem)\b", re.IGNORECASE)

_CHARSETS = frozenset({"utf-8", "us-ascii", "iso-8859-1", "windows-1252"})
_MOST_PRINTABLE = 10  # of a text, at most one character in so many is a control character


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. ``words``: the beginning of the body, see :func:`words_of`.

    ``text`` is the body as it came, see :func:`readable`, and ``body`` its bytes: to look into, never to be shown or
    kept, since they may repeat secrets and events.
    """

    status: int
    retry_after: str | None
    words: str = ""
    text: str = field(default="", repr=False)
    body: bytes = field(default=b"", repr=False)


def readable(body: bytes, headers: Mapping[str, str]) -> str:
    """The text of a body; empty where it is compressed, or no text by its type or its content."""
    if headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        return ""
    content_type = Message()
    content_type["Content-Type"] = headers.get("Content-Type") or "text/plain"
    if not _TEXT_TYPES.match(content_type.get_content_type()):
        return ""
    charset = content_type.get_content_charset("utf-8")
    if charset not in _CHARSETS:
        return ""
    try:
        text = body.decode(charset)
    except UnicodeDecodeError:
        return ""
    begin = text[:_LOOKED_AT_CHARACTERS]
    unprintable = sum(not (char.isprintable() or char.isspace()) for char in begin)
    return text if "\0" not in text and unprintable * _MOST_PRINTABLE <= len(begin) else ""


def words_of(text: str, secrets: Iterable[str], sent: bytes) -> str:
    """The beginning of a text as one printable line, for a log.

    Nothing, where the text repeats one of ``secrets``, or a piece of one, or the beginning a stretch of what was sent:
    the output of apps must not be logged.
    """
    begin = text[:_LOOKED_AT_CHARACTERS]
    line = " ".join("".join(one if one.isprintable() else " " for one in begin).split())
    lower = line.lower()
    for secret in secrets:
        if any(piece.lower() in lower for piece in [secret, *_SECRET_PIECE.findall(secret)]):
            return ""
    words = line if len(line) <= _WORDS_CHARACTERS else line[: _WORDS_CHARACTERS - 1] + "…"
    last = len(words) - _REPEATED_CHARACTERS
    repeated = any(words[at : at + _REPEATED_CHARACTERS].encode() in sent for at in range(last + 1))
    return "" if repeated else words


OF_THE_MESSAGE = frozenset({400, 409, 411, 413, 414, 415, 422, 431})
REMEDIES: dict[int, str] = {
    401: "set auth or headers to what the server accepts",
    402: "see the account at the server: it asks for a payment",
    403: "set auth or headers to what the server accepts, and see its access rules",
    404: "set url to the path that takes events",
    405: "set url to a path that takes POST",
    407: "set name and password in proxy",
    421: "set url to the name that the server's certificate and configuration have",
    426: "set url to the scheme and port that the server asks for",
    451: "see the server's access rules",
}
"""What to do about a place that refuses, by its status."""


def failure(answer: Answer, place: str) -> SinkError | None:
    """What a status means; None: taken."""
    status = answer.status
    if 200 <= status < 300:  # noqa: PLR2004 the classes of RFC 9110
        return None
    text = f"{place} answers {status}"
    if answer.words:
        text = f"{text}: {answer.words}"
    if status == HTTPStatus.GONE:
        return Gone(f"{text} (Gone): it wants no more events")
    if status in OF_THE_MESSAGE:
        return Refused(text, reason=f"http_{status}")
    if 300 <= status < 400:  # noqa: PLR2004
        text, reason = f"{text}: redirects are not followed; set url to where it is now", "redirect"
    elif status < 200:  # noqa: PLR2004 101; the other ones have been skipped
        text, reason = f"{text}, which is no answer to a POST", f"http_{status}"
    else:
        text, reason = f"{text}; {REMEDIES[status]}" if status in REMEDIES else text, f"http_{status}"
    return Retry(text, after_seconds=_requested_delay(answer.retry_after), reason=reason)


def _requested_delay(retry_after: str | None) -> float | None:
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
