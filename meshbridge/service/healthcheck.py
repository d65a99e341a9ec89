"""``meshbridge healthcheck``: asks a bridge on this host how it is, for a container's HEALTHCHECK and for probes.

It runs every minute for ever, so it takes a glance at the configuration only, and imports none of the parts.
"""

import http.client
from collections.abc import Mapping
from pathlib import Path

from meshbridge.appmesh.final_response import FinalResponse
from meshbridge.config.peek import part_of, read_file

__all__ = ["CannotAskError", "CredentialsNeededError", "ask", "ask_control", "exporter_url"]

LISTEN = "0.0.0.0:9665"
_OK, _UNAUTHORIZED = 200, 401


class CannotAskError(Exception):
    """The configuration doesn't say where to ask, or there is no answer."""


def exporter_url(config: Path | None, environ: Mapping[str, str]) -> str:
    """Where the exporter listens, as seen from this host.

    Raises:
        CannotAskError: the file can't be read, or names no fixed port.

    """
    try:
        settings = part_of(config, environ, "exporter", ("listen", "web_config"))
        web_config = settings.get("web_config")
        tls = web_config is not None and "tls_server_config" in read_file(Path(web_config))
    except (OSError, ValueError) as error:
        raise CannotAskError(f"cannot read the configuration: {error}") from error
    host, _, port = str(settings.get("listen", LISTEN)).rpartition(":")
    if not port.isdecimal() or int(port) == 0:
        raise CannotAskError(f"exporter.listen has no fixed port: {settings.get('listen')!r}; give --url")
    here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 where it listens
    return f"{'https' if tls else 'http'}://{here}:{port}"


class CredentialsNeededError(CannotAskError):
    """The exporter is alive, and asks for a user or a client certificate."""


def ask_control(directory: Path, *, ready: bool, timeout_seconds: float) -> tuple[bool, str]:
    """As :func:`ask`, over the control socket, which needs no user; ``directory`` is that of the journal.

    Raises:
        CannotAskError: there is no answer, or this user must not ask.

    """
    from meshbridge.admin.client import Client, NotRunningError, RefusedError  # noqa: PLC0415 seldom needed

    try:
        state = Client(directory, timeout_seconds).get("/api/v1/bridge")
    except (NotRunningError, RefusedError, OSError) as error:
        raise CannotAskError(f"no answer over the control socket in {directory}: {error}") from error
    if not ready:
        return True, "meshbridge is healthy."
    # The socket is served from the end of the start to the beginning of the stop.
    return (True, "ready") if state["journal"]["open"] else (False, "not ready: the journal is not open")


def ask(url: str, *, ready: bool, timeout_seconds: float) -> tuple[bool, str]:
    """Whether the bridge is healthy (or ready), and what its exporter answers.

    Raises:
        CredentialsNeededError: it asks for a user or a client certificate.
        CannotAskError: there is no answer.

    """
    scheme, _, address = url.rstrip("/").partition("://")
    connection = _connection(scheme, address, timeout_seconds)
    connection.response_class = FinalResponse
    try:
        connection.request("GET", "/-/ready" if ready else "/-/healthy")
        answer = connection.getresponse()
        text = answer.read(65536).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        if scheme == "https" and _certificate_missed(error):
            raise CredentialsNeededError("the exporter asks for a client certificate") from error
        raise CannotAskError(f"no answer from {url}: {error}") from error
    finally:
        connection.close()
    if answer.status == _UNAUTHORIZED:
        raise CredentialsNeededError("the exporter asks for a user")
    return answer.status == _OK, text


def _certificate_missed(error: Exception) -> bool:
    """In TLS 1.3 a client without a certificate gets an alert after the handshake, or its connection is closed.

    Which error a closed connection gives depends on what the client was doing at that moment.
    """
    closed = isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
    return closed or "CERTIFICATE_REQUIRED" in str(error) or "EOF occurred" in str(error)


def _connection(scheme: str, address: str, timeout_seconds: float) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(address, timeout=timeout_seconds)
    if scheme != "https":
        raise CannotAskError(f"not an address: {scheme}://{address} (use http://host:port or https://host:port)")
    import ssl  # noqa: PLC0415 most bridges listen without

    # Its certificate is for the host's name, and this asks on the host itself, and sends no secret.
    context = ssl._create_unverified_context()  # noqa: S323, SLF001
    return http.client.HTTPSConnection(address, timeout=timeout_seconds, context=context)
