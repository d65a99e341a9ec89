"""What an answer says: its JSON, its text, what it says of the token, or the error that it means."""

from http import HTTPStatus
from typing import TypeVar

import orjson

from meshbridge.appmesh import paths
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshNotOfferedError,
    AppMeshRequestError,
)
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

__all__ = [
    "answer_error",
    "integer_header",
    "json_of",
    "knows_path",
    "may_refuse_token",
    "reason_of",
    "text_of",
    "token_is_refused",
]

T = TypeVar("T")


def json_of(response: ResponseMessage, kind: type[T]) -> T:
    """The JSON of an answer.

    Raises:
        AppMeshRequestError: it is none, or not a ``kind``.

    """
    try:
        value = orjson.loads(response.body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(response, f"no JSON ({error})") from error
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise _unreadable(response, f"{type(value).__name__} instead of {kind.__name__}")
    return value


def _unreadable(response: ResponseMessage, what: str) -> AppMeshRequestError:
    return AppMeshRequestError(
        f"the answer to {response.request_uri} is {what}", status=response.http_status, operation=response.request_uri
    )


def text_of(response: ResponseMessage) -> str:
    return response.body.decode("utf-8", "replace")


def reason_of(response: ResponseMessage, otherwise: str | None = None) -> str:
    """What the daemon says is wrong: its ``message``, or all of a body that is something else."""
    try:
        fields = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        fields = None
    message = fields.get("message") if isinstance(fields, dict) else None
    if isinstance(message, str) and message:
        return message
    if text := text_of(response).strip():
        return text[:1000]
    if otherwise is not None:
        return otherwise
    status = response.http_status
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else f"status {status}"


# --- tokens ----------------------------------------------------------------------------------------------------------

_NO_SUCH_USER = "user not found"
# What POST /appmesh/auth answers to a token that it does not take. 403 and 503 of 3.x say nothing against the token.
_TOKEN_REFUSALS = frozenset({400, 401, 404, 412, 500})


def may_refuse_token(status: int, reason: str) -> bool:
    """Whether the error may be about the token of the request, so that the daemon is to be asked about the token.

    Daemons of 2.x have many answers to a token that they don't take (docs/protocol.md, 'Authentication'): 401, but 400,
    412 and 500 to a text that is no token of theirs, and 404 once its user is gone. The same statuses have other
    reasons, too.
    """
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.INTERNAL_SERVER_ERROR}:
        return True
    if status == HTTPStatus.NOT_FOUND:
        return reason == _NO_SUCH_USER
    said = reason.lower()
    return status == HTTPStatus.BAD_REQUEST and ("token" in said or "authorization" in said)


def token_is_refused(request: RequestMessage, response: ResponseMessage) -> bool:
    """Whether the answer to ``request``, which only checks the token, says that the daemon does not take it."""
    return response.http_status in _TOKEN_REFUSALS and knows_path(request, response)


def knows_path(request: RequestMessage, response: ResponseMessage) -> bool:
    """Whether the daemon knows what was asked for: no, where the operation is of another generation."""
    status = response.http_status
    if status not in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return True
    reason = reason_of(response, "")
    if reason.startswith("Path not found") or "Route not found" in reason:
        return False
    return reason == _NO_SUCH_USER or not paths.is_fixed(request.request_uri)


# --- errors ----------------------------------------------------------------------------------------------------------


def answer_error(request: RequestMessage, response: ResponseMessage) -> AppMeshError:
    """The error that an answer means (docs/protocol.md, 'Surprises')."""
    status, reason = response.http_status, reason_of(response)
    operation = f"{request.http_method} {request.request_uri}"
    if not knows_path(request, response):
        return AppMeshNotOfferedError(f"{operation} is not offered by this daemon", status=status, operation=operation)
    kind: type[AppMeshError] = AppMeshRequestError
    if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN} and reason.startswith("Permission denied"):
        kind = AppMeshDeniedError
    elif status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        kind = AppMeshAuthError
    return kind(reason, status=status, operation=operation)


def integer_header(response: ResponseMessage, name: str) -> int | None:
    try:
        return int(response.headers[name])
    except (KeyError, ValueError):
        return None
