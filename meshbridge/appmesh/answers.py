"""What an answer says: its JSON, its text, or the error that it means."""

from http import HTTPStatus
from typing import TypeVar

import orjson

from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshDeniedError, AppMeshError, AppMeshRequestError
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

__all__ = ["answer_error", "integer_header", "json_of", "path_part", "reason_of", "text_of"]

T = TypeVar("T")


def path_part(name: str) -> str:
    """``name`` as one part of a path.

    Raises:
        AppMeshRequestError: it cannot be one: empty, or with a slash, which would ask for something else.

    """
    if not name or "/" in name or name in {".", ".."}:
        raise AppMeshRequestError(f"{name!r} is no name")
    return name


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


def answer_error(request: RequestMessage, response: ResponseMessage) -> AppMeshError:
    """The error that an answer means (PROTOCOL.md, 'Surprises')."""
    status, reason = response.http_status, reason_of(response)
    kind: type[AppMeshError] = AppMeshRequestError
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        kind = AppMeshAuthError
    elif status == HTTPStatus.BAD_REQUEST and reason.startswith("Permission denied"):
        kind = AppMeshDeniedError
    return kind(reason, status=status, operation=f"{request.http_method} {request.request_uri}")


def integer_header(response: ResponseMessage, name: str) -> int | None:
    try:
        return int(response.headers[name])
    except (KeyError, ValueError):
        return None
