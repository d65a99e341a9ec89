"""Links against the emulator, without a process of their own."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from pydantic import SecretStr

from meshbridge.appmesh import App, AppMeshClientTCP
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.token_keeper import Renewals
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.fields import Tls
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from meshbridge.link.credentials import Credentials
from meshbridge.model.events import Event, EventType
from meshbridge.model.status import LinkState
from tests.support import wait_for


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as daemon:
        yield daemon


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(JournalOptions(path=tmp_path))
    journal.open()
    yield journal
    journal.close()


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


@pytest.mark.parametrize("scheme", ["tcp", "wss"])
def test_events_are_journaled_with_the_run_of_the_daemon(emulator: Emulator, journal: Journal, scheme: str) -> None:
    link = Link("node-a", options_for(emulator, scheme), journal)
    link.start()
    try:
        wait_for(lambda: link.status().up, "the link")
        sequence = emulator.emit("web", "EXIT", {"exit_code": 1, "last_error": "", "pid": 1})
        wait_for(lambda: journal.read(0, 10), "the event")
        (envelope,) = journal.read(0, 10)
        resources = link.requests.get_host_resources(10)
        assert envelope.event.id == f"node-a/{resources['appmesh_start_time_unix_seconds']}/{sequence}"
        assert envelope.event.type is EventType.EXIT
        assert link.status().last_event_at == envelope.event.received_at
        assert isinstance(link.requests.list_apps(10), list)
        assert b"appmesh_build_info" in link.requests.get_metrics(10)
    finally:
        living = link.alive
        assert link.stop(10)
    assert (living, link.alive) == (True, False)
    assert link.status().state is LinkState.STOPPED


def test_a_daemon_over_https_has_metrics_and_no_events(emulator: Emulator, journal: Journal) -> None:
    link = Link("node-a", options_for(emulator, "https"), journal)
    link.start()
    assert not link.status().up
    assert b"appmesh_build_info" in link.requests.get_metrics(10)
    assert link.requests.get_host_resources(10)["appmesh_version"]
    assert link.status().up
    assert not link.alive, "no thread is needed"
    assert link.stop(10)


def test_a_cut_connection_is_made_again_at_once_and_the_hole_is_told(emulator: Emulator, journal: Journal) -> None:
    link = Link("node-a", options_for(emulator, "tcp"), journal)
    link.start()
    try:
        wait_for(lambda: link.status().up, "the link")
        emulator.emit("web", "STDOUT", {"finished": False, "output": "1\n", "position": 0})
        wait_for(lambda: journal.status().events == 1, "the first event")
        emulator.drop_connections()
        emulator.emit_many([("web", "STATUS", {"status": "disabled", "previous_status": "enabled"})] * 3)
        wait_for(lambda: link.status().connects == 2 and link.status().up, "the second connection")
        last = emulator.emit("web", "STDOUT", {"finished": False, "output": "2\n", "position": 2})
        wait_for(lambda: journal.status().events == 3, "the gap")
        status = link.status()
        assert (status.events_received, status.events_missed, status.events_reconciled) == (2, 3, 0)
    finally:
        assert link.stop(10)
    events = [envelope.event for envelope in journal.read(0, 10)]
    assert [event.type for event in events] == [EventType.STDOUT, EventType.STDOUT, EventType.GAP]
    missed = orjson.loads(events[2].data)
    assert missed == {"first": last - 3, "last": last - 1, "missed": 3, "reconciled": 0}
    assert events[2].id == f"node-a/{events[0].run}/gap/{last - 3}-{last - 1}"


def test_two_bridges_give_every_live_event_the_same_id(emulator: Emulator, journal: Journal, tmp_path: Path) -> None:
    """Of apps that start, print and end; over both transports, with nothing between the bridges."""
    other = Journal(JournalOptions(path=tmp_path / "other"))
    other.open()
    links = [Link("node-a", options_for(emulator, scheme), at) for scheme, at in (("tcp", journal), ("wss", other))]
    for link in links:
        link.start()
    client = AppMeshClientTCP(emulator.tcp_address or ("", 0), str(emulator.ca_file))
    client.login("admin", "admin123")
    try:
        for link in links:
            wait_for(lambda link=link: link.status().up, "both links")  # type: ignore[misc]
        first = emulator.sequence + 1
        for number in range(5):
            client.add_app(App({"name": f"twice-{number}", "command": "echo one; sleep 0.3; echo two", "shell": True}))
        client.delete_app("twice-0")
        wait_for(lambda: sum(event.type is EventType.EXIT for event in live(journal, first)) == 5, "the ends")
        last = emulator.emit("web", "STATUS", {"status": "disabled", "previous_status": "enabled"})
        for at in (journal, other):
            wait_for(lambda at=at: (at.last_sequence("node-a") or ("", 0))[1] == last, "the last event")  # type: ignore[misc]
        ids = [[event.id for event in live(at, first)] for at in (journal, other)]
        assert ids[0] == ids[1]
        assert len(set(ids[0])) == last - first + 1
        assert {event.type for event in live(journal, first)} == set(EventType) - {EventType.GAP}
    finally:
        client.close()
        for link in links:
            assert link.stop(10)
        other.close()


def live(journal: Journal, first: int) -> list[Event]:
    """The live events from a number on."""
    events = (envelope.event for envelope in journal.read(0, 10_000))
    return [event for event in events if (event.sequence or 0) >= first]


@pytest.mark.parametrize("step", [86_400.0 * 400, -86_400.0 * 400], ids=["forwards", "backwards"])
def test_a_step_of_the_wall_clock_changes_nothing(
    emulator: Emulator, journal: Journal, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """What is due stays due when it was: renewals, probes, comparisons."""
    stepped = threading.Event()

    def wall() -> float:
        return time.time() + (step if stepped.is_set() else 0.0)

    for module in (
        "link.runner",
        "link.credentials",
        "link.repair",
        "link.requests",
        "appmesh.token_keeper",
        "appmesh.grant",
    ):
        clock = SimpleNamespace(time=wall, monotonic=time.monotonic)
        monkeypatch.setattr(f"meshbridge.{module}.time", clock)
    monkeypatch.setattr("meshbridge.link.credentials.RENEWALS", Renewals(at=0.01))  # 0.6 s of 60 s, so 1 s
    monkeypatch.setattr("meshbridge.link.runner._PROBE_AFTER_SECONDS", 0.2)
    link = Link("node-a", options_for(emulator, "tcp", token_expire=60, reconcile_interval=1), journal)
    tokens = []
    keep = Credentials._keep

    def counted(credentials: Credentials, grant: Grant, how: str | None = None) -> None:
        tokens.append(how)
        keep(credentials, grant, how)

    monkeypatch.setattr(Credentials, "_keep", counted)
    link.start()
    try:
        wait_for(lambda: link.status().up and len(tokens) == 2, "the link, and a renewal")
        due = link._credentials.due_at
        stepped.set()
        assert link._credentials.due_at == pytest.approx(due, abs=2), "renewed once meanwhile at most"
        wait_for(lambda: len(tokens) >= 4, "renewals go on")
        before = journal.status().events
        emulator.emit("web", "STATUS", {"status": "disabled", "previous_status": "enabled"})
        wait_for(lambda: journal.status().events > before, "an event")
        assert link.requests.list_apps(10) is not None
        assert tokens[:4] == ["login", "renew", "renew", "renew"]
        assert link.status().connects == 1
    finally:
        assert link.stop(10)


def test_the_token_is_renewed_before_it_expires(
    emulator: Emulator, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshbridge.link.credentials.RENEWALS", Renewals(at=0.005))  # 0.3 s of 60 s
    link = Link("node-a", options_for(emulator, "tcp", token_expire=60), journal)
    link.start()
    try:
        wait_for(lambda: link.status().up, "the link")
        first = link.status().token_expires_at
        assert first is not None
        wait_for(lambda: (link.status().token_expires_at or 0) > first, "a renewed token")
        assert link.status().connects == 1
        assert link.requests.list_apps(10) is not None
    finally:
        assert link.stop(10)
