"""The HTTP side: paths, methods and errors, as a small ASGI application. No traceback ever goes to a client."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs

from meshbridge import telemetry
from meshbridge.exporter.collectors import Deadline
from meshbridge.exporter.handler import BadScrapeError, ScrapeAnswer, ScrapeHandler, time_allowed
from meshbridge.exporter.pages import landing_page, readiness
from meshbridge.exporter.sources import Sources
from meshbridge.exporter.webconfig import Users, WebConfig
from meshbridge.web.asgi import Message, Receive, Send, shown_path

__all__ = ["HEALTH_PATHS", "ExporterApplication"]

HEALTH_PATHS = ("/-/healthy", "/-/ready")

_Reply = tuple[int, ScrapeAnswer]

_PLAIN = ("content-type", "text/plain; charset=utf-8")
_POLICY = (
    ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("x-content-type-options", "nosniff"),
)
_SCRAPES = 16
"""Scrapes at once, which mostly wait. More than this many are a fault or an attack, and have to queue."""


class ExporterApplication:
    """Everything that may wait is done in threads, so that the loop can always answer ``/-/healthy``."""

    def __init__(self, handler: ScrapeHandler, sources: Sources) -> None:
        self._handler = handler
        self._sources = sources
        self._users = Users({})
        self._headers: tuple[tuple[str, str], ...] = ()
        self._passwords = ThreadPoolExecutor(1, thread_name_prefix="exporter-password")  # one guess at a time
        self._scrapes = ThreadPoolExecutor(_SCRAPES, thread_name_prefix="scrape")
        self._states = ThreadPoolExecutor(2, thread_name_prefix="exporter-state")

    async def __call__(self, scope: Message, _receive: Receive, send: Send) -> None:
        try:
            status, answer = await self._reply(scope)
        except Exception:  # noqa: BLE001 the client gets one line, the log the rest
            telemetry.exporter_bug(shown_path(scope))
            status, answer = _line(500, "internal error: see the log")
        headers = [*answer.headers, *self._headers, ("content-length", str(sum(map(len, answer.pieces))))]
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in headers],
            }
        )
        for piece in answer.pieces:  # `send` waits while the client is behind
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    def use(self, config: WebConfig) -> None:
        """The users to admit, and the headers to add, from the next request on."""
        self._users = Users(config.basic_auth_users)
        self._headers = config.headers

    def end_waits(self) -> None:
        """Has scrapes answer with what they have."""
        self._handler.close()

    def close(self) -> None:
        for pool in (self._passwords, self._scrapes, self._states):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _reply(self, scope: Message) -> _Reply:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._users and not await self._allowed(self._users, headers.get("authorization", "")):
            return _line(401, "unauthorized", ("www-authenticate", "Basic"))
        path = scope["path"]
        if path not in ("/metrics", "/", *HEALTH_PATHS):
            return _line(404, "not found: try /metrics")
        if scope["method"] not in ("GET", "HEAD"):
            return _line(405, "use GET", ("allow", "GET, HEAD"))
        if path == "/metrics":
            return await self._metrics(scope, headers)
        if path == "/-/healthy":
            return _line(200, "meshbridge is healthy.")
        page = self._ready if path == "/-/ready" else self._landing
        return await asyncio.get_running_loop().run_in_executor(self._states, page)

    async def _allowed(self, users: Users, authorization: str) -> bool:
        if not authorization:
            return False
        if users.known(authorization):
            return True
        return await asyncio.get_running_loop().run_in_executor(self._passwords, users.verify, authorization)

    async def _metrics(self, scope: Message, headers: dict[str, str]) -> _Reply:
        deadline = Deadline.after(time_allowed(headers.get("x-prometheus-scrape-timeout-seconds")))
        try:
            query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=100)
        except ValueError:
            return _line(400, "too many parameters")
        loop = asyncio.get_running_loop()
        try:
            return 200, await loop.run_in_executor(self._scrapes, self._handler.scrape, query, headers, deadline)
        except BadScrapeError as error:
            return _line(400, str(error))

    def _ready(self) -> _Reply:
        reasons = list(self._sources.ready())
        body = readiness(reasons, self._sources.links(), self._sources.sinks(), self._sources.journal())
        return 503 if reasons else 200, ScrapeAnswer((body,), (("content-type", "application/json"),))

    def _landing(self) -> _Reply:
        sources = self._sources
        page = landing_page(list(sources.ready()), sources.links(), sources.sinks(), sources.journal())
        return 200, ScrapeAnswer((page,), (("content-type", "text/html; charset=utf-8"), *_POLICY))


def _line(status: int, text: str, *headers: tuple[str, str]) -> _Reply:
    return status, ScrapeAnswer((f"{text}\n".encode("utf-8", "replace"),), (_PLAIN, *headers))
