"""What a daemon's refusal, or its silence, is to the caller of the API (docs/protocol.md, 'Surprises')."""

from http import HTTPStatus
from typing import Any

from meshbridge.admin.problems import Problem, ProblemKind
from meshbridge.appmesh import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshIssuerError,
    AppMeshNotOfferedError,
    AppMeshTimeoutError,
)

__all__ = ["answers", "answers_of", "not_kept", "problem_of"]

_SERVER_ERROR = 500
_CLIENT_ERROR = 400
_OF_THE_DAEMON = frozenset({400, 403, 404, 409, 412, 422})  # its statuses that mean to our callers what they mean to us
_BY_TYPE: tuple[tuple[type[AppMeshError], HTTPStatus, ProblemKind], ...] = (
    (AppMeshTimeoutError, HTTPStatus.GATEWAY_TIMEOUT, ProblemKind.DAEMON_TIMEOUT),
    (AppMeshConnectionError, HTTPStatus.BAD_GATEWAY, ProblemKind.DAEMON_UNREACHABLE),
    (AppMeshIssuerError, HTTPStatus.BAD_GATEWAY, ProblemKind.DAEMON_LOGIN),
    (AppMeshNotOfferedError, HTTPStatus.NOT_IMPLEMENTED, ProblemKind.NOT_OFFERED),
)


def problem_of(daemon: str, error: AppMeshError) -> Problem:
    """The problem that an error of the SDK is.

    =====================================  ==========================================
    the daemon                             the caller
    =====================================  ==========================================
    400 'Permission denied'                403, the permission beside it
    401, or refuses to log the bridge in   502: nothing the caller could mend
    406 'file not found'                   404
    417 without a word                     404, said in words
    403 'file already exist'               409
    400, 403, 404, 409, 412, 422           the same, in the daemon's words
    other 4xx                              400, in the daemon's words
    does not know the operation            501
    5xx, an answer that can't be read      502
    no connection; no answer in time       502; 504
    the issuer of its tokens is silent     502
    =====================================  ==========================================
    """
    said, status = error.message, error.status
    for of, answer, kind in _BY_TYPE:
        if isinstance(error, of):
            return Problem(answer, f"{daemon}: {said}", kind=kind, daemon=daemon)
    if isinstance(error, AppMeshDeniedError):
        return _denied(daemon, error)
    if isinstance(error, AppMeshAuthError) and status != HTTPStatus.FORBIDDEN:
        detail = f"{daemon} does not let this bridge in: {said}"
        return Problem(HTTPStatus.BAD_GATEWAY, detail, kind=ProblemKind.DAEMON_LOGIN, daemon=daemon)
    if status is None:
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, said, kind=ProblemKind.INVALID)  # the daemon was not even asked
    return not_kept(daemon) if status == HTTPStatus.EXPECTATION_FAILED else _refused(daemon, said, status)


def _refused(daemon: str, said: str, status: int) -> Problem:
    if _CLIENT_ERROR <= status < _SERVER_ERROR:
        return Problem(_meant(status, said), said, kind=ProblemKind.DAEMON_REFUSED, daemon=daemon, daemon_status=status)
    detail = f"{daemon} answered {status}: {said}"
    return Problem(HTTPStatus.BAD_GATEWAY, detail, kind=ProblemKind.DAEMON_FAILED, daemon=daemon, daemon_status=status)


def _denied(daemon: str, error: AppMeshDeniedError) -> Problem:
    extra: dict[str, Any] = {} if error.permission is None else {"permission": error.permission}
    return Problem(HTTPStatus.FORBIDDEN, error.message, kind=ProblemKind.DAEMON_DENIED, daemon=daemon, **extra)


def not_kept(daemon: str) -> Problem:
    """Of output that the daemon does not have (417, without a word)."""
    return Problem(
        HTTPStatus.NOT_FOUND,
        f"{daemon} does not keep that output: the position is past its end, or the process was replaced, or the index "
        "is older than what stdout_cache_num keeps",
        kind=ProblemKind.NOT_KEPT,
        daemon=daemon,
    )


def _meant(status: int, said: str) -> HTTPStatus:
    if status == HTTPStatus.NOT_ACCEPTABLE and said.startswith("file not found"):
        return HTTPStatus.NOT_FOUND
    if status == HTTPStatus.FORBIDDEN and said.startswith("file already exist"):
        return HTTPStatus.CONFLICT
    return HTTPStatus(status) if status in _OF_THE_DAEMON else HTTPStatus.BAD_REQUEST


_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_WHEN = {
    HTTPStatus.BAD_REQUEST: "the daemon does not take the request",
    HTTPStatus.UNAUTHORIZED: "no token, or one that is not known here",
    HTTPStatus.FORBIDDEN: "the token lacks the scope, or the user of this bridge a permission at the daemon",
    HTTPStatus.NOT_FOUND: "no such daemon here, no such thing at the daemon",
    HTTPStatus.REQUEST_TIMEOUT: "the body did not come to its end",
    HTTPStatus.CONFLICT: "there is one already",
    HTTPStatus.LENGTH_REQUIRED: "the body has no Content-Length",
    HTTPStatus.PRECONDITION_FAILED: "the daemon does not take the request as things are",
    HTTPStatus.UNPROCESSABLE_ENTITY: "the request says something that makes no sense",
    HTTPStatus.NOT_IMPLEMENTED: "the daemon is of a generation that does not offer the operation",
    HTTPStatus.BAD_GATEWAY: "the daemon cannot be reached, failed, or does not let this bridge in",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many requests to this daemon are under way",
    HTTPStatus.GATEWAY_TIMEOUT: "the daemon does not answer in time",
}
_OF_UPLOADS = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.LENGTH_REQUIRED})


def answers_of(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Those refusals of an operation, for the description of the API."""
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {int(status): {"description": _WHEN[status], "content": content} for status in statuses}


def answers() -> dict[int | str, dict[str, Any]]:
    """Every refusal that any operation at a daemon may end in."""
    return answers_of(*(_WHEN.keys() - _OF_UPLOADS))
