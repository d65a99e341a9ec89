"""An issuer as the one that comes with App Mesh 3.x (Dex): its name is one address, and it is reached at another."""

import base64
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

import orjson

from tests.unit.appmesh.fakes import jwt
from tests.unit.appmesh.https_server import reply

ISSUER = "http://127.0.0.1:6062/auth"
SCOPES = ["openid", "profile", "email", "groups", "offline_access", "audience:server:client_id:appmesh-api"]


class Dex:
    """Answers below ``/auth``. The password grant wants HTTP Basic with an empty secret, and the name is an e-mail."""

    def __init__(self) -> None:
        self.password = "right"
        self.issuer = ISSUER
        self.token_issuer = ISSUER
        self.lifetime = 900
        self.basic_only = True
        self.pending = 1  # polls of a device flow until the person has decided
        self.device_ends: str | None = None
        self.forms: list[dict[str, str]] = []
        self.refresh = "r0"

    def __call__(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = handler.path.partition("?")[0]
        form = {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
        authorization = handler.headers.get("Authorization", "")
        if authorization.startswith("Basic "):
            form["basic"] = base64.b64decode(authorization[6:]).decode()
        if path == "/auth/.well-known/openid-configuration":
            names = ("authorization", "token", "device_authorization", "revocation")
            ends = {f"{name}_endpoint": f"{self.issuer}/{name}" for name in names}
            reply(handler, orjson.dumps({"issuer": self.issuer, **ends}))
            return
        self.forms.append(form | {"path": path})
        status, answer = self._answer(path, form)
        reply(handler, orjson.dumps(answer), status)

    def _answer(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:  # noqa: PLR0911, PLR0912, C901 one for each case
        if path == "/auth/device_authorization":
            device = {"device_code": "d1", "user_code": "ABCD", "verification_uri": f"{self.issuer}/device"}
            return 200, {**device, "interval": 0.01, "expires_in": 60}
        if path == "/auth/revocation":
            return 200, {}
        match form.get("grant_type"):
            case "password":
                if form.get("basic") != "appmesh-cli:":
                    return 401, {"error": "invalid_client"}
                if not self.basic_only and "client_id" not in form:
                    return 401, {"error": "invalid_client"}
                if (form["username"], form["password"]) != ("admin@appmesh.local", self.password):
                    return 401, {"error": "access_denied", "error_description": "Invalid username or password"}
                if "audience:server:client_id:appmesh-api" not in form.get("scope", ""):
                    return 400, {"error": "invalid_scope"}
                return 200, self._tokens("offline_access" in form["scope"])
            case "refresh_token":
                if form.get("refresh_token") != self.refresh or "client_id" not in form:
                    return 400, {"error": "invalid_grant"}
                return 200, self._tokens(refresh=True)
            case "client_credentials":
                if form.get("client_secret") != "hush" or "offline_access" in form.get("scope", ""):
                    return 400, {"error": "invalid_scope"}
                return 200, self._tokens(refresh=False)
            case "authorization_code":
                return 200, self._tokens(refresh=True) | {"id_token": "id"}
            case _:
                if self.pending:
                    self.pending -= 1
                    return 400, {"error": "authorization_pending"}
                return (400, {"error": self.device_ends}) if self.device_ends else (200, self._tokens(refresh=False))

    def _tokens(self, refresh: bool) -> dict[str, Any]:
        count = len(self.forms)
        token = jwt(time.time() + self.lifetime, iss=self.token_issuer, n=count)
        answer: dict[str, Any] = {"access_token": token, "expires_in": self.lifetime, "token_type": "bearer"}
        if refresh:
            self.refresh = f"r{count}"
            answer["refresh_token"] = self.refresh
        return answer
