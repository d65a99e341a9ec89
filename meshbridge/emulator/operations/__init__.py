"""The daemon's operations, one module per area; together they are the routing table (PROTOCOL.md, 'Operations')."""

from meshbridge.emulator.operations import apps, auth, config, events, files, host, runs, tasks, users

ROUTES = (
    *auth.ROUTES,
    *apps.ROUTES,
    *runs.ROUTES,
    *tasks.ROUTES,
    *events.ROUTES,
    *config.ROUTES,
    *users.ROUTES,
    *files.ROUTES,
    *host.ROUTES,
)
