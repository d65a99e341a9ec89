"""What daemons of 3.x have instead of logins and users (docs/protocol.md, 'App Mesh 3.x')."""

from typing import TYPE_CHECKING

from meshbridge.emulator.accounts import User
from meshbridge.emulator.errors import Refused
from meshbridge.emulator.issuer import PUBLIC_CLIENT
from meshbridge.emulator.messages import Answer, Call, json_answer, message_answer
from meshbridge.emulator.operations.users import get_own_permissions
from meshbridge.emulator.routes import ANYONE, Route
from meshbridge.emulator.tokens import SERVICE

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon


async def get_auth_config(daemon: "Daemon", _call: Call) -> Answer:
    """Who issues the tokens that this daemon takes."""
    return json_answer(
        {
            "audience": SERVICE,
            "issuer": daemon.tokens.issuer,
            "public_client_id": PUBLIC_CLIENT,
            "refresh_token": True,
            "scopes": ["openid"],
        }
    )


async def list_principals(daemon: "Daemon", _call: Call) -> Answer:
    return json_answer({name: _public(user) for name, user in daemon.accounts.users.items()})


async def get_self(daemon: "Daemon", call: Call) -> Answer:
    user, claims = daemon.authenticate(call)
    return json_answer({**_public(user), "audience": claims["aud"]})


async def update_principal(daemon: "Daemon", call: Call) -> Answer:
    """Its roles here; its name and password are the issuer's business."""
    roles = [str(role) for role in call.json().get("roles") or ()]
    daemon.accounts.users.setdefault(call.name, User(call.name, "")).roles = roles
    daemon.save_accounts()
    return message_answer(200, "Principal update success")


async def delete_principal(daemon: "Daemon", call: Call) -> Answer:
    if daemon.accounts.users.pop(call.name, None) is None:
        raise Refused(404, "principal not found")
    daemon.save_accounts()
    return message_answer(200, "Principal delete success")


def _public(user: User) -> dict[str, object]:
    return {"exec_user": user.exec_user, "group": user.group, "name": user.name, "roles": user.roles}


ROUTES = (
    Route("GET", "/appmesh/auth/config", get_auth_config),
    Route("GET", "/appmesh/principals", list_principals, "user-list"),
    Route("GET", "/appmesh/principal/self", get_self, ANYONE),
    Route("GET", "/appmesh/principal/self/permissions", get_own_permissions, ANYONE),
    Route("POST", "/appmesh/principal/{}", update_principal, "user-add"),
    Route("DELETE", "/appmesh/principal/{}", delete_principal, "user-delete"),
)
