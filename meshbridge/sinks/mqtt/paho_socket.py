"""The socket between this sink, the broker and paho-mqtt."""

import contextlib
import socket
import ssl
from typing import Any

import paho.mqtt.client as paho

__all__ = ["Tap"]

_READ_BYTES = 64 * 1024
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux


class Tap:
    """Stands where paho's socket stood: this sink reads from the real one, and gives paho what is for paho."""

    def __init__(self, client: paho.Client) -> None:
        self._socket: Any = client.socket()
        self._plain: Any = getattr(self._socket, "_socket", self._socket)  # below paho's wrapper for websockets
        self._set(socket.TCP_NODELAY)
        self._for_paho = bytearray()
        self.amid_packet = False  # a packet of this sink's has gone out in part: paho must wait
        client._sock = self  # type: ignore[assignment]  # noqa: SLF001 paho has no public place for it

    # What this sink calls.

    def read(self) -> bytes:
        data: bytes = self._socket.recv(_READ_BYTES)
        if _QUICK_ACK is not None:
            # A broker whose answers wait for company (mosquitto's do) sends the next once this host has acknowledged
            # the last, which takes a host 40 ms where it has nothing to send with it. Not sticky: for each again.
            self._set(_QUICK_ACK)
        return data

    def _set(self, option: int) -> None:
        with contextlib.suppress(OSError):  # a connection that is gone
            self._plain.setsockopt(socket.IPPROTO_TCP, option, 1)

    def write(self, data: bytes | memoryview) -> int:
        sent: int = self._socket.send(data)
        return sent

    def has_buffered(self) -> bool:
        """Whether TLS has decrypted bytes that ``poll`` does not see."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def give(self, packets: bytes) -> None:
        self._for_paho += packets

    def holds_packets(self) -> bool:
        return bool(self._for_paho)

    # What paho calls.

    def recv(self, size: int) -> bytes:
        if not self._for_paho:
            raise BlockingIOError
        data = bytes(self._for_paho[:size])
        del self._for_paho[:size]
        return data

    def send(self, data: bytes | memoryview) -> int:
        if self.amid_packet:
            raise BlockingIOError
        return self.write(data)

    def fileno(self) -> int:
        number: int = self._socket.fileno()
        return number

    def close(self) -> None:
        self._socket.close()
