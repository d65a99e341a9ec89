"""The host's resources and the daemon's metrics."""

from typing import TYPE_CHECKING

from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.messages import Call, EmulatedAnswer, json_answer
from meshbridge.emulator.metrics import CONTENT_TYPE
from meshbridge.emulator.resources import host_resources
from meshbridge.emulator.routes import ApiRoute

HTML = "text/html; charset=utf-8"

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon


async def get_resources(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    resources = host_resources(
        start_time=daemon.start_time,
        version=str(daemon.configuration.shown()["Version"]),
        node_name=daemon.options.node_name,
        description=daemon.configuration.description,
        home=daemon.store.root,
        apps=[app.process.pid for app in daemon.applications if app.process is not None and app.running],
    )
    return json_answer(daemon.dialect.resources(resources))


async def get_metrics(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return EmulatedAnswer(200, daemon.exposition.text().encode(), CONTENT_TYPE)


async def get_page(_daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return EmulatedAnswer(200, b'<!DOCTYPE html>\n<html lang="en"><title>App Mesh emulator</title></html>\n', HTML)


async def get_description(_daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return EmulatedAnswer(200, b"---\nopenapi: 3.1.0\ninfo:\n  title: App Mesh REST API\n", "application/x-yaml")


async def get_swagger(_daemon: "Daemon", call: Call) -> EmulatedAnswer:
    place = f"https://petstore.swagger.io/?url=https://{call.header('Host')}/openapi.yaml"
    return EmulatedAnswer(307, b"", HTML, {"Location": place})


async def get_cloud(_daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    """For other nodes of a cluster, which sign their requests."""
    raise RequestRefused(400, "Verify HMAC failed")


def metrics_routes(permission: str | None) -> tuple[ApiRoute, ...]:
    """``permission``: what they need; None for no token at all."""
    return tuple(ApiRoute("GET", path, get_metrics, permission) for path in ("/appmesh/metrics", "/metrics"))


ROUTES = (
    ApiRoute("GET", "/appmesh/resources", get_resources, "host-resource-view"),
    ApiRoute("GET", "/", get_page),
    ApiRoute("GET", "/index.html", get_page),
    ApiRoute("GET", "/openapi.yaml", get_description),
    ApiRoute("GET", "/swagger/", get_swagger),
    ApiRoute("GET", "/appmesh/cloud/resources", get_cloud),
)
