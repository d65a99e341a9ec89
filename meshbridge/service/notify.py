"""Tells the service manager how this process is doing: ``sd_notify(3)``, which is one datagram for each message.

Nothing is sent, and nothing fails, where no service manager asked for it (``NOTIFY_SOCKET``).
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier"]

_MICROSECONDS = 1_000_000
_NANOSECONDS_PER_MICROSECOND = 1_000


class Notifier:
    """What the environment says of the service manager, and the way to it. Any thread may call :meth:`send`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL of an abstract address. Other families (vsock, of virtual machines) are not offered.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address if address.startswith("/") else None
        self.watchdog_seconds = self._watchdog(environ) if self._address else None
        """How often the manager wants to hear ``WATCHDOG=1`` at least; None where it does not."""

    @property
    def listens(self) -> bool:
        """Whether there is a manager."""
        return self._address is not None

    @staticmethod
    def _watchdog(environ: Mapping[str, str]) -> float | None:
        """``sd_watchdog_enabled(3)``: a variable that was meant for another process is inherited, and to be ignored."""
        if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        microseconds = environ.get("WATCHDOG_USEC", "")
        return int(microseconds) / _MICROSECONDS if microseconds.isdecimal() and int(microseconds) else None

    def ready(self) -> None:
        """The listeners are up."""
        self.send("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again; :meth:`ready` ends it, whatever came of it.

        The time tells the manager that this is the answer to its own request (``Type=notify-reload``, systemd 253).
        """
        self.send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // _NANOSECONDS_PER_MICROSECOND}")

    def stopping(self) -> None:
        self.send("STOPPING=1")

    def alive(self, status: str) -> None:
        """Feeds the watchdog, and sends the status."""
        self.send(f"WATCHDOG=1\nSTATUS={' '.join(status.split())}")

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows: one line, whatever is in ``text``."""
        self.send(f"STATUS={' '.join(text.split())}")

    def send(self, message: str) -> None:
        """Sends assignments, one a line. A manager that can't be reached is none: the service goes on."""
        if self._address is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)  # a full queue must not hold the service up
            sock.sendto(message.encode("utf-8", "replace"), self._address)
