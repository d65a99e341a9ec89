"""A request as an operation sees it, and what it answers, whatever the transport (PROTOCOL.md, 'Messages')."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage

if TYPE_CHECKING:
    from meshbridge.emulator.accounts import User
    from meshbridge.emulator.connection import Connection

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


def encode_json(value: object) -> bytes:
    """Compact JSON with its keys in alphabetical order, like every body of the daemon."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


@dataclass(slots=True)
class Answer:
    """What an operation answers. ``then`` runs once the answer is on its way (TCP file transfer)."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    then: Callable[[], Awaitable[None]] | None = None

    def to_message(self, request: RequestMessage) -> ResponseMessage:
        return ResponseMessage(
            uuid=request.uuid,
            request_uri=request.request_uri,
            http_status=self.status,
            body_msg_type=self.content_type,
            body=self.body,
            headers=self.headers,
        )


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, encode_json(value), JSON, dict(headers or {}))


def message_answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    return json_answer({"message": message}, status, headers)


@dataclass(slots=True)
class Call:
    """One request on its way through the daemon."""

    request: RequestMessage
    connection: "Connection"
    headers: dict[str, str]
    """With names in lower case: clients differ in how they write them."""
    name: str = ""
    """The ``{…}`` part of the path: an app, a user, a role, a label."""
    caller: "User | None" = None
    """Who asks; None where the operation needs no token."""
    token: str = ""

    def header(self, name: str, default: str = "") -> str:
        return self.headers.get(name.lower(), default)

    def query(self, name: str, default: str = "") -> str:
        return self.request.query.get(name, default)

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            orjson.JSONDecodeError: it is none; the daemon answers that with 500.

        """
        return orjson.loads(self.request.body)
