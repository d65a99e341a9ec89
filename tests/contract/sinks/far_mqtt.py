"""A broker of MQTT 5, as much of it as a publisher at QoS 1 meets, that does as the script says."""

import contextlib
import socket
import struct
import threading
from pathlib import Path

import orjson

from meshbridge.sinks.base import Sink
from meshbridge.sinks.mqtt import MqttOptions
from tests.contract.sinks.far_end import SECRETS, Say, Script
from tests.support import DEADLINE_SECONDS

_CONNECT, _PUBLISH, _PINGREQ, _DISCONNECT = 1, 3, 12, 14
_REASONS = {Say.BUSY: 0x97, Say.REFUSE: 0x99}  # quota exceeded, payload format invalid


class MqttFarEnd:
    says = frozenset({Say.OK, Say.BUSY, Say.REFUSE, Say.SILENT, Say.CUT})
    keeps_first_order = False

    def __init__(self, directory: Path) -> None:
        self.script = Script()
        self._directory = directory
        self._port = 0
        self._listener: socket.socket | None = None
        self._taken: list[str] = []
        self._lock = threading.Lock()  # guards _taken and _socks
        self._socks: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, args=(self._listener,), daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._lock:
            for sock in self._socks:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive()

    def sink(self) -> Sink:
        return MqttOptions.model_validate(
            {"type": "mqtt", "url": f"mqtt://127.0.0.1:{self._port}", "username": "u", "password": SECRETS[1]}
        ).build("broker", self._directory)

    def arrived(self) -> list[str]:
        with self._lock:
            return list(self._taken)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._socks.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, EOFError):
            while True:
                first = _exactly(sock, 1)[0]
                body = _exactly(sock, _length(sock))
                kind = first >> 4
                if kind == _CONNECT:
                    sock.sendall(bytes([0x20, 3, 0, 0, 0]))
                elif kind == _PUBLISH:
                    self._meet(sock, first, body)
                elif kind == _PINGREQ:
                    sock.sendall(bytes([0xD0, 0]))
                elif kind == _DISCONNECT:
                    return

    def _meet(self, sock: socket.socket, first: int, body: bytes) -> None:
        place = 2 + struct.unpack_from("!H", body)[0]
        if not first & 0x06:
            return  # QoS 0: the bridge's words about itself, no event
        packet_id = body[place : place + 2]
        length, place = _varint(body, place + 2)
        payload = body[place + length :]
        fields = orjson.loads(payload) if payload.startswith(b"{") else {}
        if "specversion" not in fields:
            sock.sendall(bytes([0x40, 2]) + packet_id)
            return
        say = self.script.answer([fields["id"]])
        if say is Say.OK:
            with self._lock:
                self._taken.append(fields["id"])
            sock.sendall(bytes([0x40, 2]) + packet_id)
        elif say in _REASONS:
            sock.sendall(bytes([0x40, 3]) + packet_id + bytes([_REASONS[say]]))
        elif say is Say.CUT:
            raise EOFError


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _length(sock: socket.socket) -> int:
    value = shift = 0
    while True:
        byte = _exactly(sock, 1)[0]
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value


def _varint(body: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, place
