"""Text that comes from outside (daemons, brokers, issuers, hooks), before it is kept or shown anywhere.

Two things can be wrong with it. It may repeat a secret that was sent there: every secret that this process uses is
remembered here, and masked in whatever form a stranger can write it. And it may steer a terminal or begin a line of its
own in a log: what is not printable is escaped.
"""

import base64
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from urllib.parse import quote, quote_plus

__all__ = ["MASK", "LineLimit", "Masks", "masked", "printable", "remember_secret", "said"]

MASK = "***"
_MIN_SECRET_CHARACTERS = 4  # shorter ones would mask parts of ordinary words
_MAX_SECRETS = 1024  # the oldest are forgotten: tokens come and go
_MAX_SAID_CHARACTERS = 1000
_MAX_KINDS = 4096


class Masks:
    """The secrets of this process. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._forms: OrderedDict[str, None] = OrderedDict()
        self._pattern: re.Pattern[str] | None = None

    def remember(self, secret: str, username: str | None = None) -> None:
        """Masks ``secret`` from now on, also as the password of ``username`` in HTTP's basic authentication."""
        if len(secret.strip()) < _MIN_SECRET_CHARACTERS:
            return
        with self._lock:
            for form in _forms(secret.strip(), username):
                self._forms[form] = None
                self._forms.move_to_end(form)
            while len(self._forms) > _MAX_SECRETS:
                self._forms.popitem(last=False)
            self._pattern = None

    def masked(self, text: str) -> str:
        """``text`` with each secret replaced."""
        with self._lock:
            if self._pattern is None:
                if not self._forms:
                    return text
                longest_first = sorted(self._forms, key=len, reverse=True)
                self._pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
            pattern = self._pattern
        return pattern.sub(MASK, text)


def _forms(secret: str, username: str | None) -> set[str]:
    """How a stranger may repeat a secret: as it is, in a URL, in a form, in JSON, in Base64."""
    texts = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret)}
    texts |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    if username is not None:
        texts |= _in_base64(f"{username}:{secret}".encode())
    return texts | _in_base64(secret.encode())


def _in_base64(data: bytes) -> set[str]:
    """Base64 of ``data`` at every offset that it can have in something longer, less the characters shared with that."""
    found = {base64.b64encode(data).decode().rstrip("="), base64.urlsafe_b64encode(data).decode().rstrip("=")}
    for offset in range(3):
        skipped, bits = -(-offset * 8 // 6), (offset + len(data)) * 8
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            inner = encode(b"\0" * offset + data).decode()[skipped : bits // 6]
            if len(inner) >= _MIN_SECRET_CHARACTERS * 2:
                found.add(inner)
    return found


_masks = Masks()
remember_secret = _masks.remember
masked = _masks.masked


def printable(text: str) -> str:
    """``text`` with what would steer a terminal, or begin a new line, escaped; tabs stay."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign == "\t" else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def said(text: str) -> str:
    """What a stranger says, as it may be kept and shown: masked, printable, and not long."""
    text = masked(text)
    if len(text) > _MAX_SAID_CHARACTERS:
        text = f"{text[:_MAX_SAID_CHARACTERS]}… ({len(text)} characters)"
    return printable(text)


class LineLimit:
    """How often a line of the same kind may be logged, so that no stranger can fill the log. For any thread."""

    def __init__(self, lines: int = 10, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        """At most ``lines`` of a kind within ``seconds``."""
        self._lines = lines
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows
        self._windows: dict[Hashable, tuple[float, int, int]] = {}  # kind -> (since, lines, left out)

    def take(self, kind: Hashable) -> int | None:
        """None where the line is to be left out; else how many of its kind were, since the last that was not."""
        now = self._clock()
        with self._lock:
            since, lines, left_out = self._windows.get(kind, (now, 0, 0))
            if now - since >= self._seconds:
                since, lines = now, 0
            if lines >= self._lines:
                self._windows[kind] = (since, lines, left_out + 1)
                return None
            if len(self._windows) >= _MAX_KINDS and kind not in self._windows:
                self._windows.pop(next(iter(self._windows)))
            self._windows[kind] = (since, lines + 1, 0)
            return left_out

    def left_out(self) -> dict[Hashable, int]:
        """By kind, the lines left out that no later line has told of, where their time is over; told once."""
        now = self._clock()
        with self._lock:
            over = {
                kind: left_out
                for kind, (since, _, left_out) in self._windows.items()
                if left_out and now - since >= self._seconds
            }
            for kind in over:
                del self._windows[kind]
        return over
