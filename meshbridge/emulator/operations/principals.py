"""What daemons of 3.x have instead of logins and users (docs/protocol.md, 'App Mesh 3.x')."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.issuer import AUDIENCE, ISSUER, PUBLIC_CLIENT, SCOPES
from meshbridge.emulator.messages import Call, EmulatedAnswer, json_answer, message_answer
from meshbridge.emulator.operations.users import get_own_permissions
from meshbridge.emulator.principals import Principal
from meshbridge.emulator.routes import ANYONE, ApiRoute

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon


async def get_auth_config(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    """Who issues the tokens that this daemon takes."""
    assert daemon.issuer is not None
    found: dict[str, Any] = {
        "audience": AUDIENCE,
        "first_admin_enrollment": False,
        "flows": ["authorization_code_pkce", "device_code", "password"],
        "issuer": ISSUER,
        "public_client_id": PUBLIC_CLIENT,
        "resource": _resource(daemon),
        "scopes": list(SCOPES),
    }
    if daemon.dialect.tells_of_refresh:
        found |= {"browser_entry": f"{_resource(daemon)}/auth", "refresh_token": daemon.issuer.refreshes}
    return json_answer(found)


async def get_protected_resource(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    """RFC 9728."""
    return json_answer(
        {
            "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"],
            "resource": _resource(daemon),
            "scopes_supported": list(SCOPES),
        }
    )


async def list_principals(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return json_answer({name: asdict(principal) for name, principal in daemon.principals.all.items()})


async def get_self(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    assert isinstance(call.caller, Principal)
    permissions = sorted(daemon.principals.permissions(call.caller))
    return json_answer({**asdict(call.caller), "permissions": permissions})


async def update_principal(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """Its roles here; its name and password are the issuer's business."""
    daemon.principals.change(call.name, call.json())
    daemon.save_accounts()
    return message_answer(200, "Principal update success")


async def delete_principal(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    if call.name not in daemon.principals.all:
        raise RequestRefused(404, "principal not found")
    if any(app.owner == call.name for app in daemon.applications):
        raise RequestRefused(403, f"Principal '{call.name}' owns applications")
    del daemon.principals.all[call.name]
    daemon.save_accounts()
    return EmulatedAnswer(204)


def _resource(daemon: "Daemon") -> str:
    return f"https://{daemon.options.host}:{daemon.configuration.shown()['REST']['RestListenPort']}"


ROUTES = (
    ApiRoute("GET", "/appmesh/auth/config", get_auth_config),
    ApiRoute("GET", "/.well-known/oauth-protected-resource", get_protected_resource),
    ApiRoute("GET", "/appmesh/principals", list_principals, "principal-view"),
    ApiRoute("GET", "/appmesh/principal/self", get_self, ANYONE),
    ApiRoute("GET", "/appmesh/principal/self/permissions", get_own_permissions, ANYONE),
    ApiRoute("POST", "/appmesh/principal/{}", update_principal, "principal-set"),
    ApiRoute("DELETE", "/appmesh/principal/{}", delete_principal, "principal-delete"),
)
