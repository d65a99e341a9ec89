"""Sends messages to the service of an Apprise URL, each within its time."""

import logging
import re
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from meshbridge.outside import remember_secret, said
from meshbridge.sinks.base import NotConnected, Refused, Retry
from meshbridge.sinks.http.answers import OF_THE_MESSAGE
from meshbridge.sinks.notify.message import NoticeMessage

__all__ = ["Background", "NotifyService"]

_HOOKS = frozenset({"json", "xml", "form"})  # plugins for hooks of one's own
_STATUS = re.compile(r"\berror[=: ]+([1-5]\d\d)\b")  # how Apprise's plugins name the status of an HTTP answer
_MOST_CHARACTERS = 300
_LEAST_SECRET_CHARACTERS = 10  # of a piece of the URL; other words, such as the name of a channel, stay readable
_ADDRESS = re.compile(r"[\w.+-]+@[\w.-]+|[\w-]+(?:\.[\w-]+)+(?::\d+)?|\S+:\d{1,5}")  # of mail, or a host with its port


class NotifyService:
    """One service. For one thread at a time."""

    def __init__(self, url: str) -> None:
        """Reads the URL; connects to nothing.

        Raises:
            NotConnected: no service of Apprise has such a URL.

        """
        import apprise  # noqa: PLC0415 only where the extra is there

        _remember(url)
        logger = logging.getLogger("apprise")  # its lines come with each result, and go through the sink's errors
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
        asset = apprise.AppriseAsset(async_mode=False, secure_logging=True, storage_mode="memory")
        plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        if plugin is None:
            scheme = url.partition("://")[0]
            text = f"Apprise finds the {scheme}:// URL unusable: see its documentation for what such a URL holds"
            raise NotConnected(text, reason="configuration")
        self._plugin: Any = plugin
        self._apprise = apprise.Apprise(asset=asset)
        self._apprise.add(plugin)
        self.name = str(plugin.service_name)

    def reach(self, timeout_seconds: float) -> str | None:
        """Connects to the service's host and ends the connection; the host, None where that is not known for sure.

        Raises:
            NotConnected: it cannot be reached.

        """
        place = self._place()
        if place is None or getproxies():
            return None
        host, port = place
        try:
            socket.create_connection((host, port), timeout_seconds).close()
        except OSError as error:
            why = error.strerror or "no answer in time"
            raise NotConnected(f"{self.name}: cannot connect to {host}:{port}: {why}", reason="unreachable") from error
        return f"{host}:{port}"

    def _place(self) -> tuple[str, int] | None:
        """Apprise has no call that only connects. The URL of a service on a host of one's own names that."""
        plugin = self._plugin
        host = getattr(plugin, "smtp_host", None) or getattr(plugin, "host", None)
        port = getattr(plugin, "port", None)
        if not isinstance(port, int) and plugin.protocol in _HOOKS:
            port = 443 if plugin.secure else 80
        return (host, port) if isinstance(host, str) and host and isinstance(port, int) else None

    def send(self, message: NoticeMessage, timeout_seconds: float) -> None:
        """Returns when the service has taken the message.

        Raises:
            Refused: it will not take this one.
            Retry: it does not take it now.

        """
        from apprise import AppriseResultStatus  # noqa: PLC0415 as in __init__

        try:
            result = self._apprise.notify(
                message.body, title=message.title, notify_type=message.tone.value, timeout=timeout_seconds,
                body_format="text",
            )  # fmt: skip
        except Exception as error:
            text = f"{self.name} plugin of Apprise failed: {said(repr(error))}"[:_MOST_CHARACTERS]
            raise Retry(text, reason="plugin") from error
        if result:
            return
        if result.status is AppriseResultStatus.TIMEOUT:
            raise Retry(f"{self.name} does not answer in time", reason="timeout")
        text = said("; ".join(str(entry.message) for one in result for entry in one.logs()))[:_MOST_CHARACTERS]
        status = _STATUS.search(text)
        if status is not None and int(status[1]) in OF_THE_MESSAGE:
            raise Refused(f"{self.name} refused a message: {text}", reason=f"http_{status[1]}")
        reason = f"http_{status[1]}" if status is not None else "failed"
        raise Retry(f"{self.name} did not take a message: {text or 'no reason given'}", reason=reason)


class Background:
    """One call at a time on a thread of its own, for ``idle``, which must not wait."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_ended(self) -> bool:
        """Whether there is a call whose end :meth:`take` tells."""
        return self._thread is not None and not self._thread.is_alive()

    def start(self, call: Callable[[], None]) -> None:
        def run() -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 for the one who takes it
                self._error = error

        self._error = None
        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))

    def take(self) -> None:
        """Forgets the call that has ended; raises what it has raised."""
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error


def _remember(url: str) -> None:
    """The URL and what in it looks like a token, so that neither is ever shown."""
    remember_secret(url)
    parts = urlsplit(url)
    if parts.password:
        remember_secret(unquote(parts.password))
    pieces = [*parts.netloc.split("@"), *parts.path.split("/")]
    pieces += [value for pair in parts.query.split("&") for value in pair.split("=")[1:]]
    for piece in map(unquote, pieces):
        mixed = re.search(r"\d", piece) and re.search(r"[A-Za-z]", piece)
        if len(piece) >= _LEAST_SECRET_CHARACTERS and mixed and not _ADDRESS.fullmatch(piece):
            remember_secret(piece)
