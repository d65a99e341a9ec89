"""One look at a daemon, for ``meshbridge check``: connect, log in, see what is allowed, leave.

Each step needs the one before: the first that fails is the last that is reported. Nothing is left behind on the daemon.
"""

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from meshbridge.appmesh import paths
from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshRequestError,
)
from meshbridge.appmesh.tls_stream import TlsStream, client_context
from meshbridge.link.connections import LinkClient, explain, new_exchange
from meshbridge.link.credentials import Credentials
from meshbridge.link.options import DaemonOptions
from meshbridge.link.permissions import LEAST_ROLE, lacking
from meshbridge.model.status import Grade, Verdict

__all__ = ["try_daemon"]

_OK = 200
_AGENT_PORT = 6060
_ROLE = "meshbridge"  # what the role of a bridge is called where it must be made
_SECONDS = 10.0
_DAY_SECONDS = 86_400.0
_EXPIRY_WARNING_DAYS = 30
# A code of a second factor is good for 30 s, an expired token for 60 s; and times are in whole seconds.
_CLOCK_WARNING_SECONDS = 5.0


def try_daemon(name: str, options: DaemonOptions) -> Iterator[Verdict]:
    """Verdicts on the connection, certificate, login, permissions, the daemon itself and its clock."""
    checked = _DaemonCheck(f"daemon {name}", options)
    with ExitStack() as cleanup:
        try:
            yield from checked.reach()
            credentials = Credentials(name, options)
            exchange = new_exchange(name, options, credentials, _SECONDS)
            client = cleanup.enter_context(LinkClient(exchange, credentials))
            cleanup.enter_context(client.using(timeout_seconds=_SECONDS))
            checked.aspect = "login"
            credentials.token(exchange)
            cleanup.callback(credentials.end, exchange)
            yield checked.logged_in(credentials)
            checked.aspect = "permissions"
            yield checked.permissions(client)
            checked.aspect = "daemon"
            client.forward_to = options.forward_to or ""
            yield from checked.daemon(client)
        except AppMeshError as error:
            yield checked.failed(error)


class _DaemonCheck:
    def __init__(self, subject: str, options: DaemonOptions) -> None:
        self._subject = subject
        self._options = options
        self.aspect = "connection"  # what is being tried

    def _verdict(self, grade: Grade, text: str, remedy: str | None = None, *, aspect: str | None = None) -> Verdict:
        return Verdict(self._subject, aspect or self.aspect, grade, text, remedy)

    def failed(self, error: AppMeshError) -> Verdict:
        otherwise = f"see whether the port in url is that of {self._options.scheme}://"
        if self._options.tls.client_cert is None:
            otherwise += ", and whether the daemon asks for a client certificate (tls.client_cert)"
        return self._verdict(Grade.FAILED, error.describe(), explain(error)[1] or f"{otherwise}; its log may say more")

    def reach(self) -> Iterator[Verdict]:
        options = self._options
        host, port = options.address
        context = client_context(options.ssl_verify, options.ssl_client_cert)
        try:
            stream = TlsStream.connect(options.address, context, _SECONDS)
        except AppMeshConnectionError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                self.aspect = "certificate"
            raise
        expires = stream.peer_certificate().get("notAfter")
        stream.close()
        yield self._verdict(Grade.OK, f"reachable at {host}:{port} ({options.scheme})")
        if options.tls.verify and expires is not None:
            yield self._expiry(ssl.cert_time_to_seconds(expires))
        elif not options.tls.verify:
            yield self._verdict(
                Grade.WARNING,
                "its certificate is not verified: an attacker on the network can read the password and the token",
                "set tls.ca_file to its ca.pem (ssl/ca.pem in App Mesh's directory) and drop tls.verify: false",
                aspect="certificate",
            )

    def _expiry(self, expires_at: float) -> Verdict:
        days = int((expires_at - time.time()) / _DAY_SECONDS)
        text = f"certificate good until {_date(expires_at)} ({days} {'day' if days == 1 else 'days'})"
        if days >= _EXPIRY_WARNING_DAYS:
            return self._verdict(Grade.OK, text, aspect="certificate")
        remedy = "renew it on the daemon's host (ssl/ in App Mesh's directory) and restart the daemon before that"
        return self._verdict(Grade.WARNING, text, remedy, aspect="certificate")

    def logged_in(self, credentials: Credentials) -> Verdict:
        options = self._options
        if options.username is not None:
            return self._verdict(Grade.OK, f"logged in as {options.username!r}")
        if options.oidc is not None:
            return self._verdict(Grade.OK, "has a token of the OpenID Connect issuer")
        expires_at = credentials.expires_at
        if expires_at is None:
            return self._verdict(Grade.OK, "has a token that does not tell when it expires")
        text = f"has a token good until {_date(expires_at)}"
        if options.renew_token or expires_at - time.time() > _DAY_SECONDS:
            return self._verdict(Grade.OK, text)
        remedy = "put a new one into token_file before that; or let this bridge renew it (renew_token: true)"
        return self._verdict(Grade.WARNING, f"{text}, and it is not renewed", remedy)

    def permissions(self, client: AppMeshClient) -> Verdict:
        renews = self._options.renews_at_daemon
        granted = client.list_own_permissions()
        if granted is None:
            return self._verdict(Grade.OK, "the daemon does not tell what the user may do")
        missing = lacking(granted, renews=renews)
        if not missing:
            return self._verdict(Grade.OK, "the user may do all that a bridge needs")
        needed = lacking(frozenset(), renews=renews)
        if (principal := _principal_of(client)) is not None:
            return self._verdict(
                Grade.FAILED, f"the principal may not {', '.join(missing)}", self._commands(principal, needed)
            )
        roles = _roles(client)
        enough = [name for name, permits in roles.items() if not lacking(permits | granted, renews=renews)]
        least = min(enough, key=lambda name: (len(roles[name]), name), default=None)
        remedy = f"give the user a role with {', '.join(needed)}"
        if least is not None and roles[least] <= set(LEAST_ROLE):
            remedy = f"give the user the role {least}"
        elif least is not None:
            remedy += f" (a new one, say meshbridge; {least} would do as well, but permits more)"
        elif roles:
            remedy += " (a new one, say meshbridge: none of this daemon's has them)"
        return self._verdict(Grade.FAILED, f"the user may not {', '.join(missing)}", remedy)

    def _commands(self, principal: str, needed: tuple[str, ...]) -> str:
        """For an administrator of App Mesh 3.x, where no role that comes with it has all that a bridge needs."""
        host = self._options.address[0]
        place = f"https://[{host}]:{_AGENT_PORT}" if ":" in host else f"https://{host}:{_AGENT_PORT}"
        name = self._subject.removeprefix("daemon ")
        curl = 'curl --cacert ca.pem -H "Authorization: Bearer $TOKEN" -X POST'
        return (
            "give the principal a role with these permissions. As an administrator, on each node:\n"
            f"     TOKEN=$(meshbridge login {name})\n"
            f"     {curl} {place}{paths.role(_ROLE)} -d '{json.dumps(needed)}'\n"
            f"     {curl} {place}{paths.principal(principal)} -d '{json.dumps({'roles': [_ROLE], 'status': 'active'})}'"
        )

    def daemon(self, client: AppMeshClient) -> Iterator[Verdict]:
        began = time.time()
        try:
            resources, apps = client.get_host_resources(), client.list_apps_json()
        except AppMeshDeniedError:
            return  # told already
        except AppMeshRequestError as error:
            if error.status != _OK:
                raise
            yield self._verdict(Grade.FAILED, "its answers are not those of App Mesh", "see whether url is right")
            return
        ended = time.time()
        version = str(resources.get("appmesh_version", "of unknown version")).removeprefix("appmesh_")
        started = resources.get("appmesh_start_time_unix_seconds")
        since = f", running since {_moment(started)}" if isinstance(started, int) else ""
        where = f" on {self._options.forward_to}" if self._options.forward_to else ""
        yield self._verdict(Grade.OK, f"App Mesh {version}{where}{since}, {len(apps)} apps")
        if self._options.scheme == "https":
            yield self._verdict(
                Grade.OK, "metrics and operations only: an https:// daemon sends no events", aspect="events"
            )
        told = _clock(resources)
        if told is not None:
            yield self._clock_verdict(told, began, ended)

    def _clock_verdict(self, told: float, began: float, ended: float) -> Verdict:
        """``told`` was so at some moment between the two, less the part of a second that is not told."""
        ahead = max(0.0, told - ended) - max(0.0, began - (told + 1.0))
        if abs(ahead) < _CLOCK_WARNING_SECONDS:
            return self._verdict(Grade.OK, "its clock agrees with this host's", aspect="clock")
        text = f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this host's"
        remedy = "set both by NTP: times of events, expiry of tokens and two-factor codes depend on them"
        return self._verdict(Grade.WARNING, text, remedy, aspect="clock")


def _principal_of(client: AppMeshClient) -> str | None:
    """Who the bridge is at a daemon of 3.x; None at others."""
    try:
        principal = client.get_current_principal().get("principal_id")
    except (AppMeshAuthError, AppMeshRequestError):
        return None
    return principal if isinstance(principal, str) and principal and "/" not in principal else None


def _roles(client: AppMeshClient) -> dict[str, frozenset[str]]:
    """The daemon's roles with what each permits; none where that may not be asked."""
    try:
        roles = client.list_roles()
    except (AppMeshAuthError, AppMeshRequestError):
        return {}
    return {str(name): frozenset(map(str, granted)) for name, granted in roles.items() if isinstance(granted, list)}


def _clock(resources: dict[str, Any]) -> float | None:
    """Unix seconds by the daemon's clock; older ones tell them as text only."""
    told = resources.get("collected_at_unix_seconds")
    if isinstance(told, int | float):
        return float(told)
    try:
        moment = datetime.fromisoformat(str(resources["systime"]))
    except (KeyError, ValueError):
        return None
    return moment.timestamp() if moment.tzinfo else None


def _date(unix_seconds: float) -> str:
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d}"


def _moment(unix_seconds: float) -> str:
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
