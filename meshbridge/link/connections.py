"""How a daemon is reached: the transport that its URL names."""

from meshbridge.appmesh.channel import Channel, Transport
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshError
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.http_session import HttpSession
from meshbridge.appmesh.tcp_transport import TCPTransport
from meshbridge.appmesh.wss_transport import WSSTransport
from meshbridge.link.operations import LEAST_ROLE, LoginRefusedError, PermissionMissingError
from meshbridge.link.options import DaemonOptions

__all__ = ["explain", "new_exchange", "new_transport"]


def new_transport(options: DaemonOptions) -> Transport:
    """A transport for events, not yet connected. Not for https://, which carries none."""
    kind = WSSTransport if options.scheme == "wss" else TCPTransport
    return kind(options.address, options.ssl_verify, options.ssl_client_cert)


def new_exchange(name: str, options: DaemonOptions, timeout_seconds: float) -> Exchange:
    """A connection of its own for requests.

    Raises:
        AppMeshConnectionError: it could not be made; the message says why.

    """
    if options.scheme == "https":
        host, port = options.address
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return HttpSession(f"https://{place}", options.ssl_verify, options.ssl_client_cert, timeout_seconds)
    channel = Channel(new_transport(options), name=f"requests-{name}")
    channel.open(timeout_seconds)
    return channel


def explain(error: AppMeshError) -> tuple[str, str | None]:
    """(reason, a short word for logs and metrics; what to do about it, where that is known)."""
    if isinstance(error, LoginRefusedError):
        return "login", "set username and password of the daemon in the configuration"
    if isinstance(error, PermissionMissingError):
        return "permission", f"give the user a role with {', '.join(LEAST_ROLE)}"
    if "not trusted" in str(error):
        return "certificate", "set tls.ca_file of the daemon to its ca.pem (ssl/ca.pem in App Mesh's directory)"
    if isinstance(error, AppMeshConnectionError):
        return "connection", None
    return "answer", None
