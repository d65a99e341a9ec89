"""Daemons of 3.x: who issues their tokens, and the principals known by them. 2.x daemons answer 501."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path

from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.daemons.calls import Ask
from meshbridge.admin.daemons.error_mapping import answers
from meshbridge.admin.daemons.masking import masked, refuse_masks
from meshbridge.admin.daemons.models import Done, JsonObject, good, sdk

__all__ = ["router"]

_READ, _ADMIN = [needs(Scope.READ)], [needs(Scope.ADMIN)]
_Principal = Annotated[str, Path(min_length=1, max_length=255, description="id of the principal")]
_PRINCIPAL = {"name": "5f1c", "roles": ["view"]}
_DONE = {"name": "5f1c", "done": True}

router = APIRouter(prefix="/api/v1/daemons/{daemon}", tags=["principals"], responses=answers())


@router.get(
    "/auth-config",
    dependencies=_READ,
    responses=good("the issuer", {"issuer": "https://login.example.com", "audience": "appmesh", "scopes": ["openid"]}),
    openapi_extra=sdk("get_auth_config"),
)
async def get_auth_config(ask: Ask) -> dict[str, Any]:
    """Who issues tokens for the daemon."""
    return await ask(lambda client: client.get_auth_config())


@router.get(
    "/principals",
    dependencies=_ADMIN,
    responses=good("those who have come so far", [_PRINCIPAL]),
    openapi_extra=sdk("list_principals"),
)
async def list_principals(ask: Ask) -> Any:
    """List the principals that the daemon knows by their tokens."""
    return masked(await ask(lambda client: client.list_principals()))


@router.get(
    "/principals/self",
    dependencies=_READ,
    responses=good("the principal", _PRINCIPAL),
    openapi_extra=sdk("get_current_principal"),
)
async def get_current_principal(ask: Ask) -> dict[str, Any]:
    """Get the current principal."""
    return masked(await ask(lambda client: client.get_current_principal()))  # type: ignore[no-any-return]  # an object stays one


@router.get(
    "/principals/self/permissions",
    dependencies=_READ,
    responses=good("their names", ["app-view"]),
    openapi_extra=sdk("get_principal_permissions"),
)
async def get_principal_permissions(ask: Ask) -> list[str]:
    """What this bridge may do there."""
    return await ask(lambda client: client.get_principal_permissions())


@router.put(
    "/principals/{principal}",
    dependencies=_ADMIN,
    responses=good("the principal is so now", _DONE),
    openapi_extra=sdk("update_principal"),
)
async def update_principal(
    ask: Ask, principal: _Principal, settings: Annotated[JsonObject, Body(examples=[{"roles": ["view"]}])]
) -> Done:
    """Add a principal, or change one."""
    refuse_masks(settings)
    await ask(lambda client: client.update_principal(principal, settings))
    return Done(name=principal)


@router.delete(
    "/principals/{principal}",
    dependencies=_ADMIN,
    responses=good("the principal is gone", _DONE),
    openapi_extra=sdk("delete_principal"),
)
async def delete_principal(ask: Ask, principal: _Principal) -> Done:
    """Remove a principal."""
    await ask(lambda client: client.delete_principal(principal))
    return Done(name=principal)
