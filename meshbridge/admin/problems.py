"""Errors as ``application/problem+json`` (RFC 9457)."""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

__all__ = ["MEDIA_TYPE", "SECURITY_HEADERS", "Kind", "Problem", "install", "problem_content", "problem_response"]

MEDIA_TYPE = "application/problem+json"
SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""On every answer that does not set them itself."""


class Kind(StrEnum):
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


_BY_STATUS = {  # of problems that name no kind, and of the framework's own errors
    HTTPStatus.BAD_REQUEST: Kind.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED: Kind.TOKEN,
    HTTPStatus.FORBIDDEN: Kind.SCOPE,
    HTTPStatus.NOT_FOUND: Kind.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: Kind.METHOD,
    HTTPStatus.REQUEST_TIMEOUT: Kind.TIMEOUT,
    HTTPStatus.CONFLICT: Kind.CONFLICT,
    HTTPStatus.LENGTH_REQUIRED: Kind.LENGTH_REQUIRED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Kind.TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY: Kind.INVALID,
    HTTPStatus.TOO_MANY_REQUESTS: Kind.RATE_LIMIT,
    HTTPStatus.INTERNAL_SERVER_ERROR: Kind.INTERNAL,
    HTTPStatus.SERVICE_UNAVAILABLE: Kind.BUSY,
}


class Problem(Exception):  # noqa: N818 RFC 9457's word
    """What is wrong with a request, or stands in its way. ``extra`` members go beside the RFC's own."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        kind: Kind | str | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = _BY_STATUS[status] if kind is None else Kind(kind)
        self.headers = headers
        self.extra = extra


def problem_content(problem: Problem) -> dict[str, Any]:
    """The members of its JSON."""
    return {
        "type": f"/problems/{problem.kind}",
        "title": problem.status.phrase,
        "status": int(problem.status),
        "detail": problem.detail,
        "kind": problem.kind,
        **problem.extra,
    }


def problem_response(problem: Problem) -> JSONResponse:
    return JSONResponse(
        problem_content(problem), status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def install(application: FastAPI) -> None:
    """Has every error of an application answered so, the framework's own as well. (Its bugs: see ``door``.)"""

    @application.exception_handler(Problem)
    async def _problem(_request: Request, error: Problem) -> JSONResponse:
        return problem_response(error)

    @application.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        # Not the input itself: it may hold a secret.
        errors = [
            {"where": ".".join(str(part) for part in one["loc"]), "problem": one["msg"].removeprefix("Value error, ")}
            for one in error.errors()
        ]
        detail = "; ".join(f"{one['where']}: {one['problem']}" for one in errors)
        return problem_response(Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors))

    @application.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        return problem_response(
            Problem(status, str(error.detail), kind=_BY_STATUS.get(status, Kind.BAD_REQUEST), headers=error.headers)
        )
