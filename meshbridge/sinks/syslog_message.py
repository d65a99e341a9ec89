"""Makes syslog messages (RFC 5424) of events. Pure: no I/O, no clock.

* **Header.** HOSTNAME is the daemon, APP-NAME the app, PROCID the pid (the process's uuid where the pid is not known),
  MSGID the kind of event.
* **Structured data** has the CloudEvents attributes, and ``line`` where one event makes several messages.
* **MSG** depends on ``format``: with ``binary`` STDOUT is one message for each line of output, and every other event
  its ``data`` as JSON; with ``cloudevents`` and ``raw`` it is the whole event as JSON. Control characters in lines of
  output are escaped, so that no receiver takes them for the end of a message.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import orjson

from meshbridge.fields import Format
from meshbridge.model.events import Event, EventType, cloudevent_attributes, encode
from meshbridge.outside import printable
from meshbridge.sinks.base import Refused
from meshbridge.sinks.splitting import encoded_parts

__all__ = ["FACILITIES", "SEVERITIES", "Messages", "severity"]

FACILITIES = {
    "kern": 0,
    "user": 1,
    "mail": 2,
    "daemon": 3,
    "auth": 4,
    "syslog": 5,
    "lpr": 6,
    "news": 7,
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    "ftp": 11,
} | {f"local{number}": 16 + number for number in range(8)}
SEVERITIES = {"err": 3, "warning": 4, "notice": 5, "info": 6}

_NOT_IN_HEADERS = re.compile(r"[^!-~]")
_NOT_IN_VALUES = re.compile(r'(["\\\]])')
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # RFC 5424, 6.4: before a text that is more than ASCII
_LEAST_BYTES = 64  # of a line's piece: a header that leaves less is too large
_MOST_PROCESSES = 20_000
_OF_LINE = len(' line="000000000"] ')


def severity(event: Event) -> str:
    """The name of an event's severity (RFC 5424, table 2)."""
    if event.type is EventType.GAP:
        return "warning"
    if event.type is EventType.REMOVED or event.type is EventType.STATUS:
        return "notice"
    if event.type is EventType.EXIT:
        code = _value(event, "exit_code")
        return "info" if code == 0 else "warning" if code is None else "err"
    if event.type is EventType.HEALTH:
        return "notice" if _value(event, "health") == 0 else "warning"
    return "info"


class Messages:
    """Remembers the pid that START has, for the other events of the process."""

    def __init__(self, facility: str, shape: Format, element: str, max_bytes: int) -> None:
        """``element`` is the SD-ID of the structured data."""
        self._facility = FACILITIES[facility] * 8
        self._shape = shape
        self._element = element
        self._max_bytes = max_bytes
        self._pids: OrderedDict[str, int] = OrderedDict()

    def of(self, event: Event) -> list[bytes]:
        """The messages of an event, in order; none for output that is empty.

        Raises:
            Refused: it is too large, and can't be divided.

        """
        if event.type is EventType.START:
            self._remember(event)
        if event.type is EventType.STDOUT and self._shape is Format.BINARY:
            return list(self._lines(event))
        return [message for _, message in encoded_parts(event, self._max_bytes, self._whole)]

    def _remember(self, event: Event) -> None:
        pid = _value(event, "pid")
        if event.process_uuid and type(pid) is int:
            self._pids[event.process_uuid] = pid
            if len(self._pids) > _MOST_PROCESSES:
                self._pids.popitem(last=False)

    def _whole(self, event: Event) -> bytes:
        return self._head(event) + b"] " + _text(encode(event, self._shape))

    def _lines(self, event: Event) -> Iterator[bytes]:
        output: str = orjson.loads(event.data)["output"]
        lines = output.split("\n")
        head = self._head(event)
        budget = self._max_bytes - len(head) - _OF_LINE - len(_BYTE_ORDER_MARK)
        if budget < _LEAST_BYTES:
            raise Refused(f"event {event.id} leaves no room for text in {self._max_bytes} bytes", reason="too_large")
        number = 0
        for line in lines if lines[-1] else lines[:-1]:
            for piece in _pieces(printable(line.removesuffix("\r")).encode(), budget):
                yield b'%b line="%d"] %b' % (head, number, _text(piece))
                number += 1

    def _head(self, event: Event) -> bytes:
        """All up to the end of the structured data, which stays open."""
        attributes = cloudevent_attributes(event)
        moment = attributes.pop("time")
        if self._shape is not Format.BINARY or event.type is EventType.STDOUT:
            attributes.pop("datacontenttype")  # MSG is something else then
        data = "".join(f' {name}="{_NOT_IN_VALUES.sub(_escaped, value)}"' for name, value in attributes.items())
        app = "appmesh" if event.type is EventType.GAP else event.app
        process: Any = self._pids.get(event.process_uuid or "") or event.process_uuid
        fields = [_header(event.daemon, 255), _header(app, 48), _header(process, 128), event.type.name]
        priority = self._facility + SEVERITIES[severity(event)]
        return f"<{priority}>1 {moment} {' '.join(fields)} [{self._element}{data}".encode()


def _value(event: Event, name: str) -> Any:
    data = orjson.loads(event.data)
    return data.get(name) if isinstance(data, dict) else None


def _header(value: Any, longest: int) -> str:
    return _NOT_IN_HEADERS.sub("_", str(value))[:longest] if value else "-"


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[1]}"


def _text(text: bytes) -> bytes:
    return text if text.isascii() else _BYTE_ORDER_MARK + text


def _pieces(text: bytes, longest: int) -> Iterator[bytes]:
    """Cut between characters; an empty text is one piece."""
    start = 0
    while len(text) - start > longest:
        end = start + longest
        while text[end] & 0xC0 == 0x80:  # noqa: PLR2004 inside a character of UTF-8
            end -= 1
        yield text[start:end]
        start = end
    yield text[start:]
