"""Errors as ``application/problem+json`` (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from meshbridge import telemetry

__all__ = ["Problem", "install", "problem_response"]

_MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 RFC 9457's word
    """What is wrong with a request, or stands in its way. ``extra`` members go beside the RFC's own."""

    def __init__(self, status: HTTPStatus, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.extra = extra


def problem_response(
    status: HTTPStatus, detail: str, headers: dict[str, str] | None = None, **extra: Any
) -> JSONResponse:
    content = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail, **extra}
    return JSONResponse(content, status_code=int(status), headers=headers, media_type=_MEDIA_TYPE)


def install(application: FastAPI) -> None:
    """Has every error of an application answered so, the framework's own as well."""

    @application.exception_handler(Problem)
    def _problem(_request: Request, error: Problem) -> JSONResponse:
        return problem_response(error.status, error.detail, **error.extra)

    @application.exception_handler(RequestValidationError)
    def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        # Not the input itself: it may hold a secret.
        errors = [
            {"where": ".".join(str(part) for part in one["loc"]), "problem": one["msg"].removeprefix("Value error, ")}
            for one in error.errors()
        ]
        detail = "; ".join(f"{one['where']}: {one['problem']}" for one in errors)
        return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)

    @application.exception_handler(HTTPException)
    def _http(_request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        return problem_response(status, str(error.detail), dict(error.headers or {}) or None)

    @application.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> JSONResponse:
        telemetry.log.error("admin API failed: please report it", path=request.url.path, exc_info=error)
        return problem_response(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of this bridge's own: its log says more")
