"""Whatever a client sends is answered, or ends its connection, without a traceback in the emulator's log."""

import itertools
import json
import logging
import random
import ssl
from collections.abc import Iterator
from http.client import HTTPException, HTTPSConnection
from typing import Any

import msgpack
import pytest

from meshbridge.appmesh.wire.framing import encode_frame
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.emulator.issuer import AUDIENCE, PUBLIC_CLIENT, subject_of
from meshbridge.emulator.operations import routes as routes_of
from tests.unit.emulator.wire_client import Closed, TcpClient, WssClient

BODIES: tuple[Any, ...] = (
    b"", b"null", b"[]", b"{}", b'"x"', b"5", b"{", b"\xff\xfe", b'{"name": 5}', b'{"name": "web", "command": ["a"]}',
    b'{"name": "web", "command": "true", "behavior": {"control": [1]}}', b'{"name": "web", "command": "a\\u0000b"}',
    b'{"name": "web", "command": "true", "env": {"A": "b\\u0000"}, "shell": true}', b'{"roles": {"a": 1}, "key": "x"}',
    b'{"name": "web", "command": "true", "cron": true, "start_interval_seconds": "0 0 0 31 2 *"}',
    b'{"name": "web", "command": "true", "start_time": 1e300}', b'{"name": "web", "command": "' + b"x" * 5000 + b'"}',
    b'{"user_name": "admin", "totp_code": {}, "totp_challenge": "x"}', b'{"old_password": 5, "new_password": []}',
    b'{"BaseConfig": {"LogLevel": 5}}', b'{"REST": [1], "Labels": {"a": {}}}', b"[" * 2000,
)  # fmt: skip
QUERIES: tuple[dict[str, str], ...] = (
    {},
    {"timeout": "abc", "lifecycle": "-1"},
    {"timeout": "1", "lifecycle": "1", "stdout_position": "-5", "stdout_index": "99999999999999999999"},
    {"events": "NOPE", "subscribe_events": "\x00", "value": "\ud800".encode("utf-8", "replace").decode()},
    {"stdout_maxsize": "1.5", "process_uuid": "x", "process_key": "ü", "subscription_id": ""},
)
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"X-Expire-Seconds": "9" * 30, "X-Audience": "x", "X-Totp-Code": "ü", "X-Permission": "\x00"},
    {"X-File-Path": "/no/such/\x00", "X-Send-File-Socket": "true", "X-Recv-File-Socket": "x"},
    {"X-File-Path": "/proc/self/mem", "X-File-Mode": "99999999999", "X-File-User": "\x00"},
    {"X-File-Path": "/tmp/" + "y" * 5000},
    {"Cookie": "=;;\x01", "Origin": "http://[", "X-Refresh-Token": "a.b.c"},
    {"X-Target-Host": "\x00"},
    {"Authorization": "Basic ////"},
    {"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9."},
)
NAMES = ("web", "a%2Fb", "%zz", "%00", "*", " ", "ü", "x" * 300, "self", "admin")
SAFE = {"/appmesh/self/logoff", "/appmesh/user/{}/passwd", "/appmesh/totp/setup", "/appmesh/token/renew"}
"""Of which no request must succeed, or the token is another one."""


@pytest.fixture(params=["2", "3"])
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(generation=request.param)) as running:
        yield running


def log_in(emulator: Emulator) -> str:
    """The administrator's token, after ``Bearer``."""
    issuer = emulator._running().issuer
    if issuer is not None:
        claims = {"sub": subject_of("admin@appmesh.local")}
        scopes = [f"audience:server:client_id:{AUDIENCE}"]
        return f"Bearer {issuer.access_token(claims, PUBLIC_CLIENT, scopes, 600)}"
    with TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        client.login()
        return f"Bearer {client.token}"


def requests_of(emulator: Emulator, count: int) -> Iterator[tuple[str, str, bytes, dict[str, str], dict[str, str]]]:
    """So many of all combinations, each route among them."""
    chosen = random.Random(7)
    routes = [route for route in routes_of(emulator.options.dialect) if route.path not in SAFE]
    for route in itertools.islice(itertools.cycle(routes), count):
        path = route.path.replace("{}", chosen.choice(NAMES))
        if (route.method, route.path) == ("DELETE", "/appmesh/user/{}"):
            path = "/appmesh/user/ghost"
        yield route.method, path, chosen.choice(BODIES), chosen.choice(QUERIES), chosen.choice(HEADERS)


def assert_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    told = [f"{record.name}: {record.getMessage()}" for record in caplog.records if record.exc_info]
    failed = [text for record in caplog.records if "failed:" in (text := record.getMessage())]
    assert not told, "\n".join(told)
    assert not failed, "\n".join(failed)
    assert "Traceback" not in caplog.text


def test_any_request_over_tcp(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = TcpClient(emulator.tcp_address, emulator.ca_file)
    token, answered = log_in(emulator), 0
    for method, path, body, query, headers in requests_of(emulator, 800):
        client.token = "" if "Authorization" in headers else token
        if path.endswith("/task") or "/output" in path:
            query = {**query, "timeout": "0"}  # noqa: PLW2901
        try:
            answer = client.request(method, path, body, query=query, headers=headers)
            answered += 1
            again = "X-Send-File-Socket" in answer.headers or "X-Recv-File-Socket" in answer.headers
            if answer.http_status == 503:
                client.receive()
        except Closed:
            again = True
        if again:  # what follows are the bytes of a file, or nothing
            client.close()
            client = TcpClient(emulator.tcp_address, emulator.ca_file)
    client.close()
    assert answered > 700
    assert_no_traceback(caplog)


def test_any_request_over_https(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = log_in(emulator)
    assert emulator.wss_address is not None
    assert emulator.https_address is not None
    context = ssl.create_default_context(cafile=str(emulator.ca_file))
    answered = 0
    for number, (method, path, body, query, headers) in enumerate(requests_of(emulator, 300)):
        address = emulator.wss_address if number % 2 else emulator.https_address
        connection = HTTPSConnection(*address, context=context, timeout=20)
        text = "&".join(f"{name}={value}" for name, value in query.items()).encode("utf-8", "replace")
        target = path.encode("utf-8").replace(b" ", b"%20") + b"?" + text.replace(b"\x00", b"%00")
        lines = [b"%b %b HTTP/1.1" % (method.encode(), target), b"Host: x", b"Connection: close"]
        given = {"Authorization": token, **headers}
        lines += [f"{name}: {value}".encode() for name, value in given.items() if "\x00" not in value]
        connection.connect()
        connection.send(b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body]))
        try:
            answer = connection.response_class(connection.sock, method=method)
            answer.begin()
            answer.read()
            answered += 1
        except (HTTPException, OSError):
            pass  # closed without an answer, which is one
        connection.close()
    assert answered > 200
    assert_no_traceback(caplog)


@pytest.mark.parametrize("emulator", ["2"], indirect=True)
def test_any_message(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """What is no request ends a TCP connection, and is ignored over WSS."""
    caplog.set_level(logging.DEBUG)
    good = {
        "uuid": "u",
        "request_uri": "/appmesh/labels",
        "http_method": "GET",
        "headers": {},
        "query": {},
        "body": b"",
    }
    for wrong in (
        {**good, "query": {"a": 1}},
        {**good, "headers": None},
        {**good, "query": None},
        {**good, "client_addr": None},
        {**good, "headers": {"a": None}},
        {**good, "http_method": 5},
        {**good, "body": {"a": 1}},
        [1, 2],
        5,
    ):
        data = msgpack.packb(wrong)
        with TcpClient(emulator.tcp_address, emulator.ca_file) as client:
            client.socket.sendall(encode_frame(data))
            with pytest.raises(Closed):
                client.receive()
        with WssClient(emulator.wss_address, emulator.ca_file) as client:
            client.send(data)
            assert client.login().http_status == 200
    with TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        loose = msgpack.packb({"uuid": "u", "request_uri": "/appmesh/user/groups", "http_method": "GET", "more": 1})
        client.socket.sendall(encode_frame(loose + b"after the map"))
        answer = client.receive()
        assert (answer.http_status, json.loads(answer.body)) == (200, ["admin", "user"])
        empty = msgpack.packb({**good, "http_method": "", "body": "text"})
        client.socket.sendall(encode_frame(empty))
        assert client.receive().http_status == 405
    assert_no_traceback(caplog)
