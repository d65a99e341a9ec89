"""HTTPS on its own port and on the WSS port: cookies, origins, files; and messages over WSS."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from meshbridge.emulator import Emulator, EmulatorOptions
from tests.support import wait_for
from tests.unit.emulator.golden import records
from tests.unit.emulator.wire_client import WireClient, WssClient

HTTPS = {record["operation"]: record for record in records("https.jsonl")}
VARIES = {"Date", "Content-Length", "Set-Cookie"}


class Browser(requests.Session):
    """A session towards one port of the emulator."""

    def __init__(self, emulator: Emulator, *, wss_port: bool = False) -> None:
        super().__init__()
        address = emulator.wss_address if wss_port else emulator.https_address
        assert address is not None
        self.is_wss_port = wss_port
        self.trust_env = False  # REQUESTS_CA_BUNDLE would win over the CA given here
        self.verify = str(emulator.ca_file)
        self.base = f"https://{address[0]}:{address[1]}"

    def call(self, method: str, path: str, **arguments: Any) -> requests.Response:
        return self.request(method, self.base + path, timeout=30, **arguments)

    def sign_in(self, **headers: str) -> str:
        answer = self.call("POST", "/appmesh/login", auth=("admin", "admin123"), headers=headers)
        return str(answer.json()["access_token"])


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as emulator:
        yield emulator


@pytest.fixture(params=[False, True], ids=["https port", "wss port"])
def browser(emulator: Emulator, request: pytest.FixtureRequest) -> Iterator[Browser]:
    with Browser(emulator, wss_port=request.param) as browser:
        yield browser


@pytest.fixture
def web(emulator: Emulator) -> Iterator[Browser]:
    with Browser(emulator) as browser:
        yield browser


def test_answers_and_their_headers_are_those_of_the_real_daemon(browser: Browser) -> None:
    token = ""
    for operation, record in HTTPS.items():
        if operation in {"wait_for_async_run", "upload_file", "delete_app", "download missing"}:
            continue
        asked, recorded = record["request"], record["response"]
        headers = {name: value.replace("<jwt>", token) for name, value in asked["headers"].items()}
        headers.pop("Content-Length", None)
        browser.cookies.clear()
        answer = browser.call(asked["method"], asked["path"], headers=headers, data=asked["body"].encode())
        assert answer.status_code == recorded["http_status"], (operation, answer.text)
        assert set(answer.headers) == set(recorded["headers"]), operation
        for name in set(recorded["headers"]) - VARIES:
            assert answer.headers[name] == recorded["headers"][name], (operation, name)
        if "Set-Cookie" in recorded["headers"]:
            expected = recorded["headers"]["Set-Cookie"]
            assert _without_token(answer.headers["Set-Cookie"]) == _without_token(expected), operation
        if operation in {"login", "renew_token"}:
            token = answer.json()["access_token"]


def _without_token(cookie: str) -> str:
    name, _, attributes = cookie.partition(";")
    return f"{name.partition('=')[0]};{attributes}"


def test_a_session_cookie_is_enough_and_ends_with_the_logout(browser: Browser) -> None:
    browser.sign_in(**{"X-Set-Cookie": "true"})
    assert browser.call("GET", "/appmesh/applications").status_code == 200
    assert browser.call("POST", "/appmesh/self/logoff").status_code == 200
    assert not browser.cookies
    assert browser.call("GET", "/appmesh/applications").status_code == 401


def test_a_login_without_the_wish_sets_no_cookie(web: Browser) -> None:
    web.sign_in()
    assert not web.cookies


def test_a_write_by_cookie_from_a_foreign_origin_is_refused(web: Browser) -> None:
    token = web.sign_in(**{"X-Set-Cookie": "true"})
    foreign = {"Origin": "https://elsewhere.example"}
    refused = web.call("PUT", "/appmesh/label/zone?value=1", headers=foreign)
    assert refused.status_code == 403
    assert web.call("GET", "/appmesh/labels", headers=foreign).status_code == 200
    assert web.call("PUT", "/appmesh/label/zone?value=1", headers={"Origin": web.base}).status_code == 200
    with_token = {**foreign, "Authorization": f"Bearer {token}"}
    assert web.call("PUT", "/appmesh/label/zone?value=1", headers=with_token).status_code == 403, "with any cookie"
    web.cookies.clear()
    assert web.call("PUT", "/appmesh/label/zone?value=1", headers=with_token).status_code == 200
    web.headers["Authorization"] = f"Bearer {token}"
    assert web.call("DELETE", "/appmesh/label/zone").status_code == 200


def test_an_older_daemon_wants_the_csrf_cookie_repeated() -> None:
    with Emulator(EmulatorOptions(tcp_port=None, wss_port=None, csrf_token=True)) as older, Browser(older) as browser:
        browser.sign_in(**{"X-Set-Cookie": "true"})
        assert browser.call("PUT", "/appmesh/label/zone?value=1").status_code == 403
        csrf = {"X-CSRF-Token": browser.cookies["appmesh_csrf_token"]}
        assert browser.call("PUT", "/appmesh/label/zone?value=1", headers=csrf).status_code == 200


def test_a_path_that_is_none_is_not_found_and_a_3x_question_is_one(browser: Browser) -> None:
    assert browser.call("GET", "/appmesh/auth/config").status_code == 404
    assert browser.call("OPTIONS", "/appmesh/login").status_code == 200
    unknown = browser.call("PATCH", "/appmesh/login")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Route not found"})


def test_a_garbage_token_ends_as_500(browser: Browser) -> None:
    answer = browser.call("GET", "/appmesh/applications", headers={"Authorization": "Bearer abc.def.ghi"})
    assert (answer.status_code, answer.json()) == (500, {"message": "Internal server error"})


def test_a_file_goes_up_as_a_form_and_comes_down_with_its_mode(web: Browser, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1_000 + b"\r\n--not the boundary"
    remote = tmp_path / "remote" / "file"
    headers = {"Authorization": f"Bearer {web.sign_in()}", "X-File-Path": str(remote), "X-File-Mode": str(0o640)}
    sent = web.call("POST", "/appmesh/file/upload", headers=headers, files={"file": ("name", content)})
    assert (sent.status_code, remote.read_bytes(), remote.stat().st_mode & 0o777) == (200, content, 0o640)
    again = web.call("POST", "/appmesh/file/upload", headers=headers, files={"file": ("name", content)})
    assert (again.status_code, again.json()) == (403, {"message": "file already exist"})
    back = web.call("GET", "/appmesh/file/download", headers=headers)
    assert (back.content, back.headers["X-File-Mode"]) == (content, str(0o640))
    headers["X-File-Path"] = str(tmp_path / "missing")
    missing = web.call("GET", "/appmesh/file/download", headers=headers)
    assert (missing.status_code, missing.json()) == (406, {"message": "file not found"})


def test_a_file_sent_to_the_wss_port_is_thrown_away_and_answered_with_a_token(
    emulator: Emulator, tmp_path: Path
) -> None:
    remote = tmp_path / "file"
    with Browser(emulator, wss_port=True) as browser:
        headers = {"Authorization": f"Bearer {browser.sign_in()}", "X-File-Path": str(remote)}
        answer = browser.call("POST", "/appmesh/file/upload", headers=headers, files={"file": ("name", b"lost")})
        assert (answer.status_code, answer.content, remote.exists()) == (200, b'{"message":""}', False)
        token = {"Authorization": answer.headers["Authorization"], "X-File-Path": str(remote)}
        sent = browser.call("POST", "/appmesh/file/upload/ws", headers=token, data=b"kept")
        assert (sent.status_code, remote.read_bytes()) == (201, b"kept")
        got = browser.call("GET", "/appmesh/file/download/ws", headers=token)
        assert got.content == b"kept"
        assert browser.call("GET", "/appmesh/applications", headers=token).status_code == 401


def test_nothing_stays_of_a_file_whose_sender_goes(browser: Browser, tmp_path: Path) -> None:
    remote = tmp_path / "file"
    headers = {"Authorization": f"Bearer {browser.sign_in()}", "X-File-Path": str(remote)}
    path = "/appmesh/file/upload"
    answer = browser.call("POST", path, headers=headers) if browser.is_wss_port else None
    if answer is not None:
        headers["Authorization"], path = answer.headers["Authorization"], f"{path}/ws"

    def half() -> Iterator[bytes]:
        yield b"half"
        wait_for(remote.exists)
        raise ConnectionAbortedError

    with pytest.raises(requests.ConnectionError):
        browser.call("POST", path, headers=headers | {"Content-Type": "multipart/form-data; boundary=x"}, data=half())
    wait_for(lambda: not remote.exists())


def test_a_path_that_could_lead_elsewhere_is_refused(web: Browser) -> None:
    headers = {"Authorization": f"Bearer {web.sign_in()}", "X-File-Path": "/tmp/../etc/passwd"}
    assert web.call("GET", "/appmesh/file/download", headers=headers).status_code == 403


def test_the_wss_port_loses_what_ends_a_path_and_has_no_answer_for_an_empty_file(
    emulator: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "report").write_bytes(b"REPORT")
    (tmp_path / "empty").write_bytes(b"")
    with Browser(emulator, wss_port=True) as browser:
        token = {"Authorization": f"Bearer {browser.sign_in()}", "X-File-Path": str(tmp_path / "report")}
        ticket = browser.call("GET", "/appmesh/file/download", headers=token).headers["Authorization"]
        lost: dict[str, Any] = {"Authorization": ticket, "X-File-Path": f"{tmp_path}/reporté ".encode()}
        assert browser.call("GET", "/appmesh/file/download/ws", headers=lost).content == b"REPORT"
        empty = {"Authorization": ticket, "X-File-Path": str(tmp_path / "empty")}
        with pytest.raises(requests.ConnectionError, match="RemoteDisconnected"):
            browser.call("GET", "/appmesh/file/download/ws", headers=empty)


def test_headers_that_are_too_long_close_the_connection(browser: Browser) -> None:
    answer = browser.call("GET", "/appmesh/labels", headers={"X-Pad": "x" * 5000})
    assert (answer.status_code, answer.text[:20], answer.headers["Connection"]) == (
        400,
        "<h1>Bad Request</h1>",
        "close",
    )
    assert browser.call("GET", "/appmesh/labels", headers={"X-Pad": "x" * 3500}).status_code == 401


def test_wss_speaks_the_same_messages_and_pushes_events(emulator: Emulator) -> None:
    client: WireClient
    with WssClient(emulator.wss_address, emulator.ca_file) as client:
        assert client.request("GET", "/appmesh/applications").http_status == 401
        client.login()
        client.subscribe(events="START,EXIT")
        client.add_app("over-wss", "true")
        client.wait_type("over-wss", "EXIT")
        assert [event["event_type"] for event in client.of("over-wss")] == ["START", "EXIT"]
        client.json("DELETE", "/appmesh/app/over-wss")


def test_wss_agrees_on_the_daemons_subprotocol(emulator: Emulator) -> None:
    with WssClient(emulator.wss_address, emulator.ca_file) as client:
        assert client.socket.subprotocol == "appmesh-ws"


def test_wss_ignores_a_message_that_is_none(emulator: Emulator) -> None:
    with WssClient(emulator.wss_address, emulator.ca_file) as client:
        for garbage in (b"not msgpack", b"", b"\xc1", b"\x93\x01\x02\x03"):
            client.send(garbage)
        assert client.login().http_status == 200


def test_a_web_socket_is_not_served_on_the_https_port(emulator: Emulator) -> None:
    with pytest.raises((websocket.WebSocketException, OSError)):
        WssClient(emulator.https_address, emulator.ca_file)


def test_a_client_that_hangs_up_while_it_waits_leaves_nothing_behind(web: Browser) -> None:
    headers = {"Authorization": f"Bearer {web.sign_in()}"}
    body = json.dumps({"name": "waits", "command": "sleep 300"})
    assert web.call("PUT", "/appmesh/app/waits", headers=headers, data=body).status_code == 200
    with pytest.raises(requests.Timeout):
        web.request("GET", f"{web.base}/appmesh/app/waits/output?timeout=200", headers=headers, timeout=0.2)
    assert web.call("DELETE", "/appmesh/app/waits", headers=headers).status_code == 200
