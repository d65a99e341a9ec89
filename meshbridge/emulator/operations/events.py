"""Subscriptions (docs/protocol.md, 'Events')."""

from typing import TYPE_CHECKING

from meshbridge.emulator.errors import RequestRefused
from meshbridge.emulator.events import parse_events
from meshbridge.emulator.messages import Call, EmulatedAnswer, json_answer, message_answer
from meshbridge.emulator.operations.apps import accessible
from meshbridge.emulator.routes import ApiRoute

if TYPE_CHECKING:
    from meshbridge.emulator.daemon import Daemon


async def subscribe_all(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    assert call.caller is not None
    daemon.require(call.caller, "app-view-all")
    return _subscribe(daemon, call, "*")


async def subscribe_app(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    if daemon.dialect.has_issuer:  # before it looks for the app
        _check_connection(call)
    return _subscribe(daemon, call, accessible(daemon, call, write=False).name)


async def unsubscribe(daemon: "Daemon", call: Call) -> EmulatedAnswer:
    if "subscription_id" not in call.request.query:
        raise RequestRefused(400, "Missing query parameter: subscription_id")
    subscription_id = call.query("subscription_id")
    assert call.caller is not None
    caller = call.caller.name if daemon.dialect.follows_principal else None
    if not daemon.hub.unsubscribe(call.connection, subscription_id, caller):
        raise RequestRefused(404, f"Subscription not found: {subscription_id}")
    return message_answer(200, "unsubscribed")


def _subscribe(daemon: "Daemon", call: Call, app: str) -> EmulatedAnswer:
    wanted = call.query("events")
    events = parse_events(wanted)
    if not events:
        raise RequestRefused(400, f"No valid event types in: {wanted}")
    _check_connection(call)
    assert call.caller is not None
    subscription = daemon.hub.subscribe(call.connection, app, events, call.caller.name)
    return json_answer({"app_name": app, "events": events, "subscription_id": subscription.id})


def _check_connection(call: Call) -> None:
    if not call.connection.takes_events:
        raise RequestRefused(405, "Subscribe requires a persistent connection (TCP or WebSocket)")


ROUTES = (
    ApiRoute("POST", "/appmesh/subscribe", subscribe_all, "app-subscribe"),
    ApiRoute("DELETE", "/appmesh/subscribe", unsubscribe, "app-subscribe"),
    ApiRoute("POST", "/appmesh/app/{}/subscribe", subscribe_app, "app-subscribe"),
    ApiRoute("DELETE", "/appmesh/app/{}/subscribe", unsubscribe, "app-subscribe"),
)
