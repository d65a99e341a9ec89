"""The errors of the SDK.

* :class:`AppMeshError`

  * :class:`AppMeshAuthError`: the daemon does not know who asks, or does not let them

    * :class:`AppMeshTokenError`: the daemon refuses the token
    * :class:`OAuthError`: an issuer refuses what it is asked for
    * :class:`AppMeshLoginError`: there is no token to be had with these credentials
    * :class:`AppMeshDeniedError`: a permission is missing, or the user is not known

  * :class:`AppMeshRequestError`: the daemon answered, with an error

    * :class:`AppMeshDeniedError`
    * :class:`AppMeshNotOfferedError`: this generation of daemon has no such operation
    * :class:`AppMeshUnsafeError`: it would harm the daemon, so it was not asked

  * :class:`AppMeshConnectionError`: no answer, because there is no connection

    * :class:`AppMeshTimeoutError`: no answer in time, on a connection that may be fine

  * :class:`AppMeshProcessSupersededError`, :class:`AppMeshWorkerRejectedError`, :class:`AppMeshAppRemovedError`: a
    worker is to end
  * :class:`AppMeshIssuerError`: the issuer of tokens gives no usable answer; the daemon may be fine

Each keeps what is known: ``status`` (HTTP status of the answer, None where there was none) and ``operation``
(method and path); what caused it is its ``__cause__``. :meth:`AppMeshError.describe` puts them together.
"""

import re
from enum import StrEnum

__all__ = [
    "AppMeshAppRemovedError",
    "AppMeshAuthError",
    "AppMeshConnectionError",
    "AppMeshDeniedError",
    "AppMeshError",
    "AppMeshIssuerError",
    "AppMeshLoginError",
    "AppMeshNotOfferedError",
    "AppMeshProcessSupersededError",
    "AppMeshRequestError",
    "AppMeshTimeoutError",
    "AppMeshTokenError",
    "AppMeshUnsafeError",
    "AppMeshWorkerRejectedError",
    "LoginFault",
    "OAuthError",
]

_PERMISSION = re.compile(r"lacks required permission '?([^'\s]+)'?")


class AppMeshError(Exception):
    """Root of all errors of this SDK."""

    def __init__(self, message: str = "", *, status: int | None = None, operation: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.operation = operation

    def describe(self) -> str:
        """The message with what was asked and the status of the answer, where it does not name them itself."""
        if self.status is None or self.operation is None or self.operation in self.message:
            return self.message
        return f"{self.operation}: {self.message} (status {self.status})"

    @property
    def status_code(self) -> int | None:
        """As :attr:`status`, by its name in the official client of 3.x."""
        return self.status


class AppMeshAuthError(AppMeshError):
    """Not logged in, a refused login, or a permission that is missing."""

    def __init__(
        self,
        message: str = "",
        status_code: int | None = None,
        *,
        status: int | None = None,
        operation: str | None = None,
    ) -> None:
        super().__init__(message, status=status_code if status is None else status, operation=operation)


class AppMeshTokenError(AppMeshAuthError):
    """The daemon refuses the token: it is expired, revoked, or not one of its own."""


class OAuthError(AppMeshAuthError):
    """An issuer of tokens refuses what it is asked for; ``error`` is its code (RFC 6749, 5.2; RFC 8628, 3.5)."""

    def __init__(
        self, message: str = "", *, error: str = "", status: int | None = None, operation: str | None = None
    ) -> None:
        super().__init__(message, status=status, operation=operation)
        self.error = error


class LoginFault(StrEnum):
    """Why a login is refused."""

    OTHER = "other"
    PASSWORD = "wrong password, or the user is locked"  # noqa: S105 a text
    USER = "no such user"
    CODE_MISSING = "the user has two-factor login"
    CODE = "wrong two-factor code"
    NO_LOGINS = "this daemon has no logins of its own (App Mesh 3.x)"
    NO_ISSUER = "this daemon names no issuer of tokens (App Mesh 2.x)"
    ISSUER = "the issuer refuses the credentials"
    TOKEN = "the daemon refuses each new token"  # noqa: S105 a text


class AppMeshLoginError(AppMeshAuthError):
    """There is no token to be had with these credentials: ``fault`` says why, ``hint`` (if any) what to do."""

    def __init__(
        self,
        message: str = "",
        *,
        fault: LoginFault = LoginFault.OTHER,
        hint: str | None = None,
        status: int | None = None,
        operation: str | None = None,
    ) -> None:
        super().__init__(message, status=status, operation=operation)
        self.fault = fault
        self.hint = hint


class AppMeshRequestError(AppMeshError):
    """The daemon answered the request with an error."""


class AppMeshDeniedError(AppMeshAuthError, AppMeshRequestError):
    """A missing permission (400) or an unknown user at login (404).

    Daemons of 2.x tell both with a status that other failed requests have too (docs/protocol.md, 'Surprises'), and the
    official SDK reports a failed request. So it is both, and code written for either catches it.
    """

    @property
    def permission(self) -> str | None:
        """The permission that is missing, as the daemon names it; None where it is something else."""
        found = _PERMISSION.search(self.message)
        return None if found is None else found[1]


class AppMeshNotOfferedError(AppMeshRequestError):
    """The daemon is of a generation that does not know the operation (docs/protocol.md, 'App Mesh 3.x')."""


class AppMeshUnsafeError(AppMeshRequestError):
    """The request would stop the daemon for good, so it was not sent; ``unsafe=True`` sends it."""


class AppMeshConnectionError(AppMeshError):
    """The connection could not be made, or was lost before the answer."""


class AppMeshTimeoutError(AppMeshConnectionError):
    """No answer in time; the connection itself may be healthy, so trying again is safe for a read."""


class AppMeshIssuerError(AppMeshError):
    """The issuer of tokens gives no usable answer, or cannot be reached; the daemon may be fine."""


class AppMeshAppRemovedError(AppMeshError):
    """The application of a worker was removed: there are no more tasks for it."""


class AppMeshProcessSupersededError(AppMeshError):
    """The daemon has started a newer process in the place of this worker's, which is to end."""


class AppMeshWorkerRejectedError(AppMeshError):
    """The daemon does not take this process for a worker, and will not the next time."""

    def __init__(
        self, message: str = "", status_code: int = 400, *, status: int | None = None, operation: str | None = None
    ) -> None:
        super().__init__(message, status=status_code if status is None else status, operation=operation)
