"""One emulated daemon without its transports: what it holds, and how a request becomes an answer."""

import asyncio
import logging
import secrets

import orjson

from meshbridge.appmesh.tcp_messages import RequestMessage
from meshbridge.emulator.access import Access, Bearers, Logins
from meshbridge.emulator.accounts import Accounts, Caller
from meshbridge.emulator.applications import Applications
from meshbridge.emulator.configuration import Configuration
from meshbridge.emulator.connection import Connection
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.events import EventHub
from meshbridge.emulator.forwarding import Neighbours
from meshbridge.emulator.http_metrics import HttpMetrics
from meshbridge.emulator.identifiers import Identifiers
from meshbridge.emulator.issuer import AUTOMATION_CLIENT, DEFAULT_USERS, ISSUER, Issuer, subject_of
from meshbridge.emulator.messages import Call, EmulatedAnswer, message_answer
from meshbridge.emulator.metrics import Exposition
from meshbridge.emulator.operations import routes
from meshbridge.emulator.principals import ADMIN_ROLE, MAINTENANCE_ROLE, VIEWER_ROLE, Principals, principal_id
from meshbridge.emulator.routes import RouteMatch, Routes
from meshbridge.emulator.settings import EmulatorOptions
from meshbridge.emulator.store import AppStore
from meshbridge.emulator.tokens import Tokens

log = logging.getLogger(__name__)

METRICS_PATH = "/appmesh/metrics"
DISCOVERY_PATHS = frozenset({"/appmesh/auth/config", "/.well-known/oauth-protected-resource"})
METHODS = frozenset({"GET", "POST", "PUT", "DELETE"})


class Daemon:
    """Made and used in the event loop's thread only."""

    def __init__(
        self, options: EmulatorOptions, store: AppStore, environment: dict[str, str], *, earlier_start: int = 0
    ) -> None:
        """``earlier_start``: when a run without a directory of its own began, which this one must not repeat."""
        self.options = options
        self.store = store
        self.stopping = False
        self.start_time = store.new_start_time(earlier_start)
        self.identifiers = Identifiers()
        self.hub = EventHub(self.identifiers, options.record_limit if options.record else 0)
        self.dialect = options.dialect
        self.applications = Applications(self.hub, self.identifiers, store, options, environment)
        self.http_metrics = HttpMetrics()
        self.exposition = Exposition(self)
        self.neighbours = Neighbours()
        self.configuration = Configuration.load(store, options, self.dialect.version)
        self.logins = _logins(store, options)
        self.issuer: Issuer | None = None
        self.bearers: Bearers | None = None
        self.access: Access = self.logins
        if self.dialect.has_issuer:
            self.issuer = Issuer.load(store, options.issuer_token_seconds)
            self.access = self.bearers = _bearers(store, self.issuer, options.token_leeway_seconds)
        self._routes = Routes(routes(self.dialect))

    @property
    def accounts(self) -> Accounts:
        """Users and roles of 2.x."""
        return self.logins.accounts

    @property
    def tokens(self) -> Tokens:
        """Of 2.x."""
        return self.logins.tokens

    @property
    def principals(self) -> Principals:
        """Principals and roles of 3.x."""
        assert self.bearers is not None
        return self.bearers.principals

    def save_accounts(self) -> None:
        self.access.save(self.store)

    async def handle(self, request: RequestMessage, connection: Connection) -> EmulatedAnswer:
        """Carries out one request, from whichever transport. Never raises but when cancelled."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        refused = self._refused_before_routes(request, headers)
        if refused is not None:
            return refused
        path = request.request_uri
        if "x-target-host" in headers:
            return await self._forward(request, connection, headers)
        found = self._routes.find(request.http_method, path)
        label = found.route.label if found else "unmatched"
        if path == METRICS_PATH:
            return await self._carry_out(found, request, connection, headers)
        started = self.http_metrics.started(request.http_method, label)
        status: int | None = None
        try:
            answer = await self._carry_out(found, request, connection, headers)
            status = answer.status
            return answer
        finally:
            self.http_metrics.ended(request.http_method, label, status, started)

    async def _forward(
        self, request: RequestMessage, connection: Connection, headers: dict[str, str]
    ) -> EmulatedAnswer:
        """A daemon of 3.x looks at the token of what it hands on, as the target does once more."""
        if self.bearers is not None and request.request_uri not in DISCOVERY_PATHS:
            try:
                self.bearers.identify(Call(request, connection, headers))
            except RequestRefused as refused:
                return refused.answer
        return await self.neighbours.forward(headers["x-target-host"], request)

    def _refused_before_routes(self, request: RequestMessage, headers: dict[str, str]) -> EmulatedAnswer | None:
        """What every path answers alike: to methods that there are not, and to a browser of another origin."""
        method = request.http_method
        if method in {"OPTIONS", "HEAD"}:
            return EmulatedAnswer(200)
        if method not in METHODS:
            return EmulatedAnswer(405)
        origin = headers.get("origin")
        if method == "GET" or origin is None or "cookie" not in headers:
            return None
        allowed = origin in self.configuration.allowed_origins or origin.partition("://")[2] == headers.get("host")
        return None if allowed else message_answer(403, "CSRF validation failed: origin not allowed")

    async def _carry_out(
        self, found: RouteMatch | None, request: RequestMessage, connection: Connection, headers: dict[str, str]
    ) -> EmulatedAnswer:
        if found is None:
            return message_answer(404, f"Path not found {request.http_method}:{request.request_uri}")
        route = found.route
        call = Call(request, connection, headers, found.name)
        try:
            if route.permission is not None:
                self.authorize(call, route.permission)
            if found.ambiguous:
                return message_answer(400, "Failed to search data from regex expression")
            return await route.operation(self, call)
        except RequestRefused as refused:
            return refused.answer
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            # As the daemon: a body that cannot be read ends in its general handler.
            return message_answer(500, "Internal server error")
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 answered and told; one line: what a client sends must not fill the log
            log.error("operation failed: %s %s: %r", request.http_method, request.request_uri, error)  # noqa: TRY400 as above
            return message_answer(500, "Internal server error")

    def authorize(self, call: Call, permission: str) -> Caller:
        """Checks who asks, then that they have ``permission`` (empty: anyone known will do).

        Raises:
            RequestRefused: as the generation answers it.

        """
        if call.connection.workers_only:
            raise RequestRefused(401, "a WebSocket that was opened without a bearer token is for workers only")
        call.caller = self.access.identify(call)
        self.access.require(call.caller, permission)
        return call.caller

    def require(self, caller: Caller, permission: str) -> None:
        """Raises RequestRefused: the caller lacks it."""
        self.access.require(caller, permission)


def _logins(store: AppStore, options: EmulatorOptions) -> Logins:
    stored = store.read("security.json")
    accounts = Accounts.default() if stored is None else Accounts.load(stored)
    key = secrets.token_hex(32) if stored is None else stored["signing_key"]
    logins = Logins(accounts, Tokens(options.node_name, key, options.token_leeway_seconds))
    if stored is None:
        logins.save(store)
    return logins


def _bearers(store: AppStore, issuer: Issuer, leeway_seconds: int) -> Bearers:
    stored = store.read("authorization.json")
    bearers = Bearers(Principals.load(stored), issuer, leeway_seconds)
    if stored is None:
        roles = {AUTOMATION_CLIENT: MAINTENANCE_ROLE}
        roles |= zip(DEFAULT_USERS, (ADMIN_ROLE, VIEWER_ROLE), strict=False)
        for name, role in roles.items():
            bearers.principals.change(principal_id(ISSUER, subject_of(name)), {"roles": [role]})
        bearers.save(store)
    return bearers
