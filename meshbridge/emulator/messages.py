"""A request as an operation sees it, and what it answers, whatever the transport (docs/protocol.md, 'Messages')."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack
import orjson

from meshbridge.appmesh.tcp_messages import MessageError, RequestMessage

if TYPE_CHECKING:
    from meshbridge.emulator.accounts import Caller
    from meshbridge.emulator.connection import Connection

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"


def encode_json(value: object) -> bytes:
    """Compact JSON with its keys in alphabetical order, like every body of the daemon."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


@dataclass(slots=True)
class EmulatedAnswer:
    """What an operation answers. ``then`` runs once the answer is on its way (TCP file transfer)."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    then: Callable[[], Awaitable[None]] | None = None

    def packed(self, request: RequestMessage) -> bytes:
        """The msgpack body of a message; the answer's body is bin, whatever it holds (measured)."""
        packed: bytes = msgpack.packb(
            {
                "uuid": request.uuid,
                "request_uri": request.request_uri,
                "http_status": self.status,
                "body_msg_type": self.content_type,
                "body": self.body,
                "headers": self.headers,
            }
        )
        return packed


def read_request(data: bytes | bytearray) -> RequestMessage:
    """The request in a message. Missing fields are empty, unknown ones and bytes after the map are ignored.

    Raises:
        MessageError: it is none, or a map or the address is nil, or a value of a map is no text.

    """
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=len(data) + 1)
    unpacker.feed(data)
    try:
        fields = unpacker.unpack()
    except Exception as error:  # msgpack raises ValueError and types of its own
        raise MessageError(f"no msgpack: {error}") from error
    if not isinstance(fields, dict) or fields.get(b"client_addr", b"") is None:
        raise MessageError("no request")
    body = fields.get(b"body") or b""
    if not isinstance(body, bytes):
        raise MessageError("body is neither bytes nor text")
    return RequestMessage(
        uuid=_decoded(fields.get(b"uuid", b"")),
        request_uri=_decoded(fields.get(b"request_uri", b"")),
        http_method=_decoded(fields.get(b"http_method", b"")),
        body=body,
        headers=_text_map(fields.get(b"headers", {})),
        query=_text_map(fields.get(b"query", {})),
    )


def readable_uuid(data: bytes | bytearray) -> str:
    """``uuid`` of what is no request otherwise; empty where it cannot be read."""
    try:
        fields = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception:  # noqa: BLE001 msgpack raises ValueError and types of its own
        return ""
    uuid = fields.get("uuid") if isinstance(fields, dict) else None
    return uuid if isinstance(uuid, str) else ""


def _decoded(value: object) -> str:
    if not isinstance(value, bytes):
        raise MessageError(f"{type(value).__name__} instead of text")
    return value.decode("utf-8", "surrogateescape")


def _text_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise MessageError(f"{type(value).__name__} instead of a map")
    return {_decoded(name): _decoded(item) for name, item in value.items()}


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> EmulatedAnswer:
    return EmulatedAnswer(status, encode_json(value), JSON, dict(headers or {}))


def message_answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> EmulatedAnswer:
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
    caller: "Caller | None" = None
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
