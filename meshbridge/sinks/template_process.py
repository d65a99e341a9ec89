"""The process that renders one template: ``python -m meshbridge.sinks.template_process``.

A template can loop for ever or ask for gigabytes, with one call into C that no thread can be stopped in, and what it is
given comes from outside. So it runs in a process of its own, which the kernel bounds in CPU time and memory, and which
has neither the secrets nor the environment of the bridge. :mod:`meshbridge.sinks.templates` starts it and talks to it
over the socket that is its standard input. Standard library and Jinja2 alone.

A message is its length (4 bytes, big-endian) and that many bytes. The first one that comes is the template's source,
each further one a JSON list: the fields of the events of one body. Answers begin with a byte of :class:`AnswerKind`.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import struct
from enum import IntEnum

__all__ = ["CPU_SECONDS", "MAX_BODY_BYTES", "MEMORY_BYTES", "AnswerKind", "receive", "send"]

CPU_SECONDS = 1.0
"""For one body. An ordinary one takes less than a millisecond."""
MEMORY_BYTES = 512 * 2**20
MAX_BODY_BYTES = 16 * 2**20

_LENGTH = struct.Struct("!I")
_CHUNK_BYTES = 1 << 16
_NICENESS = 5  # delivery and scrapes go first
_STANDARD_INPUT = 0


class AnswerKind(IntEnum):
    """What follows the first byte of an answer."""

    BODY = 0
    MISTAKE = 1  # of the template, as a text


def send(connection: socket.socket, message: bytes) -> None:
    """Sends one message."""
    connection.sendall(_LENGTH.pack(len(message)) + message)


def receive(connection: socket.socket) -> bytes:
    """The next message.

    Raises:
        EOFError: the connection has ended.

    """
    (length,) = _LENGTH.unpack(_received(connection, _LENGTH.size))
    return _received(connection, length)


def _received(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(min(_CHUNK_BYTES, count - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def main() -> None:
    """Answers until the other side closes the connection."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the bridge says when it needs no more bodies
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also in the middle of a call into C
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)  # systemd's unit forbids it
    # After the limits, since a template's source can be as hostile as its data.
    from jinja2 import StrictUndefined  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    # The bodies are JSON or text for a machine, not HTML: `tojson` is what escapes in them.
    environment = ImmutableSandboxedEnvironment(autoescape=False, undefined=StrictUndefined)
    connection = socket.socket(fileno=_STANDARD_INPUT)
    template = None
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            message = receive(connection)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            try:
                if template is None:
                    template = environment.from_string(message.decode())
                    answer = bytes([AnswerKind.BODY])
                else:
                    fields = json.loads(message)
                    body = template.render(fields[0] | {"events": fields}).encode()
                    answer = _checked(body)
            except Exception as error:  # noqa: BLE001 a template can raise anything
                answer = bytes([AnswerKind.MISTAKE]) + _words(error).encode(errors="backslashreplace")
            signal.setitimer(signal.ITIMER_PROF, 0)
            send(connection, answer)


def _checked(body: bytes) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed")
    return bytes([AnswerKind.BODY]) + body


def _words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"it needs more memory than the {MEMORY_BYTES // 2**20} MiB that a template may have"
    line = getattr(error, "lineno", None)
    return f"{f'line {line}: ' if line else ''}{str(error) or type(error).__name__}"


if __name__ == "__main__":
    main()
