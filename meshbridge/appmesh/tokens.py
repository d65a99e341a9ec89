"""Tokens: where a client keeps its own, who gives it one, and what renews it before it expires."""

import binascii
import contextlib
import http.cookiejar
import logging
import os
import random
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import orjson

from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshConnectionError, AppMeshError

__all__ = ["CookieFile", "MemoryTokens", "TokenProvider", "TokenRefresher", "TokenStore", "expiry", "refresh_delay"]

logger = logging.getLogger(__name__)

COOKIE_NAME = "appmesh_auth_token"
EXPIRY_LEEWAY_SECONDS = 60  # so long after `exp` a daemon still takes a token, and renews it
REFRESH_AHEAD_SECONDS = 30
REFRESH_EVERY_SECONDS = 300  # for a token that does not say when it expires
_BACKOFF_SECONDS = (1.0, 30.0)
_chance = random.SystemRandom()  # a program's own seeded draws stay as they are


class TokenProvider(Protocol):
    """Gives a client its bearer tokens; the client neither logs in nor renews then. Called from many threads."""

    def token(self) -> str:
        """A token that is good now; may fetch one.

        Raises:
            AppMeshAuthError: there is none to be had with these credentials.
            AppMeshConnectionError: whoever issues them cannot be reached.

        """

    def rejected(self, token: str) -> bool:
        """The daemon answered 401 to ``token``. True: :meth:`token` has, or gets, another one; it is worth a try."""


class TokenStore(Protocol):
    """Where a client keeps the token that its login gave it."""

    def get(self) -> str: ...

    def set(self, token: str) -> None: ...


class MemoryTokens:
    """Keeps the token as long as the client lives."""

    def __init__(self, token: str = "") -> None:
        self._token = token

    def get(self) -> str:
        """The token, ``""`` where there is none."""
        return self._token

    def set(self, token: str) -> None:
        self._token = token


class CookieFile(MemoryTokens):
    """Keeps the token in a cookie file too (Netscape format, mode 0600), so that the next client has it."""

    def __init__(self, path: str | os.PathLike[str], base_url: str) -> None:
        self._path = Path(path)
        url = urlsplit(base_url)
        # http.cookiejar files a host name without a dot under `.local`.
        host = url.hostname or ""
        self._domain = host if "." in host or ":" in host else f"{host}.local"
        super().__init__(self._load())

    def set(self, token: str) -> None:
        super().set(token)
        jar = http.cookiejar.MozillaCookieJar()
        if token:
            jar.set_cookie(
                http.cookiejar.Cookie(
                    version=0,
                    name=COOKIE_NAME,
                    value=token,
                    port=None,
                    port_specified=False,
                    domain=self._domain,
                    domain_specified=False,
                    domain_initial_dot=False,
                    path="/",
                    path_specified=True,
                    secure=True,
                    expires=int(expiry(token) or 0) or None,
                    discard=False,
                    comment=None,
                    comment_url=None,
                    rest={"HttpOnly": ""},
                )
            )
        # A new file of mode 0600 that takes the old one's place: no moment in which others can read it, or half of it.
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}.{threading.get_ident()}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"):  # noqa: PTH123 needs the mode
                pass
            jar.save(str(new), ignore_discard=True, ignore_expires=True)
            new.replace(self._path)
        finally:
            new.unlink(missing_ok=True)

    def _load(self) -> str:
        jar = http.cookiejar.MozillaCookieJar(str(self._path))
        try:
            jar.load(ignore_discard=True)
        except FileNotFoundError:
            return ""
        except (OSError, http.cookiejar.LoadError, UnicodeDecodeError) as error:
            logger.warning("the cookie file %s cannot be read: %s", self._path, error)
            return ""
        with contextlib.suppress(OSError):
            self._path.chmod(0o600)
        return next((cookie.value or "" for cookie in jar if cookie.name == COOKIE_NAME), "")


def expiry(token: str) -> float | None:
    """When a JWT expires (unix seconds); None where it does not say, or is no JWT. Its signature is not looked at."""
    try:
        payload = token.split(".")[1]
        exp = orjson.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None
    return float(exp) if isinstance(exp, int | float) else None


def refresh_delay(token: str, now: float) -> float:
    """How many seconds to wait before renewing ``token``.

    A token that lives for less than a few minutes is renewed half way through, others 30 s before they expire.
    """
    expires = expiry(token)
    if expires is None:
        return REFRESH_EVERY_SECONDS
    left = expires - now
    return max(0.0, left / 2 if left < 2 * REFRESH_AHEAD_SECONDS else left - REFRESH_AHEAD_SECONDS)


def renewable_until_leeway(token: str) -> float | None:
    """Until when a daemon renews its own ``token`` (PROTOCOL.md, 'Authentication')."""
    expires = expiry(token)
    return None if expires is None else expires + EXPIRY_LEEWAY_SECONDS


class TokenRefresher:
    """Renews a client's token in time, on a thread of its own, from :meth:`start` to :meth:`stop`.

    A network error does not end it: it tries again, with longer and longer pauses, until the token can no longer be
    renewed. Then it logs an error, and waits for the client to get another token.
    """

    def __init__(
        self,
        get: Callable[[], str],
        renew: Callable[[], None],
        *,
        renewable_until: Callable[[str], float | None] | None = None,
        clock: Callable[[], float] = time.time,
        backoff_seconds: tuple[float, float] = _BACKOFF_SECONDS,
    ) -> None:
        """``renewable_until`` tells the unix time at which a token can no longer be renewed, None for never."""
        self._get = get
        self._renew = renew
        self._renewable_until = renewable_until or renewable_until_leeway
        self._clock = clock
        self._backoff_seconds = backoff_seconds
        self._lock = threading.Lock()  # guards _thread
        self._wake = threading.Condition()  # guards _stopping and _changed
        self._stopping = False
        self._changed = False
        self._thread: threading.Thread | None = None
        self.given_up: AppMeshError | None = None
        """Why the present token is not renewed any more."""

    def start(self) -> None:
        """Begins to renew; harmless when it has begun."""
        with self._lock:
            if self._thread is not None:
                return
            with self._wake:
                self._stopping = False
            self._thread = threading.Thread(target=self._run, name="appmesh-token-refresh", daemon=True)
            self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """Ends the thread, and waits for it and a renewal under way; without ``wait`` it only tells it to end."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if not wait:
            return
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def token_changed(self) -> None:
        """The client has another token, or none: look at it anew."""
        with self._wake:
            self._changed = True
            self._wake.notify_all()

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            with self._wake:
                self._changed = False
            token = self._get()
            if not token:
                self._pause(None)
            elif self._pause(refresh_delay(token, self._clock())):
                self._renew_until_done(token)

    def _pause(self, seconds: float | None) -> bool:
        """Waits; False when the token has changed meanwhile, or the thread is to end."""
        if seconds is not None:
            seconds = min(seconds, threading.TIMEOUT_MAX)
        with self._wake:
            return not self._wake.wait_for(lambda: self._stopping or self._changed, seconds)

    def _renew_until_done(self, token: str) -> None:
        until = self._renewable_until(token)
        pause, longest = self._backoff_seconds
        failing = False
        while True:
            try:
                self._renew()
            except AppMeshAuthError as error:
                if self._get() != token:
                    return
                self._give_up(error)
                return
            except AppMeshError as error:
                now = self._clock()
                if until is not None and now >= until:
                    self._give_up(error)
                    return
                if not failing:
                    failing = True
                    what = "cannot be reached" if isinstance(error, AppMeshConnectionError) else "refused"
                    logger.warning("the token could not be renewed, trying on: the daemon %s: %s", what, error)
                last = longest if until is None else until - now
                if not self._pause(min(pause * _chance.uniform(0.7, 1.0), max(last, 0.05))):
                    return
                pause = min(pause * 2, longest)
            else:
                if failing:
                    logger.info("the token is renewed again")
                self.given_up = None
                return

    def _give_up(self, error: AppMeshError) -> None:
        logger.error("the token can no longer be renewed, log in again: %s", error)
        self.given_up = error
        self._pause(None)
