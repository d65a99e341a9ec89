"""The daemon's operations, one module per area; together the routing table (docs/protocol.md, 'Operations')."""

from meshbridge.emulator.operations import apps, auth, config, events, files, host, principals, runs, tasks, users

_OF_BOTH = (
    *apps.ROUTES,
    *runs.ROUTES,
    *tasks.ROUTES,
    *events.ROUTES,
    *config.ROUTES,
    *users.ROLE_ROUTES,
    *files.ROUTES,
    *host.ROUTES,
)
ROUTES = {2: (*auth.ROUTES, *users.ROUTES, *_OF_BOTH), 3: (*principals.ROUTES, *_OF_BOTH)}
"""By generation of daemon (docs/protocol.md, 'App Mesh 3.x')."""
