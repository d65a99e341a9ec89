"""The second recording of a real daemon against the emulator: no difference but in values that change by themselves."""

import base64
import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Iterator
from http.client import HTTPSConnection, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from meshbridge.appmesh.tcp_messages import ResponseMessage
from meshbridge.emulator import Emulator, EmulatorOptions
from tests.unit.emulator.golden import records
from tests.unit.emulator.wire_client import TcpClient

EXCHANGES = records("exchanges-2.jsonl")
ON_TCP = [record for record in EXCHANGES if record["transport"] == "tcp" and "http_status" in record["response"]]
ON_HTTPS = [record for record in EXCHANGES if record["transport"] == "https" and "http_status" in record["response"]]

VOLATILE = re.compile(
    r"(_time|_TEXT|_epoch|issued_at|expires_in|pid|pid_user|pstree|memory|cpu|fd|starts|access_token|token_type"
    r"|subscription_id|process_uuid|stdout_cache_size|register_time|task_id|task_status|health|exec_user|last_error)$"
)
PAGES = {"path /", "path /index.html", "path /openapi.yaml", "path /swagger/", "metrics path"}
"""Whose bodies are the daemon's own."""

OF_THE_HOST = {
    "config set list",
    "config base list",
    "config base null",
    "users",
    "users after",
    "labels 2",
    "labels 3b",
}
"""Whose values are those of the host, and of what else was tried there: keys and types are compared."""

CUT = {
    "token longgarbage",
    "token Bearer longgarbage",
    "login long user",
    "upload long",
    "download long",
    "users after",
}
"""Which the recording shows shortened."""

NOT_REPLAYED = {
    # The user of the recorder has another set of roles than the daemon's own `admin`, and had changed the password.
    "user self badsig",
    "self",
    "expired self",
    # Of permissions that the recorder had taken away.
    "subscribe other's 11",
    # These are notes of what the recorder saw, and have tests of their own.
    "cancel_task while tasks wait that nobody has fetched",  # words: the name of a recorded case
    "add_app with a text that YAML reads as something else",
    "logoff twice",
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(payload: object, *, algorithm: str = "HS256") -> str:
    """Signed with a key that no daemon has."""
    head = f"{b64(json.dumps({'alg': algorithm, 'typ': 'JWT'}).encode())}.{b64(json.dumps(payload).encode())}"
    return f"{head}.{b64(hmac.digest(b'another key', head.encode(), hashlib.sha256))}"


class Replay:
    """The daemon as the recorder had it, and the tokens that the recording does not show."""

    def __init__(self, emulator: Emulator) -> None:
        self.client = TcpClient(emulator.tcp_address, emulator.ca_file)
        self.client.login()
        self.tokens = {"admin": self.client.token}
        self._users()
        self.apps()

    def _users(self) -> None:
        client = self.client
        client.json("POST", "/appmesh/role/fewtg", ["app-view"])
        for name, roles in (("fewtg", ["fewtg"]), ("few2tg", ["usermgr", "view"]), ("gonetg", ["view"])):
            user = {"key": "Pw123456", "email": "e@x", "exec_user": "", "group": "user", "roles": roles}
            client.json("PUT", f"/appmesh/user/{name}", {**user, "locked": False})
            self.tokens[name] = self.login(name, "Pw123456")["access_token"]
        client.json("DELETE", "/appmesh/user/gonetg")
        first = self.login("admin", "admin123", **{"X-Refresh-Token-Request": "true"})
        self.tokens["spent"] = first["refresh_token"]
        client.token = ""  # which would be ended by it
        renewed = client.request("POST", "/appmesh/token/renew", headers={"X-Refresh-Token": first["refresh_token"]})
        client.token = self.tokens["admin"]
        self.tokens["refresh"] = json.loads(renewed.body)["refresh_token"]

    def apps(self) -> None:
        client = self.client
        client.subscribe("EXIT", None)
        client.add_app("dttg", "sleep 30")
        client.add_app("owntg", "sleep 30")
        client.add_app("pyexec", "sleep 30")
        client.add_app("outtg", "printf 'hello\\nworld\\377\\n'; exit 3", shell=True)
        client.wait_type("outtg", "EXIT")

    def login(self, user: str, password: str, **headers: str) -> dict[str, Any]:
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        answer = self.client.request("POST", "/appmesh/login", headers={"Authorization": f"Basic {basic}", **headers})
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def token_of(self, record: dict[str, Any]) -> str:
        name, note = record["operation"], record.get("note", "")
        now = int(time.time())
        claims = {"sub": "admin", "exp": now + 600, "iat": now, "jti": "x", "aud": ["appmesh-service"]}
        made = {
            "alg none": lambda: token(claims, algorithm="none"),
            "alg RS256": lambda: token(claims, algorithm="RS256"),
            "a token without sub": lambda: token({"exp": now + 600}),
            "a token for a user that is not there, signed with another key": lambda: token({**claims, "sub": "ghost"}),
            "payload {}": lambda: token({}),
            "payload []": lambda: token([]),
            "an HS256 token for sub admin, signed with another key": lambda: token(claims),
        }.get(note)
        if made is not None:
            return made()
        owner = {
            "totp disable other": "few2tg",
            "totp disable admin by other": "few2tg",
            "self few": "fewtg",
            "few after role gone": "fewtg",
            "few self after role gone": "fewtg",
            "deleted user's token": "gonetg",
            "renew by spent refresh": "spent",
            "refresh as access": "refresh",
            "logoff by refresh": "refresh",
        }.get(name, "admin")
        return self.tokens[owner]

    def sent(self, record: dict[str, Any]) -> tuple[dict[str, str], bytes]:
        """Headers and body with what the recording does not show."""
        known, headers = self.token_of(record), {}
        for name, value in record["request"]["headers"].items():
            if record["operation"] == "lower bearer":
                value = f"bearer {known}"  # noqa: PLW2901
            elif record["operation"].startswith("token Bearer ") and value == "<jwt>":
                value = f"Bearer {known}"  # noqa: PLW2901
            elif name == "Cookie" and value == "<jwt>":
                value = f"appmesh_auth_token={known}"  # noqa: PLW2901
            headers[name] = value.replace("<jwt>", known).replace("<ticket>", self.ticket())
        return headers, record["request"]["body"].encode()

    def ticket(self) -> str:
        answer = self.client.request("POST", "/appmesh/file/upload", headers={"X-File-Path": "/tmp/files/none"})
        return answer.headers["Authorization"]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as running:
        yield running


def normal(value: Any, key: str = "") -> Any:
    """Without values that differ from one moment and host to the next."""
    if isinstance(value, dict):
        return {name: normal(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [normal(item) for item in value]
    return "…" if VOLATILE.search(key) else value


def shapes(value: Any, key: str = "") -> Any:
    """Keys and types; of labels, which differ from host to host, only that."""
    if isinstance(value, dict) and key != "Labels":
        return {name: shapes(item, name) for name, item in value.items()}
    return type(value).__name__


def body_of(text: str, name: str, kind: str) -> Any:
    if name in PAGES or not kind.startswith("application/json"):
        return "page" if name in PAGES else text
    try:
        value = json.loads(text.removesuffix("…"))
    except ValueError:
        return text
    if name in OF_THE_HOST:
        return sorted(value)[:0] if name in {"users", "users after", "labels 2", "labels 3b"} else shapes(value)
    return normal(value)


# Whether a process still runs when the answer is made, and how far it is: a daemon's answer shows either.
OF_THE_MOMENT = {
    "cpu", "fd", "last_error", "last_exit_time", "last_exit_time_TEXT", "last_start_time", "last_start_time_TEXT",
    "memory", "next_start_time", "next_start_time_TEXT", "pid", "pid_user", "pstree", "return_code",
    "stdout_cache_size", "task_id", "task_status", "token_epoch",
}  # fmt: skip


def without_moment(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: item for name, item in value.items() if name not in OF_THE_MOMENT}


def difference(record: dict[str, Any], status: int, kind: str, headers: set[str], text: str) -> str | None:
    expected, name = record["response"], record["operation"]
    if expected["http_status"] != status:
        return f"{name}: {status} {text[:200]} instead of {expected['http_status']} {expected['body'][:200]}"
    expected_kind = expected.get("body_msg_type", expected.get("headers", {}).get("Content-Type", ""))
    if expected_kind != kind:
        return f"{name}: {kind} instead of {expected_kind}"
    missing = {header for header in expected.get("headers", {}) if header != "Content-Length"} - headers
    if missing:
        return f"{name}: without {sorted(missing)}"
    wanted = without_moment(body_of(expected["body"], name, expected_kind))
    given = without_moment(body_of(text, name, kind))
    return None if wanted == given or name in CUT else f"{name}: {given} instead of {wanted}"


def shown(answer: ResponseMessage) -> str:
    return answer.body.decode("utf-8", "backslashreplace")


def test_answers_over_tcp_differ_in_volatile_values_only(emulator: Emulator) -> None:
    replay = Replay(emulator)
    differences = []
    with replay.client as client:
        for record in ON_TCP:
            if record["operation"] in NOT_REPLAYED:
                continue
            _arrange(replay, record["operation"])
            headers, body = replay.sent(record)
            client.token = ""
            request = record["request"]
            answer = client.request(
                request["http_method"], request["request_uri"], body, headers=headers, query=request["query"]
            )
            client.token = replay.tokens["admin"]
            if answer.http_status == 503 and request["request_uri"].endswith("/task"):
                assert client.receive().http_status == 412, record["operation"]
            found = difference(record, answer.http_status, answer.body_msg_type, set(answer.headers), shown(answer))
            if found:
                differences.append(found)
    assert not differences, "\n".join([f"{len(differences)} differences", *differences])


def _arrange(replay: Replay, operation: str) -> None:
    """What the recorder did in between."""
    client = replay.client
    if operation == "get slash":
        client.add_app("dttg", "sleep 30")
    elif operation == "few after role gone":
        client.json("DELETE", "/appmesh/role/fewtg")
    elif operation == "passwd {}":
        user = {"key": "Other1234", "email": "e@x", "exec_user": "", "group": "user", "roles": ["view"]}
        client.json("PUT", "/appmesh/user/dutg", {**user, "locked": False})


def test_answers_over_https_differ_in_volatile_values_only(emulator: Emulator, tmp_path: Path) -> None:
    replay = Replay(emulator)
    place = tmp_path / "files"
    place.mkdir()
    (place / "file").write_text("content\n")
    (place / "report").write_text("REPORT")
    (place / "up").write_text("abc")
    (place / "link").symlink_to(place / "file")
    (tmp_path / "a b%00c").write_text("abc")
    context = ssl.create_default_context(cafile=str(emulator.ca_file))
    assert emulator.wss_address is not None
    differences = []
    with replay.client:
        for record in ON_HTTPS:
            if record["operation"] in NOT_REPLAYED or "<3,900" in str(record["request"]):
                continue
            found = _over_https(replay, record, emulator.wss_address, context, tmp_path)
            if found:
                differences.append(found)
    assert not differences, "\n".join([f"{len(differences)} differences", *differences])


def _over_https(
    replay: Replay, record: dict[str, Any], address: tuple[str, int], context: ssl.SSLContext, place: Path
) -> str | None:
    request, name = record["request"], record["operation"]
    headers, body = replay.sent(record)
    if name.startswith(("upload/ws", "download/ws")) and headers.get("Authorization") == replay.tokens["admin"]:
        headers["Authorization"] = replay.tokens["admin"] if name.endswith("user token") else replay.ticket()
    if name == "login long user":
        headers["Authorization"] = "Basic " + "dXV1" * 1500
    if name.startswith(("upload of", "upload_file")):
        for leaf in ("neu", "up"):
            (place / "files" / leaf).unlink(missing_ok=True)
    text_is = record["response"]["body"]
    if "X-File-Path" in headers:
        given = headers["X-File-Path"]
        headers["X-File-Path"] = str(place) if given == "/tmp" else given.replace("/tmp/", f"{place}/")
    query = request["query"] if isinstance(request["query"], str) else urlencode(request["query"], quote_via=quote)
    connection = HTTPSConnection(*address, context=context, timeout=20)
    try:
        connection.putrequest(request["method"], request["path"] + (f"?{query}" if query else ""))
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(header, value.encode())
        connection.endheaders(body)
        try:
            answer = connection.getresponse()
        except RemoteDisconnected:
            return f"{name}: no answer"
        text = answer.read().decode("utf-8", "backslashreplace")
        text = text_is if re.sub("h[gq]", "", text) == re.sub("h[gq]", "", text_is) else text  # the recorder's marks
        kind = answer.headers.get("Content-Type", "") if "Content-Type" in record["response"].get("headers", {}) else ""
        names = {given.title() for given in answer.headers}
        record = {
            **record,
            "response": {
                **record["response"],
                "headers": {given.title(): value for given, value in record["response"].get("headers", {}).items()},
            },
        }
        return difference(record, answer.status, kind, names, text)
    finally:
        connection.close()
