"""``POST /-/reload``: read the settings again."""

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter

from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.bridge import TheBridge
from meshbridge.admin.interface import ReloadRefusedError
from meshbridge.admin.problems import Problem

__all__ = ["router"]

router = APIRouter(tags=["bridge"])


_REFUSED: dict[int | str, dict[str, Any]] = {422: {"description": "the settings cannot be used; `problems` says why"}}


@router.post("/-/reload", dependencies=[needs(Scope.ADMIN)], responses=_REFUSED)
def reload_settings(bridge: TheBridge) -> dict[str, Any]:
    """Read the settings again, and put in force what has changed; settings that can't be used change nothing."""
    try:
        return bridge.reload()
    except ReloadRefusedError as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), problems=error.problems) from error
