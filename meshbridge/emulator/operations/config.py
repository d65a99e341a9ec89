"""Configuration and labels."""

from typing import TYPE_CHECKING

from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.messages import Call, EmulatedAnswer, json_answer, message_answer
from meshbridge.emulator.routes import ApiRoute

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon


async def get_config(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return json_answer(daemon.configuration.shown())


async def set_config(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """Any text is taken as a log level; a value of another type ends as 500 (measured)."""
    daemon.configuration.update(call.json())
    return json_answer(daemon.configuration.shown())


async def list_labels(daemon: "Daemon", _call: Call) -> EmulatedAnswer:
    return json_answer(daemon.configuration.labels)


async def add_label(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    if "value" not in call.request.query:
        raise RequestRefused(400, "query value required")
    daemon.configuration.labels[call.name] = call.query("value")
    daemon.configuration.save()
    return message_answer(200, "Add label success")


async def delete_label(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    """Deleting what is not there is a success, too (measured)."""
    daemon.configuration.labels.pop(call.name, None)
    daemon.configuration.save()
    return message_answer(200, "Label delete success")


ROUTES = (
    ApiRoute("GET", "/appmesh/config", get_config, "config-view"),
    ApiRoute("POST", "/appmesh/config", set_config, "config-set"),
    ApiRoute("GET", "/appmesh/labels", list_labels, "label-view"),
    ApiRoute("PUT", "/appmesh/label/{}", add_label, "label-set"),
    ApiRoute("DELETE", "/appmesh/label/{}", delete_label, "label-delete"),
)
