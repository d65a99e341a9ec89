"""The OpenID Connect issuer beside a daemon of 3.x: discovery, and a token endpoint with Keycloak's paths and answers.

It gives tokens to the daemon's own users, and to one confidential client, whose service account is a user, too.
"""

import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from meshbridge.emulator.accounts import Accounts, User
from meshbridge.emulator.errors import Refused
from meshbridge.emulator.messages import JSON, encode_json
from meshbridge.emulator.tokens import REFRESH_SECONDS, totp_codes_now

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon

REALM_PATH = "/realms/appmesh"
DISCOVERY_PATH = f"{REALM_PATH}/.well-known/openid-configuration"
TOKEN_PATH = f"{REALM_PATH}/protocol/openid-connect/token"

PUBLIC_CLIENT = "appmesh-cli"
CONFIDENTIAL_CLIENT, CLIENT_SECRET = "bridge", "bridge-secret"
SERVICE_ACCOUNT = f"service-account-{CONFIDENTIAL_CLIENT}"

Json = dict[str, Any]


class GrantRefused(Exception):  # noqa: N818 an outcome
    """An error of RFC 6749, 5.2."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.body = {"error": error, "error_description": description}


def add_service_account(accounts: Accounts) -> None:
    """The principal that the confidential client's own tokens name."""
    accounts.users.setdefault(SERVICE_ACCOUNT, User(SERVICE_ACCOUNT, "", group="user", roles=["view", "manage"]))


class IssuerApplication:
    """An ASGI application. Only the event loop's thread touches it, and what it shares with the daemon."""

    def __init__(self, daemon: "Daemon", lifetime_seconds: int) -> None:
        """``lifetime_seconds``: of access tokens."""
        self._daemon = daemon
        self._lifetime_seconds = lifetime_seconds

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, answer = self._answer(scope["method"], scope["path"], body)
        encoded = encode_json(answer)
        headers = [("content-type", JSON), ("content-length", str(len(encoded))), ("cache-control", "no-store")]
        shown = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": shown})
        await send({"type": "http.response.body", "body": encoded})

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Json]:
        if (method, path) == ("GET", DISCOVERY_PATH):
            return 200, self._discovery()
        if (method, path) != ("POST", TOKEN_PATH):
            return 404, {"error": "not found"}
        try:
            return 200, self._grant(dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)))
        except GrantRefused as refused:
            return refused.status, refused.body

    def _discovery(self) -> Json:
        issuer = self._daemon.tokens.issuer
        return {
            "grant_types_supported": ["client_credentials", "password", "refresh_token"],
            "issuer": issuer,
            "token_endpoint": issuer.removesuffix(REALM_PATH) + TOKEN_PATH,
        }

    def _grant(self, form: dict[str, str]) -> Json:
        client, secret = form.get("client_id"), form.get("client_secret", "")
        if client not in {PUBLIC_CLIENT, CONFIDENTIAL_CLIENT}:
            raise GrantRefused(401, "invalid_client", "Invalid client or Invalid client credentials")
        if client == CONFIDENTIAL_CLIENT and not secrets.compare_digest(secret.encode(), CLIENT_SECRET.encode()):
            raise GrantRefused(401, "unauthorized_client", "Invalid client or Invalid client credentials")
        match form.get("grant_type"):
            case "password":
                return self._tokens(self._user(form), refresh=True)
            case "refresh_token":
                name = self._spent(form.get("refresh_token", ""))
                user = self._daemon.accounts.users.get(name or "")
                if user is None or user.locked:
                    raise GrantRefused(400, "invalid_grant", "Token is not active")
                return self._tokens(user, refresh=True)
            case "client_credentials" if client == CONFIDENTIAL_CLIENT:
                return self._tokens(self._daemon.accounts.users[SERVICE_ACCOUNT], refresh=False)
            case "client_credentials":
                raise GrantRefused(401, "unauthorized_client", "Public client not allowed to retrieve service account")
            case _:
                raise GrantRefused(400, "unsupported_grant_type", "Unsupported grant_type")

    def _spent(self, refresh: str) -> str | None:
        try:
            return self._daemon.tokens.spend_refresh(refresh)
        except Refused:
            return None

    def _user(self, form: dict[str, str]) -> User:
        user = self._daemon.accounts.users.get(form.get("username", ""))
        if user is None or not user.has_password(form.get("password", "")):
            raise GrantRefused(401, "invalid_grant", "Invalid user credentials")
        if user.locked:
            raise GrantRefused(400, "invalid_grant", "Account disabled")
        if user.mfa_enabled and form.get("totp", "") not in totp_codes_now(user.mfa_key):
            raise GrantRefused(401, "invalid_grant", "Invalid user credentials")
        return user

    def _tokens(self, user: User, *, refresh: bool) -> Json:
        answer: Json = {
            "access_token": self._daemon.tokens.issue(user, self._lifetime_seconds).token,
            "expires_in": self._lifetime_seconds,
            "scope": "openid",
            "token_type": "Bearer",
        }
        if refresh:
            answer["refresh_token"] = self._daemon.tokens.issue_refresh(user)
            answer["refresh_expires_in"] = REFRESH_SECONDS
        return answer
