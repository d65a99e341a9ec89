"""The host's resources and the daemon's metrics."""

from typing import TYPE_CHECKING

from meshbridge.emulator.messages import Answer, Call, json_answer
from meshbridge.emulator.metrics import CONTENT_TYPE
from meshbridge.emulator.resources import host_resources
from meshbridge.emulator.routes import Route

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon


async def get_resources(daemon: "Daemon", _call: Call) -> Answer:
    return json_answer(
        host_resources(
            start_time=daemon.start_time,
            version=str(daemon.configuration.shown()["Version"]),
            node_name=daemon.options.node_name,
            description=daemon.configuration.description,
            home=daemon.store.root,
            apps=[app.process.pid for app in daemon.applications if app.process is not None and app.running],
        )
    )


async def get_metrics(daemon: "Daemon", _call: Call) -> Answer:
    return Answer(200, daemon.exposition.text().encode(), CONTENT_TYPE)


ROUTES = (
    Route("GET", "/appmesh/resources", get_resources, "host-resource-view"),
    Route("GET", "/appmesh/metrics", get_metrics),
)
