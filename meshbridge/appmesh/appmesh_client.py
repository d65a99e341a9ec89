"""The older name of :mod:`meshbridge.appmesh.client_http`, kept for programs that import it."""

from meshbridge.appmesh.app import App
from meshbridge.appmesh.app_output import AppOutput
from meshbridge.appmesh.client_http import AppMeshClient

__all__ = ["App", "AppMeshClient", "AppOutput"]
