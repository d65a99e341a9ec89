"""A broker of AMQP 0-9-1, as much of it as a publisher meets, that does as the script says."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pika import frame, spec

from meshbridge.sinks.amqp.sink import AmqpOptions
from meshbridge.sinks.base import Sink
from tests.contract.sinks.far_end import SECRETS, Say, Script
from tests.contract.sinks.socket_server import SocketServer, exactly

_CLOSES = {
    Say.REFUSE: (406, "PRECONDITION_FAILED - invalid expiration"),
    Say.DENY: (403, "ACCESS_REFUSED - write access to topic 'a.b' in exchange 'meshbridge' refused for user 'guest'"),
}
_CAPABILITIES = {"publisher_confirms": True, "basic.nack": True, "connection.blocked": True}


class AmqpFarEnd:
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

    def close(self) -> None:
        pass

    def sink(self) -> Sink:
        url = f"amqp://127.0.0.1:{self._server.port}"
        settings = {"type": "amqp", "url": url, "username": "bridge", "password": SECRETS[1]}
        return AmqpOptions.model_validate(settings).build("amqp", self._directory)

    def arrived(self) -> list[str]:
        with self._lock:
            return list(self._taken)

    def _serve(self, sock: socket.socket) -> None:
        assert exactly(sock, 8) == b"AMQP\x00\x00\x09\x01"
        _send(sock, 0, spec.Connection.Start(0, 9, {"product": "Script", "capabilities": _CAPABILITIES}, "PLAIN"))
        channel = _Channel(sock, self)
        for number, method in channel.methods():
            channel.answer(number, method)

    def meet(self, event_id: str) -> Say:
        say = self.script.answer([event_id])
        if say is Say.OK:
            with self._lock:
                self._taken.append(event_id)
        return say


def _send(sock: socket.socket, channel: int, method: Any) -> None:
    sock.sendall(frame.Method(channel, method).marshal())


class _Channel:
    def __init__(self, sock: socket.socket, far: AmqpFarEnd) -> None:
        self._sock, self._far = sock, far
        self._tag = 0
        self._closed = False  # by this end: nothing is taken until the other has confirmed it

    def methods(self) -> Iterator[tuple[int, Any]]:
        """Methods as they come; a message as its header, once its body is there."""
        data, header, due = b"", None, 0
        with contextlib.suppress(ConnectionError):
            while more := self._sock.recv(65536):
                data += more
                while True:
                    used, one = frame.decode_frame(data)
                    if one is None:
                        break
                    data = data[used:]
                    if isinstance(one, frame.Header):
                        header, due = one, one.body_size
                    elif isinstance(one, frame.Body):
                        due -= len(one.fragment)
                        if header is not None and due == 0:
                            yield header.channel_number, header.properties
                    elif isinstance(one, frame.Method):
                        yield one.channel_number, one.method

    def answer(self, number: int, method: Any) -> None:
        answers = {
            spec.Connection.StartOk: lambda: spec.Connection.Tune(100, 131072, 30),
            spec.Connection.Open: spec.Connection.OpenOk,
            spec.Connection.Close: spec.Connection.CloseOk,
            spec.Channel.Open: spec.Channel.OpenOk,
            spec.Channel.Close: spec.Channel.CloseOk,
            spec.Confirm.Select: spec.Confirm.SelectOk,
            spec.Exchange.Declare: spec.Exchange.DeclareOk,
        }
        if isinstance(method, spec.Channel.Open):
            self._tag, self._closed = 0, False
        if type(method) in answers:
            _send(self._sock, number, answers[type(method)]())
        elif isinstance(method, spec.BasicProperties) and not self._closed:
            self._take(number, method)

    def _take(self, number: int, properties: Any) -> None:
        self._tag += 1
        say = self._far.meet(properties.headers["id"])
        if say is Say.CUT:
            raise EOFError
        if say in _CLOSES:
            self._closed = True
            _send(self._sock, number, spec.Channel.Close(*_CLOSES[say], 60, 40))
        elif say is not Say.SILENT:
            kind = spec.Basic.Ack if say is Say.OK else spec.Basic.Nack
            _send(self._sock, number, kind(self._tag, False))
