"""Where a client keeps its own token, and when a token expires."""

import binascii
import contextlib
import http.cookiejar
import logging
import os
import threading
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

__all__ = ["CookieFile", "MemoryTokens", "TokenStore", "claims", "expiry"]

logger = logging.getLogger(__name__)

COOKIE_NAME = "appmesh_auth_token"
EXPIRY_LEEWAY_SECONDS = 60  # so long after `exp` a daemon still takes a token, and renews it
REFRESH_AHEAD_SECONDS = 30
REFRESH_EVERY_SECONDS = 300  # for a token that does not say when it expires


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
    exp = claims(token).get("exp")
    return float(exp) if isinstance(exp, int | float) else None


def claims(token: str) -> dict[str, Any]:
    """What a JWT says; {} of what is no JWT. Its signature is not looked at: that is for who takes it."""
    try:
        payload = token.split(".")[1]
        found = orjson.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return found if isinstance(found, dict) else {}
