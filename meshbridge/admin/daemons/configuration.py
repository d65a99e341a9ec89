"""The daemon's own configuration, its log level, its labels."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path
from pydantic import Field

from meshbridge.admin.api_model import ApiModel
from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.daemons.calls import Ask
from meshbridge.admin.daemons.error_mapping import answers
from meshbridge.admin.daemons.masking import MASK, masked, refuse_masks
from meshbridge.admin.daemons.models import JsonObject, good, sdk
from meshbridge.admin.daemons.safety import refuse_harm
from meshbridge.appmesh.harm import harms_of_configuration, harms_of_label

__all__ = ["router"]

_Label = Annotated[str, Path(min_length=1, max_length=255, description="name of the label", examples=["zone"])]
_CONFIG = {
    "BaseConfig": {"Description": "rack 4", "LogLevel": "INFO"},
    "REST": {"RestListenPort": 6060, "JWT": {"JWTSalt": MASK}},
    "Labels": {"zone": "eu-1"},
}

router = APIRouter(prefix="/api/v1/daemons/{daemon}", tags=["configuration"], responses=answers())


class LabelValue(ApiModel):
    """What a label says."""

    value: str = Field(max_length=1024, examples=["eu-1"])


class LogLevel(ApiModel):
    """How much a daemon logs; it takes any text."""

    level: str = Field(min_length=1, max_length=64, examples=["DEBUG"])


@router.get(
    "/config", dependencies=[needs(Scope.ADMIN)], responses=good("all of it", _CONFIG), openapi_extra=sdk("get_config")
)
async def get_config(ask: Ask) -> dict[str, Any]:
    """All of the configuration; what is secret in it (``JWTSalt``) is masked."""
    return masked(await ask(lambda client: client.get_config()))  # type: ignore[no-any-return]  # an object stays one


@router.patch(
    "/config",
    dependencies=[needs(Scope.ADMIN)],
    responses=good("all of it, as it is now", _CONFIG),
    openapi_extra=sdk("set_config"),
)
async def set_config(
    ask: Ask,
    changes: Annotated[JsonObject, Body(examples=[{"BaseConfig": {"Description": "rack 4"}}])],
) -> dict[str, Any]:
    """Change those parts of the configuration that are given.

    A text with which the daemon would not start again is refused.
    """
    refuse_masks(changes)
    refuse_harm(ask, harms_of_configuration(changes))
    return masked(await ask(lambda client: client.set_config(changes)))  # type: ignore[no-any-return]  # as above


@router.put(
    "/log-level",
    dependencies=[needs(Scope.ADMIN)],
    responses=good("how it is now", {"level": "DEBUG"}),
    openapi_extra=sdk("set_log_level"),
)
async def set_log_level(ask: Ask, wanted: LogLevel) -> LogLevel:
    """How much the daemon logs from now on."""
    refuse_harm(ask, harms_of_configuration({"level": wanted.level}))
    return LogLevel(level=await ask(lambda client: client.set_log_level(wanted.level)))


@router.get(
    "/labels",
    dependencies=[needs(Scope.READ)],
    responses=good("value by name", {"arch": "x86_64", "zone": "eu-1"}),
    openapi_extra=sdk("list_labels"),
)
async def list_labels(ask: Ask) -> dict[str, str]:
    """Labels of the host, by name."""
    return await ask(lambda client: client.list_labels())


@router.put(
    "/labels/{label}",
    dependencies=[needs(Scope.ADMIN)],
    responses=good("as it is now", {"zone": "eu-1"}),
    openapi_extra=sdk("add_label"),
)
async def add_label(ask: Ask, label: _Label, wanted: LabelValue) -> dict[str, str]:
    """Set a label. A value with which the daemon would not start again, such as a number, is refused."""
    refuse_harm(ask, harms_of_label(wanted.value))
    await ask(lambda client: client.add_label(label, wanted.value))
    return {label: wanted.value}


@router.delete(
    "/labels/{label}",
    dependencies=[needs(Scope.ADMIN)],
    responses=good("there is none now", {"label": "zone", "deleted": True}),
    openapi_extra=sdk("delete_label"),
)
async def delete_label(ask: Ask, label: _Label) -> dict[str, Any]:
    """Remove a label; also where there is none."""
    await ask(lambda client: client.delete_label(label))
    return {"label": label, "deleted": True}
