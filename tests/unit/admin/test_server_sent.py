"""Server-sent events, as a client reads them."""

from meshbridge.admin.server_sent import ServerSent, ServerSentStream


def read(stream: ServerSentStream, text: str) -> list[ServerSent]:
    return list(stream.read(text.encode().splitlines(keepends=True)))


def test_events_and_where_the_stream_is() -> None:
    stream = ServerSentStream()
    assert read(stream, "retry: 2000\n\n:\nid: 7\n\n") == []
    assert stream.last_id == "7"
    assert read(stream, "id: 8\nevent: start\ndata: {}\n\n") == [ServerSent("start", "{}")]
    assert stream.last_id == "8"
    assert read(stream, "data:a\r\ndata:  b\r\n\r\n:\n\n") == [ServerSent("message", "a\n b")]
    assert stream.last_id == "8"


def test_what_is_cut_off_is_none() -> None:
    stream = ServerSentStream()
    assert read(stream, "id: 8\ndata: 1\n\nid: 9\ndata: 2\n") == [ServerSent("message", "1")]
    assert stream.last_id == "8"  # so that 9 comes again


def test_an_id_that_cannot_be_a_header_is_none() -> None:
    stream = ServerSentStream()
    read(stream, "id: 8\ndata: 1\n\nid: 9\0\ndata: 2\n\n")
    assert stream.last_id == "8"
