"""What ``meshbridge check`` has an administrator of App Mesh 3.x do, where permissions are missing."""

import orjson

from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.checks.daemon import _DaemonCheck
from meshbridge.link import DaemonOptions, explain
from meshbridge.model.status import Grade
from tests.unit.appmesh.fakes import FakeExchange, answer, refusal

OPTIONS = DaemonOptions.model_validate(
    {
        "url": "tcp://node-a.example:6059",
        "oidc": {"issuer": "http://127.0.0.1:6062/auth", "username": "bridge@example.com", "password": "p"},
    }
)
GONE = refusal(404, "Path not found GET:/appmesh/user/permissions")
FIVE = ["app-subscribe", "app-view", "app-view-all", "app-output-view", "host-resource-view"]


def test_five_permissions_are_enough_at_3_x() -> None:
    client = AppMeshClient(exchange=FakeExchange(GONE, answer(FIVE)))
    assert _DaemonCheck("daemon node-a", OPTIONS).permissions(client).grade is Grade.OK


def test_the_commands_that_make_the_role_are_printed() -> None:
    principal = answer({"principal_id": "oidc:ab12", "roles": []})
    client = AppMeshClient(exchange=FakeExchange(GONE, answer(["app-view"]), principal))
    verdict = _DaemonCheck("daemon node-a", OPTIONS).permissions(client)
    assert verdict.grade is Grade.FAILED
    assert verdict.text.startswith("the principal may not app-subscribe, app-view-all")
    first, token, role, given = (verdict.remedy or "").splitlines()
    assert "on each node" in first
    assert token.strip() == "TOKEN=$(meshbridge login node-a)"
    assert f"https://node-a.example:6060/appmesh/role/meshbridge -d '{orjson.dumps(FIVE).decode()}" in role.replace(
        ", ", ","
    )
    assert '/appmesh/principal/oidc:ab12 -d \'{"roles": ["meshbridge"], "status": "active"}\'' in given


def test_a_principal_that_is_not_active_is_a_matter_of_permissions_not_of_the_token() -> None:
    client = AppMeshClient(exchange=FakeExchange(refusal(403, "principal 'x' is inactive")))
    try:
        client.list_labels()
    except Exception as error:  # noqa: BLE001 whichever it is
        reason, hint = explain(error)  # type: ignore[arg-type]
    assert reason == "permission"
    assert "activate the principal" in str(hint)
