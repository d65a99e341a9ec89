"""Whatever apps do, also while no bridge is connected: in the end the events give the daemon's state."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from appmesh import App, AppMeshClientTCP
from pydantic import SecretStr

from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.fields import Tls
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from meshbridge.model.events import EventType
from tests.support import wait_for


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(https_port=None, wss_port=None)) as daemon:
        yield daemon


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(JournalOptions(path=tmp_path))
    journal.open()
    yield journal
    journal.close()


@pytest.fixture
def link(emulator: Emulator, journal: Journal) -> Iterator[Link]:
    assert emulator.tcp_address is not None
    host, port = emulator.tcp_address
    options = DaemonOptions(
        url=f"tcp://{host}:{port}", username="admin", password=SecretStr("admin123"), tls=Tls(ca_file=emulator.ca_file)
    )
    link = Link("node-a", options, journal)
    link.start()
    wait_for(lambda: link.status().up, "the link")
    yield link
    assert link.stop(10)


@pytest.fixture
def client(emulator: Emulator) -> Iterator[AppMeshClientTCP]:
    client = AppMeshClientTCP(emulator.tcp_address, ssl_verify=str(emulator.ca_file))
    client.login("admin", "admin123")
    yield client
    client.close()


def told(journal: Journal) -> dict[str, dict[str, Any]]:
    """What a consumer of every event believes of each app."""
    apps: dict[str, dict[str, Any]] = {}
    after = 0
    while envelopes := journal.read(after, 1000):
        after = envelopes[-1].offset
        for event in (envelope.event for envelope in envelopes):
            data = orjson.loads(event.data) or {}
            believed = apps.setdefault(event.app, {})
            match event.type:
                case EventType.START:
                    believed |= {"running": True, "removed": False, "pid": data["pid"]}
                case EventType.EXIT if data["pid"] in {None, believed.get("pid")}:
                    believed["running"] = False
                case EventType.REMOVED:
                    apps[event.app] = {"removed": True, "running": False}
                case EventType.HEALTH:
                    believed["health"] = data["health"]
                case EventType.STATUS:
                    believed["status"] = int(data["status"] == "enabled")
                case _:
                    pass
    return apps


def agree(journal: Journal, link: Link, app: str) -> bool:
    """Whether the events, the kept state and the daemon say the same of an app."""
    fields = link.requests.get_app(app, 10)
    believed, kept = told(journal).get(app, {}), journal.app_states("node-a").get(app)
    if fields is None:
        return kept is None and believed.get("running") is not True
    state = orjson.loads(kept or "{}")
    running = "pid" in fields
    return (
        (state.get("running"), state.get("health")) == (running, fields["health"])
        and state.get("status") == ("enabled" if fields["status"] else "disabled")
        and believed.get("running", running) is running
        and believed.get("health", fields["health"]) == fields["health"]
        and believed.get("status", fields["status"]) == fields["status"]
    )


def test_an_app_registered_again_in_a_loop_ends_as_the_daemon_says(
    emulator: Emulator, journal: Journal, link: Link, client: AppMeshClientTCP
) -> None:
    for number in range(8):
        client.add_app(App({"name": "again", "command": f"sleep {600 + number}", "shell": True}))
    wait_for(lambda: agree(journal, link, "again"), "agreement")
    assert orjson.loads(journal.app_states("node-a")["again"])["running"] is True


@pytest.mark.parametrize("change", ["exit", "disable", "remove", "register", "restart"])
def test_what_happens_while_nobody_looks_is_told_afterwards(
    emulator: Emulator, journal: Journal, link: Link, client: AppMeshClientTCP, change: str
) -> None:
    behavior = {"behavior": {"exit": "restart"}} if change == "restart" else {}
    client.add_app(App({"name": "web", "command": "sleep 600", "shell": True} | behavior))
    wait_for(lambda: agree(journal, link, "web") and "web" in told(journal), "agreement before")
    assert link.stop(10)
    again = Link("node-a", link._options, journal)  # which asks, and does not listen before it is started
    pid = (again.requests.get_app("web", 10) or {})["pid"]
    match change:
        case "exit" | "restart":
            import os
            import signal

            os.killpg(pid, signal.SIGKILL)
            wait_for(lambda: (again.requests.get_app("web", 10) or {}).get("pid") != pid, "the end")
            if change == "restart":
                wait_for(lambda: (again.requests.get_app("web", 10) or {}).get("pid"), "the next start")
        case "disable":
            client.disable_app("web")
        case "remove":
            client.delete_app("web")
        case "register":
            client.add_app(App({"name": "new", "command": "sleep 600", "shell": True}))
    again.start()
    try:
        app = "new" if change == "register" else "web"
        wait_for(lambda: again.status().up and agree(journal, again, app), "agreement after")
        wait_for(lambda: app in told(journal), "the events")
        reconciled = wait_for(
            lambda: [envelope.event for envelope in journal.read(0, 1000) if envelope.event.reconciled], "the repair"
        )
        assert len({event.id for event in reconciled}) == len(reconciled)
    finally:
        assert again.stop(10)
