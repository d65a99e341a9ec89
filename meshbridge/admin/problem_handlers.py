"""Answers every error of an application as a problem."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from meshbridge.admin.problems import KIND_BY_STATUS, MEDIA_TYPE, Problem, ProblemKind, problem_content

__all__ = ["install", "problem_response"]


def problem_response(problem: Problem) -> JSONResponse:
    return JSONResponse(
        problem_content(problem), status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def install(application: FastAPI) -> None:
    """Has every error of an application answered so, the framework's own as well. (Its bugs: see ``middleware``.)"""

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
        kind = KIND_BY_STATUS.get(status, ProblemKind.BAD_REQUEST)
        return problem_response(
            Problem(
                status,
                str(error.detail),
                kind=kind,
                headers=error.headers,
            )
        )
