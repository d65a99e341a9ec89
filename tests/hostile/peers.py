"""Servers that are broken or hostile: destinations of sinks, and issuers of tokens.

A case is a line of :data:`SINKS` or :data:`ISSUERS`: how the bridge is set up to use the server at ``port``, and what
the server says to each connection. :mod:`tests.hostile.test_peers` runs a whole bridge with all of them at once.
"""

import contextlib
import gzip
import itertools
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

PASSWORD = "hostile-password"
SECRET = "hostile-client-secret"


class Talk:
    """One connection of the bridge to a hostile server."""

    def __init__(self, connection: socket.socket, ended: threading.Event) -> None:
        self.connection = connection
        self.ended = ended

    def hear(self) -> bytes:
        """What the bridge says next; ends the conversation where it says no more."""
        data = self.connection.recv(1 << 16)
        if not data:
            raise EOFError
        return data

    def hear_request(self) -> bytes:
        """An HTTP request, its body as far as it comes with its Content-Length."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.hear()
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        while lengths and len(body) < int(lengths[0]):
            body += self.hear()
        return head + b"\r\n\r\n" + body

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.sendall(piece)

    def repeat(self, piece: bytes | Callable[[int], bytes], seconds: float = 0.1) -> None:
        """Says it again and again, until the bridge closes the connection."""
        for number in itertools.count():
            self.say(piece(number) if callable(piece) else piece)
            if self.ended.wait(seconds):
                raise EOFError

    def ignore(self) -> None:
        """Says nothing, and reads nothing."""
        self.ended.wait()

    def wait(self) -> None:
        """Says nothing, and listens to all that comes."""
        while True:
            self.hear()


Says = Callable[[Talk], None]


@dataclass(frozen=True)
class Peer:
    """``settings`` of a sink, or of ``oidc``, for a server at this port; ``says``: what it says to each connection."""

    settings: Callable[[int], dict[str, Any]]
    says: Says


class HostileServer:
    """Serves one case at a port of its own."""

    def __init__(self, says: Says) -> None:
        self._says = says
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self.met = threading.Event()  # a connection has been made

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        self.met.set()
        with contextlib.suppress(OSError, EOFError), connection:
            self._says(Talk(connection, self._ended))


# --- servers of HTTP -----------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"


def http(*begin: bytes, repeat: bytes | Callable[[int], bytes] | None = None, seconds: float = 0.1) -> Says:
    """Answers each request with ``begin`` and then ``repeat`` for ever; without that, the next request is heard."""

    def says(talk: Talk) -> None:
        while True:
            talk.hear_request()
            talk.say(*begin)
            if repeat is not None:
                talk.repeat(repeat, seconds)

    return says


def echo(status: bytes, form: bytes = b"%s") -> Says:
    """Answers with the request itself, secrets included."""

    def says(talk: Talk) -> None:
        while True:
            body = form % json.dumps(talk.hear_request().decode("latin-1"))[1:-1].encode()
            talk.say(b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n" % status)
            talk.say(b"Content-Length: %d\r\n\r\n" % len(body), body)

    return says


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> Says:
    head = b"HTTP/1.1 %s\r\n" % status + b"".join(line + b"\r\n" for line in headers)
    return http(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


GZIP_OF_ZEROS = gzip.compress(b"\0" * 48 * 2**20)

HTTP_ANSWERS: dict[str, Says] = {
    "headers-10000": http(OK + b"X-A: b\r\n" * 10_000 + b"\r\n"),
    "header-endless": http(OK + b"X-A: ", repeat=b"x" * 65_536),
    "headers-drip": http(OK, repeat=b"x", seconds=0.2),
    "interim-endless": http(repeat=b"HTTP/1.1 102 Processing\r\n\r\n" * 100),
    "body-endless": http(OK + b"\r\n", repeat=b"x" * 65_536),
    "body-drip": http(OK + b"Content-Length: 99999\r\n\r\n", repeat=b"x", seconds=0.2),
    "length-10^18": http(OK + b"Content-Length: 1" + b"0" * 18 + b"\r\n\r\n", repeat=b"x" * 65_536),
    "length-megabyte": http(OK + b"Content-Length: " + b"9" * 1_000_000 + b"\r\n\r\n"),
    "length-negative": http(OK + b"Content-Length: -1\r\n\r\n"),
    "chunk-huge": http(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", repeat=b"x" * 65_536),
    "chunk-endless-size": http(OK + b"Transfer-Encoding: chunked\r\n\r\n", repeat=b"0" * 65_536),
    "gzip-bomb": answer(GZIP_OF_ZEROS, b"Content-Encoding: gzip"),
    "gzip-bomb-refused": answer(GZIP_OF_ZEROS, b"Content-Encoding: gzip", status=b"400 Bad Request"),
    "retry-after-10^18": answer(b"", b"Retry-After: 1" + b"0" * 18, status=b"429 Too Many Requests"),
    "retry-after-nan": answer(b"", b"Retry-After: nan", status=b"503 Service Unavailable"),
    "retry-after-digits": answer(b"", b"Retry-After: " + b"9" * 60_000, status=b"503 Service Unavailable"),
    "redirect": answer(b"", b"Location: http://127.0.0.1:1/", status=b"307 Temporary Redirect"),
    "redirect-itself": answer(b"", b"Location: /", status=b"308 Permanent Redirect"),
    "status-999": answer(b"", status=b"999 " + b"x" * 10_000),
    "status-control": answer(b"\x1b]0;owned\x07", status=b"400 \x1b[31m\xe2\x80\xae"),
    "nested-json": answer(b"[" * 60_000, b"Content-Type: application/json", status=b"400 Bad Request"),
    "numbers": answer(b'{"partialSuccess":{"rejectedLogRecords":"1e999"}}', b"Content-Type: application/json"),
    "echo": echo(b"400 Bad Request"),
    "echo-401": echo(b"401 Unauthorized"),
    "no-http": http(b"\x16\x03\x01\x02\x00" + b"x" * 100),
    "silent": Talk.wait,
    "deaf": Talk.ignore,
    "closes": lambda talk: talk.connection.close(),
}

SOME_HTTP_ANSWERS = {
    name: HTTP_ANSWERS[name]
    for name in ("headers-drip", "body-endless", "gzip-bomb", "numbers", "nested-json", "redirect", "echo", "silent")
}


def _http_sink(kind: str, scheme: str = "http") -> Callable[[int], dict[str, Any]]:
    return lambda port: {
        "type": kind,
        "url": f"{scheme}://127.0.0.1:{port}/secret-{PASSWORD}",
        "auth": {"username": "u", "password": PASSWORD},
        "timeout": "2s",
        "retry": {"initial": "500ms", "max": "5s"},
    }


# --- brokers of MQTT -----------------------------------------------------------------------------------------------

CONNACK = b"\x20\x03\x00\x00\x00"


def mqtt(*begin: bytes, repeat: bytes | Callable[[int], bytes] | None = None, seconds: float = 0.1) -> Says:
    """Says ``begin`` after the CONNECT, then ``repeat`` for ever."""

    def says(talk: Talk) -> None:
        talk.hear()
        talk.say(*begin)
        if repeat is None:
            talk.wait()
        else:
            talk.repeat(repeat, seconds)

    return says


def length(number: int) -> bytes:
    """A remaining length (MQTT 5, 1.5.5)."""
    found = bytearray()
    while True:
        number, rest = divmod(number, 128)
        found.append(rest | (0x80 if number else 0))
        if not number:
            return bytes(found)


def packet(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + length(len(body)) + body


def publish(topic: bytes, payload: bytes = b"", properties: bytes = b"") -> bytes:
    return packet(0x30, struct.pack("!H", len(topic)) + topic + length(len(properties)) + properties + payload)


_USER_PROPERTIES = b"\x26\x00\x01a\x00\x01b" * 300_000

MQTT_ANSWERS: dict[str, Says] = {
    "silent": Talk.wait,
    "connack-2-mb": mqtt(packet(0x20, b"\x00\x00" + length(len(_USER_PROPERTIES)) + _USER_PROPERTIES)),
    "connack-again": mqtt(CONNACK, repeat=CONNACK * 100),
    "connack-refused": mqtt(b"\x20\x03\x00\x9f\x00"),
    "connack-zeros": mqtt(packet(0x20, b"\x00\x00" + length(7) + b"\x21\x00\x00\x27\x00\x00\x00\x00")),
    "no-acknowledgement": mqtt(CONNACK),
    "unknown-packet-ids": mqtt(CONNACK, repeat=b"".join(b"\x40\x02" + struct.pack("!H", n) for n in range(1, 2000))),
    "subacks": mqtt(CONNACK, repeat=b"\x90\x04\x00\x01\x00\x80" * 500),
    "publish-256-mb": mqtt(CONNACK + b"\x30\xff\xff\xff\x7f\x00\x01a", repeat=b"x" * 65_536),
    "publish-unasked": mqtt(CONNACK, repeat=publish(b"other/topic", b"restart") * 200),
    "publish-commands": mqtt(CONNACK, repeat=publish(b"meshbridge/honest/marker/command", b"restart") * 20),
    "publish-properties": mqtt(CONNACK, repeat=publish(b"a", b"", _USER_PROPERTIES[:700_000]), seconds=0.2),
    "publish-qos-3": mqtt(CONNACK, repeat=packet(0x36, b"\x00\x01a\x00\x01")),
    "pubrel": mqtt(CONNACK, repeat=b"\x62\x02\x00\x07" * 200),
    "pingresp": mqtt(CONNACK, repeat=b"\xd0\x00" * 1000),
    "length-of-5-bytes": mqtt(CONNACK + b"\x40\xff\xff\xff\xff\xff\x01"),
    "garbage": mqtt(CONNACK, repeat=b"\x00\xff\x13\x37" * 100),
    "drip": mqtt(repeat=lambda number: CONNACK[number % 5 : number % 5 + 1], seconds=0.2),
    "disconnect": mqtt(CONNACK + b"\xe0\x02\x8e\x00"),
    "disconnect-reason": mqtt(
        CONNACK + packet(0xE0, b"\x8e" + length(1003) + b"\x1f" + b"\x03\xe8" + b"\x1b[31m" * 200)
    ),
    "redirect": mqtt(b"\x20\x10\x00\x9d\x0d\x1c\x00\x0a127.0.0.2\x00"),
}


def _broker(port: int) -> dict[str, Any]:
    return {
        "type": "mqtt",
        "url": f"mqtt://127.0.0.1:{port}",
        "username": "u",
        "password": PASSWORD,
        "commands": {"allow": ["restart"]},
        "retry": {"initial": "500ms", "max": "5s"},
    }


# --- servers of other protocols ------------------------------------------------------------------------------------


def text(*begin: bytes, repeat: bytes | None = None, first: bool = True) -> Says:
    """Says ``begin`` at once, or after it has heard something where not ``first``, then ``repeat`` for ever."""

    def says(talk: Talk) -> None:
        if not first:
            talk.hear()
        talk.say(*begin)
        if repeat is None:
            talk.wait()
        else:
            talk.repeat(repeat)

    return says


NATS_INFO = (
    b'INFO {"server_id":"x","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576,"jetstream":true}\r\n'
)

NATS_ANSWERS: dict[str, Says] = {
    "silent": Talk.wait,
    "info-endless": text(b"INFO {", repeat=b"x" * 65_536),
    "info-no-json": text(b"INFO {{{{\r\n"),
    "info-numbers": text(NATS_INFO.replace(b"1048576", b"1e400")),
    "info-nested": text(b'INFO {"a":' + b"[" * 60_000 + b"\r\n"),
    "msg-4-gb": text(NATS_INFO + b"PONG\r\nMSG a 1 4294967296\r\n", repeat=b"x" * 65_536),
    "msg-unasked": text(NATS_INFO + b"PONG\r\n", repeat=b"MSG a 99 1\r\nx\r\n" * 500),
    "msg-negative": text(NATS_INFO + b"PONG\r\nMSG a 1 -1\r\n"),
    "hmsg": text(NATS_INFO + b"PONG\r\n", repeat=b"HMSG a 1 9 3\r\nxxx\r\n"),
    "pings": text(NATS_INFO + b"PONG\r\n", repeat=b"PING\r\n" * 1000),
    "infos": text(NATS_INFO + b"PONG\r\n", repeat=NATS_INFO * 50),
    "errors": text(NATS_INFO, repeat=b"-ERR '\x1b[31m" + b"x" * 1000 + b"'\r\n"),
    "garbage": text(b"\x00\xff" * 1000, repeat=b"\x00\xff" * 1000),
}

REDIS_ANSWERS: dict[str, Says] = {
    "silent": Talk.wait,
    "line-endless": text(b"+", repeat=b"x" * 65_536, first=False),
    "bulk-4-gb": text(b"$4294967296\r\n", repeat=b"x" * 65_536, first=False),
    "bulk-negative": text(b"$-5\r\n", first=False),
    "array-2^40": text(b"*1099511627776\r\n", repeat=b":1\r\n" * 10_000, first=False),
    "array-nested": text(b"*1\r\n" * 100_000, first=False),
    "number-megabyte": text(b":" + b"9" * 1_000_000 + b"\r\n", first=False),
    "errors": text(repeat=b"-ERR \x1b[31m" + b"x" * 1000 + b"\r\n", first=False),
    "garbage": text(b"\x00\xff\r\n" * 1000, first=False),
    "ok-for-all": text(repeat=b"+OK\r\n" * 100, first=False),
}

KAFKA_ANSWERS: dict[str, Says] = {
    "silent": Talk.wait,
    "frame-2-gb": text(b"\x7f\xff\xff\xff", repeat=b"x" * 65_536, first=False),
    "frame-negative": text(b"\xff\xff\xff\xff", first=False),
    "garbage": text(repeat=b"\x00\x00\x00\x08\x00\x00\x00\x01\xff\xff\xff\xff", first=False),
}

SYSLOG_ANSWERS: dict[str, Says] = {
    "talks": text(repeat=b"x" * 65_536),
    "deaf": HTTP_ANSWERS["deaf"],
    "closes": HTTP_ANSWERS["closes"],
}


def _cases(kind: str, answers: dict[str, Says], settings: Callable[[int], dict[str, Any]]) -> dict[str, Peer]:
    names = ((name, name.replace("^", "-").lower()) for name in answers)
    return {f"{kind}-{plain}": Peer(settings, answers[name]) for name, plain in names}


_RETRY = {"retry": {"initial": "500ms", "max": "5s"}}

SINKS: dict[str, Peer] = {
    **_cases("hook", HTTP_ANSWERS, _http_sink("webhook")),
    **_cases("loki", SOME_HTTP_ANSWERS, _http_sink("loki")),
    **_cases("otlp", SOME_HTTP_ANSWERS, _http_sink("otlp")),
    **_cases(
        "tls", {name: HTTP_ANSWERS[name] for name in ("silent", "deaf", "no-http")}, _http_sink("webhook", "https")
    ),
    **_cases("mqtt", MQTT_ANSWERS, _broker),
    **_cases("nats", NATS_ANSWERS, lambda port: {"type": "nats", "url": f"nats://127.0.0.1:{port}", **_RETRY}),
    **_cases("redis", REDIS_ANSWERS, lambda port: {"type": "redis", "url": f"redis://127.0.0.1:{port}", **_RETRY}),
    **_cases("kafka", KAFKA_ANSWERS, lambda port: {"type": "kafka", "brokers": f"127.0.0.1:{port}", **_RETRY}),
    **_cases("syslog", SYSLOG_ANSWERS, lambda port: {"type": "syslog", "url": f"tcp://127.0.0.1:{port}", **_RETRY}),
}


# --- issuers of tokens ---------------------------------------------------------------------------------------------


def token(**changed: Any) -> Says:
    return answer(json.dumps({"access_token": "a.e30.c", "expires_in": 3600, **changed}).encode())


def _token_endpoint(port: int) -> dict[str, Any]:
    return {"token_url": f"http://127.0.0.1:{port}/token", "client_id": "c", "client_secret": SECRET}


def _discovery(port: int) -> dict[str, Any]:
    return {"issuer": f"http://127.0.0.1:{port}", "client_id": "c", "client_secret": SECRET}


_BAD = b"400 Bad Request"

ISSUERS: dict[str, Peer] = {
    **_cases("token", HTTP_ANSWERS, _token_endpoint),
    **_cases("discovery", SOME_HTTP_ANSWERS, _discovery),
    "token-description": Peer(_token_endpoint, echo(_BAD, b'{"error":"invalid_grant","error_description":"%s"}')),
    "token-error-list": Peer(_token_endpoint, answer(b'{"error":[{}],"error_description":{}}', status=_BAD)),
    "token-no-text": Peer(_token_endpoint, token(access_token=[1])),
    "token-huge": Peer(_token_endpoint, token(access_token="a." + "e" * 900_000 + ".c")),
    "token-control": Peer(_token_endpoint, token(access_token="a\r\nX-Injected: 1")),
    "token-expires-1e300": Peer(_token_endpoint, token(expires_in=1e300)),
    "token-expires-minus": Peer(_token_endpoint, token(expires_in=-1e300)),
    "token-expires-0": Peer(_token_endpoint, token(expires_in=0)),
    "token-expires-text": Peer(_token_endpoint, token(expires_in="soon", refresh_token={})),
    "token-claims-nested": Peer(_token_endpoint, token(access_token="a." + "W1tb" * 50_000 + ".c")),
    "discovery-other-issuer": Peer(_discovery, answer(b'{"issuer":"http://127.0.0.1:1","token_endpoint":"http://[::1]/"}')),
    "discovery-no-text": Peer(_discovery, answer(b'{"issuer":[],"token_endpoint":{}}')),
}  # fmt: skip
