import pytest

from meshbridge.emulator.multipart import FilePart

CONTENT = b"line\r\n--not-it\r\n" + bytes(range(256))
BODY = (
    b'--b0\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    b'--b0\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
    + CONTENT
    + b"\r\n--b0--\r\n"
)


@pytest.mark.parametrize("step", [1, 2, 7, 64, 10_000])
def test_the_file_comes_out_whole_in_whatever_pieces_the_body_comes(step: int) -> None:
    part = FilePart('multipart/form-data; boundary="b0"')
    content = b"".join(part.feed(BODY[start : start + step]) for start in range(0, len(BODY), step))
    assert (content, part.complete) == (CONTENT, True)
    assert part.feed(b"more") == b""


def test_a_body_without_a_file_is_never_complete() -> None:
    part = FilePart("multipart/form-data; boundary=b0")
    assert part.feed(BODY[:40]) == b""
    assert not part.complete
