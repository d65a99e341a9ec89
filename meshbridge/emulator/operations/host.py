"""The host's resources and the daemon's metrics."""

from typing import TYPE_CHECKING

from meshbridge.emulator.errors import Refused
from meshbridge.emulator.messages import Answer, Call, json_answer
from meshbridge.emulator.metrics import CONTENT_TYPE
from meshbridge.emulator.resources import host_resources
from meshbridge.emulator.routes import Route

HTML = "text/html; charset=utf-8"

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon


async def get_resources(daemon: "Daemon", _call: Call) -> Answer:
    resources = host_resources(
        start_time=daemon.start_time,
        version=str(daemon.configuration.shown()["Version"]),
        node_name=daemon.options.node_name,
        description=daemon.configuration.description,
        home=daemon.store.root,
        apps=[app.process.pid for app in daemon.applications if app.process is not None and app.running],
    )
    return json_answer(daemon.dialect.resources(resources))


async def get_metrics(daemon: "Daemon", _call: Call) -> Answer:
    return Answer(200, daemon.exposition.text().encode(), CONTENT_TYPE)


async def get_page(_daemon: "Daemon", _call: Call) -> Answer:
    return Answer(200, b'<!DOCTYPE html>\n<html lang="en"><title>App Mesh emulator</title></html>\n', HTML)


async def get_description(_daemon: "Daemon", _call: Call) -> Answer:
    return Answer(200, b"---\nopenapi: 3.1.0\ninfo:\n  title: App Mesh REST API\n", "application/x-yaml")


async def get_swagger(_daemon: "Daemon", call: Call) -> Answer:
    place = f"https://petstore.swagger.io/?url=https://{call.header('Host')}/openapi.yaml"
    return Answer(307, b"", HTML, {"Location": place})


async def get_cloud(_daemon: "Daemon", _call: Call) -> Answer:
    """For other nodes of a cluster, which sign their requests."""
    raise Refused(400, "Verify HMAC failed")


def metrics_routes(permission: str | None) -> tuple[Route, ...]:
    """``permission``: what they need; None for no token at all."""
    return tuple(Route("GET", path, get_metrics, permission) for path in ("/appmesh/metrics", "/metrics"))


ROUTES = (
    Route("GET", "/appmesh/resources", get_resources, "host-resource-view"),
    Route("GET", "/", get_page),
    Route("GET", "/index.html", get_page),
    Route("GET", "/openapi.yaml", get_description),
    Route("GET", "/swagger/", get_swagger),
    Route("GET", "/appmesh/cloud/resources", get_cloud),
)
