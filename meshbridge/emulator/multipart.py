"""The one file in a ``multipart/form-data`` upload, read as it comes in (RFC 7578)."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header


class FilePart:
    """Give it the body piece by piece; it gives back the bytes of the first part that has a file name."""

    def __init__(self, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        self.complete = False
        self._found: list[bytes] = []
        self._name = b""
        self._value = b""
        self._in_file = False
        self._parser = MultipartParser(
            boundary or b"-",
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._text,
                "on_header_end": self._header,
                "on_part_data": self._data,
                "on_part_end": self._end,
            },
        )

    def feed(self, data: bytes) -> bytes:
        """The file's bytes in this piece; none of a body that cannot be read."""
        if self.complete:
            return b""
        try:
            self._parser.write(data)
        except FormParserError:
            return b""
        found, self._found = b"".join(self._found), []
        return found

    def _begin(self) -> None:
        self._in_file = False

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _text(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        if self._name.lower() == b"content-disposition" and b"filename" in parse_options_header(self._value)[1]:
            self._in_file = True
        self._name = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file and not self.complete:
            self._found.append(data[start:end])

    def _end(self) -> None:
        self.complete = self.complete or self._in_file
