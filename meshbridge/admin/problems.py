"""Errors as ``application/problem+json`` (RFC 9457). Imports no web framework: see :mod:`meshbridge.admin.api`."""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from meshbridge.outside import masked
from meshbridge.web.asgi import ENCODED_SLASH

__all__ = [
    "KIND_BY_STATUS",
    "MEANINGS",
    "MEDIA_TYPE",
    "PROBLEM_SCHEMA",
    "SECURITY_HEADERS",
    "Problem",
    "ProblemKind",
    "problem_content",
]

MEDIA_TYPE = "application/problem+json"
SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""On every answer that does not set them itself."""


class ProblemKind(StrEnum):
    """What kind of problem: ``type`` is ``/problems/<kind>``, for ever. Each has its paragraph in docs/api.md."""

    BAD_REQUEST = "bad-request"
    BUSY = "busy"
    CONFLICT = "conflict"
    DAEMON_DENIED = "daemon-denied"
    DAEMON_FAILED = "daemon-failed"
    DAEMON_LOGIN = "daemon-login"
    DAEMON_REFUSED = "daemon-refused"
    DAEMON_TIMEOUT = "daemon-timeout"
    DAEMON_UNREACHABLE = "daemon-unreachable"
    INTERNAL = "internal"
    INVALID = "invalid"
    LENGTH_REQUIRED = "length-required"
    MASKED = "masked"
    METHOD = "method"
    NOT_FOUND = "not-found"
    NOT_KEPT = "not-kept"
    NOT_OFFERED = "not-offered"
    RATE_LIMIT = "rate-limit"
    SCOPE = "scope"
    TIMEOUT = "timeout"
    TOKEN = "token"  # noqa: S105 no secret
    TOO_LARGE = "too-large"
    UNKNOWN_DAEMON = "unknown-daemon"


MEANINGS = {
    ProblemKind.BAD_REQUEST: "What came is no HTTP, or no JSON. Look at what is between the caller and this bridge.",
    ProblemKind.BUSY: "Too much is under way: connections, event streams, or requests to that daemon; or the bridge "
    "is stopping. Try again later; `Retry-After` says when, where that is known.",
    ProblemKind.CONFLICT: "It is there already, or in a state that forbids this.",
    ProblemKind.DAEMON_DENIED: "The user as which the bridge logs in lacks the permission named in `permission`: give "
    "that user a role that has it.",
    ProblemKind.DAEMON_FAILED: "The daemon answered 5xx, or what cannot be read; `daemon_status` has its status.",
    ProblemKind.DAEMON_LOGIN: "The daemon does not let the bridge in. Nothing a caller could mend: see the log, "
    "and the daemon's login in its configuration.",
    ProblemKind.DAEMON_REFUSED: "The daemon does not do that, and says why in `detail`.",
    ProblemKind.DAEMON_TIMEOUT: "The daemon did not answer in time. Ask with a longer `timeout`, or see how it is.",
    ProblemKind.DAEMON_UNREACHABLE: "There is no connection to the daemon: see the state of its link in "
    "`/api/v1/bridge`.",
    ProblemKind.INTERNAL: "An error of the bridge's own. Its log says more: please report it.",
    ProblemKind.INVALID: "Something in the request makes no sense; `errors` or `where` says what.",
    ProblemKind.LENGTH_REQUIRED: "A file is sent with its `Content-Length`.",
    ProblemKind.MASKED: "The request holds a mask (`********`) that an answer had in place of a secret: give the "
    "secret itself, or leave it out.",
    ProblemKind.METHOD: "The path is right and the method is not; `Allow` has those that are.",
    ProblemKind.NOT_FOUND: "There is no such path, sink, replay, event, …; `allowed` has those that there are, where "
    "that is a short list.",
    ProblemKind.NOT_KEPT: "The daemon does not keep that output (any more).",
    ProblemKind.NOT_OFFERED: "The daemon does not know that operation: it is of another version.",
    ProblemKind.RATE_LIMIT: "Too many wrong tokens came from that address. A right one is taken at any time.",
    ProblemKind.SCOPE: "The token lacks the scope that this takes; `allowed` has the scopes that would do.",
    ProblemKind.TIMEOUT: "The request did not come to its end in time.",
    ProblemKind.TOKEN: "No token, or none that is known here. `meshbridge token new` makes one, and the lines for "
    "`admin.tokens`.",
    ProblemKind.TOO_LARGE: "The body is larger than `admin.max_request_bytes` allows.",
    ProblemKind.UNKNOWN_DAEMON: "No daemon of the configuration has that name; `allowed` has those that there are.",
}
"""What each kind means, and what to do: for docs/api.md and for ``/problems/<kind>``."""

KIND_BY_STATUS = {  # of problems that name no kind, and of the framework's own errors
    HTTPStatus.BAD_REQUEST: ProblemKind.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED: ProblemKind.TOKEN,
    HTTPStatus.FORBIDDEN: ProblemKind.SCOPE,
    HTTPStatus.NOT_FOUND: ProblemKind.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: ProblemKind.METHOD,
    HTTPStatus.REQUEST_TIMEOUT: ProblemKind.TIMEOUT,
    HTTPStatus.CONFLICT: ProblemKind.CONFLICT,
    HTTPStatus.LENGTH_REQUIRED: ProblemKind.LENGTH_REQUIRED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ProblemKind.TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY: ProblemKind.INVALID,
    HTTPStatus.TOO_MANY_REQUESTS: ProblemKind.RATE_LIMIT,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: ProblemKind.BAD_REQUEST,
    HTTPStatus.INTERNAL_SERVER_ERROR: ProblemKind.INTERNAL,
    HTTPStatus.NOT_IMPLEMENTED: ProblemKind.BAD_REQUEST,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: ProblemKind.BAD_REQUEST,
    HTTPStatus.SERVICE_UNAVAILABLE: ProblemKind.BUSY,
}


class Problem(Exception):  # noqa: N818 RFC 9457's word
    """What is wrong with a request, or stands in its way. ``extra`` members go beside the RFC's own."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        kind: ProblemKind | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = KIND_BY_STATUS[status] if kind is None else kind
        self.headers = headers
        self.extra = extra


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "what went wrong (RFC 9457), and beside its own members what helps to mend it",
    "required": ["type", "title", "status", "detail", "kind"],
    "properties": {
        "type": {"type": "string", "enum": [f"/problems/{kind}" for kind in ProblemKind]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what was wrong, for a person"},
        "kind": {"type": "string", "enum": list(ProblemKind), "description": "the last part of type"},
        "where": {"description": "the part of the request that it is about"},
        "found": {"description": "what stood there, unless it may be secret"},
        "allowed": {"description": "what could stand there"},
        "errors": {"description": "each thing that is wrong", "type": "array"},
        "daemon": {"description": "the daemon that was asked"},
    },
    "additionalProperties": True,
}


def _plain(value: Any) -> Any:
    """A text that stood in a path as the caller wrote it, where it may hold an encoded slash."""
    return value.replace(ENCODED_SLASH, "%2F") if isinstance(value, str) else value


def problem_content(problem: Problem) -> dict[str, Any]:
    """The members of its JSON."""
    return {
        "type": f"/problems/{problem.kind}",
        "title": problem.status.phrase,
        "status": int(problem.status),
        "detail": masked(problem.detail),
        "kind": problem.kind,
        **{name: _plain(value) for name, value in problem.extra.items()},
    }
