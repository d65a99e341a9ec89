"""Server-sent events, as a client reads them (WHATWG HTML, 9.2.6)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["ServerSent", "ServerSentStream"]


@dataclass(frozen=True, slots=True)
class ServerSent:
    """One event of a stream."""

    event: str
    data: str


class ServerSentStream:
    """Reads one stream after the other, each resumed where the one before broke off."""

    def __init__(self) -> None:
        self.last_id: str | None = None
        """To be sent as ``Last-Event-ID``. A stream also tells it without an event."""

    def read(self, lines: Iterable[bytes]) -> Iterator[ServerSent]:
        """The events in the lines of a stream. What its end cuts off is none."""
        name, data, told_id = "", list[str](), self.last_id
        for raw in lines:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if not line:
                self.last_id = told_id
                if data:
                    yield ServerSent(name or "message", "\n".join(data))
                name, data = "", []
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
            elif field == "id" and "\0" not in value:
                told_id = value
