"""``/api/v1/daemons``: every operation of the SDK at each daemon, one module for each area.

An operation asks with the link's own token, over a connection that the link keeps for this. What a daemon answers comes
back as what it means (:mod:`meshbridge.admin.daemons.error_mapping`), without what is secret
(:mod:`meshbridge.admin.daemons.masking`). Which method of the SDK an operation is stands beside it, as ``x-sdk`` in the
API's description.
"""

from fastapi import APIRouter

from meshbridge.admin.daemons import apps, configuration, files, host, links, principals, runs, users

__all__ = ["router"]

router = APIRouter()
for _area in (links, apps, runs, files, configuration, users, principals, host):
    router.include_router(_area.router)
