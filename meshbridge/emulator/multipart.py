"""The one file in a ``multipart/form-data`` upload, read as it comes in (RFC 7578)."""

import re


class FilePart:
    """Give it the body piece by piece; it gives back the bytes of the first part that has a file name."""

    def __init__(self, content_type: str) -> None:
        found = re.search(r'boundary="?([^";]+)"?', content_type)
        self._delimiter = b"\r\n--" + (found[1].encode("latin-1") if found else b"")
        self._buffer = b"\r\n"  # so that the first delimiter looks like the others
        self._in_file = False
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        if self.complete:
            self._buffer = b""
            return b""
        if not self._in_file and not self._find_file():
            return b""
        end = self._buffer.find(self._delimiter)
        if end >= 0:
            self.complete = True
            content, self._buffer = self._buffer[:end], b""
            return content
        keep = len(self._delimiter) - 1  # the delimiter may be cut in two
        content, self._buffer = self._buffer[:-keep], self._buffer[-keep:]
        return content

    def _find_file(self) -> bool:
        """Moves past the headers of the part that holds the file."""
        while True:
            start = self._buffer.find(self._delimiter)
            end = self._buffer.find(b"\r\n\r\n", start)
            if start < 0 or end < 0:
                return False
            headers = self._buffer[start:end].lower()
            self._buffer = self._buffer[end + 4 :]
            if b"filename=" in headers:
                self._in_file = True
                return True
