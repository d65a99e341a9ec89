"""The emulator as a daemon of 3.x: its issuer, principals, statuses, words, files and workers (docs/protocol.md)."""

import base64
import io
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import msgpack
import pytest
import requests
import websocket

from meshbridge.appmesh import (
    App,
    AppMeshClient,
    AppMeshClientTCP,
    AppMeshClientWSS,
    OAuthClient,
    PasswordGrantProvider,
)
from meshbridge.appmesh.exceptions import AppMeshAuthError, AppMeshError, AppMeshNotOfferedError, AppMeshRequestError
from meshbridge.appmesh.oidc import OidcTokens, TokenEndpoint
from meshbridge.appmesh.tcp_messages import RequestMessage, ResponseMessage
from meshbridge.appmesh.wire.framing import encode_frame
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.emulator.issuer import AUTOMATION_CLIENT, AUTOMATION_SECRET, DEVICE_GRANT, ISSUER
from tests.support import wait_for

SCOPE = "openid audience:server:client_id:appmesh-api"
ADMIN, VIEWER, STRANGER = "admin@appmesh.local", "mesh@appmesh.local", "test@appmesh.local"
PASSWORDS = {ADMIN: "admin123", VIEWER: "mesh123", STRANGER: "test123"}


@pytest.fixture(scope="module", params=["3.0", "3"])
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(generation=request.param, token_leeway_seconds=0)) as daemon:
        yield daemon


def ask(emulator: Emulator, form: dict[str, str], basic: str | None = "appmesh-cli:", path: str = "/token") -> Any:
    headers = {} if basic is None else {"Authorization": f"Basic {base64.b64encode(basic.encode()).decode()}"}
    return requests.post(f"{emulator.issuer_url}{path}", data=form, headers=headers, timeout=10)


def password_form(user: str = ADMIN, **other: str) -> dict[str, str]:
    form = {"grant_type": "password", "username": user, "password": PASSWORDS[user], "scope": SCOPE}
    return form | other


def token_of(emulator: Emulator, user: str = ADMIN) -> str:
    return str(ask(emulator, password_form(user)).json()["access_token"])


def get(emulator: Emulator, path: str, token: str | None = None, method: str = "GET", **sent: Any) -> Any:
    """A bare request over HTTPS."""
    assert emulator.https_address
    headers = sent.pop("headers", {}) | ({} if token is None else {"Authorization": f"Bearer {token}"})
    address = "https://{}:{}".format(*emulator.https_address)
    return requests.request(
        method, address + path, headers=headers, verify=str(emulator.ca_file), timeout=10, allow_redirects=False, **sent
    )


@pytest.fixture
def client(emulator: Emulator) -> Iterator[AppMeshClientTCP]:
    assert emulator.tcp_address is not None
    tokens = PasswordGrantProvider(f"{emulator.issuer_url}/token", ADMIN, PASSWORDS[ADMIN])
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file), token_provider=tokens) as made:
        yield made


def is_october(emulator: Emulator) -> bool:
    return emulator.options.generation == "3"


# --- the issuer ------------------------------------------------------------------------------------------------------


def test_the_issuer_is_reached_at_two_addresses_and_has_one_name(emulator: Emulator) -> None:
    assert emulator.https_address
    agent = "https://{}:{}/auth".format(*emulator.https_address)
    for place in (emulator.issuer_url, agent):
        found = requests.get(f"{place}/.well-known/openid-configuration", verify=str(emulator.ca_file), timeout=10)
        assert found.json()["issuer"] == ISSUER
        assert {found.json()[f"{name}_endpoint"] for name in ("token", "device_authorization")} == {
            f"{ISSUER}/token",
            f"{ISSUER}/device/code",
        }
        assert requests.get(f"{place}/nothing", verify=str(emulator.ca_file), timeout=10).status_code == 404


def test_a_token_can_be_verified_with_the_published_keys(emulator: Emulator) -> None:
    token = token_of(emulator)
    keys = requests.get(f"{emulator.issuer_url}/keys", timeout=10).json()
    (key,) = jwt.PyJWKSet.from_dict(keys).keys
    header = jwt.get_unverified_header(token)
    assert (header["alg"], header["kid"]) == ("RS256", key.key_id)
    claims = jwt.decode(token, key.key, ["RS256"], audience="appmesh-api", issuer=ISSUER)
    assert (claims["aud"], claims["email"]) == (["appmesh-api", "appmesh-cli"], ADMIN)


@pytest.mark.parametrize(
    ("form", "basic", "status", "error"),
    [
        (password_form(password="wrong"), "appmesh-cli:", 401, "access_denied"),
        (password_form(username="admin"), "appmesh-cli:", 401, "access_denied"),
        (password_form(scope="openid misspelt"), "appmesh-cli:", 400, "invalid_scope"),
        (password_form(), None, 401, "invalid_client"),
        (password_form(), "appmesh-cli:secret", 401, "invalid_client"),
        (password_form(), "stranger:", 401, "invalid_client"),
        ({"grant_type": "refresh_token", "refresh_token": "none"}, "appmesh-cli:", 400, "invalid_request"),
        ({"grant_type": "client_credentials"}, "appmesh-cli:", 401, "unauthorized_client"),
        ({"grant_type": "magic"}, "appmesh-cli:", 400, "unsupported_grant_type"),
        ({}, "appmesh-cli:", 400, "unsupported_grant_type"),
    ],
)
def test_what_the_issuer_refuses(
    emulator: Emulator, form: dict[str, str], basic: str | None, status: int, error: str
) -> None:
    answer = ask(emulator, form, basic)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


def test_the_client_may_stand_in_the_form(emulator: Emulator) -> None:
    assert ask(emulator, password_form(client_id="appmesh-cli"), basic=None).status_code == 200


def test_a_refresh_token_rotates_and_the_one_before_works_on_for_a_while(emulator: Emulator) -> None:
    first = ask(emulator, password_form(scope=f"{SCOPE} offline_access")).json()["refresh_token"]
    form = {"grant_type": "refresh_token", "client_id": "appmesh-cli"}
    second = ask(emulator, form | {"refresh_token": first}, basic=None).json()
    assert second["refresh_token"] != first
    again = ask(emulator, form | {"refresh_token": first}, basic=None).json()
    assert again["refresh_token"] == second["refresh_token"]
    third = ask(emulator, form | {"refresh_token": second["refresh_token"]}, basic=None).json()
    assert third["refresh_token"] not in {first, second["refresh_token"]}
    spent = ask(emulator, form | {"refresh_token": first}, basic=None)
    assert (spent.status_code, spent.json()["error"]) == (400, "invalid_request")
    assert "refresh_token" not in ask(emulator, password_form()).json(), "not without offline_access"


def test_a_spent_refresh_token_costs_a_login_and_nothing_else(emulator: Emulator) -> None:
    endpoint = TokenEndpoint(f"{emulator.issuer_url}/token", "appmesh-cli")
    fields = password_form(scope=f"{SCOPE} offline_access")
    tokens = OidcTokens(endpoint, lambda: fields)
    first = tokens.token()
    daemon = emulator._running()
    assert daemon.issuer is not None
    emulator._call(daemon.issuer._sessions.clear)
    second = tokens.token(refused=first)
    assert second not in {first, None}
    endpoint.close()


def test_the_automation_client_has_a_grant_of_its_own(emulator: Emulator) -> None:
    form = {"grant_type": "client_credentials", "client_id": AUTOMATION_CLIENT, "client_secret": AUTOMATION_SECRET}
    answer = ask(emulator, form | {"scope": "audience:server:client_id:appmesh-api"}, basic=None).json()
    assert "refresh_token" not in answer
    principal = get(emulator, "/appmesh/principal/self", answer["access_token"]).json()
    assert (principal["kind"], principal["roles"]) == ("service", ["appmesh-maintenance"])
    refused = ask(emulator, form | {"scope": "openid offline_access"}, basic=None)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")


def test_a_person_logs_in_by_the_device_flow(emulator: Emulator) -> None:
    with _https_client(emulator) as plain:
        person = OAuthClient.from_appmesh(plain, access_url=emulator.issuer_url)
        device = person.device_authorization()
        page = f"{emulator.issuer_url}/device"
        assert device["user_code"] in requests.get(page, {"user_code": device["user_code"]}, timeout=10).text
        pending = ask(emulator, {"grant_type": DEVICE_GRANT, "device_code": device["device_code"]})
        assert pending.json()["error"] == "authorization_pending"
        form = {"user_code": device["user_code"], "username": ADMIN}
        assert requests.post(page, form | {"password": "wrong"}, timeout=10).status_code == 401
        assert requests.post(page, form | {"password": PASSWORDS[ADMIN]}, timeout=10).status_code == 200
        person.wait_for_device_authorization(device)
        plain.set_token_provider(person)
        assert plain.get_current_principal()["email"] == ADMIN


def _https_client(emulator: Emulator, **how: Any) -> AppMeshClient:
    assert emulator.https_address
    return AppMeshClient("https://{}:{}".format(*emulator.https_address), str(emulator.ca_file), **how)


# --- discovery and principals ----------------------------------------------------------------------------------------


def test_the_daemon_says_whose_tokens_it_takes(emulator: Emulator) -> None:
    said = get(emulator, "/appmesh/auth/config").json()
    assert (said["issuer"], said["audience"], said["public_client_id"]) == (ISSUER, "appmesh-api", "appmesh-cli")
    assert {"openid", "offline_access", "audience:server:client_id:appmesh-api"} <= set(said["scopes"])
    assert said["flows"] == ["authorization_code_pkce", "device_code", "password"]
    assert said.get("refresh_token", True) is True
    assert ("browser_entry" in said) is is_october(emulator)
    resource = get(emulator, "/.well-known/oauth-protected-resource").json()
    assert resource["authorization_servers"] == [ISSUER]
    assert resource["resource"] == said["resource"]


def test_principals_have_roles_and_no_passwords(emulator: Emulator, client: AppMeshClientTCP) -> None:
    me = client.get_current_principal()
    assert (me["email"], me["issuer"], me["roles"]) == (ADMIN, ISSUER, ["appmesh-admin"])
    assert me["principal_id"].startswith("oidc:")
    assert sorted(client.get_principal_permissions()) == me["permissions"]
    assert "app-subscribe" in me["permissions"]
    client.update_principal("oidc:abc", {"roles": ["appmesh-viewer"]})
    assert client.list_principals()["oidc:abc"]["roles"] == ["appmesh-viewer"]
    assert "key" not in json.dumps(client.list_principals())
    client.delete_principal("oidc:abc")
    assert "oidc:abc" not in client.list_principals()


def test_an_unknown_subject_is_a_principal_without_roles(emulator: Emulator, client: AppMeshClientTCP) -> None:
    token = token_of(emulator, STRANGER)
    me = get(emulator, "/appmesh/principal/self", token).json()
    assert (me["roles"], me["permissions"]) == ([], [])
    refused = get(emulator, "/appmesh/applications", token)
    assert refused.status_code == 403
    assert "lacks required permission 'app-view-all'" in refused.json()["message"]
    client.update_principal(me["principal_id"], {"roles": ["appmesh-viewer"]})
    assert get(emulator, "/appmesh/applications", token).status_code == 200
    client.update_principal(me["principal_id"], {"roles": ["appmesh-viewer"], "status": "inactive"})
    assert get(emulator, "/appmesh/applications", token).status_code == 403
    client.delete_principal(me["principal_id"])


def test_a_principal_that_owns_an_app_stays(emulator: Emulator, client: AppMeshClientTCP) -> None:
    client.add_app(App({"name": "owned", "command": "sleep 60"}))
    with pytest.raises(AppMeshAuthError) as refused:
        client.delete_principal(client.get_current_principal()["principal_id"])
    assert refused.value.status == 403
    client.delete_app("owned")


def test_there_are_no_logins_and_users(client: AppMeshClientTCP) -> None:
    with pytest.raises(AppMeshNotOfferedError):
        client.list_users()
    with pytest.raises(AppMeshNotOfferedError):
        client.login("admin", "admin123")


# --- tokens at the daemon --------------------------------------------------------------------------------------------


def _forged(emulator: Emulator, **claims: Any) -> str:
    issuer = emulator._running().issuer
    assert issuer is not None
    now = int(time.time())
    said = {"iss": ISSUER, "aud": ["appmesh-api"], "sub": "x", "exp": now + 60, "iat": now} | claims
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, issuer.private_key, "RS256", headers={"kid": issuer.kid})


@pytest.mark.parametrize(
    "make",
    [
        lambda emulator: f"Bearer {_forged(emulator, exp=1)}",
        lambda emulator: f"Bearer {_forged(emulator, iss=ISSUER + '/')}",
        lambda emulator: f"Bearer {_forged(emulator, aud=['appmesh-cli'])}",
        lambda emulator: f"Bearer {_forged(emulator, sub=None)}",
        lambda emulator: f"Bearer {_forged(emulator, padding='x' * 8192)}",
        lambda emulator: f"Bearer {jwt.encode({'sub': 'x'}, 'a' * 32, 'HS256', headers={'kid': 'other'})}",
        _forged,
        lambda emulator: "Bearer garbage",
        lambda emulator: "Basic YWRtaW46YWRtaW4xMjM=",
        lambda emulator: None,
    ],
    ids=["expired", "issuer", "audience", "subject", "long", "key", "bare", "garbage", "basic", "none"],
)
def test_a_token_that_is_not_good(emulator: Emulator, make: Callable[[Emulator], str | None]) -> None:
    given = make(emulator)
    refused = get(emulator, "/appmesh/applications", headers={} if given is None else {"Authorization": given})
    if refused.status_code != 400 or given is None or len(given) < 4096:  # uWebSockets' own limit comes first
        assert refused.status_code == 401
        assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert get(emulator, "/appmesh/principal/self", _forged(emulator)).status_code == 200, "such a one is good"


def test_a_cookie_is_no_token(emulator: Emulator) -> None:
    cookie = {"Cookie": f"appmesh_auth_token={token_of(emulator)}"}
    assert get(emulator, "/appmesh/applications", headers=cookie).status_code == 401


def test_without_the_issuers_keys_the_daemon_asks_for_patience(emulator: Emulator) -> None:
    token = token_of(emulator)
    emulator.set_signing_keys(available=False)
    try:
        assert get(emulator, "/appmesh/applications", token).status_code == 503
    finally:
        emulator.set_signing_keys(available=True)
    assert get(emulator, "/appmesh/applications", token).status_code == 200


def test_paths_of_2_x_are_gone_and_health_needs_a_token(emulator: Emulator) -> None:
    token = token_of(emulator)
    for path in ("/appmesh/login", "/appmesh/auth", "/appmesh/token/renew", "/appmesh/self/logoff"):
        assert get(emulator, path, token, "POST").status_code == 404
    gone = get(emulator, "/appmesh/users", token)
    assert (gone.status_code, gone.json()["message"]) == (404, "Path not found GET:/appmesh/users")
    assert get(emulator, "/appmesh/app/none/health").status_code == 401
    assert get(emulator, "/appmesh/app/none/health", token).status_code == 404


def test_metrics_of_august_want_a_token(emulator: Emulator) -> None:
    assert get(emulator, "/appmesh/metrics").status_code == (200 if is_october(emulator) else 401)
    assert get(emulator, "/appmesh/metrics", token_of(emulator)).status_code == 200
    stranger = get(emulator, "/appmesh/metrics", token_of(emulator, STRANGER))
    assert stranger.status_code == (200 if is_october(emulator) else 403)


# --- apps and events -------------------------------------------------------------------------------------------------


def test_an_app_is_told_in_the_words_of_the_generation(emulator: Emulator, client: AppMeshClientTCP) -> None:
    me = client.get_current_principal()["principal_id"]
    raw = {
        "name": "worded", "command": "sleep 60", "stdout_backup_count": 2, "stop_grace_period": "5",
        "secret_env": {"PIN": "1234"}, "behavior": {"exit": "restart", "exit_code_actions": {"3": "remove"}},
        "cron_schedule": "0 0 3 * * *", "depends_on": ["other"],
    }  # fmt: skip
    if not is_october(emulator):
        raw = {
            "name": "worded", "command": "sleep 60", "stdout_cache_num": 2, "retention": "5",
            "sec_env": {"PIN": "1234"},
            "behavior": {"exit": "restart", "control": {"3": "remove"}}, "start_interval_seconds": "0 0 3 * * *",
            "cron": True,
        }  # fmt: skip
    token = token_of(emulator)
    shown = get(emulator, "/appmesh/app/worded", token, "PUT", json=raw).json()
    assert {key: shown.get(key) for key in raw} == raw | {"secret_env" if is_october(emulator) else "sec_env": None}, (
        "all but the secrets come back"
    )
    assert shown["owner_principal_id"] == me
    if is_october(emulator):
        assert shown["enabled"] is True
        assert shown["owner_display_name"] == "admin"
        assert not {"status", "owner", "cron", "start_interval_seconds", "version", "retention"} & shown.keys()
    else:
        assert shown["status"] == 1
        assert not {"enabled", "owner"} & shown.keys()
    for wrong in ({"owner": "x"}, {"interval": "60", "cron_schedule": "0 0 3 * * *"} if is_october(emulator) else {}):
        if wrong:
            assert get(emulator, "/appmesh/app/worded", token, "PUT", json=raw | wrong).status_code == 400
    assert client.get_app("worded").is_enabled
    client.delete_app("worded")


def test_events_and_a_one_off_run(emulator: Emulator, client: AppMeshClientTCP) -> None:
    events: list[Any] = []
    client.subscribe("*", None, events.append)
    client.add_app(App({"name": "web", "command": "echo up; sleep 60", "shell": True}))
    client.disable_app("web")
    run = client.run_app_async(App({"command": "echo last; kill -TERM $$", "shell": True}))
    listed = next(app for app in client.list_apps() if app.name == run.app_name)
    assert (listed.is_enabled, listed.to_dict().get("enabled")) == (True, False if is_october(emulator) else None)
    assert run.wait(timeout=10) == 15, "the number of the signal"
    client.delete_app("web")
    wait_for(lambda: any(event.event_type == "REMOVED" and event.app_name == "web" for event in list(events)))
    status = next(event.data for event in events if event.event_type == "STATUS")
    if is_october(emulator):
        assert status == {"enabled": False, "previous_enabled": True}
    else:
        assert status == {"previous_status": "enabled", "status": "disabled"}
    output = [event.data for event in events if event.event_type == "STDOUT" and event.app_name == run.app_name]
    assert output[-1]["finished"] is True


def test_an_app_with_a_health_command_is_unhealthy_until_that_succeeds(
    emulator: Emulator, client: AppMeshClientTCP
) -> None:
    events: list[Any] = []
    client.subscribe("*", None, events.append)
    command = {"command": "sleep 60", "health_check_cmd": "/bin/true"}
    client.add_app(App({"name": "probed", **command}))

    def seen() -> list[tuple[str, Any]]:
        return [(event.event_type, event.data.get("health")) for event in list(events) if event.app_name == "probed"]

    wait_for(lambda: len(seen()) >= 3)
    assert seen() == [("HEALTH", 1), ("START", None), ("HEALTH", 0)]
    assert client.check_app_health("probed")
    client.delete_app("probed")


def test_a_subscription_to_nothing_and_its_end_on_another_connection(
    emulator: Emulator, client: AppMeshClientTCP
) -> None:
    with pytest.raises(AppMeshRequestError) as missing:
        client.subscribe("none", None, lambda _event: None)
    assert missing.value.status == 404
    token = token_of(emulator)
    assert get(emulator, "/appmesh/app/none/subscribe", token, "POST").status_code == 405
    made = client.subscribe("*", None, lambda _event: None)
    query = {"subscription_id": made.subscription_id}
    client.update_role("subscriber", ["app-subscribe", "app-view-all"])
    emulator.set_issuer_user(STRANGER, PASSWORDS[STRANGER], "subscriber")
    stranger = token_of(emulator, STRANGER)
    assert get(emulator, "/appmesh/subscribe", stranger, "DELETE", params=query).status_code == 404
    assert get(emulator, "/appmesh/subscribe", token, "DELETE", params=query).status_code == 200
    client.delete_principal(get(emulator, "/appmesh/principal/self", stranger).json()["principal_id"])


def test_the_end_of_a_forwarded_subscription_comes_from_the_daemon(
    emulator: Emulator, client: AppMeshClientTCP
) -> None:
    events: list[Any] = []
    client.subscribe("*", None, events.append)
    emulator.break_hop()
    wait_for(lambda: events)
    assert [(event.event_type, event.sequence) for event in events] == [("__disconnected__", 0)]
    assert client.get_host_resources()["fd_daemon"] > 0, "the connection itself is up"


def test_the_owner_and_who_may_read_all(emulator: Emulator, client: AppMeshClientTCP) -> None:
    client.add_app(App({"name": "closed", "command": "sleep 60", "permission": 11}))
    viewer = token_of(emulator, VIEWER)
    assert get(emulator, "/appmesh/app/closed", viewer).status_code == 200, "app-view-all overrides it"
    client.update_role("looker", ["app-view", "app-control"])
    emulator.set_issuer_user(STRANGER, PASSWORDS[STRANGER], "looker")
    stranger = token_of(emulator, STRANGER)
    assert get(emulator, "/appmesh/app/closed", stranger).status_code == 403
    client.add_app(App({"name": "closed", "command": "sleep 60", "permission": 21}))
    assert get(emulator, "/appmesh/app/closed", stranger).status_code == 200
    assert get(emulator, "/appmesh/app/closed/disable", stranger, "POST").status_code == 403
    client.delete_app("closed")
    client.delete_principal(get(emulator, "/appmesh/principal/self", stranger).json()["principal_id"])


# --- WSS -------------------------------------------------------------------------------------------------------------


def _upgrade(emulator: Emulator, token: str | None, **how: Any) -> websocket.WebSocket:
    assert emulator.wss_address
    context = ssl.create_default_context(cafile=str(emulator.ca_file))
    return websocket.create_connection(
        "wss://{}:{}/".format(*emulator.wss_address),
        sslopt={"context": context},
        header=[] if token is None else [f"Authorization: Bearer {token}"],
        timeout=10,
        **{"subprotocols": ["appmesh-ws"]} | how,
    )


def _bytes(connection: websocket.WebSocket) -> bytes:
    received = connection.recv()
    assert isinstance(received, bytes)
    return received


def _frame(connection: websocket.WebSocket, path: str, token: str | None = None) -> ResponseMessage:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection.send_binary(RequestMessage("u1", path, "GET", headers=headers).serialize())
    return ResponseMessage.from_bytes(_bytes(connection))


def test_the_token_of_the_upgrade_opens_the_connection(emulator: Emulator) -> None:
    admin, viewer = token_of(emulator), token_of(emulator, VIEWER)
    connection = _upgrade(emulator, admin)
    assert _frame(connection, "/appmesh/applications").http_status == 200
    assert _frame(connection, "/appmesh/applications", admin).http_status == 200
    assert _frame(connection, "/appmesh/applications", viewer).http_status == 403, "of another principal"
    assert _frame(connection, "/appmesh/applications", _forged(emulator, exp=1)).http_status == 401
    assert _frame(connection, "/appmesh/applications").http_status == 200, "the session goes on"
    connection.close()


def test_what_an_upgrade_is_refused_for(emulator: Emulator) -> None:
    for token in ("garbage", _forged(emulator, exp=1)):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            _upgrade(emulator, token)
        assert refused.value.status_code == 401
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        _upgrade(emulator, token_of(emulator), subprotocols=["chat"])
    assert refused.value.status_code == 400
    emulator.set_signing_keys(available=False)
    token = token_of(emulator)
    try:
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            _upgrade(emulator, token)
        assert refused.value.status_code == 401, "not 503"
    finally:
        emulator.set_signing_keys(available=True)


def test_an_upgrade_without_a_token(emulator: Emulator) -> None:
    connection = _upgrade(emulator, None)
    assert _frame(connection, "/appmesh/applications").http_status == 401
    status = _frame(connection, "/appmesh/applications", token_of(emulator)).http_status
    assert status == (200 if is_october(emulator) else 401), "in August it is for workers only"
    connection.close()


def test_a_websocket_on_which_nothing_comes_is_closed() -> None:
    with Emulator(EmulatorOptions(generation="3", wss_idle_seconds=0.2, tcp_port=None, https_port=None)) as daemon:
        connection = _upgrade(daemon, token_of(daemon))
        code, _ = connection.recv_data()
        connection.shutdown()  # type: ignore[no-untyped-call] # close() leaves the socket open once the daemon has closed
        assert code == websocket.ABNF.OPCODE_CLOSE


def test_a_message_that_cannot_be_read_gets_400_where_it_has_a_name(
    emulator: Emulator, client: AppMeshClientTCP
) -> None:
    connection = _upgrade(emulator, None)
    connection.send_binary(msgpack.packb({"uuid": "u7", "headers": 5}))
    answer = ResponseMessage.from_bytes(_bytes(connection))
    assert (answer.uuid, answer.http_status) == ("u7", 400)
    connection.close()
    with _tcp(emulator) as raw:
        raw.sendall(encode_frame(msgpack.packb({"uuid": "u8", "headers": 5})))
        assert b"u8" in raw.recv(4096)
        raw.sendall(encode_frame(b"\xc1"))
        assert raw.recv(4096) == b"", "no uuid to answer to"


def _tcp(emulator: Emulator) -> ssl.SSLSocket:
    assert emulator.tcp_address
    context = ssl.create_default_context(cafile=str(emulator.ca_file))
    plain = socket.create_connection(emulator.tcp_address, timeout=10)
    return context.wrap_socket(plain, server_hostname=emulator.tcp_address[0])


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["https", "tcp", "wss"])
def test_files_keep_their_names_and_need_no_other_token(emulator: Emulator, tmp_path: Path, transport: str) -> None:
    with _client_over(emulator, transport) as client:
        names = {"a b", "a%20b", "100 %", "1+1=2", "ü€𝄞"}
        for name in names:
            client.upload_stream(io.BytesIO(b"123"), str(tmp_path / name), size=3)
            with client.open_download(str(tmp_path / name)) as file:
                assert b"".join(file.chunks) == b"123"
        client.upload_stream(io.BytesIO(), str(tmp_path / "empty"), size=0)
        with client.open_download(str(tmp_path / "empty")) as file:
            assert b"".join(file.chunks) == b""
        with pytest.raises(AppMeshError) as there:
            client.upload_stream(io.BytesIO(b"1"), str(tmp_path / "a b"), size=1)
        assert there.value.status in {403, 409}
        with pytest.raises(AppMeshRequestError) as missing, client.open_download(str(tmp_path / "none")):
            pass
        assert missing.value.status in {404, 406}
        assert {path.name for path in tmp_path.iterdir()} == names | {"empty"}


def _client_over(emulator: Emulator, transport: str) -> AppMeshClient:
    tokens = PasswordGrantProvider(f"{emulator.issuer_url}/token", ADMIN, PASSWORDS[ADMIN])
    trusted = str(emulator.ca_file)
    if transport == "https":
        return _https_client(emulator, token_provider=tokens)
    kind, address = (
        (AppMeshClientTCP, emulator.tcp_address) if transport == "tcp" else (AppMeshClientWSS, emulator.wss_address)
    )
    assert address is not None
    return kind(address, trusted, token_provider=tokens)


def test_the_port_for_wss_stores_nothing_over_https_and_says_so(emulator: Emulator, tmp_path: Path) -> None:
    assert emulator.wss_address
    tokens = PasswordGrantProvider(f"{emulator.issuer_url}/token", ADMIN, PASSWORDS[ADMIN])
    address = "https://{}:{}".format(*emulator.wss_address)
    with AppMeshClient(address, str(emulator.ca_file), token_provider=tokens) as client:
        with pytest.raises(AppMeshRequestError, match="this port of the daemon carries no files"):
            client.upload_stream(io.BytesIO(b"123"), str(tmp_path / "new"), size=3)
        (tmp_path / "there").write_bytes(b"x")
        with (
            pytest.raises(AppMeshRequestError, match="this port of the daemon carries no files"),
            client.open_download(str(tmp_path / "there")),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_second_file_on_a_tcp_connection_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x")
    token = {"Authorization": f"Bearer {token_of(emulator)}"}
    headers = {**token, "X-Send-File-Socket": "true", "X-File-Path": str(tmp_path / "new")}
    with _tcp(emulator) as raw:
        upload = RequestMessage("f1", "/appmesh/file/upload", "POST", headers=headers)
        raw.sendall(encode_frame(upload.serialize()))
        assert b"f1" in raw.recv(4096)
        (connection,) = [one.connection for one in emulator._tcp if one.connection.carries_file]
        headers = {**token, "X-Recv-File-Socket": "true", "X-File-Path": str(tmp_path / "there")}
        download = RequestMessage("f2", "/appmesh/file/download", "GET", headers=headers)
        assert emulator._wait(emulator._running().handle(download, connection)).status == 409


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_worker_shows_its_key_in_a_header(emulator: Emulator, client: AppMeshClientTCP) -> None:
    client.add_app(App({"name": "worker", "command": "sleep 60"}))
    key = emulator._running().applications.find("worker").process_key
    path = "/appmesh/app/worker/task"
    assert get(emulator, path).status_code == 403
    assert get(emulator, f"{path}?process_key={key}").status_code == 400
    assert get(emulator, path, headers={"X-AppMesh-Process-Key": "old"}).status_code == 412
    body = get(emulator, path, None, "PUT", headers={"X-AppMesh-Process-Key": key}, data=b"x")
    assert body.status_code == 417, "there is no task, and the key is good"
    client.delete_app("worker")
    assert get(emulator, path, headers={"X-AppMesh-Process-Key": key}).status_code == 404
