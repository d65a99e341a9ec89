"""One emulated daemon without its transports: what it holds, and how a request becomes an answer."""

import asyncio
import logging
import secrets
from typing import Any

import orjson

from meshbridge.appmesh.tcp_messages import RequestMessage
from meshbridge.emulator import jwt_reading
from meshbridge.emulator.accounts import Accounts, User
from meshbridge.emulator.applications import Applications
from meshbridge.emulator.configuration import Configuration
from meshbridge.emulator.connection import Connection
from meshbridge.emulator.errors import Refused
from meshbridge.emulator.events import EventHub
from meshbridge.emulator.forwarding import Neighbours
from meshbridge.emulator.http_metrics import HttpMetrics
from meshbridge.emulator.identifiers import Identifiers
from meshbridge.emulator.issuer import add_service_account
from meshbridge.emulator.messages import Answer, Call, message_answer
from meshbridge.emulator.metrics import Exposition
from meshbridge.emulator.operations import ROUTES
from meshbridge.emulator.routes import Found, Routes
from meshbridge.emulator.settings import EmulatorOptions
from meshbridge.emulator.store import Store
from meshbridge.emulator.tokens import Tokens

log = logging.getLogger(__name__)

VERSIONS = {2: "appmesh_2.2.1", 3: "appmesh_3.0.14"}
METRICS_PATH = "/appmesh/metrics"
METHODS = frozenset({"GET", "POST", "PUT", "DELETE"})


class Daemon:
    """Made and used in the event loop's thread only."""

    def __init__(
        self, options: EmulatorOptions, store: Store, environment: dict[str, str], *, earlier_start: int = 0
    ) -> None:
        """``earlier_start``: when a run without a directory of its own began, which this one must not repeat."""
        self.options = options
        self.store = store
        self.stopping = False
        self.start_time = store.new_start_time(earlier_start)
        self.identifiers = Identifiers()
        self.hub = EventHub(self.identifiers, options.record_limit if options.record else 0)
        self.applications = Applications(self.hub, self.identifiers, store, options, environment)
        self.http_metrics = HttpMetrics()
        self.exposition = Exposition(self)
        self.neighbours = Neighbours()
        self.configuration = Configuration.load(store, options, VERSIONS[options.generation])
        self.accounts, signing_key = _security(store)
        self.tokens = Tokens(options.node_name, signing_key, options.token_leeway_seconds)
        if options.generation == 3:  # noqa: PLR2004 of the daemon
            add_service_account(self.accounts)
        self._routes = Routes(ROUTES[options.generation])

    def save_accounts(self) -> None:
        self.store.write("security.json", {**self.accounts.dump(), "signing_key": self.tokens.keys[0]})

    async def handle(self, request: RequestMessage, connection: Connection) -> Answer:
        """Carries out one request, from whichever transport. Never raises but when cancelled."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        refused = self._refused_before_routes(request, headers)
        if refused is not None:
            return refused
        if "x-target-host" in headers:
            return await self.neighbours.forward(headers["x-target-host"], request)
        path = request.request_uri
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

    def _refused_before_routes(self, request: RequestMessage, headers: dict[str, str]) -> Answer | None:
        """What every path answers alike: to methods that there are not, and to a browser of another origin."""
        method = request.http_method
        if method in {"OPTIONS", "HEAD"}:
            return Answer(200)
        if method not in METHODS:
            return Answer(405)
        origin = headers.get("origin")
        if method == "GET" or origin is None or "cookie" not in headers:
            return None
        allowed = origin in self.configuration.allowed_origins or origin.partition("://")[2] == headers.get("host")
        return None if allowed else message_answer(403, "CSRF validation failed: origin not allowed")

    async def _carry_out(
        self, found: Found | None, request: RequestMessage, connection: Connection, headers: dict[str, str]
    ) -> Answer:
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
        except Refused as refused:
            return refused.answer
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            # As the daemon: a body that cannot be read ends in its general handler.
            return message_answer(500, "Internal server error")
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 answered and told; one line: what a client sends must not fill the log
            log.error("operation failed: %s %s: %r", request.http_method, request.request_uri, error)  # noqa: TRY400 as above
            return message_answer(500, "Internal server error")

    def authorize(self, call: Call, permission: str) -> User:
        """Checks the token, then that its user has ``permission`` (empty: any user will do).

        Raises:
            Refused: 400, 401, 404, 412 or 500 for the token, 400 (not 403) for a missing permission.

        """
        user, _claims = self.authenticate(call)
        self.require(user, permission)
        return user

    def authenticate(self, call: Call) -> tuple[User, dict[str, Any]]:
        """Who asks, by the token that came along; as :meth:`authorize` raises."""
        user, _claims = self.named_by(call)
        claims = self.tokens.check(call.token)
        call.caller = user
        return user, claims

    def named_by(self, call: Call) -> tuple[User, dict[str, Any]]:
        """The user in the token of a request, and all its claims; signature and end are not looked at.

        Raises:
            Refused: there is no token, the text is none, or there is no such user.

        """
        call.token = bearer(call)
        return self.named_in(call.token)

    def named_in(self, token: str) -> tuple[User, dict[str, Any]]:
        """As :meth:`named_by`, of a token."""
        _header, claims = jwt_reading.read(token)
        name = claims.get("sub")
        if name is None:
            raise Refused(401, "No user info in token")
        if not isinstance(name, str):
            raise Refused(500, "Internal server error")
        user = self.accounts.users.get(name)
        if user is None:
            raise Refused(404, "user not found")
        return user, claims

    def require(self, user: User, permission: str) -> None:
        if permission and permission not in self.accounts.permissions(user):
            raise Refused(400, f"Permission denied: user '{user.name}' lacks required permission '{permission}'")


def bearer(call: Call) -> str:
    """The token of a request: bare, or after ``Bearer`` in this case.

    Raises:
        Refused: 401, there is no such header.

    """
    if "authorization" not in call.headers:
        raise Refused(401, "No authentication token provided")
    return call.header("Authorization").removeprefix("Bearer ").strip()


def _security(store: Store) -> tuple[Accounts, str]:
    stored = store.read("security.json")
    if stored is not None:
        return Accounts.load(stored), stored["signing_key"]
    accounts, key = Accounts.default(), secrets.token_hex(32)
    store.write("security.json", {**accounts.dump(), "signing_key": key})
    return accounts, key
