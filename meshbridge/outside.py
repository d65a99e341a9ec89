"""Text that comes from outside (daemons, brokers, issuers, hooks), before it is kept or shown anywhere.

Two things can be wrong with it. It may repeat a secret that was sent there: every secret that this process uses is
remembered here, and masked in whatever form a stranger can write it. And it may steer a terminal or begin a line of its
own in a log: what is not printable is escaped.
"""

import base64
import html
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
_MAX_SECRETS = 16_384  # the oldest are forgotten: tokens come and go
_BEGIN_CHARACTERS = 4
_KNOWN_BY_CHARACTERS = 48  # of a token, which can have kilobytes: what follows these is masked with them
_TOKEN = re.compile(r"[\w.~+/=-]+", re.ASCII)
_MAX_SECRET_CHARACTERS = 1024  # of any other secret, such as a sentence
_REST = r"[\w.~+/=%\\-]*"
_LONGEST_FORM_CHARACTERS = 12 * _MAX_SECRET_CHARACTERS
_MAX_SAID_CHARACTERS = 1000
_MAX_KINDS = 4096


class Masks:
    """The secrets of this process. For any thread.

    A text is compared with all of them at once, by the four characters that each begins with, so that thousands of
    secrets (each daemon of many has its tokens) cost no more than one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._forms: OrderedDict[tuple[str, str | None], frozenset[str]] = OrderedDict()  # by secret and user
        self._begins: dict[str, dict[str, int]] = {}  # beginning -> form -> how many secrets have it

    def remember(self, secret: str, username: str | None = None) -> None:
        """Masks ``secret`` from now on, also as the password of ``username`` in HTTP's basic authentication."""
        secret = secret.strip()
        if len(secret) < _MIN_SECRET_CHARACTERS:
            return
        most = _KNOWN_BY_CHARACTERS if _TOKEN.fullmatch(secret) else _MAX_SECRET_CHARACTERS
        key = secret[:most], username
        with self._lock:
            if key in self._forms:
                self._forms.move_to_end(key)
                return
            self._forms[key] = frozenset(_forms(*key, whole=key[0] == secret))
            for form in self._forms[key]:
                begun = self._begins.setdefault(form[:_BEGIN_CHARACTERS].lower(), {})
                begun[form] = begun.get(form, 0) + 1
            if len(self._forms) > _MAX_SECRETS:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, forms = self._forms.popitem(last=False)
        for form in forms:
            begin = form[:_BEGIN_CHARACTERS].lower()
            begun = self._begins[begin]
            begun[form] -= 1
            if not begun[form]:
                del begun[form]
            if not begun:
                del self._begins[begin]

    def masked(self, text: str) -> str:
        """``text`` with each secret replaced."""
        lower = text.lower()
        begins = {lower[at : at + _BEGIN_CHARACTERS] for at in range(len(lower) - _BEGIN_CHARACTERS + 1)}
        with self._lock:
            found = [form for begin in begins & self._begins.keys() for form in self._begins[begin]]
        found = [form for form in found if form.lower() in lower]
        if not found:
            return text
        longest_first = sorted(found, key=len, reverse=True)
        pattern = "|".join(
            re.escape(form) + (_REST if len(form) >= _KNOWN_BY_CHARACTERS else "") for form in longest_first
        )
        return re.sub(pattern, MASK, text, flags=re.IGNORECASE)


def _forms(secret: str, username: str | None, *, whole: bool) -> set[str]:
    """How a stranger may repeat a secret: as it is, in a URL, in a form, in JSON, in HTML, in Base64, in hexadecimal.

    ``whole``: else there is more of it, of which nothing is known.
    """
    data = secret.encode(errors="replace")
    texts = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), quote(quote(secret, safe=""))}
    texts.add(quote(quote(secret)))
    texts |= {
        "".join(f"%{byte:02x}" for byte in data),
        data.hex(),
        html.escape(secret),
        html.escape(secret, quote=False),
    }
    in_json = json.dumps(secret)[1:-1]
    texts |= {in_json, json.dumps(in_json)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    texts.add("".join(f"\\u{ord(sign):04x}" for sign in secret))
    if username is not None:
        texts |= _in_base64(f"{username}:".encode() + data, whole=whole)
    return texts | _in_base64(data, whole=whole)


def _in_base64(data: bytes, *, whole: bool) -> set[str]:
    """Base64 of ``data`` at every offset that it can have in something longer, less the characters shared with that."""
    found = set()
    if whole:
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
    length = len(text)
    # A secret that begins within what is shown is looked at as a whole.
    text = masked(text[: _MAX_SAID_CHARACTERS + _LONGEST_FORM_CHARACTERS])
    if length > _MAX_SAID_CHARACTERS:
        text = f"{text[:_MAX_SAID_CHARACTERS]}… ({length} characters)"
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
