"""The errors of the SDK.

* :class:`AppMeshError`

  * :class:`AppMeshAuthError`: the daemon does not know who asks, or does not let them

    * :class:`AppMeshDeniedError`: the same, told with a status that says something else

  * :class:`AppMeshRequestError`: the daemon answered, with an error

    * :class:`AppMeshDeniedError`
    * :class:`AppMeshNotOfferedError`: this generation of daemon has no such operation

  * :class:`AppMeshConnectionError`: no answer, because there is no connection

    * :class:`AppMeshTimeoutError`: no answer in time, on a connection that may be fine

Each keeps what is known: ``status`` (HTTP status of the answer, None where there was none) and ``operation``
(``GET /appmesh/applications``); what caused it is its ``__cause__``.
"""

__all__ = [
    "AppMeshAuthError",
    "AppMeshConnectionError",
    "AppMeshDeniedError",
    "AppMeshError",
    "AppMeshNotOfferedError",
    "AppMeshRequestError",
    "AppMeshTimeoutError",
]


class AppMeshError(Exception):
    """Root of all errors of this SDK."""

    def __init__(self, message: str = "", *, status: int | None = None, operation: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.operation = operation


class AppMeshAuthError(AppMeshError):
    """Not logged in, a refused login, or a permission that is missing."""


class AppMeshRequestError(AppMeshError):
    """The daemon answered the request with an error."""


class AppMeshDeniedError(AppMeshAuthError, AppMeshRequestError):
    """A missing permission (400) or an unknown user at login (404).

    Daemons of 2.x tell both with a status that other failed requests have too (PROTOCOL.md, 'Surprises'), and the
    official SDK reports a failed request. So it is both, and code written for either catches it.
    """


class AppMeshNotOfferedError(AppMeshRequestError):
    """The daemon is of a generation that does not know the operation (PROTOCOL.md, 'Two generations')."""


class AppMeshConnectionError(AppMeshError):
    """The connection could not be made, or was lost before the answer."""


class AppMeshTimeoutError(AppMeshConnectionError):
    """No answer in time; the connection itself may be healthy, so trying again is safe for a read."""
