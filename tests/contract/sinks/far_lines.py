"""The destination of the sink in docs/writing-a-sink.md, which is executed as it stands there."""

import re
import socket
import threading
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from meshbridge.sinks.base import Sink
from tests.contract.sinks.far_end import Say, Script
from tests.contract.sinks.socket_server import SocketServer

GUIDE = Path(__file__).parents[3] / "docs" / "writing-a-sink.md"
_ANSWERS = {Say.OK: b"ok\n", Say.BUSY: b"busy\n", Say.REFUSE: b"no\n"}


@cache
def guide_module() -> dict[str, Any]:
    [source] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "meshbridge_lines"}
    exec(compile(source, str(GUIDE), "exec"), names)
    names["LinesOptions"].model_rebuild(_types_namespace=names)
    return names


class LinesFarEnd:
    says = frozenset({Say.OK, Say.BUSY, Say.REFUSE, Say.SILENT, Say.CUT})
    keeps_first_order = True

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
        settings = {"type": "lines", "host": "127.0.0.1", "port": self._server.port}
        sink: Sink = guide_module()["LinesOptions"].model_validate(settings).build("lines", self._directory)
        return sink

    def arrived(self) -> list[str]:
        with self._lock:
            return list(self._taken)

    def _serve(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            for line in stream:
                event_id = orjson.loads(line)["id"]
                say = self.script.answer([event_id])
                if say is Say.CUT:
                    return
                if say is Say.OK:
                    with self._lock:
                        self._taken.append(event_id)
                if say in _ANSWERS:
                    sock.sendall(_ANSWERS[say])
