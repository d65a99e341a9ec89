"""The admin listener for tests: a door, its tokens, and what comes in through it."""

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from meshbridge.admin.api import Api
from meshbridge.admin.application import new_application
from meshbridge.admin.auth import token_auth
from meshbridge.admin.listener import AdminListener
from meshbridge.admin.options import AdminOptions, Scope, Token
from meshbridge.admin.tokens import digest, new_token
from meshbridge.journal import Journal, JournalOptions
from meshbridge.web.limits import DEFAULT_LIMITS, Limits
from meshbridge.web.server import Server
from tests.integration.admin_api import bridge_for

SECRETS = {scope: new_token() for scope in Scope}
TOKENS = [
    Token.model_validate({"name": f"the-{scope}", "sha256": digest(secret), "scopes": [scope]})
    for scope, secret in SECRETS.items()
]


class Door:
    """A listener, and the tokens that it takes at this moment."""

    def __init__(self, journal: Journal, limits: Limits, **settings: Any) -> None:
        self.journal = journal
        self.secret = SECRETS[Scope.ADMIN]
        self.tokens = TOKENS
        self.options = AdminOptions.model_validate({"listen": "127.0.0.1:0", "tokens": TOKENS, **settings})
        self.application = new_application(bridge_for([], journal), token_auth(lambda: self.tokens), self.options)
        self.listener = AdminListener(self.options, Api(lambda: self.application), limits)

    @property
    def server(self) -> Server:
        assert self.listener._served is not None
        return self.listener._served.server

    def connect(self, tls: ssl.SSLContext | None = None) -> socket.socket:
        path = self.options.unix_path
        if path is not None:
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            plain.settimeout(30)
            plain.connect(str(path))
            return plain
        host, _, port = self.listener.address.rpartition(":")
        plain = socket.create_connection((host.strip("[]"), int(port)), timeout=30)
        return plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost")

    @contextlib.contextmanager
    def asking(
        self,
        method: str,
        path: str,
        token: str | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer whose body is still to be read, on a connection of its own."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.connect(tls)
        with contextlib.closing(connection):
            shown = {} if token is None else {"Authorization": f"Bearer {token}"}
            connection.request(method, path, body, {**shown, **(headers or {})})
            with connection.getresponse() as response:
                yield response

    def ask(self, *arguments: Any, **options: Any) -> tuple[http.client.HTTPResponse, Any]:
        """An answer, and its body."""
        with self.asking(*arguments, **options) as response:
            body = response.read()
            kind = response.headers["content-type"]
            return response, json.loads(body) if kind and kind.endswith(("/json", "+json")) else body

    @contextlib.contextmanager
    def events(
        self, query: str = "", token: str = SECRETS[Scope.READ], *, last: str | None = None
    ) -> Iterator["Stream"]:
        """A stream of events; ``last`` is the Last-Event-ID."""
        headers = {} if last is None else {"Last-Event-ID": last}
        with self.asking("GET", f"/api/v1/events{query}", token, headers=headers) as response:
            assert response.status == 200, response.read()
            yield Stream(response)


@contextlib.contextmanager
def doors(directory: Path) -> Iterator[Callable[..., Door]]:
    """Opens doors on one journal, and closes them at the end."""
    journal = Journal(JournalOptions(path=directory / "journal"))
    journal.open()
    with contextlib.ExitStack() as stack:
        stack.callback(journal.close)

        def open_door(limits: Limits = DEFAULT_LIMITS, **settings: Any) -> Door:
            door = Door(journal, limits, **settings)
            door.listener.start()
            stack.callback(door.listener.stop, 10)
            return door

        yield open_door


def issue(directory: Path) -> tuple[trustme.CA, dict[str, Path]]:
    """A certificate for ``localhost`` by a new authority, and the settings that show it."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    made.private_key_pem.write_to_path(str(directory / "key.pem"))
    made.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    return authority, {"cert_file": directory / "cert.pem", "key_file": directory / "key.pem"}


def trusting(authority: trustme.CA, client: trustme.CA | None = None) -> ssl.SSLContext:
    """How a caller trusts an authority, and shows a certificate of another."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client is not None:
        client.issue_cert("client@example.org").configure_cert(context)
    return context


class Sent(NamedTuple):
    """An event of a stream."""

    id: str
    event: str
    data: str


class Stream:
    """An open stream of events."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.lines: list[bytes] = []

    def next(self) -> Sent:
        """Reads up to the next block that is an event."""
        fields: dict[str, str] = {}
        for line in self.response:
            self.lines.append(line)
            name, _, value = line.decode().rstrip("\n").partition(": ")
            fields[name] = value
            if line == b"\n":
                if "event" in fields:
                    return Sent(fields["id"], fields["event"], fields["data"])
                fields = {}
        raise AssertionError("the stream has ended")

    def take(self, count: int) -> list[Sent]:
        return [self.next() for _ in range(count)]

    def until_line(self, wanted: bytes) -> None:
        """Reads on to a line that is no event."""
        for line in self.response:
            self.lines.append(line)
            if line.startswith(wanted):
                return
        raise AssertionError(f"no {wanted!r} in {self.lines[-20:]}")
