"""Users, roles, groups and permissions."""

import base64
import time
from typing import TYPE_CHECKING

from meshbridge.emulator.accounts import User
from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.messages import Call, EmulatedAnswer, json_answer, message_answer
from meshbridge.emulator.routes import ANYONE, ApiRoute

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon


async def list_users(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return json_answer({name: user.public() for name, user in daemon.accounts.users.items()})


async def get_self(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """By what the token says: neither its signature nor its end is looked at (measured)."""
    user, claims = daemon.logins.named_by(call)
    return json_answer({**user.public(), "audience": claims.get("aud", [])})


async def add_user(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    daemon.accounts.add(call.name, call.json())
    daemon.save_accounts()
    return message_answer(200, "User add success")


async def delete_user(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    user = _named(daemon, call)
    del daemon.accounts.users[user.name]
    daemon.tokens.revoke_user(user.name)
    daemon.save_accounts()
    return message_answer(200, "User delete success")


async def lock_user(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    if call.name == "admin":
        raise RequestRefused(400, "User admin can not be locked")
    _named(daemon, call).locked = True
    daemon.save_accounts()
    return message_answer(200, "Lock user success")


async def unlock_user(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    _named(daemon, call).locked = False
    daemon.save_accounts()
    return message_answer(200, "Unlock user success")


async def change_password(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """It wants the old password, also of another user; it ends all tokens of that user."""
    body = call.json()
    user = call.caller
    assert isinstance(user, User)
    if call.name in {"self", user.name}:
        daemon.require(user, "passwd-change-self")
    else:
        daemon.require(user, "passwd-change-user")
        user = _named(daemon, call)
    for which in ("old", "new"):
        if f"{which}_password" not in body:
            raise RequestRefused(400, f"can not find {which} password from body")
    old, new = _decoded(body["old_password"]), _decoded(body["new_password"])
    if not user.has_password(old):
        raise RequestRefused(400, f"old password for user <{user.name}> is incorrect")
    user.set_password(new)
    user.token_epoch = int(time.time())
    daemon.tokens.revoke_user(user.name)
    daemon.save_accounts()
    return message_answer(200, "password changed success")


async def list_roles(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return json_answer({name: sorted(permissions) for name, permissions in daemon.access.roles.roles.items()})


async def update_role(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """Permissions that do not exist are taken as well (measured)."""
    permissions = call.json() or []
    if not isinstance(permissions, list) or not all(isinstance(permission, str) for permission in permissions):
        raise TypeError("permissions")
    daemon.access.roles.roles[call.name] = permissions
    daemon.save_accounts()
    return message_answer(200, "Role update success")


async def delete_role(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """Deleting what is not there is a success, too (measured)."""
    daemon.access.roles.delete_role(call.name)
    daemon.save_accounts()
    return message_answer(200, "Role delete success")


async def list_permissions(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return json_answer(daemon.access.permissions)


async def get_own_permissions(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    assert call.caller is not None
    return json_answer(sorted(daemon.access.roles.permissions(call.caller)))


async def list_groups(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return json_answer(daemon.accounts.groups())


def _named(daemon: "Daemon", call: Call) -> User:
    user = daemon.accounts.users.get(call.name)
    if user is None:
        raise RequestRefused(404, "user not found")
    return user


def _decoded(value: object) -> str:
    """A password as the SDK sends it: base64.

    Raises:
        ValueError, TypeError: it is none.

    """
    if not isinstance(value, str):
        raise TypeError("password")
    return base64.b64decode(value, validate=True).decode()


ROUTES = (
    ApiRoute("GET", "/appmesh/users", list_users, "user-list"),
    ApiRoute("GET", "/appmesh/user/self", get_self),
    ApiRoute("GET", "/appmesh/user/permissions", get_own_permissions, ANYONE),
    ApiRoute("GET", "/appmesh/user/groups", list_groups),
    ApiRoute("PUT", "/appmesh/user/{}", add_user, "user-add"),
    ApiRoute("DELETE", "/appmesh/user/{}", delete_user, "user-delete"),
    ApiRoute("POST", "/appmesh/user/{}/lock", lock_user, "user-lock"),
    ApiRoute("POST", "/appmesh/user/{}/unlock", unlock_user, "user-unlock"),
    ApiRoute("POST", "/appmesh/user/{}/passwd", change_password, ANYONE),
)
ROLE_ROUTES = (
    ApiRoute("GET", "/appmesh/roles", list_roles, "role-view"),
    ApiRoute("POST", "/appmesh/role/{}", update_role, "role-set"),
    ApiRoute("DELETE", "/appmesh/role/{}", delete_role, "role-delete"),
    ApiRoute("GET", "/appmesh/permissions", list_permissions, "permission-list"),
)
