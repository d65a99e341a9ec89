"""The description of the API for programs (OpenAPI 3.1, ``/openapi.json``), made whole.

What each operation has in common with all others is added here, so that an area says only what is its own: the scope
that it needs, the refusals of authentication, errors as ``application/problem+json``.
"""

from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from meshbridge.admin.options import Scope
from meshbridge.admin.problems import MEDIA_TYPE, PROBLEM_SCHEMA

__all__ = ["describe"]

_SUMMARY = (
    "Every operation of the SDK at each App Mesh daemon, and the bridge itself: its sinks, its journal, its events.\n\n"
    "Each call needs `Authorization: Bearer TOKEN`. Errors are `application/problem+json`; their `type` is "
    "`/problems/<kind>`, where a browser finds what to do."
)
_TAGS = {
    "bridge": "The bridge itself: links, sinks, replays, dead letters, the journal.",
    "events": "Events as they come.",
    "daemons": "The daemons of the configuration.",
    "apps": "Apps: what is registered, what it does, what it writes.",
    "runs": "Commands and apps that are run once, and tasks.",
    "files": "Files of a daemon's host.",
    "configuration": "A daemon's configuration and labels.",
    "users": "Users, groups, roles, second factors (daemons of 2.x).",
    "principals": "Principals and their permissions (daemons of 3.x).",
    "host": "What a daemon says of its host and of itself.",
}
_ALWAYS = {
    HTTPStatus.UNAUTHORIZED: "no token, or one that is not known here",
    HTTPStatus.FORBIDDEN: "the token lacks the scope",
    HTTPStatus.TOO_MANY_REQUESTS: "too many wrong tokens from this address",
    HTTPStatus.INTERNAL_SERVER_ERROR: "an error of the bridge's own: its log says more",
    HTTPStatus.SERVICE_UNAVAILABLE: "too much is under way: try again later",
}
_WITH_BODY = {
    HTTPStatus.BAD_REQUEST: "the body cannot be read",
    HTTPStatus.REQUEST_TIMEOUT: "the body did not come to its end",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is larger than admin.max_request_bytes",
}
_INVALID = {HTTPStatus.UNPROCESSABLE_ENTITY: "the request says something that makes no sense"}
_HEADERS = {
    HTTPStatus.UNAUTHORIZED: "WWW-Authenticate",
    HTTPStatus.FORBIDDEN: "WWW-Authenticate",
    HTTPStatus.TOO_MANY_REQUESTS: "Retry-After",
    HTTPStatus.SERVICE_UNAVAILABLE: "Retry-After",
}


def describe(application: FastAPI) -> None:
    """Has an application describe itself so. To be called when all of its routes are there."""

    @cache
    def openapi() -> dict[str, Any]:
        described = get_openapi(
            title=application.title,
            version=application.version,
            description=_SUMMARY,
            routes=application.routes,
            tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        )
        schemas = described["components"]["schemas"]
        for of_the_framework in ("HTTPValidationError", "ValidationError"):
            schemas.pop(of_the_framework, None)
        schemas["Problem"] = PROBLEM_SCHEMA
        for methods in described["paths"].values():
            for operation in methods.values():
                _complete(operation)
        return described

    application.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to do this


def _complete(operation: dict[str, Any]) -> None:
    needed = [Scope(scope) for one in operation["security"] for scope in one["token"]]  # of its area, and its own
    operation["security"] = [{"token": [max(needed, key=list(Scope).index)]}]
    responses: dict[str, Any] = operation["responses"]
    refusals: dict[HTTPStatus, str] = dict(_ALWAYS)
    if "requestBody" in operation:
        refusals |= _WITH_BODY
    if "requestBody" in operation or operation.get("parameters"):
        refusals |= _INVALID
    for status, when in refusals.items():
        given = responses.get(str(int(status)))
        # FastAPI's own words for 422 say nothing.
        described = when if given is None or given["description"] == "Validation Error" else given["description"]
        responses[str(int(status))] = {"description": described}
    for number, answer in responses.items():
        if answer["description"] == "Successful Response":  # as FastAPI says where an area says nothing
            answer["description"] = "as requested"
        if int(number) >= HTTPStatus.BAD_REQUEST:
            answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            if header := _HEADERS.get(HTTPStatus(int(number))):
                answer["headers"] = {header: {"schema": {"type": "string"}}}
    operation["responses"] = dict(sorted(responses.items()))
