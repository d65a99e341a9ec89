"""The OpenID Connect issuer that comes with App Mesh 3.x (Dex): users, clients, grants and the tokens they give.

Its name is one address, and it is reached at others: every token and the discovery document have the name. What it
answers over HTTP is in :mod:`meshbridge.emulator.issuer_web`.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from meshbridge.emulator.accounts import User
from meshbridge.emulator.errors import NotInstalled
from meshbridge.emulator.store import AppStore

ISSUER = "http://127.0.0.1:6062/auth"
AUDIENCE = "appmesh-api"
PUBLIC_CLIENT = "appmesh-cli"
AUTOMATION_CLIENT, AUTOMATION_SECRET = "appmesh-automation", "automation-secret"
AUDIENCE_SCOPE = "audience:server:client_id:"
OFFLINE = "offline_access"
SCOPES = ("openid", "profile", "email", "groups", OFFLINE, f"{AUDIENCE_SCOPE}{AUDIENCE}")
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

DEFAULT_USERS = {
    "admin@appmesh.local": "admin123",
    "mesh@appmesh.local": "mesh123",
    "test@appmesh.local": "test123",
}
"""The first is the administrator, the second has the viewer's role, the third has none."""

ACCESS_SECONDS = 900
REFRESH_IDLE_SECONDS = REFRESH_SECONDS = 168 * 3600
REUSE_SECONDS = 300
"""How long the refresh token before the present one is still taken."""
DEVICE_SECONDS, DEVICE_INTERVAL_SECONDS = 300, 1
KEY_BITS = 2048
_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # without vowels, so that no code is a word

Json = dict[str, Any]


class GrantRefused(Exception):  # noqa: N818 an outcome
    """An error of RFC 6749, 5.2, or RFC 8628, 3.5."""

    def __init__(self, status: int, error: str, description: str = "") -> None:
        super().__init__(description or error)
        self.status = status
        self.body = {"error": error, **({"error_description": description} if description else {})}


@dataclass(slots=True)
class _Session:
    """A chain of refresh tokens."""

    email: str
    client: str
    scopes: list[str]
    created: float
    used: float
    token: str
    before: str = ""
    """The token before this one."""


@dataclass(slots=True)
class _Device:
    """A device flow; ``user`` once a person has decided, ``refused`` if against it."""

    user_code: str
    client: str
    scopes: list[str]
    expires: float
    polled: float = 0.0
    user: str = ""
    refused: bool = False


@dataclass(slots=True)
class Issuer:
    """Only the event loop's thread touches it, but for ``public_keys``, which never change."""

    users: dict[str, User]
    private_key: Any
    kid: str
    lifetime_seconds: int = ACCESS_SECONDS
    refreshes: bool = True
    """Whether it gives refresh tokens."""
    _sessions: dict[str, _Session] = field(default_factory=dict)
    _devices: dict[str, _Device] = field(default_factory=dict)

    @classmethod
    def load(cls, store: AppStore, lifetime_seconds: int) -> "Issuer":
        """As the last run of the daemon left it; a new one with the default users where there was none.

        Raises:
            NotInstalled: a library of the extra ``demo`` is missing.

        """
        try:
            from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 only the extra `demo` has it
            from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415 as above
        except ImportError as error:
            raise NotInstalled("cryptography") from error
        stored = store.read("issuer.json")
        if stored is None:
            users = {}
            for email, password in DEFAULT_USERS.items():
                users[email] = User(email.partition("@")[0], "", email)
                users[email].set_password(password)
            issuer = cls(users, rsa.generate_private_key(65537, KEY_BITS), secrets.token_hex(20), lifetime_seconds)
            issuer.save(store)
            return issuer
        key = serialization.load_pem_private_key(stored["key"].encode(), None)
        users = {email: User(**fields) for email, fields in stored["users"].items()}
        return cls(users, key, stored["kid"], lifetime_seconds)

    def save(self, store: AppStore) -> None:
        """Users and key; refresh tokens end with the run."""
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 only the extra `demo` has it
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        pem = self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        users = {email: asdict(user) for email, user in self.users.items()}
        store.write("issuer.json", {"key": pem, "kid": self.kid, "users": users})

    @property
    def public_keys(self) -> Mapping[str, Any]:
        return {self.kid: self.private_key.public_key()}

    def jwks(self) -> Json:
        numbers = self.private_key.public_key().public_numbers()
        parts = {"n": _base64url(numbers.n), "e": _base64url(numbers.e)}
        return {"keys": [{"use": "sig", "kty": "RSA", "kid": self.kid, "alg": "RS256", **parts}]}

    def set_password(self, email: str, password: str) -> None:
        """Adds a user, or gives one another password."""
        user = self.users.setdefault(email, User(email.partition("@")[0], "", email))
        user.set_password(password)

    # --- grants -------------------------------------------------------------------------------------------------------

    def password(self, client: str, form: Mapping[str, str]) -> Json:
        scopes = self._scopes(client, form, needs_openid=True)
        return self._tokens(self._logged_in(form), client, scopes)

    def client_credentials(self, client: str, form: Mapping[str, str]) -> Json:
        if client != AUTOMATION_CLIENT:
            raise GrantRefused(401, "unauthorized_client", "Client is public and can't use this grant.")
        scopes = self._scopes(client, form, needs_openid=False)
        return self._token_answer({"sub": subject_of(client)}, client, scopes)

    def refresh(self, client: str, form: Mapping[str, str]) -> Json:
        token, now = form.get("refresh_token", ""), time.time()
        session = self._sessions.get(token.partition(".")[0])
        reused = session is not None and session.before == token and now - session.used <= REUSE_SECONDS
        if session is None or (session.token != token and not reused):
            raise GrantRefused(400, "invalid_request", "Refresh token is invalid or has already been claimed.")
        if session.client != client:
            raise GrantRefused(400, "invalid_grant", "Refresh token has been claimed by another client.")
        if now - session.created > REFRESH_SECONDS or now - session.used > REFRESH_IDLE_SECONDS:
            raise GrantRefused(400, "invalid_request", "Refresh token expired.")
        if session.email not in self.users:
            raise GrantRefused(500, "invalid_request")
        if not reused:
            session.before, session.used = session.token, now
            session.token = f"{session.token.partition('.')[0]}.{secrets.token_urlsafe(24)}"
        answer = self._token_answer(_claims(self.users[session.email]), client, session.scopes)
        return {**answer, "refresh_token": session.token}

    def begin_device(self, client: str, form: Mapping[str, str]) -> Json:
        """RFC 8628, 3.2; :meth:`decide_device` is what the person does."""
        scopes = self._scopes(client, form, needs_openid=True)
        letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(8))
        device, code = secrets.token_urlsafe(24), f"{letters[:4]}-{letters[4:]}"
        self._devices[device] = _Device(code, client, scopes, time.time() + DEVICE_SECONDS)
        return {
            "device_code": device,
            "user_code": code,
            "verification_uri": f"{ISSUER}/device",
            "verification_uri_complete": f"{ISSUER}/device?user_code={code}",
            "expires_in": DEVICE_SECONDS,
            "interval": DEVICE_INTERVAL_SECONDS,
        }

    def decide_device(self, form: Mapping[str, str]) -> None:
        """A person at the issuer's page: name and password, or a refusal.

        Raises:
            GrantRefused: unknown code, wrong name or password.

        """
        code = form.get("user_code", "").upper()
        device = next((one for one in self._devices.values() if one.user_code == code), None)
        if device is None or device.expires < time.time():
            raise GrantRefused(400, "invalid_request", "Invalid or expired user code.")
        if form.get("approval") == "rejected":
            device.refused = True
        else:
            device.user = self._logged_in(form).email

    def device(self, client: str, form: Mapping[str, str]) -> Json:
        device, now = self._devices.get(form.get("device_code", "")), time.time()
        if device is None or device.client != client:
            raise GrantRefused(400, "invalid_request", "Invalid device code.")
        if device.expires < now:
            raise GrantRefused(400, "expired_token")
        if device.refused:
            raise GrantRefused(400, "access_denied")
        since, device.polled = now - device.polled, now
        if not device.user:
            raise GrantRefused(
                *((400, "slow_down") if since < DEVICE_INTERVAL_SECONDS / 2 else (401, "authorization_pending"))
            )
        del self._devices[form["device_code"]]
        return self._tokens(self.users[device.user], client, device.scopes)

    # --- tokens -------------------------------------------------------------------------------------------------------

    def access_token(self, claims: Mapping[str, Any], client: str, scopes: Iterable[str], expires_in: int) -> str:
        """A signed JWT; the client is part of the audience, as Dex has it."""
        import jwt  # noqa: PLC0415 only the extra `demo` has it

        now = int(time.time())
        audiences = [scope.removeprefix(AUDIENCE_SCOPE) for scope in scopes if scope.startswith(AUDIENCE_SCOPE)]
        said = {"iss": ISSUER, "iat": now, "exp": now + expires_in, "jti": secrets.token_hex(8), **claims}
        said["aud"] = [*audiences, client] if audiences else client
        return jwt.encode(said, self.private_key, "RS256", headers={"kid": self.kid})

    def _logged_in(self, form: Mapping[str, str]) -> User:
        user = self.users.get(form.get("username", ""))
        if user is None or not user.has_password(form.get("password", "")):
            raise GrantRefused(401, "access_denied", "Invalid username or password")
        return user

    def _scopes(self, client: str, form: Mapping[str, str], *, needs_openid: bool) -> list[str]:
        scopes = form.get("scope", "").split()
        unknown = [scope for scope in scopes if scope not in SCOPES and scope != AUDIENCE_SCOPE + client]
        if unknown:
            raise GrantRefused(400, "invalid_scope", f"Unrecognized scope(s) {unknown}")
        if needs_openid and "openid" not in scopes:
            raise GrantRefused(400, "invalid_request", "Missing required scope(s) ['openid'].")
        if not needs_openid and OFFLINE in scopes:
            raise GrantRefused(400, "invalid_scope", "client_credentials grant does not support offline_access scope.")
        return scopes

    def _tokens(self, user: User, client: str, scopes: list[str]) -> Json:
        answer = self._token_answer(_claims(user), client, scopes)
        if OFFLINE in scopes and self.refreshes:
            name, now = secrets.token_hex(12), time.time()
            refresh = f"{name}.{secrets.token_urlsafe(24)}"
            self._sessions[name] = _Session(user.email, client, scopes, now, now, refresh)
            answer["refresh_token"] = refresh
        return answer

    def _token_answer(self, claims: Mapping[str, Any], client: str, scopes: list[str]) -> Json:
        token = self.access_token(claims, client, scopes, self.lifetime_seconds)
        answer = {"access_token": token, "token_type": "bearer", "expires_in": max(1, self.lifetime_seconds - 1)}
        return {**answer, "id_token": token} if "openid" in scopes else answer


def subject_of(name: str) -> str:
    """``sub`` of a user or client: opaque, and always the same."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()[:21]).decode()


def _claims(user: User) -> Json:
    return {"sub": subject_of(user.email), "email": user.email, "email_verified": True, "name": user.name, "groups": []}


def _base64url(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
