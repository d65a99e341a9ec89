"""Heads of requests: the same whatever pieces they come in, bounded, and refused where they are ambiguous."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshbridge.web.head import BadRequestError, HeadReader

HEAD = b"POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"


def read(data: bytes, most_bytes: int = 1000) -> tuple[bytes, bytes] | None:
    reader = HeadReader(most_bytes)
    reader.add(data)
    return reader.take()


def outcome(pieces: list[bytes], most_bytes: int) -> object:
    """What a reader says of all pieces, as soon as it says anything."""
    reader = HeadReader(most_bytes)
    for number, piece in enumerate(pieces):
        reader.add(piece)
        try:
            found = reader.take()
        except BadRequestError as error:
            return int(error.status)
        if found is not None:
            head, rest = found
            return head, rest + b"".join(pieces[number + 1 :])
    return None


def test_a_head_and_what_follows() -> None:
    assert read(HEAD + b"abc") == (HEAD, b"abc")
    assert read(b"\r\n\r\n" + HEAD) == (HEAD, b""), "empty lines before a request are ignored"
    assert read(HEAD[:-1]) is None
    assert read(b"") is None


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\nHost: x\r\ncontent-length:1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 1000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 1000, 431),
        (b"GET /" + b"x" * 1000, 431),
    ],
)
def test_heads_that_are_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadRequestError) as caught:
        read(head)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nX-Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a b\tc\r\n\r\n",
    ],
)
def test_heads_that_only_look_ambiguous(head: bytes) -> None:
    assert read(head) == (head, b"")


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([b"GET / HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: a", b" ", b"x" * 30, b":"]), max_size=30
    ),
    st.data(),
)
def test_the_pieces_that_a_head_comes_in_change_nothing(words: list[bytes], data: st.DataObject) -> None:
    text = b"".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole, cut = outcome([text], 120), outcome(pieces, 120)
    if isinstance(whole, int):  # in pieces a head that is both too large and malformed may be refused for either
        assert isinstance(cut, int)
    else:
        assert cut == whole
