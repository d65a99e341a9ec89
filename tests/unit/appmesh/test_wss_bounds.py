"""Fragments of a WebSocket message: gathered up to a bound in bytes and in number."""

from typing import Any

import pytest
import websocket

from meshbridge.appmesh import AppMeshConnectionError
from meshbridge.appmesh.wss_transport import WSSTransport

ABNF = websocket.ABNF


class Endless:
    """A WebSocket that gives the same frame again and again."""

    def __init__(self, opcode: int, data: bytes) -> None:
        self.frame = ABNF(0, 0, 0, 0, opcode, 0, data)
        self.given = 0

    def recv_data_frame(self, control_frame: bool = False) -> tuple[int, Any]:
        self.given += 1
        return self.frame.opcode, self.frame


@pytest.mark.parametrize(
    ("opcode", "data", "words", "most"),
    [
        (ABNF.OPCODE_CONT, b"x" * 100, "more than 10000 bytes in fragments", 101),
        (ABNF.OPCODE_BINARY, b"", "frames in a row without a whole message", 5_001),
        (ABNF.OPCODE_PING, b"", "frames in a row without a whole message", 5_001),
    ],
)
def test_frames_without_end_are_refused(opcode: int, data: bytes, words: str, most: int) -> None:
    transport = WSSTransport(("127.0.0.1", 1), ssl_verify=True, max_message_bytes=10_000)
    endless = Endless(opcode, data)
    transport._socket = endless  # type: ignore[assignment]
    with pytest.raises(AppMeshConnectionError, match=words):
        transport.receive_message()
    assert endless.given == most
