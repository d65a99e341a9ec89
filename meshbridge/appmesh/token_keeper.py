"""The one place that decides when a token is got, renewed in time, and asked for again; never in a hot loop.

A :class:`TokenKeeper` keeps the token of one :class:`TokenSource`. Its owner decides who attends it: a program with a
loop of its own does so there, a client that renews by itself has a :class:`RenewalThread`, a ``lazy`` keeper is
attended by those who ask for the token.
"""

import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshIssuerError,
    AppMeshLoginError,
    LoginFault,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.token_provider import TokenProvider

__all__ = [
    "LOOK_SECONDS",
    "Backoff",
    "BusyError",
    "KeeperWatch",
    "RenewalThread",
    "Renewals",
    "TokenKeeper",
    "TokenSource",
]

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # how often the secrets are looked at, while that may help
_TURN_SECONDS = 10.0  # to wait for another thread's login, which may go into a connection that is dead
_ATTEND_SECONDS = 2.0  # the same, of a thread that attends: it has more to do, and comes again
# A token that is refused so soon after it was given: once or twice is a password that was changed, more is a loop.
_YOUNG_SECONDS = 60.0
_YOUNG_REFUSALS = 2
_LEAST_PAUSE_SECONDS = 0.2  # after a failure, whatever is due
_WARN_SECONDS = 86_400.0  # before a token that is not renewed expires, or when its life is nearly over
_chance = random.SystemRandom()  # a program's own seeded draws stay as they are


class BusyError(AppMeshError):
    """Another thread is still logging in; nothing was refused."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts, in seconds: exponential, with jitter."""

    first: float
    longest: float

    def delay(self, attempt: int, chance: float) -> float:
        return min(self.longest, self.first * 2.0 ** min(attempt - 1, 60)) * (0.5 + chance / 2)


REFUSED = Backoff(5.0, 300.0)  # somebody must change something
SILENT = Backoff(1.0, 60.0)  # what can't be reached comes back by itself


@dataclass(frozen=True, slots=True)
class Renewals:
    """When a token is renewed."""

    at: float = 0.6
    """After this part of its life."""
    jitter: float = 0.1
    """Of that, either way: programs that were started together don't renew together."""
    ahead_seconds: float | None = None
    """So long before its end instead; half way through a life that is shorter than twice that."""
    least_seconds: float = 1.0
    """Between renewals, whatever a token says of its life."""
    unknown_seconds: float = math.inf
    """For a token that does not say how long it lives."""

    def after(self, lifetime_seconds: float, chance: float) -> float:
        """How many seconds after it was granted."""
        if math.isinf(lifetime_seconds):
            return self.unknown_seconds
        if self.ahead_seconds is None:
            after = lifetime_seconds * self.at * (1 - self.jitter + 2 * self.jitter * chance)
        else:
            short = lifetime_seconds < 2 * self.ahead_seconds
            after = lifetime_seconds / 2 if short else lifetime_seconds - self.ahead_seconds
        return max(after, self.least_seconds)


class TokenSource(Protocol):
    """One way to a token. Called by one thread at a time."""

    renews: bool
    """Whether a token is renewed before it expires."""
    obtains: bool
    """Whether :meth:`obtain` can give another token at any time; else only :meth:`renew` can."""
    early: bool
    """Whether a token can be had before there is a connection to the daemon, whose first step may ask for it."""
    watches: bool
    """Whether there are secrets that may change by themselves, such as files: a change may end a refusal."""
    follows: bool
    """Whether a changed secret means another token, though the present one is good."""

    def obtain(self, exchange: Exchange | None, refused: str | None) -> Grant:
        """A token, not the one that was ``refused``; ``exchange`` carries requests to the daemon.

        Raises:
            AppMeshLoginError: there is none to be had.
            AppMeshIssuerError: the issuer does not answer.
            AppMeshError: the daemon gave no usable answer.

        """

    def renew(self, exchange: Exchange | None, grant: Grant) -> Grant:
        """The next token; raises as :meth:`obtain` does."""

    def end(self, exchange: Exchange | None, grant: Grant) -> None:
        """Gives a token back that is no longer needed, where it is ours; raises as :meth:`obtain` does."""

    def changed(self) -> bool:
        """Whether a secret differs from what :meth:`obtain` read last."""


class KeeperWatch:
    """Hears what a keeper does; a base to derive from. Called with the keeper's lock held: return at once."""

    def refreshed(self, how: str, grant: Grant) -> None:
        """There is another token: by ``login``, ``renew``, or ``given`` by its owner."""

    def failed(self, error: AppMeshError, *, first: bool) -> None:
        """There is no other token; ``first``: of several failures in a row."""
        (logger.warning if first else logger.debug)("the token refresh failed: %s", error)

    def expires_soon(self, grant: Grant) -> None:
        """The token is not renewed, and has a day to live, or less."""


class TokenKeeper(TokenProvider):
    """Keeps a token: gets it, renews it, and gives it to all who ask. Any thread may ask; one logs in at a time.

    After a refusal nothing is asked before a pause is over, or a secret has changed: the refusal is raised again
    instead. Its owner calls :meth:`attend` whenever :attr:`due_at` has come, unless it is ``lazy``.
    """

    def __init__(
        self,
        source: TokenSource,
        *,
        watch: KeeperWatch | None = None,
        renewals: Renewals = Renewals(),
        chance: Callable[[], float] = _chance.random,
        lazy: bool = False,
        refused: Backoff | None = None,
        silent: Backoff | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``clock``: monotonic seconds."""
        self.source = source
        self._clock = clock or time.monotonic
        self._watch = watch or KeeperWatch()
        self._renewals = renewals
        self._chance = chance
        self._lazy = lazy
        self._pauses = refused or REFUSED, silent or SILENT
        self._lock = threading.RLock()  # guards what follows, and makes the second who finds a token refused wait
        self._grant: Grant | None = None
        self._obtained_at = 0.0  # these are monotonic seconds
        self._renew_at = 0.0
        self._failure: AppMeshError | None = None  # why there is no other token
        self._failed_at = 0.0  # unix seconds, for people
        self._retry_at = 0.0
        self._failures = 0  # in a row
        self._refused: str | None = None  # the token that the daemon refused last
        self._young_refusals = 0
        self._may_renew = True  # whether the daemon lets us
        self._warned = False
        self._looked_at = 0.0

    # --- any thread ----------------------------------------------------------------------------------------------

    @property
    def grant(self) -> Grant | None:
        """What is kept."""
        return self._grant

    @property
    def expires_at(self) -> float | None:
        """Unix seconds; None where there is no token, or it does not say."""
        grant = self._grant
        return None if grant is None else grant.expires_at

    @property
    def present(self) -> str | None:
        """The token as it is; nothing is asked for."""
        grant = self._grant
        return None if grant is None else grant.access_token

    @property
    def failure(self) -> AppMeshError | None:
        """Why there is no other token; None while all is well."""
        return self._failure

    @property
    def failed_at(self) -> float:
        """When that was found out, in unix seconds."""
        return self._failed_at

    @property
    def due_at(self) -> float:
        """When :meth:`attend` is to be called next, in monotonic seconds."""
        at = self._renew_at if self._failure is None else self._retry_at
        if self.source.watches and (self._failure is not None or self.source.follows):
            at = min(at, self._looked_at + LOOK_SECONDS)
        return at

    @property
    def retry_seconds(self) -> float:
        """How long nothing is asked for, unless a secret changes."""
        return 0.0 if self._failure is None else max(0.0, self._retry_at - self._clock())

    def secrets_changed(self) -> bool:
        """Whether a secret differs from what was read last."""
        return self.source.watches and self.source.changed()

    def token(self, exchange: Exchange | None = None, *, refused: str | None = None) -> str:
        """The token; gets one where there is none, or where it is the one that was ``refused``.

        Raises:
            AppMeshLoginError: there is none to be had, or that was so moments ago.
            BusyError: another thread has been asking for too long.
            AppMeshError: who gives tokens gave no usable answer.

        """
        grant = self._grant
        if grant is not None and grant.access_token != refused and not self._needs_look():
            return grant.access_token
        with self._turn(_TURN_SECONDS):
            if self._grant is not None and self._grant.access_token == refused:
                self._drop(refused)
            if self._grant is None or (self.source.follows and self.secrets_changed()):
                self._obtain(exchange)
            elif self._lazy:
                self._renew_lazily(exchange)
            assert self._grant is not None
            return self._grant.access_token

    def take(self, grant: Grant | None) -> None:
        """Keeps a token that the owner got by another way, or none."""
        with self._lock:
            self._young_refusals = 0
            if grant is None:
                self._grant, self._failure, self._renew_at = None, None, math.inf
            else:
                self._keep(grant)

    def end(self, exchange: Exchange | None = None) -> None:
        """Gives the token back, as far as it is ours."""
        with self._lock, contextlib.suppress(AppMeshError):
            if self._grant is not None:
                self.source.end(exchange, self._grant)
                self._grant = None

    # --- as a TokenProvider ----------------------------------------------------------------------------------------

    def get_access_token(self) -> str | None:
        return self.token()

    def refresh_access_token(self, rejected_token: str | None = None) -> str | None:
        return self.token(refused=rejected_token)

    @property
    def can_refresh(self) -> bool:
        return True

    def clear(self) -> None:
        self.take(None)

    def over(self, exchange: Exchange) -> TokenProvider:
        """A provider of the same token, which asks the daemon over ``exchange`` where that takes a request."""
        return _Over(self, exchange)

    # --- who attends -----------------------------------------------------------------------------------------------

    def attend(self, exchange: Exchange | None = None) -> None:
        """Does what is due: renews, gets a token, looks at the secrets, or warns. What the token was stays good.

        Raises:
            AppMeshConnectionError: the daemon is gone.
            AppMeshError: it did not work; it is tried again, :attr:`due_at` says when.

        """
        with self._turn(_ATTEND_SECONDS):
            now = self._looked_at = self._clock()
            if self.secrets_changed() and (self._failure is not None or self.source.follows):
                self._obtain(exchange)
            elif self._failure is not None or self._grant is None:
                if now >= self._retry_at:
                    self._try_again(exchange)
            elif now >= self._renew_at:
                self._renew(exchange, self._grant)

    def renew(self, used: str, renew: Callable[[Grant], Grant]) -> None:
        """Replaces the token now by what ``renew`` gives, unless it is another one than ``used`` by now."""
        with self._lock:
            if self._grant is not None and self._grant.access_token == used:
                self._keep(renew(self._grant), "renew")

    def renewing(self) -> contextlib.AbstractContextManager[object]:
        """Held while the token is got or renewed: inside it, no other thread does."""
        return self._lock

    # --- with the lock held ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self, seconds: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=seconds):
            raise BusyError("no token in time: another request is still logging in")
        try:
            yield
        finally:
            self._lock.release()

    def _needs_look(self) -> bool:
        """Whether the secret is to be looked at, or the token to be renewed by who asks for it."""
        now = self._clock()
        if self._lazy and now >= self._renew_at:
            return True
        if not self.source.follows or now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now
        return self.secrets_changed()

    def _try_again(self, exchange: Exchange | None) -> None:
        if self._grant is not None and not self.source.obtains:
            self._renew(exchange, self._grant)
        else:
            self._obtain(exchange)

    def _renew_lazily(self, exchange: Exchange | None) -> None:
        """A failure costs nothing while the token is good."""
        now, grant = self._clock(), self._grant
        assert grant is not None
        if now < self._renew_at:
            return
        good = now < self._obtained_at + grant.lifetime_seconds
        if self._failure is not None and now < self._retry_at:
            if not good:
                raise _again(self._failure)
            return
        try:
            self._renew(exchange, grant)
        except AppMeshError:
            if not good:
                raise

    def _renew(self, exchange: Exchange | None, grant: Grant) -> None:
        if not self.source.renews:
            self._warn(grant)
            return
        if not self._may_renew and self.source.obtains:
            self._obtain(exchange)
            return
        try:
            renewed = self.source.renew(exchange, grant)
        except AppMeshConnectionError as error:
            if not self.source.obtains:
                self._fail(error)
            raise  # no answer is no refusal: the token may be good
        except AppMeshIssuerError as error:
            self._fail(error)
            raise
        except AppMeshError as error:
            if not self.source.obtains:
                self._fail(error)
                raise
            self._watch.failed(error, first=True)
            self._may_renew = not isinstance(error, AppMeshDeniedError)
            self._obtain(exchange)
            return
        self._keep(renewed, "renew")

    def _warn(self, grant: Grant) -> None:
        self._renew_at = math.inf
        if not self._warned:
            self._warned = True
            self._watch.expires_soon(grant)

    def _drop(self, refused: str | None) -> None:
        """The daemon does not take the token."""
        now = self._clock()
        young = now - self._obtained_at < _YOUNG_SECONDS
        self._young_refusals = self._young_refusals + 1 if young else 1
        self._grant, self._refused = None, refused
        if self._young_refusals > _YOUNG_REFUSALS:
            error = AppMeshLoginError("the daemon refuses the token that was got just now", fault=LoginFault.TOKEN)
            self._fail(error, self._young_refusals - _YOUNG_REFUSALS)

    def _obtain(self, exchange: Exchange | None) -> None:
        if self._failure is not None and self._clock() < self._retry_at and not self.secrets_changed():
            raise _again(self._failure)
        self._looked_at = self._clock()
        try:
            grant = self.source.obtain(exchange, self._refused)
        except AppMeshConnectionError:
            raise
        except AppMeshError as error:
            self._fail(error)
            raise
        self._may_renew = True
        self._keep(grant, "login" if self.source.renews else "given")

    def _fail(self, error: AppMeshError, attempt: int | None = None) -> None:
        self._failures = self._failures + 1 if attempt is None else attempt
        self._watch.failed(error, first=self._failure is None)
        self._failure, self._failed_at = error, time.time()
        refused, silent = self._pauses
        passes = isinstance(error, AppMeshIssuerError | AppMeshConnectionError)
        if isinstance(error, AppMeshAuthError) and not self.source.obtains:
            self._retry_at = math.inf  # until its owner has another token
        else:
            seconds = (silent if passes else refused).delay(self._failures, self._chance())
            self._retry_at = self._clock() + seconds

    def _keep(self, grant: Grant, how: str | None = None) -> None:
        now = self._clock()
        self._grant, self._obtained_at, self._failure, self._failures = grant, now, None, 0
        if self.source.renews:
            after = self._renewals.after(grant.lifetime_seconds, self._chance())
        else:
            after = max(grant.lifetime_seconds * self._renewals.at, grant.lifetime_seconds - _WARN_SECONDS)
            after = max(after, self._renewals.least_seconds)
        self._renew_at, self._warned = now + after, False
        if how is not None:
            self._watch.refreshed(how, grant)


class _Over(TokenProvider):
    def __init__(self, keeper: TokenKeeper, exchange: Exchange) -> None:
        self._keeper = keeper
        self._exchange = exchange

    def get_access_token(self) -> str | None:
        return self._keeper.token(self._exchange)

    def refresh_access_token(self, rejected_token: str | None = None) -> str | None:
        return self._keeper.token(self._exchange, refused=rejected_token)

    @property
    def can_refresh(self) -> bool:
        return True

    def clear(self) -> None:
        self._keeper.clear()


class RenewalThread:
    """Attends a keeper from :meth:`start` to :meth:`stop`, on a thread of its own."""

    def __init__(self, keeper: TokenKeeper) -> None:
        self._keeper = keeper
        self._lock = threading.Lock()  # guards _thread
        self._wake = threading.Condition()  # guards _stopping and _changed
        self._stopping = False
        self._changed = False
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        return self._thread is not None

    def start(self) -> None:
        """Begins to attend; harmless when it has begun."""
        with self._lock:
            if self._thread is not None:
                return
            with self._wake:
                self._stopping = False
            self._thread = threading.Thread(target=self._run, name="appmesh-token-refresh", daemon=True)
            self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """Ends the thread, and waits for it and a renewal under way; without ``wait`` it is only asked to end."""
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
        """The keeper has another token, or none."""
        with self._wake:
            self._changed = True
            self._wake.notify_all()

    def _run(self) -> None:
        failing = False
        while not self._stopping:
            with self._wake:
                self._changed = False
            due_in = self._keeper.due_at - time.monotonic() if self._keeper.present else math.inf
            if not self._pause(due_in):
                continue
            try:
                self._keeper.attend()
            except AppMeshAuthError as error:
                logger.error("the token can no longer be renewed, log in again: %s", error)  # noqa: TRY400 no fault of ours
            except AppMeshError:
                failing = True  # the keeper's watch has heard of it
                if self._keeper.due_at <= time.monotonic():
                    self._pause(_LEAST_PAUSE_SECONDS)
            else:
                if failing and self._keeper.failure is None:
                    failing = False
                    logger.info("the token is renewed again")

    def _pause(self, seconds: float) -> bool:
        """Waits; False when the token has changed meanwhile, or the thread is to end."""
        with self._wake:
            limit = min(max(0.0, seconds), threading.TIMEOUT_MAX)
            return not self._wake.wait_for(lambda: self._stopping or self._changed, limit)


def _again(error: AppMeshError) -> AppMeshError:
    """The same refusal, as an error of its own, so that tracebacks don't pile up on one."""
    if isinstance(error, AppMeshLoginError):
        return AppMeshLoginError(
            error.message, fault=error.fault, hint=error.hint, status=error.status, operation=error.operation
        )
    kind = AppMeshIssuerError if isinstance(error, AppMeshIssuerError) else AppMeshError
    return kind(error.message, status=error.status, operation=error.operation)
