"""A disk that is too slow, and a bridge that does not read: what is left out is fetched later, each is counted."""

import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from meshbridge import telemetry
from meshbridge.appmesh import App, AppMeshClientTCP
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.fields import Tls
from meshbridge.journal import Journal, JournalOptions
from meshbridge.journal.store import Store
from meshbridge.link import DaemonOptions, Link
from meshbridge.model.events import Event, EventType
from tests.support import wait_for


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(https_port=None, tcp_queue_messages=200, wss_queue_bytes=500_000)) as daemon:
        yield daemon


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(JournalOptions(path=tmp_path))
    journal.open()
    yield journal
    journal.close()


def link_to(emulator: Emulator, journal: Journal, scheme: str = "tcp") -> Link:
    address = emulator.tcp_address if scheme == "tcp" else emulator.wss_address
    assert address is not None
    options = DaemonOptions(
        url=f"{scheme}://{address[0]}:{address[1]}",
        username="admin",
        password=SecretStr("admin123"),
        tls=Tls(ca_file=emulator.ca_file),
    )
    link = Link("node-a", options, journal)
    link.start()
    wait_for(lambda: link.status().up, "the link")
    return link


def counted(name: str, **labels: str) -> float:
    return telemetry.REGISTRY.get_sample_value(f"meshbridge_{name}_total", {"daemon": "node-a"} | labels) or 0.0


def events_of(journal: Journal) -> list[Event]:
    events: list[Event] = []
    after = 0
    while envelopes := journal.read(after, 1000):
        after = envelopes[-1].offset
        events += [envelope.event for envelope in envelopes]
    return events


def output_of(journal: Journal, app: str) -> str:
    """The output of the app, in its places; fails where pieces overlap."""
    text = ""
    for data in sorted(
        (orjson.loads(event.data) for event in events_of(journal) if (event.app, event.type.name) == (app, "STDOUT")),
        key=lambda data: int(data["position"]),
    ):
        assert data["position"] >= len(text), "told twice"
        if data["position"] > len(text):
            return text
        text += data["output"]
    return text


def test_a_disk_that_is_too_slow_costs_output_first_and_that_is_fetched_later(
    emulator: Emulator, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshbridge.journal.ledger._CROWDED_BYTES", 1000)
    disk = threading.Event()
    disk.set()
    append = Store.append

    def slow(store: Store, group: object) -> None:
        disk.wait()
        append(store, group)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(Store, "append", slow)
    link = link_to(emulator, journal)
    assert emulator.tcp_address is not None
    client = AppMeshClientTCP(emulator.tcp_address, str(emulator.ca_file))
    client.login("admin", "admin123")
    postponed = counted("output_postponed")
    try:
        command = "for i in $(seq 60); do echo line $i of the talker; sleep 0.05; done; sleep 600"
        client.add_app(App({"name": "talker", "command": command, "shell": True}))
        wait_for(lambda: output_of(journal, "talker"), "the beginning")
        disk.clear()
        noise = [("noise", "STATUS", {"status": "disabled", "previous_status": "enabled"})] * 20
        emulator.emit_many(noise)
        wait_for(lambda: counted("output_postponed") >= postponed + 3, "output that is left out")
        disk.set()
        expected = "".join(f"line {number} of the talker\n" for number in range(1, 61))
        wait_for(lambda: output_of(journal, "talker") == expected, "all of the output")
        assert sum(event.app == "noise" for event in events_of(journal)) == len(noise), (
            "what can't be had later is kept"
        )
        assert not any(event.type is EventType.GAP for event in events_of(journal)), "nothing is missing"
    finally:
        disk.set()
        client.close()
        assert link.stop(10)


@pytest.mark.parametrize("scheme", ["tcp", "wss"])
def test_being_cut_off_for_not_reading_is_counted_as_such(
    emulator: Emulator, journal: Journal, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr("meshbridge.link.slow_consumer._SLOW_SECONDS", 0.05)
    before = {reason: counted("daemon_disconnects", reason=reason) for reason in ("overrun", "connection")}
    reading = threading.Event()
    reading.set()
    submit = journal.submit

    def stuck(*arguments: object) -> None:
        reading.wait()
        submit(*arguments)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(journal, "submit", stuck)
    link = link_to(emulator, journal, scheme)
    try:
        reading.clear()
        emulator.emit_many([("noise", "STDOUT", {"output": "x" * 2000, "position": 0, "finished": False})] * 10_000)
        reading.set()
        wait_for(lambda: link.status().connects == 2 and link.status().up, "the next connection")
        assert counted("daemon_disconnects", reason="overrun") == before["overrun"] + 1
        assert counted("daemon_disconnects", reason="connection") == before["connection"]
    finally:
        reading.set()
        assert link.stop(10)
