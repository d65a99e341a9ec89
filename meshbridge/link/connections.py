"""How a daemon is reached: the transport that its URL names."""

import contextlib
import socket
import ssl

from meshbridge.appmesh.channel import Channel, Transport
from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshIssuerError,
    AppMeshLoginError,
    AppMeshNotOfferedError,
    AppMeshTimeoutError,
    AppMeshTokenError,
    LoginFault,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.tcp_transport import TCPTransport
from meshbridge.appmesh.wss_transport import WSSTransport
from meshbridge.fields import strict_certificate_hint
from meshbridge.link.credentials import Credentials
from meshbridge.link.options import DaemonOptions
from meshbridge.link.permissions import LEAST_ROLE

__all__ = [
    "CutOffError",
    "LinkClient",
    "explain",
    "new_exchange",
    "new_login_exchange",
    "new_transport",
    "was_disconnected_by_daemon",
]

_FORBIDDEN = 403
_TRY_AGAIN_LATER = 1013  # RFC 6455's registry: how a daemon closes on a client that does not read


class CutOffError(AppMeshConnectionError):
    """The daemon closed the connection since it was not read fast enough."""

    def __init__(self) -> None:
        super().__init__("the daemon cut the connection off, which was not read fast enough")


class _LinkSocket(WSSTransport):
    """A WSS transport that shows the link's token at the upgrade."""

    def __init__(self, options: DaemonOptions, credentials: Credentials, max_message_bytes: int | None) -> None:
        super().__init__(
            options.address, options.ssl_verify, options.ssl_client_cert, max_message_bytes=max_message_bytes
        )
        self._options = options
        self._credentials = credentials

    def connect(self, timeout_seconds: float | None = None) -> None:
        token = self._early_token()
        self.set_bearer_token(token)
        try:
            super().connect(timeout_seconds)
        except AppMeshTokenError:
            self.set_bearer_token(self._early_token(refused=token))
            super().connect(timeout_seconds)

    def _early_token(self, refused: str | None = None) -> str | None:
        """Daemons of 2.x, which give their tokens themselves, don't look at it."""
        if not self._credentials.source.early:
            return None
        with contextlib.closing(new_login_exchange(self._options, self.WSS_CONNECT_TIMEOUT)) as exchange:
            return self._credentials.token(exchange, refused=refused)


def new_transport(
    options: DaemonOptions, credentials: Credentials, *, max_message_bytes: int | None = None
) -> Transport:
    """A transport, not yet connected. Not for https://."""
    if options.scheme == "wss":
        return _LinkSocket(options, credentials, max_message_bytes)
    return TCPTransport(
        options.address, options.ssl_verify, options.ssl_client_cert, max_message_bytes=max_message_bytes
    )


def was_disconnected_by_daemon(transport: Transport) -> bool:
    """Whether the daemon closed the connection saying that it was not read."""
    return isinstance(transport, WSSTransport) and transport.close_code == _TRY_AGAIN_LATER


class LinkClient(AppMeshClient):
    """The SDK's client over one of a link's connections, with the link's token; closes the connection with it."""

    _USER_AGENT = "meshbridge"

    def __init__(self, exchange: Exchange, credentials: Credentials, forward_to: str | None = None) -> None:
        """``forward_to``: the node that carries the requests out; those about the token stay here.

        A daemon that is asked to forward to itself never answers (docs/protocol.md, 'Surprises'): each request has its
        deadline.
        """
        super().__init__(exchange=exchange, token_provider=credentials.over(exchange))
        self.forward_to = forward_to or ""


def new_exchange(name: str, options: DaemonOptions, credentials: Credentials, timeout_seconds: float) -> Exchange:
    """A connection of its own for requests.

    Raises:
        AppMeshConnectionError: it could not be made; the message says why.

    """
    if options.scheme == "https":
        return _https(options, timeout_seconds)
    channel = Channel(new_transport(options, credentials), name=f"requests-{name}", attended=False)
    channel.open(timeout_seconds)
    return channel


def new_login_exchange(options: DaemonOptions, timeout_seconds: float) -> Exchange:
    """A connection that needs no token: for what has to be asked before there is one. Raises as above."""
    if options.scheme != "tcp":
        return _https(options, timeout_seconds)  # the port for WSS answers, too
    transport = TCPTransport(options.address, options.ssl_verify, options.ssl_client_cert)
    channel = Channel(transport, name="login", attended=False)
    channel.open(timeout_seconds)
    return channel


def _https(options: DaemonOptions, timeout_seconds: float) -> Exchange:
    from meshbridge.appmesh.http_session import HttpSession  # noqa: PLC0415 brings requests along

    host, port = options.address
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return HttpSession(f"https://{place}", options.ssl_verify, options.ssl_client_cert, timeout_seconds)


_REASONS: tuple[tuple[type[AppMeshError], str, str | None], ...] = (
    (AppMeshTokenError, "login", "the daemon takes no token that it gives: look at its log and at both clocks"),
    (AppMeshIssuerError, "issuer", "see whether the issuer of tokens can be reached from here, and oidc.tls.ca_file"),
    (AppMeshDeniedError, "permission", f"give the user a role with {', '.join(LEAST_ROLE)}"),
    (
        AppMeshNotOfferedError,
        "not_offered",
        "see whether the url is that of App Mesh's TCP or WSS port, and its version",
    ),
    (CutOffError, "overrun", "see whether this host is short of CPU, or was asleep"),
    (AppMeshTimeoutError, "silent", None),
    (AppMeshConnectionError, "connection", None),
)

_USER_HINT = "set username and password of the daemon in the configuration"
_LOGIN_HINTS = {
    LoginFault.PASSWORD: _USER_HINT,
    LoginFault.USER: _USER_HINT,
    LoginFault.CODE_MISSING: "set totp_secret_file of the daemon, or use a user without it",
    LoginFault.CODE: "check totp_secret of the daemon, and the clocks of both hosts",
    LoginFault.NO_LOGINS: "set oidc (or token_file) of the daemon instead of username and password",
    LoginFault.NO_ISSUER: "set username and password_file of the daemon instead of oidc",
    LoginFault.ISSUER: "set username, password_file and client_id of oidc to what the issuer knows",
    LoginFault.TOKEN: "look at the daemon's log and at both clocks",
}

# By OpenSSL's codes (x509_vfy.h); of any other certificate the authority is not known here.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
_TRUST_HINT = "set tls.ca_file of the daemon to its ca.pem (ssl/ca.pem in App Mesh's directory)"
_CERTIFICATE_HINTS = {
    _NOT_YET_VALID: "compare the clocks of both hosts",
    _EXPIRED: "renew the daemon's certificate (ssl/ in App Mesh's directory) and restart the daemon",
    _OTHER_NAME: "use a name in url that the certificate is made out to, or have one made for this name",
    _OTHER_ADDRESS: "use a name in url that the certificate is made out to, or have one made for this address",
}


def _connection_hint(error: AppMeshError) -> str | None:
    """For a connection that could not be made."""
    if str(error).startswith("cannot load TLS files"):
        return "make the files of tls (ca_file, client_cert, client_key) PEM files that this user may read"
    hint = None
    match error.__cause__:
        case ssl.SSLCertVerificationError(verify_code=code):
            hint = strict_certificate_hint(error.__cause__) or _CERTIFICATE_HINTS.get(code, _TRUST_HINT)
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "HTTP_REQUEST"):
            hint = "what listens there speaks no TLS: see the port in url (App Mesh: tcp 6059, wss 6058, https 6060)"
        case ssl.SSLError():
            hint = "see the daemon's log; a daemon that asks for a client certificate wants tls.client_cert"
        case socket.gaierror():
            hint = "see whether the name in url is right, and known here"
        case ConnectionRefusedError():
            hint = "start App Mesh there, or set url to where it listens (by default tcp 6059, wss 6058, https 6060)"
        case TimeoutError():
            hint = "see whether the address in url is right, and what the firewalls in between let through"
    return hint


def explain(error: AppMeshError) -> tuple[str, str | None]:
    """(reason, a short word for logs and metrics; what to do about it, where that is known)."""
    if isinstance(error, AppMeshLoginError):
        return "login", error.hint or _LOGIN_HINTS.get(error.fault)
    if "not trusted" in str(error) and not isinstance(error, AppMeshIssuerError):
        return "certificate", _connection_hint(error) or _TRUST_HINT
    if isinstance(error, AppMeshAuthError) and error.status == _FORBIDDEN:
        return (
            "permission",
            f"activate the principal and give it a role with {', '.join(LEAST_ROLE[:-1])}",
        )
    reason, hint = next(
        ((reason, hint) for kind, reason, hint in _REASONS if isinstance(error, kind)),
        ("answer", None),
    )
    return reason, hint or _connection_hint(error)
