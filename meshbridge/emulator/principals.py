"""Principals and roles of 3.x: the subjects of an issuer's tokens, and what they may do here."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from meshbridge.emulator.accounts import DENY, WRITE, Caller, Roles
from meshbridge.emulator.errors import RequestRefused

PERMISSIONS = (
    "app-control", "app-delete", "app-manage-all", "app-output-view", "app-reg", "app-run-async", "app-run-sync",
    "app-run-task", "app-subscribe", "app-view", "app-view-all", "config-set", "config-view", "file-download",
    "file-upload", "host-resource-view", "label-delete", "label-set", "label-view", "permission-list",
    "principal-delete", "principal-set", "principal-view", "role-delete", "role-set", "role-view", "workflow-admin",
)  # fmt: skip

ADMIN_ROLE, VIEWER_ROLE, MAINTENANCE_ROLE = "appmesh-admin", "appmesh-viewer", "appmesh-maintenance"
DEFAULT_ROLES: Mapping[str, tuple[str, ...]] = {
    ADMIN_ROLE: PERMISSIONS,
    MAINTENANCE_ROLE: (
        "app-control", "app-delete", "app-reg", "app-run-async", "app-run-sync", "app-run-task", "app-view-all",
        "file-download", "file-upload", "host-resource-view", "label-delete", "label-set", "label-view",
    ),
    VIEWER_ROLE: (
        "app-output-view", "app-view", "app-view-all", "config-view", "host-resource-view", "label-view",
        "permission-list", "principal-view", "role-view",
    ),
}  # fmt: skip
"""A bridge needs ``app-subscribe`` too, which only the administrator's role has."""

ACTIVE = "active"


@dataclass(slots=True)
class Principal:
    """A person, or a service, in the tokens of an issuer."""

    principal_id: str
    kind: str = "user"
    issuer: str = ""
    subject: str = ""
    display_name: str = ""
    email: str = ""
    connector_id: str = ""
    status: str = ACTIVE
    execution_user: str = ""
    roles: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.principal_id


class Principals(Roles):
    """The principals and roles of one daemon."""

    def __init__(self) -> None:
        super().__init__()
        self.all: dict[str, Principal] = {}
        self.roles = {name: list(permissions) for name, permissions in DEFAULT_ROLES.items()}

    @classmethod
    def load(cls, stored: Mapping[str, Any] | None) -> "Principals":
        principals = cls()
        if stored is not None:
            principals.all = {name: Principal(**fields) for name, fields in stored["principals"].items()}
            principals.roles = stored["roles"]
        return principals

    def dump(self) -> dict[str, Any]:
        return {"principals": {name: asdict(one) for name, one in self.all.items()}, "roles": self.roles}

    def find(self, principal_id: str) -> Principal | None:
        return self.all.get(principal_id)

    def known(self, issuer: str, claims: Mapping[str, Any]) -> Principal:
        """The principal of a token; made without roles when it is seen for the first time."""
        name = principal_id(issuer, str(claims["sub"]))
        principal = self.all.setdefault(name, Principal(name))
        principal.issuer, principal.subject = issuer, str(claims["sub"])
        principal.email = str(claims.get("email", principal.email))
        principal.display_name = principal.display_name or str(claims.get("name", ""))
        principal.kind = "user" if principal.email else "service"
        return principal

    def change(self, name: str, changes: Mapping[str, Any]) -> None:
        """Sets ``roles``, ``status`` and ``execution_user``; makes a principal that has not been seen yet.

        Raises:
            RequestRefused: 400, a value of another type.

        """
        roles = changes.get("roles", [])
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise RequestRefused(400, "roles must be an array of texts")
        principal = self.all.setdefault(name, Principal(name))
        principal.roles = list(roles)
        principal.status = str(changes.get("status", principal.status))
        principal.execution_user = str(changes.get("execution_user", principal.execution_user))

    def display_name(self, owner: str) -> str:
        principal = self.all.get(owner)
        return "" if principal is None else principal.display_name

    def may_access(self, caller: Caller, owner: str, permission: int, *, write: bool) -> bool:
        """An app's own ``permission``: only the tens digit counts, and ``app-view-all`` may read every app."""
        others = permission // 10 % 10
        if caller.name == owner or not others:
            return True
        mine = self.permissions(caller)
        if ("app-manage-all" if write else "app-view-all") in mine:
            return True
        return others != DENY and (others == WRITE or not write)


def principal_id(issuer: str, subject: str) -> str:
    """``oidc:`` and SHA-256 of issuer, NUL and subject."""
    return "oidc:" + hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()
