"""Who asks, and what they may do: by the daemon's own logins (2.x), or by the tokens of an issuer (3.x)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from meshbridge.emulator import accounts, jwt_reading, principals
from meshbridge.emulator.accounts import Accounts, Caller, Roles, User
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.issuer import AUDIENCE, ISSUER, Issuer
from meshbridge.emulator.principals import ACTIVE, Principal, Principals
from meshbridge.emulator.tokens import Tokens

if TYPE_CHECKING:
    from meshbridge.emulator.application import Application
    from meshbridge.emulator.messages import Call
    from meshbridge.emulator.store import AppStore

MOST_TOKEN_BYTES = 8 * 1024
_SCHEME = "Bearer "


class Access(Protocol):
    """What every operation needs to know of its caller."""

    @property
    def permissions(self) -> Sequence[str]:
        """All that there are."""

    @property
    def roles(self) -> Roles: ...

    def identify(self, call: "Call") -> Caller:
        """Who asks.

        Raises:
            RequestRefused: the daemon does not know the caller.

        """

    def require(self, caller: Caller, permission: str) -> None:
        """Raises RequestRefused: the caller lacks it."""

    def require_app(self, caller: Caller, app: "Application", *, write: bool) -> None:
        """Raises RequestRefused: the app's own ``permission`` does not let the caller."""

    def may_list(self, caller: Caller, app: "Application") -> bool:
        """Whether the list of apps has it for the caller."""

    def display_name(self, owner: str) -> str:
        """The owner of an app, as people know them; may be empty."""

    def save(self, store: "AppStore") -> None:
        """Keeps it for the next run of the daemon."""


class Logins:
    """Users of the daemon's own, who log in at the daemon (2.x)."""

    permissions = accounts.PERMISSIONS

    def __init__(self, users: Accounts, tokens: Tokens) -> None:
        self.accounts = users
        self.tokens = tokens

    @property
    def roles(self) -> Roles:
        return self.accounts

    def identify(self, call: "Call") -> User:
        return self.authenticate(call)[0]

    def authenticate(self, call: "Call") -> tuple[User, dict[str, Any]]:
        """Who asks, by the token that came along, and what it says.

        Raises:
            RequestRefused: 400, 401, 404, 412 or 500 for the token.

        """
        user, _claims = self.named_by(call)
        claims = self.tokens.check(call.token)
        call.caller = user
        return user, claims

    def named_by(self, call: "Call") -> tuple[User, dict[str, Any]]:
        """The user in the token of a request, and all its claims; signature and end are not looked at.

        The token is bare, or comes after ``Bearer`` in this case.

        Raises:
            RequestRefused: there is no token, the text is none, or there is no such user.

        """
        if "authorization" not in call.headers:
            raise RequestRefused(401, "No authentication token provided")
        call.token = call.header("Authorization").removeprefix(_SCHEME).strip()
        return self.named_in(call.token)

    def named_in(self, token: str) -> tuple[User, dict[str, Any]]:
        """As :meth:`named_by`, of a token."""
        _header, claims = jwt_reading.read(token)
        name = claims.get("sub")
        if name is None:
            raise RequestRefused(401, "No user info in token")
        if not isinstance(name, str):
            raise RequestRefused(500, "Internal server error")
        user = self.accounts.users.get(name)
        if user is None:
            raise RequestRefused(404, "user not found")
        return user, claims

    def require(self, caller: Caller, permission: str) -> None:
        """Raises RequestRefused: 400 (not 403), a missing permission."""
        if permission and permission not in self.accounts.permissions(caller):
            raise RequestRefused(
                400, f"Permission denied: user '{caller.name}' lacks required permission '{permission}'"
            )

    def require_app(self, caller: Caller, app: "Application", *, write: bool) -> None:
        if not self.accounts.may_access(caller, app.owner, app.permission, write=write):
            action = "EDIT" if write else "VIEW"
            raise RequestRefused(400, f"User <{caller.name}> is not allowed to <{action}> app <{app.name}>")

    def may_list(self, caller: Caller, app: "Application") -> bool:
        return self.accounts.may_access(caller, app.owner, app.permission, write=False)

    def display_name(self, owner: str) -> str:
        return owner

    def save(self, store: "AppStore") -> None:
        store.write("security.json", {**self.accounts.dump(), "signing_key": self.tokens.keys[0]})


class Bearers:
    """Principals, known by the tokens of an issuer (3.x)."""

    permissions = principals.PERMISSIONS

    def __init__(self, known: Principals, issuer: Issuer, leeway_seconds: int) -> None:
        self.principals = known
        self.keys: dict[str, Any] = dict(issuer.public_keys)
        """Signing keys by their ``kid``, as the daemon has them of the issuer."""
        self.keys_available = True
        """False: the issuer has not been reached since the daemon started."""
        self._leeway_seconds = leeway_seconds

    @property
    def roles(self) -> Roles:
        return self.principals

    def identify(self, call: "Call") -> Principal:
        """The principal of the request's own token, else of the connection that a token opened (WSS).

        Raises:
            RequestRefused: 401 for the token, 403 for its principal, 503 without signing keys.

        """
        pinned = call.connection.principal_id
        if "authorization" not in call.headers:
            if pinned is None:
                raise _invalid("no bearer token in the request")
            principal = self._active(self.principals.find(pinned))
        else:
            principal = self.principal_of(call.header("Authorization"))
            if pinned is not None and principal.principal_id != pinned:
                raise RequestRefused(403, "The token is of another principal than the connection")
        call.caller = principal
        return principal

    def principal_of(self, authorization: str) -> Principal:
        """The principal of a header's token; one that is not known yet becomes one without roles."""
        claims = self._claims(authorization)
        return self._active(self.principals.known(ISSUER, claims))

    def require(self, caller: Caller, permission: str) -> None:
        if permission and permission not in self.principals.permissions(caller):
            raise RequestRefused(
                403, f"Permission denied: principal '{caller.name}' lacks required permission '{permission}'"
            )

    def require_app(self, caller: Caller, app: "Application", *, write: bool) -> None:
        if not self.principals.may_access(caller, app.owner, app.permission, write=write):
            raise RequestRefused(
                403, f"Principal '{caller.name}' may not {'edit' if write else 'view'} app '{app.name}'"
            )

    def may_list(self, caller: Caller, app: "Application") -> bool:
        return self.principals.may_access(caller, app.owner, app.permission, write=False)

    def display_name(self, owner: str) -> str:
        return self.principals.display_name(owner)

    def save(self, store: "AppStore") -> None:
        store.write("authorization.json", self.principals.dump())

    def _active(self, principal: Principal | None) -> Principal:
        if principal is None or principal.status != ACTIVE:
            raise RequestRefused(403, "The principal is not active")
        return principal

    def _claims(self, authorization: str) -> dict[str, Any]:
        import jwt  # noqa: PLC0415 only the extra `demo` has it

        if not authorization.startswith(_SCHEME) or len(authorization) > MOST_TOKEN_BYTES:
            raise _invalid("no bearer token in the request")
        if not self.keys_available:
            raise RequestRefused(503, "Signing keys of the authentication service are not available")
        token = authorization.removeprefix(_SCHEME).strip()
        try:
            key = self.keys[jwt.get_unverified_header(token)["kid"]]
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                ["RS256"],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=self._leeway_seconds,
                options={"require": ["exp", "sub"], "verify_iat": False},
            )
        except KeyError:
            raise _invalid("unknown signing key") from None
        except jwt.InvalidTokenError as error:
            raise _invalid(str(error)) from None
        return claims


def _invalid(why: str) -> RequestRefused:
    description = why.replace('"', "'")
    challenge = f'Bearer realm="appmesh", error="invalid_token", error_description="{description}"'
    return RequestRefused(401, f"Authentication failed: {why}", {"WWW-Authenticate": challenge})
