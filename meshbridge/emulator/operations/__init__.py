"""The daemon's operations, one module per area; together the routing table (docs/protocol.md, 'Operations')."""

from collections.abc import Iterable

from meshbridge.emulator.dialects import Dialect
from meshbridge.emulator.operations import apps, auth, config, events, files, host, principals, runs, tasks, users
from meshbridge.emulator.routes import ApiRoute

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


def routes(dialect: Dialect) -> Iterable[ApiRoute]:
    """What a daemon of that generation has (docs/protocol.md, 'App Mesh 3.x')."""
    of_its_own = principals.ROUTES if dialect.has_issuer else (*auth.ROUTES, *users.ROUTES)
    open_routes = apps.open_routes(with_token=dialect.has_issuer)
    return *of_its_own, *_OF_BOTH, *open_routes, *host.metrics_routes(dialect.metrics_permission)
