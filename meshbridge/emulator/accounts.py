"""Users and roles of 2.x, and what they may do (``golden/exchanges.jsonl``: list_users, list_roles, …)."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from meshbridge.emulator import procfs
from meshbridge.emulator.errors import RequestRefused

PERMISSIONS = (
    "app-control", "app-delete", "app-output-view", "app-reg", "app-run-async", "app-run-sync", "app-run-task",
    "app-subscribe", "app-view", "app-view-all", "config-set", "config-view", "file-download", "file-upload",
    "host-resource-view", "label-delete", "label-set", "label-view", "passwd-change-self", "passwd-change-user",
    "permission-list", "role-delete", "role-set", "role-view", "user-add", "user-delete", "user-list", "user-lock",
    "user-token-renew", "user-totp-active", "user-totp-disable", "user-unlock",
)  # fmt: skip

DEFAULT_ROLES: Mapping[str, tuple[str, ...]] = {
    "manage": (
        "app-control", "app-delete", "app-reg", "app-subscribe", "config-set", "file-download", "file-upload",
        "label-delete", "label-set",
    ),
    "shell": ("app-run-async", "app-run-sync", "app-run-task"),
    "usermgr": (
        "passwd-change-user", "role-delete", "role-set", "user-add", "user-delete", "user-lock", "user-totp-disable",
        "user-unlock",
    ),
    "view": (
        "app-output-view", "app-view", "app-view-all", "config-view", "host-resource-view", "label-view",
        "passwd-change-self", "permission-list", "role-view", "user-list", "user-token-renew", "user-totp-active",
    ),
}  # fmt: skip

HASH_ROUNDS = 2_000  # throw-away users of a stand-in; enough that a stolen file does not show them at a glance

DENY, READ, WRITE = 1, 2, 3


@dataclass(slots=True)
class User:
    """One user. ``key`` is a salted hash and never leaves the daemon."""

    name: str
    key: str
    email: str = ""
    exec_user: str = ""
    group: str = "user"
    roles: list[str] = field(default_factory=list)
    locked: bool = False
    mfa_key: str = ""
    mfa_enabled: bool = False
    token_epoch: int = 0
    """When the password was last changed, in unix seconds: tokens from before are not good any more."""

    def public(self) -> dict[str, Any]:
        return {
            **({"token_epoch": self.token_epoch} if self.token_epoch else {}),
            "email": self.email,
            "exec_user": self.exec_user or procfs.user_name(os.geteuid()),
            "group": self.group,
            "locked": self.locked,
            "mfa_enabled": self.mfa_enabled,
            "name": self.name,
            "roles": self.roles,
        }

    def set_password(self, password: str) -> None:
        salt = secrets.token_hex(8)
        self.key = f"{salt}${_hash(password, salt)}"

    def has_password(self, password: str) -> bool:
        salt, _, digest = self.key.partition("$")
        return hmac.compare_digest(digest, _hash(password, salt))


class Caller(Protocol):
    """Who asks: a user of 2.x, a principal of 3.x."""

    @property
    def name(self) -> str:
        """Owns apps."""

    @property
    def roles(self) -> list[str]: ...


class Roles:
    """The roles of one daemon."""

    def __init__(self) -> None:
        self.roles: dict[str, list[str]] = {}
        self._deleted_roles: dict[str, list[str]] = {}

    def permissions(self, caller: Caller) -> set[str]:
        """A role that was deleted counts for those who have it, until the daemon starts again (measured)."""
        known = {**self._deleted_roles, **self.roles}
        return {permission for role in caller.roles for permission in known.get(role, ())}

    def delete_role(self, name: str) -> None:
        """Nothing where there is none."""
        if name in self.roles:
            self._deleted_roles[name] = self.roles.pop(name)


class Accounts(Roles):
    """The users and roles of one daemon of 2.x."""

    def __init__(self) -> None:
        super().__init__()
        self.users: dict[str, User] = {}

    @classmethod
    def default(cls) -> "Accounts":
        accounts = cls()
        accounts.roles = {name: list(permissions) for name, permissions in DEFAULT_ROLES.items()}
        for name, password, exec_user, group, roles in (
            ("admin", "admin123", "root", "admin", ["view", "usermgr", "shell", "manage"]),
            ("mesh", "mesh123", "root", "user", ["view"]),
            ("test", "test123", "appmesh", "user", []),
        ):
            user = User(name, "", f"{name}@appmesh.com", exec_user, group, roles)
            user.set_password(password)
            accounts.users[name] = user
        return accounts

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "Accounts":
        accounts = cls()
        accounts.users = {name: User(**fields) for name, fields in stored["users"].items()}
        accounts.roles = stored["roles"]
        return accounts

    def dump(self) -> dict[str, Any]:
        return {"users": {name: asdict(user) for name, user in self.users.items()}, "roles": self.roles}

    def groups(self) -> list[str]:
        return sorted({user.group for user in self.users.values()})

    def add(self, name: str, fields: Any) -> None:
        """Adds a user, or replaces one of that name (but not the second factor it has).

        Raises:
            RequestRefused: 400, no password.
            TypeError: a value of another type.

        """
        known = self.users.get(name)
        if not isinstance(fields, Mapping) or not fields.get("key"):
            raise RequestRefused(400, "no password provided")
        email, exec_user, group, password = (_text(fields, key) for key in ("email", "exec_user", "group", "key"))
        locked = fields.get("locked", False)
        if not isinstance(locked, bool):
            raise TypeError("locked")
        user = User(name, "", email, exec_user, group, sorted(_names(fields.get("roles", []))), locked)
        if known is not None:
            user.mfa_key, user.mfa_enabled = known.mfa_key, known.mfa_enabled
        user.set_password(password)
        self.users[name] = user

    def may_access(self, user: Caller, owner: str, permission: int, *, write: bool) -> bool:
        """An app's own ``permission``: two digits, the owner's group then the others; 0 leaves it open to all."""
        if user.name == owner or not owner or not permission:
            return True
        of_group, of_others = divmod(permission, 10)
        caller, owner_user = self.users.get(user.name), self.users.get(owner)
        together = caller is not None and owner_user is not None and owner_user.group == caller.group
        allowed = of_group if together else of_others
        return allowed != DENY and (allowed == WRITE or not write)


def _names(values: object) -> list[str]:
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("names")
    return [str(value) for value in values]


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(key)
    return value


def _hash(password: str, salt: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt.encode(), HASH_ROUNDS).hex()
