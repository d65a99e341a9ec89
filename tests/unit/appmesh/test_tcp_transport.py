"""The TCP transport over real TLS: deadlines of a read, and what has arrived."""

import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from meshbridge.appmesh.exceptions import AppMeshTimeoutError
from meshbridge.appmesh.tcp_transport import TCPTransport
from meshbridge.appmesh.wire.framing import encode_frame
from tests.unit.appmesh.fakes import eventually

Pair = tuple[TCPTransport, ssl.SSLSocket]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A connected transport, and the daemon's end of it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        closing(TCPTransport(listener.getsockname(), str(tmp_path / "ca.pem"))) as transport,
        ThreadPoolExecutor(1) as pool,
    ):
        accepted = pool.submit(lambda: context.wrap_socket(listener.accept()[0], server_side=True))
        transport.connect(10)
        with accepted.result(10) as peer:
            yield transport, peer


def test_a_peer_that_sends_bytes_but_no_frame_does_not_outlast_the_deadline(pair: Pair) -> None:
    transport, peer = pair
    frame = encode_frame(b"x" * 100)
    for part in frame[:50]:
        peer.sendall(bytes([part]))
    with pytest.raises(AppMeshTimeoutError):
        transport.receive_messages(time.monotonic() + 0.05)
    peer.sendall(frame[50:] + encode_frame(b"y"))
    messages: list[bytes] = []
    while len(messages) < 2:
        messages += transport.receive_messages(time.monotonic() + 10)
    assert messages == [b"x" * 100, b"y"]


def test_a_deadline_that_has_passed_gives_what_has_arrived(pair: Pair) -> None:
    transport, peer = pair
    peer.sendall(encode_frame(b"x"))
    eventually(transport.has_arrived)
    messages: list[bytes] = []
    while not messages:
        try:
            messages = transport.receive_messages(0.0)
        except AppMeshTimeoutError:  # the peer's session tickets arrived first
            eventually(transport.has_arrived)
    assert messages == [b"x"]


def test_the_end_of_the_connection_has_arrived(pair: Pair) -> None:
    transport, peer = pair
    peer.close()
    eventually(transport.has_arrived)
    assert transport.receive_messages(time.monotonic() + 10) == []


@pytest.mark.parametrize("size", [16 * 1024 - 8, 16 * 1024, 5 * 16 * 1024 - 8])
def test_frames_that_fill_records_come_whole(pair: Pair, size: int) -> None:
    """A read that gives all that it may has perhaps left more with OpenSSL, where no poll shows it."""
    transport, peer = pair
    peer.sendall(encode_frame(b"x" * size) + encode_frame(b"end"))
    messages: list[bytes] = []
    while not messages or messages[-1] != b"end":
        messages += transport.receive_messages(time.monotonic() + 10)
    assert [len(message) for message in messages] == [size, 3]
