"""The token of one daemon, which both of its connections use: got, renewed in time, never asked for in a hot loop."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from meshbridge import telemetry
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshError
from meshbridge.appmesh.exchange import Exchange
from meshbridge.fields import Retry, chance_of_jitter
from meshbridge.link.logins import IssuerError, login_of
from meshbridge.link.operations import LoginRefusedError, PermissionMissingError, Token
from meshbridge.link.options import DaemonOptions

__all__ = ["LOOK_SECONDS", "BusyError", "Credentials"]

LOOK_SECONDS = 2.0  # how often the files of secrets are looked at, while that may help
_RENEW_AT = 0.6  # of the lifetime
_JITTER = 0.1  # of that, either way: bridges that were started together don't renew together
_TURN_SECONDS = 10.0  # to wait for another thread's login, which may go into a connection that is dead
_ATTEND_SECONDS = 2.0  # the same, of the link's thread, which has more to do and comes again
_LEAST_SECONDS = 1.0  # between renewals, whatever a token says of its life
_REFUSED = Retry(initial=5.0, max=300.0)  # somebody must mend it
_SILENT = Retry(initial=1.0, max=60.0)  # an issuer that can't be reached comes back by itself
# A token that is refused so soon after it was given: once or twice is a password that was changed, more is a loop.
_YOUNG_SECONDS = 60.0
_YOUNG_REFUSALS = 2
_WARN_SECONDS = 86_400.0  # before a token that is not ours to renew expires, or when 60 % of its life is over


class BusyError(AppMeshError):
    """Another thread is still logging in; nobody has refused anything."""


Stamp = tuple[tuple[int, int, int] | None, ...]


class Credentials:
    """Logs in, renews, and gives the token. Any thread may ask; one logs in at a time.

    After a refusal nobody is asked before a pause is over, or a file of secrets has changed: the refusal is raised
    again instead. The link's thread calls :meth:`attend` whenever :attr:`due_at` has come.
    """

    def __init__(self, daemon: str, options: DaemonOptions, *, chance: Callable[[], float] = chance_of_jitter) -> None:
        self._daemon = daemon
        self._login = login_of(options)
        self._chance = chance
        self._lock = threading.RLock()  # guards what follows, and makes the second who finds it refused wait
        self._token: Token | None = None
        self._obtained_at = 0.0  # these are monotonic seconds
        self._renew_at = 0.0
        self._failure: AppMeshError | None = None  # why there is no new token
        self._failed_at = 0.0  # unix seconds, for people
        self._retry_at = 0.0
        self._failures = 0  # in a row
        self._refused: str | None = None  # the token that the daemon refused last
        self._young_refusals = 0
        self._may_renew = True  # whether the daemon lets us
        self._warned = False
        self._stamp: Stamp = ()  # of the files, when they were last read
        self._looked_at = 0.0

    # --- any thread ----------------------------------------------------------------------------------------------

    @property
    def expires_at(self) -> float | None:
        """Unix seconds; None where there is no token, or it does not tell."""
        token = self._token
        return None if token is None else token.expires_at

    @property
    def present(self) -> str | None:
        """The token as it is; nobody is asked for one."""
        token = self._token
        return None if token is None else token.value

    @property
    def failure(self) -> AppMeshError | None:
        """Why there is no new token; None while all is well."""
        return self._failure

    @property
    def failed_at(self) -> float:
        """When that was found out, in unix seconds."""
        return self._failed_at

    @property
    def due_at(self) -> float:
        """When :meth:`attend` is to be called next, in monotonic seconds."""
        at = self._renew_at if self._failure is None else self._retry_at
        if self._login.files and (self._failure is not None or self._login.follows):
            at = min(at, self._looked_at + LOOK_SECONDS)
        return at

    @property
    def retry_seconds(self) -> float:
        """How long nobody will be asked for a token, unless a file changes."""
        return 0.0 if self._failure is None else max(0.0, self._retry_at - time.monotonic())

    def files_changed(self) -> bool:
        """Whether a file of secrets is another one than when it was read."""
        return bool(self._login.files) and _stamp(self._login.files) != self._stamp

    def token(self, exchange: Exchange, *, refused: str | None = None) -> str:
        """The token; gets one where there is none, or where it is the one that was ``refused``.

        Raises:
            LoginRefusedError: there is none to be had, or nobody is asked at present since that was so.
            BusyError: another thread has been asking for too long.
            AppMeshError: who gives tokens gave no usable answer.

        """
        token = self._token
        if token is not None and token.value != refused and not self._is_to_follow():
            return token.value
        with self._turn(_TURN_SECONDS):
            if self._token is not None and self._token.value == refused:
                self._drop(refused)
            if self._token is None or (self._login.follows and self.files_changed()):
                self._obtain(exchange)
            assert self._token is not None
            return self._token.value

    def end(self, exchange: Exchange) -> None:
        """Gives the token back, as far as it is ours."""
        with self._lock, contextlib.suppress(AppMeshError):
            if self._token is not None:
                self._login.end(exchange, self._token)
                self._token = None

    # --- the link's thread ---------------------------------------------------------------------------------------

    def attend(self, exchange: Exchange) -> None:
        """Does what is due: renews, gets a token, looks at the files, or warns. What the token was stays good.

        Raises:
            AppMeshConnectionError: the daemon is gone.
            AppMeshError: it did not work; it is tried again, :attr:`due_at` says when.

        """
        with self._turn(_ATTEND_SECONDS):
            now = self._looked_at = time.monotonic()
            if self.files_changed() and (self._failure is not None or self._login.follows):
                self._obtain(exchange)
            elif self._failure is not None or self._token is None:
                if now >= self._retry_at:
                    self._obtain(exchange)
            elif now >= self._renew_at:
                self._renew(exchange, self._token)

    def _renew(self, exchange: Exchange, token: Token) -> None:
        if not self._login.renews:
            self._warn(token)
            return
        if not self._may_renew:
            self._obtain(exchange)
            return
        try:
            renewed = self._login.renew(exchange, token)
        except AppMeshConnectionError:
            raise  # no answer is no refusal: the token may be good
        except IssuerError as error:
            self._fail(error, _SILENT)
            raise
        except AppMeshError as error:
            telemetry.token_refresh_failed(self._daemon, str(error))
            self._may_renew = not isinstance(error, PermissionMissingError)
            self._obtain(exchange)
            return
        self._keep(renewed, "renew")

    def _warn(self, token: Token) -> None:
        self._renew_at = float("inf")
        if not self._warned:
            self._warned = True
            assert token.expires_at is not None
            telemetry.token_expires_soon(self._daemon, token.expires_at)

    @contextlib.contextmanager
    def _turn(self, seconds: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=seconds):
            raise BusyError("no token in time: another request is still logging in")
        try:
            yield
        finally:
            self._lock.release()

    # --- with the lock held --------------------------------------------------------------------------------------

    def _is_to_follow(self) -> bool:
        """Whether the file of the token is another one; looked at now and then, since each request asks."""
        if not self._login.follows or time.monotonic() - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = time.monotonic()
        return self.files_changed()

    def _drop(self, refused: str | None) -> None:
        """The daemon does not take the token."""
        now = time.monotonic()
        young = now - self._obtained_at < _YOUNG_SECONDS
        self._young_refusals = self._young_refusals + 1 if young else 1
        self._token, self._refused = None, refused
        if self._young_refusals > _YOUNG_REFUSALS:
            error = LoginRefusedError("the daemon refuses the token that was got just now")
            self._fail(error, _REFUSED, self._young_refusals - _YOUNG_REFUSALS)

    def _obtain(self, exchange: Exchange) -> None:
        if self._failure is not None and time.monotonic() < self._retry_at and not self.files_changed():
            raise _again(self._failure)
        self._looked_at = time.monotonic()
        self._stamp = _stamp(self._login.files)
        try:
            token = self._login.obtain(exchange, self._refused)
        except AppMeshConnectionError:
            raise
        except AppMeshError as error:
            self._fail(error, _SILENT if isinstance(error, IssuerError) else _REFUSED)
            raise
        self._may_renew = True
        self._keep(token, "login" if self._login.renews else "given")

    def _fail(self, error: AppMeshError, retry: Retry, attempt: int | None = None) -> None:
        self._failures = self._failures + 1 if attempt is None else attempt
        telemetry.token_refresh_failed(self._daemon, str(error), first=self._failure is None)
        self._failure, self._failed_at = error, time.time()
        self._retry_at = time.monotonic() + retry.delay(self._failures, self._chance())

    def _keep(self, token: Token, how: str) -> None:
        now = time.monotonic()
        self._token, self._obtained_at, self._failure, self._failures = token, now, None, 0
        after = token.lifetime_seconds * _RENEW_AT
        if self._login.renews:
            after *= 1 - _JITTER + 2 * _JITTER * self._chance()
        else:
            after = max(after, token.lifetime_seconds - _WARN_SECONDS)
        self._renew_at, self._warned = now + max(after, _LEAST_SECONDS), False
        telemetry.token_refreshed(self._daemon, how, token.expires_at)


def _stamp(paths: Sequence[Path]) -> Stamp:
    """What is another one when a file was written or replaced, also through a link as Kubernetes does."""
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _again(error: AppMeshError) -> AppMeshError:
    """The same refusal, as an error of its own, so that tracebacks don't pile up on one."""
    if isinstance(error, LoginRefusedError):
        return LoginRefusedError(str(error), hint=error.hint, status=error.status, operation=error.operation)
    kind = IssuerError if isinstance(error, IssuerError) else AppMeshError
    return kind(str(error), status=error.status, operation=error.operation)
