"""The daemon's operations, one module per area; together they are the routing table (PROTOCOL.md, 'Operations')."""

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
"""By generation of daemon (PROTOCOL.md, 'Two generations of daemon')."""
