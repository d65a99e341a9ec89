"""Each operation: the request it sends (as the golden one, where there is one), and what it makes of the answer."""

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshbridge.appmesh.app import App
from meshbridge.appmesh.app_run import AppRun
from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshConnectionError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshNotOfferedError,
    AppMeshRequestError,
    AppMeshTimeoutError,
    AppMeshTokenError,
)
from meshbridge.appmesh.tcp_messages import ResponseMessage
from tests.unit.appmesh.fakes import Answer, FakeExchange, answer, jwt, refusal

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "exchanges.jsonl"
TOKEN = jwt(4_000_000_000)


def client_over(*answers: Answer, token: str = TOKEN) -> tuple[AppMeshClient, FakeExchange]:
    exchange = FakeExchange(*answers)
    return AppMeshClient(exchange=exchange, jwt_token=token), exchange


CASES: dict[str, tuple[Callable[[AppMeshClient], Any], ResponseMessage, str, dict[str, str], Any, Any]] = {
    # name: call, answer, request, query, body (JSON, bytes, or None), result
    "get_app": (lambda c: c.get_app("a").name, answer({"name": "a"}), "GET /appmesh/app/a", {}, None, "a"),
    "list_apps": (lambda c: len(c.list_apps()), answer([{}, {}]), "GET /appmesh/applications", {}, None, 2),
    "list_apps_json": (lambda c: c.list_apps_json(), answer([{}, 1]), "GET /appmesh/applications", {}, None, [{}]),
    "get_app_json": (lambda c: c.get_app_json("a"), answer({"x": 1}), "GET /appmesh/app/a", {}, None, {"x": 1}),
    "get_metrics_bytes": (lambda c: c.get_metrics_bytes(), answer(b"\xff"), "GET /appmesh/metrics", {}, None, b"\xff"),
    "get_start_time": (
        lambda c: c.get_start_time(),
        answer({"appmesh_start_time_unix_seconds": 17}),
        "GET /appmesh/resources",
        {},
        None,
        17,
    ),
    "list_own_permissions": (
        lambda c: c.list_own_permissions(),
        answer(["app-view"]),
        "GET /appmesh/user/permissions",
        {},
        None,
        frozenset({"app-view"}),
    ),
    "read_output": (
        lambda c: c.read_output("a", 7, index=1),
        answer(b"\xff"),
        "GET /appmesh/app/a/output",
        {"stdout_position": "7", "stdout_index": "1", "stdout_maxsize": "3145728"},
        None,
        b"\xff",
    ),
    "read_output not kept": (
        lambda c: c.read_output("a", 0),
        answer(b"", 417),
        "GET /appmesh/app/a/output",
        {"stdout_maxsize": "3145728"},
        None,
        None,
    ),
    "request_subscription": (
        lambda c: c.request_subscription("*", ["START", "EXIT"]).subscription_id,
        answer({"subscription_id": "s", "app_name": "*", "events": ["START", "EXIT"]}),
        "POST /appmesh/subscribe",
        {"events": "START,EXIT"},
        None,
        "s",
    ),
    "check_app_health": (lambda c: c.check_app_health("a"), answer(b"0"), "GET /appmesh/app/a/health", {}, None, True),
    "check_app_health unhealthy": (
        lambda c: c.check_app_health("a"),
        answer(b"1"),
        "GET /appmesh/app/a/health",
        {},
        None,
        False,
    ),
    "add_app": (
        lambda c: c.add_app(App({"name": "a", "command": "x"}), ["START"]).name,
        answer({"name": "a"}),
        "PUT /appmesh/app/a",
        {},
        {"name": "a", "command": "x"},
        "a",
    ),
    "delete_app": (lambda c: c.delete_app("a"), answer(), "DELETE /appmesh/app/a", {}, None, True),
    "delete_app missing": (lambda c: c.delete_app("a"), answer(b"", 404), "DELETE /appmesh/app/a", {}, None, False),
    "enable_app": (lambda c: c.enable_app("a"), answer(), "POST /appmesh/app/a/enable", {}, None, None),
    "disable_app": (lambda c: c.disable_app("a"), answer(), "POST /appmesh/app/a/disable", {}, None, None),
    "run_task": (
        lambda c: c.run_task("a", "data"),
        answer(b"got\xff"),
        "POST /appmesh/app/a/task",
        {"timeout": "300"},
        b"data",
        "got\ufffd",
    ),
    "run_task bytes": (
        lambda c: c.run_task("a", b"\xff", 5),
        answer(b""),
        "POST /appmesh/app/a/task",
        {"timeout": "5"},
        b"\xff",
        "",
    ),
    "run_task object": (
        lambda c: c.run_task("a", {"k": 1}, 5),
        answer(b""),
        "POST /appmesh/app/a/task",
        {"timeout": "5"},
        {"k": 1},
        "",
    ),
    "cancel_task": (lambda c: c.cancel_task("a"), answer(), "DELETE /appmesh/app/a/task", {}, None, True),
    "cancel_task none": (lambda c: c.cancel_task("a"), answer(b"", 208), "DELETE /appmesh/app/a/task", {}, None, False),
    "cancel_task no app": (lambda c: c.cancel_task("a"), refusal(404), "DELETE /appmesh/app/a/task", {}, None, False),
    "run_app_sync": (
        lambda c: c.run_app_sync("echo", 5, "PT7S"),
        answer(b"out\xff", X_Exit_Code="-9"),
        "POST /appmesh/app/syncrun",
        {"timeout": "5", "lifecycle": "7"},
        {"command": "echo", "shell": True},
        (-9, "out\ufffd"),
    ),
    "run_app_sync without a code": (
        lambda c: c.run_app_sync(App({"name": "a"})),
        answer(b"out"),
        "POST /appmesh/app/syncrun",
        {"timeout": "172800", "lifecycle": "216000"},
        {"name": "a"},
        (None, "out"),
    ),
    "run_app_async": (
        lambda c: (c.run_app_async("echo").app_name,),
        answer({"name": "n", "process_uuid": "p"}),
        "POST /appmesh/app/run",
        {"timeout": "172800", "lifecycle": "216000"},
        {"command": "echo", "shell": True},
        ("n",),
    ),
    "get_host_resources": (
        lambda c: c.get_host_resources(),
        answer({"a": 1}),
        "GET /appmesh/resources",
        {},
        None,
        {"a": 1},
    ),
    "get_metrics": (lambda c: c.get_metrics(), answer(b"# HELP"), "GET /appmesh/metrics", {}, None, "# HELP"),
    "get_config": (lambda c: c.get_config(), answer({"a": 1}), "GET /appmesh/config", {}, None, {"a": 1}),
    "set_config": (lambda c: c.set_config({"b": 1}), answer({"a": 1}), "POST /appmesh/config", {}, {"b": 1}, {"a": 1}),
    "set_log_level": (
        lambda c: c.set_log_level(),
        answer({"BaseConfig": {"LogLevel": "DEBUG"}}),
        "POST /appmesh/config",
        {},
        {"BaseConfig": {"LogLevel": "DEBUG"}},
        "DEBUG",
    ),
    "add_label": (lambda c: c.add_label("l", "v&=/"), answer(), "PUT /appmesh/label/l", {"value": "v&=/"}, None, None),
    "delete_label": (lambda c: c.delete_label("l"), answer(), "DELETE /appmesh/label/l", {}, None, None),
    "list_labels": (lambda c: c.list_labels(), answer({"l": "v"}), "GET /appmesh/labels", {}, None, {"l": "v"}),
    "list_users": (lambda c: c.list_users(), answer({"u": {}}), "GET /appmesh/users", {}, None, {"u": {}}),
    "get_current_user": (
        lambda c: c.get_current_user(),
        answer({"u": 1}),
        "GET /appmesh/user/self",
        {},
        None,
        {"u": 1},
    ),
    "add_user": (lambda c: c.add_user("u", {"a": 1}), answer(), "PUT /appmesh/user/u", {}, {"a": 1}, None),
    "delete_user": (lambda c: c.delete_user("u"), answer(), "DELETE /appmesh/user/u", {}, None, None),
    "lock_user": (lambda c: c.lock_user("u"), answer(), "POST /appmesh/user/u/lock", {}, None, None),
    "unlock_user": (lambda c: c.unlock_user("u"), answer(), "POST /appmesh/user/u/unlock", {}, None, None),
    "update_password": (
        lambda c: c.update_password("a", "b"),
        answer(),
        "POST /appmesh/user/self/passwd",
        {},
        {"old_password": "YQ==", "new_password": "Yg=="},
        None,
    ),
    "list_groups": (lambda c: c.list_groups(), answer(["g"]), "GET /appmesh/user/groups", {}, None, ["g"]),
    "list_permissions": (lambda c: c.list_permissions(), answer(["p"]), "GET /appmesh/permissions", {}, None, ["p"]),
    "get_user_permissions": (
        lambda c: c.get_user_permissions(),
        answer(["p"]),
        "GET /appmesh/user/permissions",
        {},
        None,
        ["p"],
    ),
    "list_roles": (lambda c: c.list_roles(), answer({"r": ["p"]}), "GET /appmesh/roles", {}, None, {"r": ["p"]}),
    "update_role": (lambda c: c.update_role("r", ["p"]), answer(), "POST /appmesh/role/r", {}, ["p"], None),
    "delete_role": (lambda c: c.delete_role("r"), answer(), "DELETE /appmesh/role/r", {}, None, None),
    "get_totp_secret": (
        lambda c: c.get_totp_secret(),
        answer({"mfa_uri": base64.b64encode(b"otpauth://totp/u?secret=ABC&issuer=AppMesh").decode()}),
        "POST /appmesh/totp/secret",
        {},
        None,
        "ABC",
    ),
    "disable_totp": (lambda c: c.disable_totp("u"), answer(), "POST /appmesh/totp/u/disable", {}, None, None),
    "list_principals": (
        lambda c: c.list_principals(),
        answer([{"id": 1}]),
        "GET /appmesh/principals",
        {},
        None,
        [{"id": 1}],
    ),
    "get_current_principal": (
        lambda c: c.get_current_principal(),
        answer({"id": 1}),
        "GET /appmesh/principal/self",
        {},
        None,
        {"id": 1},
    ),
    "get_principal_permissions": (
        lambda c: c.get_principal_permissions(),
        answer(["p"]),
        "GET /appmesh/principal/self/permissions",
        {},
        None,
        ["p"],
    ),
    "update_principal": (
        lambda c: c.update_principal("x", {"roles": []}),
        answer(),
        "POST /appmesh/principal/x",
        {},
        {"roles": []},
        None,
    ),
    "delete_principal": (lambda c: c.delete_principal("x"), answer(), "DELETE /appmesh/principal/x", {}, None, None),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_asks_and_reads(name: str) -> None:
    call, given, request, query, body, result = CASES[name]
    client, exchange = client_over(given)
    assert call(client) == result
    (sent,) = exchange.requests
    assert f"{sent.http_method} {sent.request_uri}" == request
    assert sent.query == query
    assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent.headers["User-Agent"] == "appmesh/python"
    if isinstance(body, bytes) or body is None:
        assert sent.body == (body or b"")
        assert "Content-Type" not in sent.headers
    else:
        assert json.loads(sent.body) == body
        assert sent.headers["Content-Type"] == "application/json"


def test_every_public_operation_has_a_test() -> None:
    elsewhere = {
        "authenticate",
        "authentication",
        "check_token",
        "clear_bearer_token",
        "close",
        "download_file",
        "enable_totp",
        "end_grant",
        "get_app_output",
        "get_auth_config",
        "login",
        "logout",
        "open_download",
        "renew_grant",
        "renew_token",
        "request_grant",
        "set_bearer_token",
        "set_token",
        "set_token_provider",
        "start_token_refresh",
        "run_task_bytes",
        "stop_token_refresh",
        "supports_events",
        "token_provider",
        "upload_file",
        "upload_stream",
        "using",
        "validate_totp",
        "wait_for_async_run",
        "forward_to",
    }
    public = {name for name in dir(AppMeshClient) if not name.startswith("_")}
    assert public == elsewhere | {name.split()[0] for name in CASES}


def golden_requests() -> dict[str, Any]:
    """The first request of each operation; the recorder's own look at the result can follow under the same name."""
    requests: dict[str, Any] = {}
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        exchange = json.loads(line)
        requests.setdefault(exchange["operation"], exchange.get("request"))
    return requests


GOLDEN_REQUESTS = golden_requests()


@pytest.mark.parametrize("name", sorted(set(CASES) & set(GOLDEN_REQUESTS)))
def test_the_request_is_that_of_the_golden_exchange(name: str) -> None:
    golden = GOLDEN_REQUESTS[name]
    client, exchange = client_over(CASES[name][1])
    CASES[name][0](client)
    (sent,) = exchange.requests
    assert sent.http_method == golden["http_method"]
    assert sent.request_uri.split("/")[:3] == golden["request_uri"].split("/")[:3]
    assert sent.request_uri.count("/") == golden["request_uri"].count("/")
    assert set(sent.query) == set(golden["query"])
    assert set(sent.headers) - {"Content-Type"} == set(golden["headers"])


@pytest.mark.parametrize("operation", ["get_app", "delete_app", "check_app_health", "enable_app", "cancel_task"])
@pytest.mark.parametrize("name", ["", "a/b", "..", "."])
def test_a_name_that_would_ask_for_something_else_is_refused_unsent(operation: str, name: str) -> None:
    client, exchange = client_over()
    with pytest.raises(AppMeshRequestError, match="is no name"):
        getattr(client, operation)(name)
    assert exchange.requests == []


# --- output -------------------------------------------------------------------------------------------------------


def test_output_is_asked_for_with_what_differs_from_the_defaults() -> None:
    client, exchange = client_over(answer(b"hi\xff", X_Output_Position="7", X_Exit_Code="-9"), answer(b"hi"))
    output = client.get_app_output("a", 5, 1, 100, "uuid", 3)
    assert (output.status_code, output.output, output.out_position, output.exit_code) == (200, "hi\ufffd", 7, -9)
    assert exchange.requests[0].query == {
        "stdout_position": "5",
        "stdout_index": "1",
        "stdout_maxsize": "100",
        "process_uuid": "uuid",
        "timeout": "3",
    }
    output = client.get_app_output("a")
    assert (output.out_position, output.exit_code) == (None, None)
    assert exchange.requests[1].query == {"stdout_maxsize": "10240"}


def test_output_that_is_not_kept_is_an_answer_and_no_error() -> None:
    client, _ = client_over(answer(b"", 417), refusal(404, "No such application"))
    assert client.get_app_output("a").status_code == 417
    output = client.get_app_output("a")
    assert (output.status_code, output.output) == (404, "No such application")


def test_output_of_an_app_one_may_not_see_is_an_error() -> None:
    client, _ = client_over(refusal(400, "Permission denied: user 'x' lacks required permission 'app-output-view'"))
    with pytest.raises(AppMeshAuthError):
        client.get_app_output("a")


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (refusal(401, "No authentication token provided"), AppMeshTokenError, "No authentication token provided"),
        (refusal(403, "file already exist"), AppMeshAuthError, "file already exist"),
        (refusal(400, "Permission denied: user 'x' …"), AppMeshDeniedError, "Permission denied: user 'x' …"),
        (refusal(400, "bad name"), AppMeshRequestError, "bad name"),
        (refusal(404, "No such application"), AppMeshRequestError, "No such application"),
        (answer(b"", 500), AppMeshRequestError, "Internal Server Error"),
        (answer(b"<html>", 502), AppMeshRequestError, "<html>"),
        (answer(b"", 799), AppMeshRequestError, "status 799"),
        (answer(b"[1]", 400), AppMeshRequestError, "[1]"),
    ],
)
def test_an_error_keeps_status_message_and_operation(
    given: ResponseMessage, kind: type[AppMeshError], message: str
) -> None:
    client, _ = client_over(given)
    with pytest.raises(kind) as caught:
        client.get_app("a")
    assert type(caught.value) is kind
    assert caught.value.message == message
    assert caught.value.status == given.http_status
    assert caught.value.operation == "GET /appmesh/app/a"


def test_a_refusal_told_by_another_status_is_caught_as_either_kind() -> None:
    assert issubclass(AppMeshDeniedError, AppMeshAuthError)
    assert issubclass(AppMeshDeniedError, AppMeshRequestError)


@pytest.mark.parametrize(
    "call", [lambda c: c.get_app("a"), lambda c: c.list_apps(), lambda c: c.list_labels(), lambda c: c.list_groups()]
)
@pytest.mark.parametrize("body", [b"", b"x", b"5", b'"text"', b"\xff"])
def test_an_answer_that_cannot_be_read_is_a_request_error(call: Callable[[AppMeshClient], Any], body: bytes) -> None:
    client, _ = client_over(answer(body))
    with pytest.raises(AppMeshRequestError):
        call(client)


def test_null_is_nothing() -> None:
    client, _ = client_over(answer(b"null"), answer(b"null"))
    assert client.list_apps() == []
    assert client.list_labels() == {}


# --- durations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("P1W", 604800), ("P2D", 172800), ("P2DT12H", 216000), ("PT5S", 5), ("P1Y", 31536000), ("P1M", 2592000),
     ("P1Y2M3DT4H5M6S", 36993906), (7, 7), ("P0D", 0)],
)  # fmt: skip
def test_durations_are_seconds_or_iso_8601(duration: str | int, seconds: int) -> None:
    client, exchange = client_over(answer(b""))
    client.run_app_sync("x", duration)
    assert exchange.requests[0].query["timeout"] == str(seconds)


@pytest.mark.parametrize("duration", ["5", "x", "", "P", "PT", "P1DT", "P1H"])
def test_a_text_that_is_no_duration_is_a_value_error(duration: str) -> None:
    client, exchange = client_over()
    with pytest.raises(ValueError, match="no ISO 8601 duration"):
        client.run_app_sync("x", duration)
    assert exchange.requests == []


@pytest.mark.parametrize("duration", [None, 5.5])
def test_another_type_is_a_type_error(duration: Any) -> None:
    client, _ = client_over()
    with pytest.raises(TypeError):
        client.run_app_sync("x", duration)


# --- timeouts and forwarding ----------------------------------------------------------------------------------------


def test_an_operation_that_the_daemon_waits_in_gets_that_much_more_time() -> None:
    client, exchange = client_over()
    client.list_labels()
    client.run_task("a", "x", 1000)
    client._output("a", 0, 10, timeout=900)
    assert exchange.timeouts == [300, 1030, 930]


def test_forwarding_names_the_node_and_has_a_deadline() -> None:
    client, exchange = client_over()
    client.forward_to = "node-b:6060"
    assert client.forward_to == "node-b:6060"
    client.list_labels()
    assert exchange.requests[0].headers["X-Target-Host"] == "node-b:6060"
    assert exchange.timeouts == [60]
    client.forward_to = ""
    client.list_labels()
    assert "X-Target-Host" not in exchange.requests[1].headers


def test_over_https_the_port_is_that_of_the_client_where_none_is_given() -> None:
    with AppMeshClient("https://127.0.0.1:7777") as client:
        for given, sent in [("n", "n:7777"), ("n:1", "n:1"), ("[::1]", "[::1]:7777"), ("[::1]:5", "[::1]:5"), ("", "")]:
            client.forward_to = given
            assert client._forward_header() == sent


def test_a_forwarded_call_without_an_answer_says_where_it_was_forwarded_to() -> None:
    client, _ = client_over(AppMeshTimeoutError("no answer", operation="GET /x"))
    client.forward_to = "node-b"
    with pytest.raises(AppMeshTimeoutError, match="forwarded to node-b"):
        client.list_labels()


def test_a_run_goes_on_where_it_was_started_and_only_for_the_thread_that_asks() -> None:
    client, exchange = client_over(answer({"name": "n", "process_uuid": "p"}))
    client.forward_to = "node-b:1"
    run = client.run_app_async("x")
    client.forward_to = "node-c:1"
    with run.forward_to():
        client.list_labels()
        assert client._forward_to == "node-c:1", "what other threads see"
    client.list_labels()
    assert [sent.headers["X-Target-Host"] for sent in exchange.requests] == ["node-b:1", "node-b:1", "node-c:1"]


def test_one_thread_may_ask_another_node_and_wait_less_for_a_while() -> None:
    client, exchange = client_over()
    client.forward_to = "node-c:1"
    others: list[str] = []
    with client.using(forward_to="node-b:1", timeout_seconds=5):
        client.list_labels()
        with client.using(forward_to=""):
            client.list_labels()
        beside = threading.Thread(target=lambda: others.append(client.forward_to))
        beside.start()
        beside.join(10)
        client.run_task("a", "x", 100)
    client.list_labels()
    assert others == ["node-c:1"]
    assert [sent.headers.get("X-Target-Host") for sent in exchange.requests] == [
        "node-b:1",
        None,
        "node-b:1",
        "node-c:1",
    ]
    assert exchange.timeouts == [5, 5, 130, 60]


# --- waiting, over HTTPS --------------------------------------------------------------------------------------------


def test_waiting_asks_for_output_until_there_is_an_exit_code() -> None:
    client, exchange = client_over(
        answer(b"ab"), answer(b""), answer(b"c", X_Exit_Code="7"), answer(b"", X_Exit_Code="7"), answer()
    )
    pieces: list[tuple[str, int]] = []
    code = AppRun(client, "n", "p").wait(lambda text, position: pieces.append((text, position)))
    assert code == 7
    assert pieces == [("ab", 0), ("c", 2)]
    assert [sent.query.get("stdout_position") for sent in exchange.requests] == [None, "2", "2", "3", None]
    assert exchange.requests[0].query["process_uuid"] == "p"
    assert f"{exchange.requests[-1].http_method} {exchange.requests[-1].request_uri}" == "DELETE /appmesh/app/n"


def test_waiting_prints_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    client, _ = client_over(answer(b"ab", X_Exit_Code="0"), answer(b"", X_Exit_Code="0"))
    assert client.wait_for_async_run(AppRun(client, "n", "p")) == 0
    assert capsys.readouterr().out == "ab"


@pytest.mark.parametrize("quiet", [lambda c, r: c.wait_for_async_run(r, False), lambda c, r: r.wait()])
def test_waiting_can_be_quiet(
    quiet: Callable[[AppMeshClient, AppRun], int | None], capsys: pytest.CaptureFixture[str]
) -> None:
    client, _ = client_over(answer(b"ab", X_Exit_Code="0"), answer(b"", X_Exit_Code="0"))
    assert quiet(client, AppRun(client, "n", "p")) == 0
    assert capsys.readouterr().out == ""


def test_waiting_for_a_run_that_is_not_known_ends_with_none_and_deletes_nothing() -> None:
    for given in (answer(b"", 417), refusal(404), answer(b"", 500)):
        client, exchange = client_over(answer(b"ab"), given)
        assert AppRun(client, "n", "p").wait() is None
        assert len(exchange.requests) == 2


def test_waiting_ends_when_its_time_is_over() -> None:
    client, exchange = client_over(*[answer(b"")] * 100)
    assert AppRun(client, "n", "p").wait(timeout=1) is None
    assert all(sent.http_method == "GET" for sent in exchange.requests)


def test_waiting_is_cut_short_by_a_lost_connection() -> None:
    client, _ = client_over(answer(b"ab"), AppMeshConnectionError("lost"))
    with pytest.raises(AppMeshConnectionError):
        AppRun(client, "n", "p").wait()


def test_a_run_that_cannot_be_removed_has_its_code_all_the_same() -> None:
    client, _ = client_over(answer(b"", X_Exit_Code="3"), AppMeshConnectionError("lost"))
    assert AppRun(client, "n", "p").wait() == 3


# --- generations of daemons ---------------------------------------------------------------------------------------


def test_a_2x_daemon_does_not_offer_what_only_3x_has() -> None:
    client, exchange = client_over(refusal(404), refusal(404))
    with pytest.raises(AppMeshNotOfferedError, match=r"not offered by this daemon, which is of 2\.x"):
        client.list_principals()
    assert [sent.request_uri for sent in exchange.requests] == ["/appmesh/principals", "/appmesh/auth/config"]
    assert "Authorization" not in exchange.requests[1].headers
    exchange.answers = [refusal(404)]
    with pytest.raises(AppMeshNotOfferedError):
        client.get_current_principal()
    assert len(exchange.requests) == 3, "the generation is asked for once"


def test_a_3x_daemon_does_not_offer_what_only_2x_has() -> None:
    client, _ = client_over(refusal(404), answer({"issuer": "https://idp"}))
    with pytest.raises(AppMeshNotOfferedError, match=r"of 3\.x"):
        client.list_users()


def test_a_3x_daemon_does_not_offer_login() -> None:
    client, _ = client_over(refusal(404), answer({"issuer": "https://idp"}))
    with pytest.raises(AppMeshNotOfferedError):
        client.login("u", "p")


def test_something_that_is_missing_stays_a_404() -> None:
    client, _ = client_over(refusal(404, "user not found"), refusal(404))
    with pytest.raises(AppMeshRequestError, match="user not found") as caught:
        client.delete_user("u")
    assert type(caught.value) is AppMeshRequestError


def test_the_issuer_of_a_3x_daemon_is_told_without_a_token() -> None:
    client, exchange = client_over(answer({"issuer": "https://idp", "audience": "appmesh"}))
    assert client.get_auth_config()["issuer"] == "https://idp"
    assert "Authorization" not in exchange.requests[0].headers


# --- the rest -----------------------------------------------------------------------------------------------------


def test_a_client_over_an_exchange_closes_it() -> None:
    exchange = FakeExchange()
    with AppMeshClient(exchange=exchange, jwt_token=TOKEN) as client:
        client.list_labels()
    assert exchange.closed


def test_files_need_a_transport_that_carries_them() -> None:
    client, _ = client_over()
    with pytest.raises(AppMeshRequestError, match="files need a transport"):
        client.download_file("/a", "/b")


def test_the_older_module_and_method_are_kept() -> None:
    from meshbridge.appmesh import appmesh_client

    assert appmesh_client.AppMeshClient is AppMeshClient
    client, _ = client_over(answer({"access_token": TOKEN}))
    assert client.authentication(TOKEN)[0]
