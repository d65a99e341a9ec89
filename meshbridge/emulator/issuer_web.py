"""The issuer over HTTP, below ``/auth``: on a port of its own, and through the daemon's HTTPS port (the agent's)."""

import base64
import binascii
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from meshbridge.emulator.issuer import (
    AUTOMATION_CLIENT,
    AUTOMATION_SECRET,
    DEVICE_GRANT,
    ISSUER,
    PUBLIC_CLIENT,
    SCOPES,
    GrantRefused,
    Issuer,
)
from meshbridge.emulator.messages import JSON, encode_json

AUTH_PATH = urlsplit(ISSUER).path
TOKEN_PATH = f"{AUTH_PATH}/token"
HTML = "text/html; charset=utf-8"

_SECRETS = {PUBLIC_CLIENT: "", AUTOMATION_CLIENT: AUTOMATION_SECRET}
_PAGE = """<!DOCTYPE html>
<html lang="en"><title>App Mesh emulator: log in</title><p>{said}</p>
<form method="post"><input name="user_code" value="{code}">
<input name="username"><input name="password" type="password">
<button name="approval" value="approved">Log in</button><button name="approval" value="rejected">Refuse</button></form>
"""

Form = dict[str, str]


class IssuerApplication:
    """An ASGI application. Only the event loop's thread touches it, and the issuer."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

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
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query, form = (_form(text) for text in (scope["query_string"], body))
        status, kind, content = self._answer(scope["method"], scope["path"], headers, query | form)
        shown = [("content-type", kind), ("content-length", str(len(content))), ("cache-control", "no-store")]
        encoded = [(name.encode(), value.encode()) for name, value in shown]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, method: str, path: str, headers: dict[str, str], form: Form) -> tuple[int, str, bytes]:
        place = f"{method} {path.removeprefix(AUTH_PATH)}"
        if place in {"GET /device", "POST /device"}:
            return self._device_page(method, form)
        try:
            match place:
                case "GET /.well-known/openid-configuration":
                    found: dict[str, Any] = discovery()
                case "GET /keys":
                    found = self._issuer.jwks()
                case "POST /token":
                    found = self._grant(_client(headers, form), form)
                case "POST /device/code":
                    found = self._issuer.begin_device(_client(headers, form), form)
                case _:
                    return 404, JSON, encode_json({"error": "not found"})
        except GrantRefused as refused:
            return refused.status, JSON, encode_json(refused.body)
        return 200, JSON, encode_json(found)

    def _grant(self, client: str, form: Form) -> dict[str, Any]:
        grants = {
            "password": self._issuer.password,
            "refresh_token": self._issuer.refresh,
            "client_credentials": self._issuer.client_credentials,
            DEVICE_GRANT: self._issuer.device,
        }
        grant = grants.get(form.get("grant_type", ""))
        if grant is None:
            raise GrantRefused(400, "unsupported_grant_type")
        return grant(client, form)

    def _device_page(self, method: str, form: Form) -> tuple[int, str, bytes]:
        status, said = 200, "Log in to confirm this code."
        if method == "POST":
            try:
                self._issuer.decide_device(form)
                said = "Done: go back to your terminal."
            except GrantRefused as refused:
                status, said = refused.status, str(refused)
        return status, HTML, _PAGE.format(said=escape(said), code=escape(form.get("user_code", ""))).encode()


def discovery() -> dict[str, Any]:
    """Every address in it has the issuer's name, wherever it is asked for."""
    ends = {"authorization": "auth", "token": "token", "device_authorization": "device/code", "userinfo": "userinfo"}
    return {
        "issuer": ISSUER,
        **{f"{name}_endpoint": f"{ISSUER}/{path}" for name, path in ends.items()},
        "jwks_uri": f"{ISSUER}/keys",
        "grant_types_supported": ["client_credentials", "password", "refresh_token", DEVICE_GRANT],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code"],
        "scopes_supported": list(SCOPES),
        "subject_types_supported": ["public"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }


def _client(headers: dict[str, str], form: Form) -> str:
    """Who asks, by HTTP Basic or by the form; a public client has the empty secret.

    Raises:
        GrantRefused: it is none that the issuer knows, or the secret is wrong.

    """
    client, secret = form.get("client_id", ""), form.get("client_secret", "")
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme == "Basic":
        try:
            client, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise GrantRefused(400, "invalid_request", "client_id improperly encoded") from None
        client, secret = unquote_plus(client), unquote_plus(secret)
    if _SECRETS.get(client) != secret:
        raise GrantRefused(401, "invalid_client", "Invalid client credentials.")
    return client


def _form(text: bytes) -> Form:
    return dict(parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True))
