"""The bridge with a daemon of each generation: events, states, commands, admin operations; an upgrade under load."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from meshbridge.admin.tokens import digest, new_token
from meshbridge.appmesh import App, AppMeshClient, AppMeshClientTCP, PasswordGrantProvider
from meshbridge.config.load import load
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.emulator.issuer import ISSUER
from meshbridge.service.service import Service
from tests.command_line import run_command
from tests.support import free_port, wait_for, write_config

USER, PASSWORD = "admin@appmesh.local", "admin123"


class Bridged:
    """A service in this process, with one daemon and a file of its events."""

    def __init__(self, directory: Path, emulator: Emulator, scheme: str = "tcp") -> None:
        self.config = directory / "meshbridge.yaml"
        self._file = directory / "events.jsonl"
        token = new_token()
        self.settings: dict[str, Any] = {
            "daemons": {"node-a": daemon_settings(emulator, scheme)},
            "sinks": {"log": {"type": "file", "path": str(self._file)}},
            "journal": {"path": str(directory / "journal"), "max_bytes": "64MiB"},
            "exporter": {"listen": "127.0.0.1:0"},
            "admin": {
                "listen": f"127.0.0.1:{free_port()}",
                "tokens": [{"name": "admin", "sha256": digest(token), "scopes": ["admin"]}],
            },
        }
        write_config(self.config, self.settings)
        self.service = Service(load(self.config, {}), lambda: load(self.config, {}))
        self._headers = {"Authorization": f"Bearer {token}"}

    def api(self, method: str, path: str, status: int = 200, **sent: Any) -> Any:
        root = f"http://{self.settings['admin']['listen']}/api/v1/daemons/node-a"
        answer = requests.request(method, f"{root}/{path}", headers=self._headers, timeout=30, **sent)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def command(self, *arguments: str) -> Any:
        done = run_command(arguments[0], "--config", str(self.config), *arguments[1:])
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def link(self) -> Any:
        return self.service.parts.links[0].status()

    def wait_up(self) -> None:
        wait_for(lambda: self.link.up, "the link")

    def events(self, app: str | None = None) -> list[dict[str, Any]]:
        text = self._file.read_text() if self._file.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may still be written
        return [event for event in map(json.loads, lines) if app is None or event.get("subject") == app]


def daemon_settings(emulator: Emulator, scheme: str = "tcp") -> dict[str, Any]:
    address = emulator.tcp_address if scheme == "tcp" else emulator.wss_address
    assert address is not None
    settings = {"url": f"{scheme}://{address[0]}:{address[1]}", "tls": {"ca_file": str(emulator.ca_file)}}
    if not emulator.options.dialect.has_issuer:
        return settings | {"username": "admin", "password": PASSWORD}
    oidc = {"issuer": ISSUER, "access_url": emulator.issuer_url, "username": USER, "password": PASSWORD}
    return settings | {"oidc": oidc}


def administrator(emulator: Emulator) -> AppMeshClient:
    assert emulator.tcp_address is not None
    trusted = str(emulator.ca_file)
    if emulator.options.dialect.has_issuer:
        tokens = PasswordGrantProvider(f"{emulator.issuer_url}/token", USER, PASSWORD)
        return AppMeshClientTCP(emulator.tcp_address, trusted, token_provider=tokens)
    client = AppMeshClientTCP(emulator.tcp_address, trusted)
    client.login("admin", PASSWORD)
    return client


@pytest.fixture(scope="module", params=["2", "3.0", "3"])
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(generation=request.param, record=True)) as daemon:
        yield daemon


@pytest.fixture(scope="module", params=["tcp", pytest.param("wss", marks=pytest.mark.slow)])
def bridged(
    request: pytest.FixtureRequest, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bridged]:
    made = Bridged(tmp_path_factory.mktemp("bridge"), emulator, request.param)
    made.service.start()
    made.wait_up()
    yield made
    made.service.stop()


def statuses(events: list[dict[str, Any]]) -> list[Any]:
    return [event["data"] for event in events if event["type"] == "io.appmesh.app.status"]


def test_events_come_in_the_daemons_words_and_states_in_the_houses(bridged: Bridged, emulator: Emulator) -> None:
    with administrator(emulator) as client:
        client.add_app(App({"name": "web", "command": "echo up; sleep 60", "shell": True}))
        client.disable_app("web")
        said = emulator.options.dialect.status_data(enabled=False)
        wait_for(lambda: said in statuses(bridged.events("web")), "the STATUS")
        wait_for(lambda: bridged.api("GET", "apps/web")["state"] == "disabled", "the state")
        client.delete_app("web")
        wait_for(lambda: bridged.events("web")[-1]["type"].endswith(("removed", "exit")), "the end")
        wait_for(lambda: any(event["type"].endswith("removed") for event in bridged.events("web")), "REMOVED")


def test_what_happened_while_the_connection_was_away_is_reconciled(bridged: Bridged, emulator: Emulator) -> None:
    with administrator(emulator) as client:
        client.add_app(App({"name": "away", "command": "sleep 60"}))
        client.disable_app("away")
        client.enable_app("away")
        words = emulator.options.dialect.status_data
        wait_for(lambda: words(enabled=True) in statuses(bridged.events("away")), "the live STATUS")
        emulator.drop_connections()
        client.disable_app("away")
        said = [words(enabled=enabled) for enabled in (False, True, False)]
        wait_for(lambda: statuses(bridged.events("away")) == said, "the STATUS, live or reconciled")
        bridged.wait_up()
        client.delete_app("away")
        wait_for(lambda: any(event["type"].endswith("removed") for event in bridged.events("away")), "REMOVED")


def test_operations_have_the_houses_fields_beside_the_daemons_and_no_secrets(
    bridged: Bridged, emulator: Emulator
) -> None:
    with administrator(emulator) as client:  # a daemon of 3.x is known by its apps, and has always some of its own
        client.add_app(App({"name": "first", "command": "sleep 60"}))
    october = emulator.options.generation == "3"
    body = {"command": "sleep 60", "secret_env": {"PIN": "hunter-2"}, "start_interval_seconds": 3600, "metadata": "x"}
    registered = bridged.api("PUT", "apps/owned", json=body)
    shown = bridged.api("GET", "apps/owned")
    listed = next(app for app in bridged.api("GET", "apps") if app["name"] == "owned")
    for app in (registered, shown, listed):
        assert (app["enabled"], app["owner"], str(app["schedule"]), app["one_off"]) == (
            True,
            emulator._running().access.display_name(emulator._running().applications.find("owned").owner)
            if emulator.options.generation != "3.0"
            else app["owner_principal_id"],
            "3600",
            False,
        )
        assert ("interval" in app, "status" in app) == (october, not october)
        assert "hunter-2" not in json.dumps(app)
    assert emulator._running().applications.find("owned").definition["sec_env"] == {"PIN": "hunter-2"}
    bridged.api("POST", "apps/owned/disable")
    wait_for(lambda: bridged.api("GET", "apps/owned")["enabled"] is False, "disabled")
    bridged.api("POST", "apps/owned/enable")
    wait_for(lambda: bridged.api("GET", "apps/owned")["enabled"] is True, "enabled")
    for name in ("owned", "first"):
        bridged.api("DELETE", f"apps/{name}")
    has_issuer = emulator.options.dialect.has_issuer
    for path, offered in (("users", not has_issuer), ("principals", has_issuer), ("auth-config", has_issuer)):
        answer = bridged.api("GET", path, 200 if offered else 501)
        assert offered or answer["kind"] == "not-offered"


def test_commands_of_the_command_line(bridged: Bridged, emulator: Emulator) -> None:
    with administrator(emulator) as client:
        client.add_app(App({"name": "cli", "command": "sleep 60"}))
        listed = json.loads(bridged.command("apps", "--json"))
        assert "cli" in json.dumps(listed)
        bridged.command("disable", "cli")
        assert client.get_app("cli").is_enabled is False
        bridged.command("enable", "cli")
        assert client.get_app("cli").is_enabled is True
        assert "from the daemon" in bridged.command("exec", "--daemon", "node-a", "--", "echo", "from the daemon")
        client.delete_app("cli")


def test_a_daemon_is_upgraded_under_load(tmp_path: Path) -> None:
    """The operator changes the login meanwhile. No event is misread, and each that is not there is part of a gap."""
    older = Emulator(EmulatorOptions(data_dir=tmp_path / "daemon", https_port=None, wss_port=None, record=True))
    older.start()
    assert older.tcp_address is not None
    with administrator(older) as client:
        client.add_app(App({"name": "on", "command": "sleep 600"}))
        client.add_app(App({"name": "off", "command": "sleep 600", "status": 0}))
    bridged = Bridged(tmp_path, older)
    bridged.service.start()
    bridged.wait_up()
    load_on(older)
    older.stop()
    newer = Emulator(
        EmulatorOptions(
            generation="3", data_dir=tmp_path / "daemon", tcp_port=older.tcp_address[1], https_port=None, wss_port=None,
            record=True,
        )
    )  # fmt: skip
    newer.start()
    try:
        wait_for(lambda: "no logins of its own" in (bridged.link.last_error or ""), "the refusal that says what to do")
        bridged.settings["daemons"]["node-a"] = daemon_settings(newer)
        write_config(bridged.config, bridged.settings)
        bridged.service.reload()
        bridged.wait_up()
        load_on(newer)
        sequence = newer.emit("on", "STATUS", newer.options.dialect.status_data(enabled=False))
        wait_for(lambda: any(e["id"].endswith(f"/{sequence}") for e in bridged.events()), "the last event", 30)
        events = bridged.events()
        live = [event for event in events if not event.get("reconciled") and not event["type"].endswith("gap")]
        for daemon in (older, newer):
            came = [int(event["sequence"]) for event in live if event["run"] == str(daemon.start_time)]
            assert came == sorted(came)
            lost = {event.sequence for event in daemon.history if event.app == "load"} - set(came)
            if lost:  # only the end of the run that was cut off, for which there is a gap
                assert daemon is older
                assert min(lost) > max(came)
                gaps = [event for event in events if event["type"].endswith("gap")]
                assert None in [gap["data"]["missed"] for gap in gaps]
        told = [(event["subject"], event["data"]) for event in events if event["type"].endswith(".status")]
        assert all(app in {"on", "load"} for app, _data in told), "an app in other words has not changed"
        assert {app["name"]: app["enabled"] for app in bridged.api("GET", "apps")} == {"on": True, "off": False}
    finally:
        bridged.service.stop()
        newer.stop()


def load_on(emulator: Emulator) -> None:
    """2,000 events from a thread of their own."""
    status = emulator.options.dialect.status_data
    events = [("load", "STATUS", status(enabled=number % 2 == 0)) for number in range(2000)]
    thread = threading.Thread(target=emulator.emit_many, args=(events,))
    thread.start()
    thread.join()
