"""A restart of an app, which the daemon has no request for: disable it, wait until its process has ended, enable it."""

import time
from collections.abc import Callable

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import AppMeshRequestError, AppMeshTimeoutError

__all__ = ["restart_app"]

_LOOK_SECONDS = 0.2
_DISABLED = 0


def restart_app(
    client: AppMeshClient,
    app_name: str,
    timeout_seconds: float = 60.0,
    *,
    pause: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Restarts an app that is enabled. It is enabled again in any case, also where its process does not end in time.

    Raises:
        AppMeshRequestError: the app is disabled, or there is none.
        AppMeshTimeoutError: its process had not ended within ``timeout_seconds``.
        AppMeshError: as the requests raise it.

    """
    deadline = clock() + timeout_seconds
    if client.get_app(app_name).status == _DISABLED:
        raise AppMeshRequestError(f"{app_name} is disabled: enable it instead", operation="restart")
    client.disable_app(app_name)
    try:
        while client.get_app(app_name).pid:
            if clock() >= deadline:
                raise AppMeshTimeoutError(
                    f"the process of {app_name} did not end within {timeout_seconds:g} s; the app is enabled again",
                    operation="restart",
                )
            pause(_LOOK_SECONDS)
    finally:
        client.enable_app(app_name)
