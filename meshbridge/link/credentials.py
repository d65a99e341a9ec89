"""The token of one daemon, which both of its connections use."""

import threading
import time

from meshbridge import telemetry
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshError
from meshbridge.appmesh.exchange import Exchange
from meshbridge.link import operations
from meshbridge.link.operations import LoginRefusedError, Token
from meshbridge.link.options import DaemonOptions

__all__ = ["Credentials"]

_RENEW_AT = 0.6  # of the lifetime
_TIMEOUT_SECONDS = 10.0


class Credentials:
    """Logs in, renews, and gives the token. Any thread may ask; one logs in at a time."""

    def __init__(self, daemon: str, options: DaemonOptions) -> None:
        self._daemon = daemon
        self._options = options
        self._lock = threading.RLock()  # guards what follows, and makes the second who finds it refused wait
        self._token: Token | None = None
        self._obtained = 0.0  # monotonic seconds

    @property
    def expires_at(self) -> float | None:
        """Unix seconds by the daemon's clock."""
        token = self._token
        return None if token is None else token.expires_at

    @property
    def renew_at(self) -> float:
        """Monotonic seconds, at 60 % of the lifetime; in the past where there is no token."""
        token = self._token
        return 0.0 if token is None else self._obtained + token.lifetime_seconds * _RENEW_AT

    def token(self, exchange: Exchange, *, refused: str | None = None) -> str:
        """The token; logs in where there is none, or where it is the one that was ``refused``.

        Raises:
            LoginRefusedError: the daemon does not take name and password, or the password's file can't be read.
            AppMeshError: the daemon gave no usable answer.

        """
        with self._lock:
            if self._token is None or self._token.value == refused:
                self._log_in(exchange)
            assert self._token is not None
            return self._token.value

    def renew(self, exchange: Exchange) -> None:
        """Renews the token, or logs in again where that is refused.

        Raises:
            AppMeshError: neither worked.

        """
        with self._lock:
            if self._token is None:
                return self._log_in(exchange)
            try:
                renewed = operations.renew(exchange, self._token.value, self._options.token_expire, _TIMEOUT_SECONDS)
            except AppMeshConnectionError:
                raise  # no answer is no refusal: the token may be good
            except AppMeshError as error:
                telemetry.token_refresh_failed(self._daemon, str(error))
                return self._log_in(exchange)
            return self._keep(renewed, "renew")

    def _log_in(self, exchange: Exchange) -> None:
        options = self._options
        try:
            password = options.secret("password") or ""
        except OSError as error:
            raise LoginRefusedError(f"cannot read password_file: {error}") from error
        try:
            token = operations.login(exchange, options.username or "", password, options.token_expire, _TIMEOUT_SECONDS)
        except LoginRefusedError as error:
            telemetry.token_refresh_failed(self._daemon, str(error))
            raise
        self._keep(token, "login")

    def _keep(self, token: Token, how: str) -> None:
        self._token, self._obtained = token, time.monotonic()
        telemetry.token_refreshed(self._daemon, how, token.expires_at)
