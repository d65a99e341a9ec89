"""Output that a daemon gives in pieces: as many requests as they are worth."""

from typing import Any, cast

import pytest

from meshbridge.appmesh import AppMeshRequestError
from meshbridge.link.fetch import fetch
from meshbridge.link.output import Missing
from meshbridge.link.requests import DaemonRequests

APP = {"name": "web", "status": 1, "health": 0, "pid": 7, "starts": 1, "last_start_time": 1_795_515_840}


class Daemon:
    """Answers every request for output with ``piece``, whatever position is asked for."""

    def __init__(self, piece: bytes) -> None:
        self.piece = piece
        self.asked = 0

    def get_app(self, _app: str, _seconds: float) -> dict[str, Any]:
        return APP

    def get_output(self, _app: str, _position: int, **_named: Any) -> bytes:
        self.asked += 1
        return self.piece


def missing(end: int | None) -> Missing:
    return Missing("web", APP["last_start_time"], 1, "p", 0, end, "")  # type: ignore[arg-type]  # of the dict


@pytest.mark.parametrize("piece", [b"x", b"x" * 1000])
def test_pieces_that_are_not_worth_a_request_end_with_a_reason(piece: bytes) -> None:
    daemon = Daemon(piece)
    with pytest.raises(AppMeshRequestError, match=r"output of web: \d+ pieces of less than 65536 bytes"):
        fetch(cast("DaemonRequests", daemon), missing(10_000_000))
    assert daemon.asked < 20


def test_pieces_without_an_end_are_taken_as_far_as_they_are_worth_it() -> None:
    daemon = Daemon(b"x")
    assert len(fetch(cast("DaemonRequests", daemon), missing(None)) or b"") < 20
    assert daemon.asked < 20


def test_a_piece_that_is_larger_than_a_daemon_gives_is_refused() -> None:
    with pytest.raises(AppMeshRequestError, match="a piece of 5242880 bytes"):
        fetch(cast("DaemonRequests", Daemon(b"x" * 5 * 2**20)), missing(None))
