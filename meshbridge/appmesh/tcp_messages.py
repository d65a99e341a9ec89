"""The two messages of the TCP and WSS transports, and their msgpack form (docs/protocol.md, 'Messages').

Every field is always sent. What comes in may be looser than the specification (a ``str`` body, a nil): both are taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import msgpack

_PLAIN_BYTES = 64 * 1024  # of a frame that may hold anything: it becomes some megabytes at most
_MAX_MAPS, _MAX_MAP_LENGTH = 16, 1024  # a message has three maps: itself, its headers, its query
_MAX_REASON_CHARACTERS = 100
_MAX_STATUS = 999

__all__ = ["MessageError", "RequestMessage", "ResponseMessage", "unpack_message"]


class MessageError(ValueError):
    """A frame's body is no message: not msgpack, no map, or a field of an impossible type."""


@dataclass(slots=True)
class RequestMessage:
    """A request: what an HTTP request would say, with a ``uuid`` that its answer repeats."""

    uuid: str = ""
    request_uri: str = ""
    http_method: str = ""
    client_addr: str = ""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)

    def serialize(self) -> bytes:
        """The msgpack body of a frame. Values of ``headers`` and ``query`` go out as strings."""
        return _pack(
            {
                "uuid": self.uuid,
                "request_uri": self.request_uri,
                "http_method": self.http_method,
                "client_addr": self.client_addr,
                "body": bytes(self.body),
                "headers": {key: str(value) for key, value in self.headers.items()},
                "query": {key: str(value) for key, value in self.query.items()} if self.query else {},
            }
        )

    @classmethod
    def from_bytes(cls, buf: bytes | bytearray | memoryview) -> Self:
        """The request in a frame's body.

        Raises:
            MessageError: ``buf`` is no request.

        """
        fields = unpack_message(buf)
        return cls(
            uuid=_loose_text(fields.get(b"uuid")),
            request_uri=_loose_text(fields.get(b"request_uri")),
            http_method=_loose_text(fields.get(b"http_method")),
            client_addr=_loose_text(fields.get(b"client_addr")),
            body=_bytes(fields, b"body"),
            headers=_text_map(fields, b"headers"),
            query=_text_map(fields, b"query"),
        )


@dataclass(slots=True)
class ResponseMessage:
    """An answer, or (with ``request_uri`` of ``/appmesh/event``) a pushed event."""

    uuid: str = ""
    request_uri: str = ""
    http_status: int = 0
    body_msg_type: str = ""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def serialize(self) -> bytes:
        """The msgpack body of a frame; text bodies as str, others as bin, like the daemon's own."""
        body: bytes | str = self.body
        if self.body_msg_type.startswith(("application/json", "text/")):
            try:
                body = self.body.decode()
            except UnicodeDecodeError:
                body = self.body
        return _pack(
            {
                "uuid": self.uuid,
                "request_uri": self.request_uri,
                "http_status": self.http_status,
                "body_msg_type": self.body_msg_type,
                "body": body,
                "headers": self.headers,
            }
        )

    @classmethod
    def from_bytes(cls, buf: bytes | bytearray | memoryview) -> Self:
        """The answer in a frame's body.

        Raises:
            MessageError: ``buf`` is no answer.

        """
        return cls.from_fields(unpack_message(buf))

    @classmethod
    def from_fields(cls, fields: Mapping[Any, Any]) -> Self:
        """The answer in a message that is unpacked already (:func:`unpack_message`).

        Raises:
            MessageError: it is no answer.

        """
        get = fields.get
        status = get(b"http_status") or 0
        if not isinstance(status, int) or not 0 <= status <= _MAX_STATUS:
            raise MessageError(f"http_status is not a status: {type(status).__name__} {str(status)[:20]}")
        return cls(
            _loose_text(get(b"uuid")),
            _loose_text(get(b"request_uri")),
            status,
            _loose_text(get(b"body_msg_type")),
            _bytes(fields, b"body"),
            _text_map(fields, b"headers"),
        )


def _pack(fields: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack_message(buf: bytes | bytearray | memoryview) -> dict[Any, Any]:
    """The top-level map of a message, its strings left as bytes: most are compared or passed on, never read.

    A message is a few maps of text (docs/protocol.md, 'Messages'), so arrays, extension types and keys that are no text
    are refused before they can cost anything: an extension type is hashed by value, which the sender can make collide.

    Raises:
        MessageError: ``buf`` holds no such map.

    """
    try:
        if len(buf) <= _PLAIN_BYTES:
            fields = msgpack.unpackb(buf, raw=True, strict_map_key=True, max_ext_len=0)
        else:
            fields = msgpack.unpackb(
                buf,
                raw=True,
                strict_map_key=True,
                max_ext_len=0,
                max_array_len=0,
                max_map_len=_MAX_MAP_LENGTH,
                object_hook=_Maps().take,
            )
    except Exception as error:  # msgpack raises ValueError, its own types and, for deep nesting, StackError
        reason = f"{type(error).__name__} {str(error)[:_MAX_REASON_CHARACTERS]}"
        raise MessageError(f"a frame of {len(buf)} bytes is not msgpack: {reason}") from error
    if not isinstance(fields, dict):
        raise MessageError(f"a frame of {len(buf)} bytes holds {type(fields).__name__}, not a map")
    return fields


class _Maps:
    """Counts the maps of one message: each takes 64 bytes and more of memory for one byte of the frame."""

    def __init__(self) -> None:
        self._left = _MAX_MAPS

    def take(self, fields: dict[Any, Any]) -> dict[Any, Any]:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {_MAX_MAPS} maps")
        return fields


def _bytes(fields: Mapping[Any, Any], name: bytes) -> bytes:
    value = fields.get(name)
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    raise MessageError(f"{name.decode()} is {type(value).__name__}, not bytes or text")


def _text_map(fields: Mapping[Any, Any], name: bytes) -> dict[str, str]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MessageError(f"{name.decode()} is {type(value).__name__}, not a map")
    return {_loose_text(key): _loose_text(item) for key, item in value.items()}


def _loose_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)
