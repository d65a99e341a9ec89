"""Puts the API together."""

from fastapi import FastAPI

import meshbridge
from meshbridge.admin import bridge as bridge_area
from meshbridge.admin import daemons as daemons_area
from meshbridge.admin import events as events_area
from meshbridge.admin import history, kept, middleware, page, problem_handlers, reference, token
from meshbridge.admin import reload as reload_area
from meshbridge.admin.audit import Audit
from meshbridge.admin.auth import Authenticate
from meshbridge.admin.description import describe
from meshbridge.admin.interface import Bridge
from meshbridge.admin.options import AdminOptions

__all__ = ["new_application"]

_DEFAULTS = AdminOptions()


def new_application(bridge: Bridge, authenticate: Authenticate, options: AdminOptions = _DEFAULTS) -> FastAPI:
    """An application for one listener, whose ``authenticate`` says who may do what; ``options`` are its limits."""
    application = FastAPI(
        title="meshbridge",
        version=meshbridge.__version__,
        docs_url=None,  # its page would ask others' servers for scripts; see `reference`
        redoc_url=None,
        redirect_slashes=False,  # a redirection would repeat the Host that a caller invented
        generate_unique_id_function=lambda route: route.name,
    )
    middleware.install(
        application, authenticate, Audit(options.audit_file), max_request_bytes=options.max_request_bytes
    )
    problem_handlers.install(application)
    application.state.bridge = bridge
    application.include_router(bridge_area.router)
    application.include_router(history.router)
    application.include_router(kept.router)
    application.include_router(daemons_area.router)
    application.include_router(reload_area.router)
    events_area.install(application, bridge.journal, most=options.max_streams)
    application.include_router(token.router)
    application.include_router(page.router)
    application.include_router(reference.router)
    describe(application)
    return application
