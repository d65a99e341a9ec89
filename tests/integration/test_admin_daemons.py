"""Each operation of the SDK over HTTP, at an emulated daemon, compared with what the SDK itself says."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from meshbridge.appmesh import AppMeshClient, AppMeshClientTCP
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from meshbridge.options import Tls
from tests.integration.admin_api import Api, application_for, serving
from tests.support import wait_for

NODE = "/api/v1/daemons/node-a"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as daemon:
        yield daemon


def options_for(emulator: Emulator, scheme: str, **extra: object) -> DaemonOptions:
    addresses = {"tcp": emulator.tcp_address, "wss": emulator.wss_address, "https": emulator.https_address}
    address = addresses[scheme]
    assert address is not None
    settings = {
        "url": f"{scheme}://{address[0]}:{address[1]}",
        "username": "admin",
        "password": SecretStr("admin123"),
        "tls": Tls(ca_file=emulator.ca_file),
    }
    return DaemonOptions.model_validate(settings | extra)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    opened = Journal(JournalOptions(path=tmp_path_factory.mktemp("journal")))
    opened.open()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def links(emulator: Emulator, journal: Journal) -> Iterator[dict[str, Link]]:
    """One for each scheme; nobody starts the events of two."""
    made = {
        "node-a": Link("node-a", options_for(emulator, "tcp"), journal),
        "node-w": Link("node-w", options_for(emulator, "wss"), journal),
        "node-h": Link("node-h", options_for(emulator, "https"), journal),
    }
    made["node-a"].start()
    wait_for(lambda: made["node-a"].status().up, "the link")
    yield made
    for link in made.values():
        assert link.stop(10)


@pytest.fixture(scope="module")
def api(links: dict[str, Link], journal: Journal) -> Iterator[Api]:
    with serving(application_for(list(links.values()), journal)) as served:
        yield served


@pytest.fixture(scope="module")
def sdk(emulator: Emulator) -> Iterator[AppMeshClient]:
    assert emulator.tcp_address is not None
    with AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file)) as client:
        client.login("admin", "admin123")
        yield client


def test_apps_are_registered_seen_and_removed_as_by_the_sdk(api: Api, sdk: AppMeshClient) -> None:
    settings = {"command": "sleep 600", "env": {"PORT": "1"}, "sec_env": {"KEY": "hunter2"}, "description": "d"}
    added = api.json("PUT", f"{NODE}/apps/web", json=settings)
    assert added["name"] == "web"
    assert "hunter2" not in str(added)
    wait_for(lambda: sdk.get_app("web").pid, "its process")
    (listed,) = api.json("GET", f"{NODE}/apps")
    one, same = api.json("GET", f"{NODE}/apps/web"), sdk.get_app("web").to_dict()
    changing = {"cpu", "memory", "pstree", "fd", "sec_env"}
    assert {key: one[key] for key in one.keys() - changing} == {key: same[key] for key in same.keys() - changing}
    assert listed["pid"] == one["pid"]
    assert api.json("GET", f"{NODE}/apps/web/health") == {"app": "web", "healthy": sdk.check_app_health("web")}
    assert api.json("POST", f"{NODE}/apps/web/disable") == {"app": "web", "enabled": False, "deleted": None}
    assert sdk.get_app("web").status == 0
    api.json("POST", f"{NODE}/apps/web/enable")
    assert sdk.get_app("web").status == 1
    assert api.json("DELETE", f"{NODE}/apps/web")["deleted"] is True
    assert api.json("DELETE", f"{NODE}/apps/web", 404)["detail"] == "node-a has no app 'web'"
