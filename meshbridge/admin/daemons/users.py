"""Who may do what at a daemon: its users, groups, roles and permissions, and second factors.

``self`` is the user as which this bridge logs in.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field, SecretStr

from meshbridge.admin.api_model import ApiModel
from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.daemons.calls import Ask
from meshbridge.admin.daemons.error_mapping import answers
from meshbridge.admin.daemons.masking import masked, refuse_masks
from meshbridge.admin.daemons.models import Done, good, sdk
from meshbridge.admin.daemons.safety import refuse_harm, refuse_own_user
from meshbridge.appmesh import AppMeshClient
from meshbridge.appmesh.harm import harms_of_user

__all__ = ["router"]

_READ, _ADMIN = [needs(Scope.READ)], [needs(Scope.ADMIN)]
_User = Annotated[str, Path(min_length=1, max_length=255, description="name of the user", examples=["mesh"])]
_Role = Annotated[str, Path(min_length=1, max_length=255, description="name of the role", examples=["view"])]
_A_USER = {
    "name": "mesh",
    "email": "mesh@example.com",
    "group": "user",
    "roles": ["view"],
    "exec_user": "",
    "locked": False,
    "mfa_enabled": False,
}
_DONE_USER = {"name": "mesh", "done": True}
_PERMISSIONS = ["app-view", "app-output-view"]

router = APIRouter(prefix="/api/v1/daemons/{daemon}", tags=["users"], responses=answers())


class UserSettings(ApiModel):
    """A user, as the daemon takes it."""

    key: SecretStr | None = Field(default=None, description="the password; needed for a new user")
    email: str | None = Field(default=None, max_length=255)
    exec_user: str | None = Field(default=None, max_length=255, description="user of the host that apps run as")
    group: str | None = Field(default=None, max_length=255)
    locked: bool | None = None
    roles: list[str] | None = Field(default=None, examples=[["view"]])


class PasswordChange(ApiModel):
    """A new password; the daemon wants the old one, also of another user."""

    old_password: SecretStr = SecretStr("")
    new_password: SecretStr = Field(min_length=1)


class RolePermissions(ApiModel):
    """What a role allows."""

    permissions: list[str] = Field(examples=[["app-view", "app-view-all"]])


class TotpCode(ApiModel):
    """A code of the new key."""

    code: str = Field(pattern=r"^\d{6,8}$", examples=["123456"])


class TotpSecret(ApiModel):
    """A key for an authenticator, told this once."""

    secret: str


# --- users -----------------------------------------------------------------------------------------------------------


@router.get(
    "/users",
    dependencies=_ADMIN,
    responses=good("users by name, without their passwords", {"mesh": _A_USER}),
    openapi_extra=sdk("list_users"),
)
async def list_users(ask: Ask) -> dict[str, Any]:
    """All users, by name."""
    return {name: masked(user) for name, user in (await ask(lambda client: client.list_users())).items()}


@router.get(
    "/users/self",
    dependencies=_READ,
    responses=good("the user, without the password", _A_USER),
    openapi_extra=sdk("get_current_user"),
)
async def get_current_user(ask: Ask) -> dict[str, Any]:
    """Get the user as which this bridge logs in."""
    return masked(await ask(lambda client: client.get_current_user()))  # type: ignore[no-any-return]  # an object stays one


@router.get(
    "/users/self/permissions",
    dependencies=_READ,
    responses=good("their names", _PERMISSIONS),
    openapi_extra=sdk("get_user_permissions"),
)
async def get_user_permissions(ask: Ask) -> list[str]:
    """What this bridge may do there."""
    return await ask(lambda client: client.get_user_permissions())


@router.put(
    "/users/{user}", dependencies=_ADMIN, responses=good("the user is there", _DONE_USER), openapi_extra=sdk("add_user")
)
async def add_user(ask: Ask, user: _User, settings: UserSettings) -> Done:
    """Add a user, or change one. A text with which the daemon would not start again is refused."""
    fields = {**settings.model_dump(exclude_none=True, exclude={"key"}), "name": user}
    if settings.key is not None:
        fields["key"] = settings.key.get_secret_value()
    refuse_masks(fields)
    refuse_harm(ask, harms_of_user(fields))
    await ask(lambda client: client.add_user(user, fields))
    return Done(name=user)


@router.delete(
    "/users/{user}",
    dependencies=_ADMIN,
    responses=good("the user is gone", _DONE_USER),
    openapi_extra=sdk("delete_user"),
)
async def delete_user(ask: Ask, user: _User) -> Done:
    """Remove a user. The user of this bridge is refused: it could not log in again."""

    def delete(client: AppMeshClient) -> None:
        refuse_own_user(ask, client, user, "to delete it")
        client.delete_user(user)

    await ask(delete)
    return Done(name=user)


@router.post(
    "/users/{user}/lock",
    dependencies=_ADMIN,
    responses=good("the user is locked", _DONE_USER),
    openapi_extra=sdk("lock_user"),
)
async def lock_user(ask: Ask, user: _User) -> Done:
    """Keep a user from logging in. The user of this bridge is refused: it could not log in again."""

    def lock(client: AppMeshClient) -> None:
        refuse_own_user(ask, client, user, "to lock it")
        client.lock_user(user)

    await ask(lock)
    return Done(name=user)


@router.post(
    "/users/{user}/unlock",
    dependencies=_ADMIN,
    responses=good("the user is not locked", _DONE_USER),
    openapi_extra=sdk("unlock_user"),
)
async def unlock_user(ask: Ask, user: _User) -> Done:
    """Let a user log in again."""
    await ask(lambda client: client.unlock_user(user))
    return Done(name=user)


@router.put(
    "/users/{user}/password",
    dependencies=_ADMIN,
    responses=good("the password is changed", _DONE_USER),
    openapi_extra=sdk("update_password"),
)
async def update_password(ask: Ask, user: _User, change: PasswordChange) -> Done:
    """Change a password, which ends the user's sessions. Give this bridge the new one of ``self`` at the same time."""
    old, new = change.old_password.get_secret_value(), change.new_password.get_secret_value()
    await ask(lambda client: client.update_password(old, new, user))
    return Done(name=user)


# --- second factors --------------------------------------------------------------------------------------------------


@router.post(
    "/totp/secret",
    dependencies=_ADMIN,
    responses=good("the key", {"secret": "JBSWY3DPEHPK3PXP"}),
    openapi_extra=sdk("get_totp_secret"),
)
async def get_totp_secret(ask: Ask) -> TotpSecret:
    """A new key for the second factor of this bridge's user; refused where its logins need one already."""

    def new(client: AppMeshClient) -> str:
        if client.get_current_user().get("mfa_enabled"):
            refuse_own_user(ask, client, "self", "a new key for its second factor")
        return client.get_totp_secret()

    return TotpSecret(secret=await ask(new))


@router.post(
    "/totp",
    dependencies=_ADMIN,
    responses=good("logins need a second factor now", {"name": "self", "done": True}),
    openapi_extra=sdk("enable_totp"),
)
async def enable_totp(ask: Ask, wanted: TotpCode) -> Done:
    """Refused: this is the bridge's own user, which could not log in again.

    To use a second factor, enable it with a client of that user, and set totp_secret_file of the daemon.
    """
    del wanted
    await ask(lambda client: refuse_own_user(ask, client, "self", "a second factor that is enabled here"))
    return Done(name="self")


@router.delete(
    "/users/{user}/totp",
    dependencies=_ADMIN,
    responses=good("logins need no second factor now", _DONE_USER),
    openapi_extra=sdk("disable_totp"),
)
async def disable_totp(ask: Ask, user: _User) -> Done:
    """Have a user log in without a second factor again. A daemon of 2.x takes ``self`` only."""
    await ask(lambda client: client.disable_totp(user))
    return Done(name=user)


# --- groups, roles, permissions --------------------------------------------------------------------------------------


@router.get(
    "/groups", dependencies=_READ, responses=good("their names", ["admin", "user"]), openapi_extra=sdk("list_groups")
)
async def list_groups(ask: Ask) -> list[str]:
    """The groups of the users."""
    return await ask(lambda client: client.list_groups())


@router.get(
    "/permissions",
    dependencies=_READ,
    responses=good("their names", _PERMISSIONS),
    openapi_extra=sdk("list_permissions"),
)
async def list_permissions(ask: Ask) -> list[str]:
    """Every permission that there is."""
    return await ask(lambda client: client.list_permissions())


@router.get(
    "/roles",
    dependencies=_READ,
    responses=good("permissions by role", {"view": _PERMISSIONS}),
    openapi_extra=sdk("list_roles"),
)
async def list_roles(ask: Ask) -> dict[str, Any]:
    """All roles, by name, with their permissions."""
    return await ask(lambda client: client.list_roles())


@router.put(
    "/roles/{role}",
    dependencies=_ADMIN,
    responses=good("the role is so now", {"name": "view", "done": True}),
    openapi_extra=sdk("update_role"),
)
async def update_role(ask: Ask, role: _Role, wanted: RolePermissions) -> Done:
    """Add a role, or replace its permissions; the daemon takes names that are no permission, too."""
    await ask(lambda client: client.update_role(role, wanted.permissions))
    return Done(name=role)


@router.delete(
    "/roles/{role}",
    dependencies=_ADMIN,
    responses=good("the role is gone", {"name": "view", "done": True}),
    openapi_extra=sdk("delete_role"),
)
async def delete_role(ask: Ask, role: _Role) -> Done:
    """Remove a role."""
    await ask(lambda client: client.delete_role(role))
    return Done(name=role)
