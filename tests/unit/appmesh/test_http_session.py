"""The HTTPS session: what goes over, what its errors become, and how long it waits at most."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.client_tcp import AppMeshClientTCP
from meshbridge.appmesh.client_wss import AppMeshClientWSS
from meshbridge.appmesh.exceptions import AppMeshConnectionError, AppMeshRequestError, AppMeshTimeoutError
from meshbridge.appmesh.http_session import HttpSession
from meshbridge.appmesh.tcp_messages import RequestMessage
from meshbridge.appmesh.token_provider import TokenProvider
from tests.unit.appmesh.https_server import Handle, HttpsServer, reply


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HttpsServer]:
    with HttpsServer(tmp_path) as running:
        yield running


@pytest.fixture
def session(server: HttpsServer) -> Iterator[HttpSession]:
    made = HttpSession(server.url, str(server.ca_file))
    yield made
    made.close()


@pytest.fixture
def client(server: HttpsServer) -> Iterator[AppMeshClient]:
    with AppMeshClient(server.url, str(server.ca_file), jwt_token="a.b.c") as made:
        yield made


def get(uri: str = "/x", **headers: str) -> RequestMessage:
    return RequestMessage(http_method="GET", request_uri=uri, headers=headers)


def test_a_request_and_its_answer(server: HttpsServer, session: HttpSession) -> None:
    server.handle = lambda handler, _body: reply(handler, b"body", 201, X_EXIT_code="3", Content_Type="text/plain")
    message = RequestMessage(
        http_method="PUT", request_uri="/a b/?é", headers={"X-A": "1"}, query={"v": "x&=/ "}, body=b"\xff"
    )
    response = session.request(message, 10)
    assert (response.http_status, response.body, response.body_msg_type) == (201, b"body", "text/plain")
    assert response.headers["X-Exit-Code"] == "3", "names of headers are given in one way"
    method, path, headers, body = server.requests[0]
    assert (method, path, body) == ("PUT", "/a%20b/%3F%C3%A9?v=x%26%3D%2F%20", b"\xff")
    assert headers["X-A"] == "1"
    assert headers["Content-Length"] == "1"


def test_the_connection_is_kept(server: HttpsServer, session: HttpSession) -> None:
    peers = []

    def handle(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        peers.append(handler.client_address)
        reply(handler)

    server.handle = handle
    for _ in range(3):
        session.request(get(), 10)
    assert len(set(peers)) == 1


def test_a_netrc_of_the_user_takes_the_place_of_no_token(
    server: HttpsServer, client: AppMeshClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.handle = lambda handler, _body: reply(handler, b"[]")
    client.list_apps()
    assert server.requests[0][2]["Authorization"] == "Bearer a.b.c"


def test_only_the_csrf_cookie_is_kept_and_repeated(server: HttpsServer, session: HttpSession) -> None:
    def cookies(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Set-Cookie", "appmesh_auth_token=secret; Path=/; Secure")
        handler.send_header("Set-Cookie", "appmesh_csrf_token=csrf; Path=/; Secure")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.handle = cookies
    session.request(get(), 10)
    session.request(RequestMessage(http_method="POST", request_uri="/x"), 10)
    headers = server.requests[1][2]
    assert headers["X-CSRF-Token"] == "csrf"
    assert headers["Cookie"] == "appmesh_csrf_token=csrf"


def test_redirects_are_not_followed(server: HttpsServer, session: HttpSession) -> None:
    server.handle = lambda handler, _body: reply(handler, b"", 302, Location="https://elsewhere.invalid/")
    assert session.request(get(), 10).http_status == 302


def test_no_answer_in_time_is_a_timeout(server: HttpsServer, session: HttpSession) -> None:
    go = threading.Event()
    server.handle = lambda _handler, _body: (go.wait(10), None)[1]
    with pytest.raises(AppMeshTimeoutError, match="GET /x") as caught:
        session.request(get(), 0.05)
    assert caught.value.operation == "GET /x"
    go.set()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"HTTP/1.1 200 O", b"k"),
        (OK + b"X: ", b"x"),
        (OK, b"X: y\r\n"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        (OK + b"Content-Length: 60000\r\n\r\n", b"x"),
        (OK + b"Connection: close\r\n\r\n", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nfff;", b"x"),
    ],
    ids=["status", "header", "headers", "interim", "body", "body to the end", "chunks", "chunk extension"],
)
def test_an_answer_that_drips_is_a_timeout(
    begin: bytes, drop: bytes, server: HttpsServer, session: HttpSession
) -> None:
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.wfile.write(begin)
        while not stop.wait(0.01):
            handler.wfile.write(drop)

    server.handle = drip
    try:
        with pytest.raises(AppMeshTimeoutError):
            session.request(get(), 0.3)
    finally:
        stop.set()


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n", "compressed"),
        (b"content-encoding:  br, gzip\r\n\r\n", "compressed"),
        (b"Content-Length: 9999999999\r\n\r\n", "larger than 104857600 bytes"),
    ],
)
def test_a_body_without_bounds_is_refused(
    headers: bytes, words: str, server: HttpsServer, session: HttpSession
) -> None:
    server.handle = lambda handler, _body: (handler.wfile.write(OK + headers), None)[1]
    with pytest.raises(AppMeshConnectionError, match=words):
        session.request(get(), 5)


def test_a_body_that_stops_is_a_timeout(server: HttpsServer, session: HttpSession) -> None:
    go = threading.Event()

    def stop(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"x")
        handler.wfile.flush()
        go.wait(10)

    server.handle = stop
    with pytest.raises(AppMeshTimeoutError):
        session.request(get(), 0.1)
    go.set()


def test_a_body_that_is_cut_off_is_a_lost_connection(server: HttpsServer, session: HttpSession) -> None:
    def cut(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.close_connection = True

    server.handle = cut
    with pytest.raises(AppMeshConnectionError):
        session.request(get(), 10)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    session = HttpSession(f"https://127.0.0.1:{port}")
    with pytest.raises(AppMeshConnectionError, match="refused") as caught:
        session.request(get(), 10)
    assert caught.value.__cause__ is not None
    assert f"127.0.0.1:{port}" in str(caught.value)
    session.close()


def test_an_untrusted_certificate_is_told_as_such(server: HttpsServer) -> None:
    session = HttpSession(server.url, True)
    with pytest.raises(AppMeshConnectionError, match="certificate"):
        session.request(get(), 10)
    session.close()


def test_the_files_of_tls_win_over_the_environment(
    server: HttpsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none"))
    session = HttpSession(server.url, str(server.ca_file))
    assert session.request(get(), 10).http_status == 200
    session.close()


@pytest.mark.parametrize(
    ("url", "verify"), [("https://127.0.0.1:1", "/no/such/file"), ("", False), ("nonsense", False)]
)
def test_what_cannot_be_asked_at_all_is_a_connection_error(url: str, verify: bool | str) -> None:
    session = HttpSession(url, verify)
    with pytest.raises(AppMeshConnectionError):
        session.request(get(), 10)
    session.close()


# --- files ----------------------------------------------------------------------------------------------------------


def test_an_upload_names_the_remote_path_and_the_attributes(
    server: HttpsServer, client: AppMeshClient, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"content")
    local.chmod(0o640)
    server.handle = by_generation(2)
    client.upload_file(str(local), "/remote/a b é")
    method, path, headers, body = server.requests[1]
    assert (method, path) == ("POST", "/appmesh/file/upload")
    assert headers["X-File-Path"].encode("latin-1").decode() == "/remote/a b é"
    assert headers["X-File-Mode"] == str(0o640)
    assert headers["Authorization"] == "Bearer a.b.c"
    assert b"\r\n\r\ncontent\r\n--" in body
    client.upload_file(str(local), "/remote", False)
    assert "X-File-Mode" not in server.requests[2][2]


def by_generation(generation: int) -> Handle:
    """A daemon that answers so on request, and accepts all else."""

    def handle(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        unknown = generation == 2 and handler.path == "/appmesh/auth/config"
        reply(handler, b"{}", 404 if unknown else 200)

    return handle


@pytest.mark.parametrize("provided", [False, True])
@pytest.mark.parametrize(("generation", "sent"), [(2, "/a b+c%"), (3, "/a%20b%2Bc%25")])
def test_a_path_is_escaped_for_the_generation_of_the_daemon_however_the_client_logs_in(
    server: HttpsServer, tmp_path: Path, generation: int, sent: str, provided: bool
) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"content")
    server.handle = by_generation(generation)
    provider = GivenToken("a.b.c") if provided else None
    with AppMeshClient(server.url, str(server.ca_file), token_provider=provider) as client:
        client.upload_file(str(local), "/a b+c%")
        client.upload_file(str(local), "/a b+c%")
    assert [headers["X-File-Path"] for _, path, headers, _ in server.requests if path.endswith("upload")] == [sent] * 2
    assert [path for _, path, _, _ in server.requests].count("/appmesh/auth/config") == 1


class GivenToken(TokenProvider):
    """A provider of one token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_access_token(self) -> str:
        return self._token


@pytest.mark.parametrize("path", [" /a", "/a ", "/a\t", "/a\nb"])
def test_a_path_that_a_header_cannot_carry_is_refused(
    server: HttpsServer, client: AppMeshClient, tmp_path: Path, path: str
) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"content")
    server.handle = by_generation(2)
    with pytest.raises(AppMeshRequestError, match="Use tcp://"):
        client.upload_file(str(local), path)
    with pytest.raises(AppMeshRequestError, match="Use tcp://"):
        client.download_file(path, str(tmp_path / "other"))
    assert [path for _, path, _, _ in server.requests] == ["/appmesh/auth/config"]


def test_a_refused_upload_is_an_error(server: HttpsServer, client: AppMeshClient, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"content")
    server.handle = lambda handler, _body: reply(handler, b'{"message":"file already exist"}', 403)
    with pytest.raises(Exception, match="file already exist") as caught:
        client.upload_file(str(local), "/remote")
    assert getattr(caught.value, "status", None) == 403


def test_a_daemon_may_say_that_the_file_was_created(server: HttpsServer, client: AppMeshClient, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"content")
    server.handle = lambda handler, _body: reply(handler, b"{}", 201 if handler.command == "POST" else 404)
    client.upload_file(str(local), "/remote")
    assert [method for method, *_ in server.requests].count("POST") == 1


def test_a_file_that_is_not_here_is_not_sent(server: HttpsServer, client: AppMeshClient, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.upload_file(str(tmp_path / "none"), "/remote")
    assert server.requests == []


def test_a_download_has_the_attributes_of_the_original(
    server: HttpsServer, client: AppMeshClient, tmp_path: Path
) -> None:
    server.handle = lambda handler, _body: reply(handler, b"content", X_File_Mode=str(0o600))
    local = tmp_path / "local"
    client.download_file("/remote", str(local))
    assert local.read_bytes() == b"content"
    assert local.stat().st_mode & 0o777 == 0o600


def test_a_missing_remote_file_leaves_nothing_here(server: HttpsServer, client: AppMeshClient, tmp_path: Path) -> None:
    server.handle = lambda handler, _body: reply(handler, b'{"message":"file not found"}', 406)
    local = tmp_path / "local"
    with pytest.raises(AppMeshRequestError, match="file not found") as caught:
        client.download_file("/remote", str(local))
    assert caught.value.status == 406
    assert not local.exists()


def test_a_download_that_breaks_off_leaves_the_old_file(
    server: HttpsServer, client: AppMeshClient, tmp_path: Path
) -> None:
    def cut(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"half")
        handler.close_connection = True

    server.handle = cut
    local = tmp_path / "local"
    local.write_bytes(b"old")
    with pytest.raises(AppMeshConnectionError):
        client.download_file("/remote", str(local))
    assert local.read_bytes() == b"old"


def test_a_place_that_cannot_be_written_to_is_the_callers_error(
    server: HttpsServer, client: AppMeshClient, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        client.download_file("/remote", str(tmp_path / "none" / "local"))
    assert server.requests


def test_who_waits_is_woken_by_close_and_nothing_is_asked_after_it(server: HttpsServer, session: HttpSession) -> None:
    asked, done, said = threading.Event(), threading.Event(), []

    def handle(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        asked.set()
        done.wait(30)
        handler.close_connection = True

    def ask() -> None:
        with pytest.raises(AppMeshConnectionError) as caught:
            session.request(get(), 3600)
        said.append(caught.value)

    server.handle = handle
    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(30)
    session.close()
    thread.join(30)
    assert not thread.is_alive()
    done.set()
    assert not isinstance(said[0], AppMeshTimeoutError)
    with pytest.raises(AppMeshConnectionError, match="the client is closed"):
        session.request(get(), 10)


@pytest.mark.parametrize(
    "client_of",
    [
        lambda: AppMeshClient("https://a..b:6060"),
        lambda: AppMeshClientTCP(("a..b", 6059)),
        lambda: AppMeshClientWSS(("." + "a" * 70, 6058)),
    ],
)
def test_a_host_name_that_cannot_be_one_is_a_connection_error(client_of: Callable[[], AppMeshClient]) -> None:
    with client_of() as client, pytest.raises(AppMeshConnectionError):
        client.list_labels()
