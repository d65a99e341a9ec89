"""What every call passes on its way in and out: the token, the bound on its body, security headers, the audit log."""

import asyncio
import re
import time
from http import HTTPStatus
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshbridge import telemetry
from meshbridge.admin import auth
from meshbridge.admin.audit import Audit, shown_query
from meshbridge.admin.auth import Authenticate, peer_of
from meshbridge.admin.problem_handlers import problem_response
from meshbridge.admin.problems import SECURITY_HEADERS, Problem
from meshbridge.web.asgi import shown_path

__all__ = ["ApiMiddleware", "install", "of_any_length"]

_CLOSED = ("/api/", "/-/")  # all else is static
_DAEMON = re.compile(r"/api/v1/daemons/([^/]{1,255})")
_LONGEST_PATH = 1024


class ApiMiddleware:
    """Wraps an application: authenticates a request before any of its body is read."""

    def __init__(self, app: ASGIApp, authenticate: Authenticate, audit: Audit, max_request_bytes: int) -> None:
        self._app = app
        self._authenticate = authenticate
        self._audit = audit
        self._max_request_bytes = max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, receive, send, self._max_request_bytes)
        began = time.monotonic()
        try:
            await self._pass(call)
        finally:
            if call.closed and call.status != HTTPStatus.TOO_MANY_REQUESTS:  # of those the metric tells how many
                self._audit.write(call.facts(time.monotonic() - began))

    async def _pass(self, call: "_Call") -> None:
        request = Request(call.scope)
        try:
            if call.closed:
                self._authenticate(request, auth.Scope.READ)
            await self._app(call.scope, call.receive, call.send)
        except Problem as problem:
            await problem_response(problem)(call.scope, call.receive, call.send)
        except asyncio.CancelledError:  # the listener ends
            if call.status is None:
                said = Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the bridge is stopping")
                await problem_response(said)(call.scope, call.receive, call.send)
            raise
        except Exception as error:  # noqa: BLE001 the caller gets one line, the log the rest
            telemetry.admin_bug(shown_path(call.scope), error)
            if call.status is None:  # else the connection is closed: half an answer must not look like a whole one
                said = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of this bridge's own: its log says more")
                await problem_response(said)(call.scope, call.receive, call.send)


class _Call:
    """One request and its answer, as they go through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_request_bytes: int) -> None:
        self.scope = scope
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self.state["body_limit"] = max_request_bytes
        self.closed = scope["path"].startswith(_CLOSED)
        self.status: int | None = None
        self._receive = receive
        self._send = send
        self._received = 0

    async def receive(self) -> Message:
        message = await self._receive()
        limit: int | None = self.state["body_limit"]
        if limit is not None and self.status is None and message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if max(self._received, self._announced()) > limit:
                # The framework hands this one on as it is.
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request's body has {limit} bytes at most")
        return message

    def _announced(self) -> int:
        for name, value in self.scope["headers"]:
            if name == b"content-length" and value.isdigit():
                return int(value)
        return 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            given = {name.lower() for name, _ in headers}
            headers += [header for header in SECURITY_HEADERS if header[0] not in given]
            message = {**message, "headers": headers}
        await self._send(message)

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the audit log has of it."""
        scope = self.scope
        daemon = _DAEMON.match(scope["path"])
        facts = {
            "who": self.state.get("caller"),
            "peer": peer_of(Request(scope)),
            "method": scope["method"],
            "path": shown_path(scope)[:_LONGEST_PATH],
            "query": shown_query(scope["query_string"]),
            "daemon": None if daemon is None else daemon[1],
            "scope": self.state.get("needed"),
            "status": None if self.status is None else int(self.status),
            "duration_seconds": round(seconds, 4),
        }
        return {name: value for name, value in facts.items() if value not in (None, {})}


def install(application: FastAPI, authenticate: Authenticate, audit: Audit, *, max_request_bytes: int) -> None:
    auth.install(application, authenticate)
    application.state.audit = audit
    application.add_middleware(
        ApiMiddleware, authenticate=authenticate, audit=audit, max_request_bytes=max_request_bytes
    )


def of_any_length() -> Any:
    """A dependency of an operation that reads its request's body as a stream."""

    async def lift(request: Request) -> None:
        request.state.body_limit = None

    return Depends(lift)
