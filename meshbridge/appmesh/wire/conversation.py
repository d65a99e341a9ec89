"""One connection's messages, without I/O: answers are paired with their requests by uuid, pushed events stand apart.

docs/protocol.md, 'Messages': answers may come in any order, and an event may arrive before the answer to the very
subscribe that caused it.
"""

import itertools
import os
from typing import Generic, TypeVar

from meshbridge.appmesh import paths
from meshbridge.appmesh.tcp_messages import MessageError, RequestMessage, ResponseMessage, unpack_message

__all__ = ["EVENT_URI", "Conversation", "MessageError", "may_be_followed"]

EVENT_URI = paths.EVENT
_EVENT_URI = EVENT_URI.encode()

_UNAVAILABLE = 503

Waiter = TypeVar("Waiter")


def may_be_followed(response: ResponseMessage) -> bool:
    """Whether a second answer to the same request may come.

    To a process that is no longer its app's, a daemon of 2.x answers a task's fetch or return with 503 and an empty
    body, and right after it with 412 and the reason.
    """
    return response.http_status == _UNAVAILABLE and not response.body and paths.is_task(response.request_uri)


class Conversation(Generic[Waiter]):
    """The client's side of a connection.

    ``Waiter`` is whatever the caller uses to wait for an answer. Not thread-safe: the owner holds a lock where
    several threads ask.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Waiter] = {}
        # A prefix of the connection and a counter: unique, and a hundred times cheaper than a random uuid each.
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    def ask(self, request: RequestMessage, waiter: Waiter) -> bytes:
        """Registers ``waiter`` under a fresh uuid, before anything is sent, and gives the bytes to send."""
        request.uuid = f"{self._prefix}-{next(self._numbers)}"
        self._waiting[request.uuid] = waiter
        return request.serialize()

    def forget(self, request: RequestMessage) -> None:
        """No caller waits for the answer any more; if it comes, it is unmatched."""
        self._waiting.pop(request.uuid, None)

    def take(self, response: ResponseMessage) -> Waiter | None:
        """The waiter for this answer; None where there is none (any more).

        After an answer that :func:`may_be_followed` they go on waiting, until :meth:`forget`.
        """
        if may_be_followed(response):
            return self._waiting.get(response.uuid)
        return self._waiting.pop(response.uuid, None)

    @property
    def is_awaited(self) -> bool:
        """Whether anyone waits for an answer; may be asked without a lock."""
        return bool(self._waiting)

    def any_waiter(self) -> Waiter | None:
        """One of those who wait, the first that asked; None where all have their answers."""
        return next(iter(self._waiting.values()), None)

    def abandon(self) -> list[Waiter]:
        """Everyone who still waits, once the connection is lost."""
        waiters = list(self._waiting.values())
        self._waiting.clear()
        return waiters

    @staticmethod
    def read(message: bytes | bytearray) -> bytes | ResponseMessage:
        """What a message from the daemon is: the JSON body of a pushed event, or an answer.

        Raises:
            MessageError: neither.

        """
        fields = unpack_message(message)
        if fields.get(b"request_uri") == _EVENT_URI:
            body = fields.get(b"body")
            if isinstance(body, bytes):
                return body
        return ResponseMessage.from_fields(fields)
