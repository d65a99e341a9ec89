"""A broker of MQTT 5, as much of it as a publisher at QoS 1 meets, that does as the script says."""

import socket
import struct
import threading
from pathlib import Path

import orjson

from meshbridge.sinks.base import Sink
from meshbridge.sinks.mqtt.sink import MqttOptions
from tests.contract.sinks.far_end import SECRETS, Say, Script
from tests.contract.sinks.socket_server import SocketServer, exactly

_CONNECT, _PUBLISH, _PINGREQ, _DISCONNECT = 1, 3, 12, 14
_REASONS = {Say.BUSY: 0x97, Say.REFUSE: 0x99, Say.DENY: 0x87}  # quota exceeded, payload format invalid, not authorized


class MqttFarEnd:
    says = frozenset({Say.OK, Say.BUSY, Say.REFUSE, Say.DENY, Say.SILENT, Say.CUT})
    keeps_first_order = False

    def __init__(self, directory: Path) -> None:
        self.script = Script()
        self._directory = directory
        self._server = SocketServer(self._serve)
        self._taken: list[str] = []
        self._lock = threading.Lock()  # guards _taken

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def sink(self) -> Sink:
        return MqttOptions.model_validate(
            {"type": "mqtt", "url": f"mqtt://127.0.0.1:{self._server.port}", "username": "u", "password": SECRETS[1]}
        ).build("broker", self._directory)

    def close(self) -> None:
        pass

    def arrived(self) -> list[str]:
        with self._lock:
            return list(self._taken)

    def _serve(self, sock: socket.socket) -> None:
        while True:
            first = exactly(sock, 1)[0]
            body = exactly(sock, _length(sock))
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


def _length(sock: socket.socket) -> int:
    value = shift = 0
    while True:
        byte = exactly(sock, 1)[0]
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
