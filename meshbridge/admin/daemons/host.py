"""The daemon's host, and the daemon's own metrics."""

from typing import Any

from fastapi import APIRouter, Response

from meshbridge.admin.auth import Scope, needs
from meshbridge.admin.daemons.calls import Ask
from meshbridge.admin.daemons.error_mapping import answers
from meshbridge.admin.daemons.models import good, sdk

__all__ = ["router"]

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus's text format 0.0.4",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "appmesh_metrics_scrapes_total 1\n"}},
    }
}
_RESOURCES = {
    "host_name": "node-a",
    "appmesh_version": "appmesh_2.2.1",
    "appmesh_start_time_unix_seconds": 1795594889,
    "cpu_processors": 2,
    "mem_total_bytes": 25276063744,
    "mem_available_bytes": 23548035072,
    "load": {"1min": 0.3, "5min": 0.4, "15min": 0.4},
    "fs": [{"device": "/dev/vda", "mount_point": "/", "size": 270553174016, "used": 26819239936, "usage": 0.1}],
    "net": [{"name": "eth0", "address": "192.0.2.2", "ipv6": False}],
}

router = APIRouter(
    prefix="/api/v1/daemons/{daemon}", tags=["host"], dependencies=[needs(Scope.READ)], responses=answers()
)


@router.get("/resources", responses=good("sizes in bytes", _RESOURCES), openapi_extra=sdk("get_host_resources"))
async def get_host_resources(ask: Ask) -> dict[str, Any]:
    """Processors, memory, disks and network of the host, and when the daemon was started."""
    return await ask(lambda client: client.get_host_resources())


@router.get("/metrics", responses=_METRICS, response_class=Response, openapi_extra=sdk("get_metrics"))
async def get_metrics(ask: Ask) -> Response:
    """The daemon's own metrics, as it gives them. The exporter has them too, with its own beside them."""
    return Response(await ask(lambda client: client.get_metrics()), media_type=_PROMETHEUS)
