"""The daemon's host, and the daemon's own metrics."""

from typing import Any

from fastapi import APIRouter, Response

from meshbridge.admin.daemons.asking import Ask
from meshbridge.admin.daemons.models import sdk
from meshbridge.admin.daemons.refusals import answers
from meshbridge.admin.gate import Scope, needs

__all__ = ["router"]

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus's text format 0.0.4",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "appmesh_metrics_scrapes_total 1\n"}},
    }
}

router = APIRouter(
    prefix="/api/v1/daemons/{daemon}", tags=["host"], dependencies=[needs(Scope.READ)], responses=answers()
)


@router.get("/resources", openapi_extra=sdk("get_host_resources"))
async def get_host_resources(ask: Ask) -> dict[str, Any]:
    """Processors, memory, disks and network of the host, and when the daemon was started."""
    return await ask(lambda client: client.get_host_resources())


@router.get("/metrics", responses=_METRICS, response_class=Response, openapi_extra=sdk("get_metrics"))
async def get_metrics(ask: Ask) -> Response:
    """The daemon's own metrics, as it gives them. The exporter has them too, with its own beside them."""
    return Response(await ask(lambda client: client.get_metrics()), media_type=_PROMETHEUS)
