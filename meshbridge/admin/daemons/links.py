"""``/api/v1/daemons``: which daemons there are, and how each one's link is."""

import dataclasses
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter

from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.bridge import TheBridge
from meshbridge.admin.daemons.calls import DaemonName
from meshbridge.admin.daemons.error_mapping import answers_of
from meshbridge.admin.daemons.models import good
from meshbridge.admin.problems import Problem, ProblemKind
from meshbridge.model.status import LinkState, LinkStatus

__all__ = ["router"]


def _shown(link: LinkStatus) -> dict[str, Any]:
    return {"name": link.daemon, "up": link.up, **dataclasses.asdict(link)}


router = APIRouter(
    prefix="/api/v1/daemons",
    tags=["daemons"],
    dependencies=[needs(Scope.READ)],
    responses=answers_of(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
_EXAMPLE = _shown(LinkStatus("node-a", LinkState.UP, "tcp://127.0.0.1:6059", run="1795594889", connects=1))
_ONE = answers_of(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)


# These wait for nothing, and are coroutines so that they need no thread.
@router.get("", responses=good("each with its link", [_EXAMPLE]))
async def list_daemons(bridge: TheBridge) -> list[dict[str, Any]]:
    """Every daemon of the configuration, and how its link is."""
    return [_shown(link) for link in bridge.links()]


@router.get("/{daemon}", responses=good("its link", _EXAMPLE) | _ONE)
async def get_daemon(bridge: TheBridge, daemon: DaemonName) -> dict[str, Any]:
    """One daemon, and how its link is."""
    links = {link.daemon: link for link in bridge.links()}
    if daemon not in links:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            f"there is no daemon {daemon!r} here",
            kind=ProblemKind.UNKNOWN_DAEMON,
            allowed=sorted(links),
        )
    return _shown(links[daemon])
