"""The running bridge: the composition root and what keeps it alive.

Only :mod:`meshbridge.service.service` knows every part. :mod:`~meshbridge.service.supervisor` holds the links and the
couriers, :mod:`~meshbridge.service.reload` compares two configurations, :mod:`~meshbridge.service.watchdog` and
:mod:`~meshbridge.service.notify` report to the service manager, :mod:`~meshbridge.service.tasks` answers App Mesh,
:mod:`~meshbridge.service.healthcheck` asks a running bridge, and :mod:`~meshbridge.service.offline` serves the API on
a journal that no bridge has open.
"""
