import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshbridge.appmesh.wire.framing import (
    END_OF_FILE,
    HEADER_BYTES,
    MAGIC,
    FrameDecoder,
    FramingError,
    encode_frame,
)

bodies = st.lists(st.binary(max_size=300), max_size=12)


def decode_in_pieces(stream: bytes, cuts: list[int], decoder: FrameDecoder) -> list[bytes]:
    frames: list[bytes] = []
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        decoder.feed(stream[start:end])
        frames += decoder.frames()
    return frames


def test_header_is_magic_and_length_big_endian() -> None:
    assert encode_frame(b"hello") == bytes.fromhex("07c707f8 00000005") + b"hello"
    assert encode_frame(b"") == END_OF_FILE
    assert len(END_OF_FILE) == HEADER_BYTES


@given(bodies, st.lists(st.integers(min_value=0, max_value=10_000)))
def test_frames_come_out_whole_and_in_order_however_the_stream_is_cut(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(body) for body in frames)
    decoder = FrameDecoder()
    assert decode_in_pieces(stream, cuts, decoder) == frames
    assert decoder.buffered_bytes == 0


@given(st.binary(min_size=HEADER_BYTES, max_size=400))
def test_garbage_is_a_framing_error_or_waits_for_more(data: bytes) -> None:
    decoder = FrameDecoder(max_body_bytes=1000)
    decoder.feed(data)
    try:
        frames = list(decoder.frames())
    except FramingError:
        with pytest.raises(FramingError):
            list(decoder.frames())
    else:
        assert data.startswith(MAGIC.to_bytes(4, "big"))
        assert sum(len(frame) + HEADER_BYTES for frame in frames) + decoder.buffered_bytes == len(data)


def test_frames_before_the_fault_are_given_first() -> None:
    decoder = FrameDecoder()
    decoder.feed(encode_frame(b"good") + b"GET / HTTP/1.1\r\n")
    frames = decoder.frames()
    assert next(frames) == b"good"
    with pytest.raises(FramingError, match="bad magic 0x47455420"):
        next(frames)


def test_an_absurd_length_is_refused_before_the_body_is_awaited() -> None:
    decoder = FrameDecoder(max_body_bytes=10)
    decoder.feed(encode_frame(bytes(11))[:8])
    with pytest.raises(FramingError, match="11 bytes; at most 10"):
        list(decoder.frames())
